"""Passes that leave a model as it was: buffers, random states, modules and what they hold."""

import contextlib
import random
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import CheckpointFunction

from lra.torch.layers import Local

_TABLES = dict, OrderedDict, set, list


def unwrapped(model: nn.Module) -> nn.Module:
    """Give the model itself: a wrapper of several processes would wait for a backward pass."""
    while isinstance(model, (DataParallel, DistributedDataParallel)):
        model = model.module
    return model


def arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give what a model is called with: one argument, a sequence of them, or a mapping of names."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, (tuple, list)) else ((example,), {})


def copied(tree: Any) -> Any:
    """Give arguments that a pass may overwrite: copies of the tensors among them."""

    def copy(leaf: Any) -> Any:
        is_tensor = isinstance(leaf, Tensor)
        return leaf.detach().clone().requires_grad_(leaf.requires_grad) if is_tensor else leaf

    return pytree.tree_map(copy, tree)


class RandomStates:
    """The random states that a pass of a model may move: torch's, NumPy's and Python's."""

    def __init__(self, model: nn.Module) -> None:
        tensors = (*model.parameters(), *model.buffers())
        self._cuda = sorted({t.device.index for t in tensors if t.device.type == "cuda"})
        self._mps = any(t.device.type == "mps" for t in tensors)

    def take(self) -> tuple[Any, ...]:
        """Give the states as they are."""
        cuda = [torch.cuda.get_rng_state(i) for i in self._cuda]
        mps = torch.mps.get_rng_state() if self._mps else None
        return torch.get_rng_state(), cuda, mps, np.random.get_state(), random.getstate()

    def put(self, states: tuple[Any, ...]) -> None:
        """Set the states."""
        cpu, cuda, mps, numpy, python = states
        torch.set_rng_state(cpu)
        for i, state in zip(self._cuda, cuda, strict=True):
            torch.cuda.set_rng_state(state, i)
        if mps is not None:
            torch.mps.set_rng_state(mps)
        np.random.set_state(numpy)
        random.setstate(python)

    def seed(self, seed: int) -> None:
        """Start them all from a seed."""
        torch.default_generator.manual_seed(seed)
        for i in self._cuda:
            with torch.cuda.device(i):
                torch.cuda.manual_seed(seed)
        if self._mps:
            torch.mps.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)


@contextlib.contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """Run on copies of the buffers, put random states back, and open up what hides the graph."""
    buffers = [(module, module._buffers.copy()) for module in model.modules()]
    clones = {id(b): b.clone() for _, own in buffers for b in own.values() if b is not None}
    random_states = RandomStates(model)
    states = random_states.take()
    with contextlib.ExitStack() as stack:
        # A reentrant checkpoint runs without a graph, and a compiled one is a single node.
        openly = staticmethod(lambda run, preserve, *args: run(*args))
        stack.enter_context(mock.patch.object(CheckpointFunction, "apply", openly))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for module, own in buffers:
                module._buffers.update({key: clones.get(id(b)) for key, b in own.items()})
            yield
        finally:
            random_states.put(states)
            for module, own in buffers:
                added = module._lra.added if isinstance(module, Local) else ()
                drawn = {k: b for k, b in module._buffers.items() if k in added and k not in own}
                module._buffers.clear()
                module._buffers.update(own | drawn)  # fixed feedback that this pass has shown


@contextlib.contextmanager
def preserve_modules(model: nn.Module) -> Iterator[None]:
    """Leave every module of the class it was found in, with the hooks and attributes it had.

    Tensors keep their identity; what is written into them is not undone.
    """
    found = [(module, type(module), dict(vars(module))) for module in model.modules()]
    tables = [(v, v.copy()) for _, _, own in found for v in own.values() if type(v) in _TABLES]
    records = [(own["_lra"], dict(vars(own["_lra"]))) for _, _, own in found if "_lra" in own]
    try:
        yield
    finally:
        for module, cls, own in found:
            module.__class__ = cls
            vars(module).clear()
            vars(module).update(own)
        for table, content in tables:  # the same tables, which handles of hooks refer to
            table.clear()
            table.extend(content) if isinstance(table, list) else table.update(content)
        for record, fields in records:
            vars(record).update(fields)
