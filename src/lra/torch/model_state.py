"""Passes that leave a model unchanged: buffers, random states, modules and their attributes."""

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import CheckpointFunction

from lra.torch.layers import Local
from lra.torch.random_states import RandomStates

_CONTAINERS = dict, OrderedDict, set, list


def unwrap_parallel(model: nn.Module) -> nn.Module:
    """Return the model inside parallel wrappers, which would wait for a backward pass."""
    while isinstance(model, (DataParallel, DistributedDataParallel)):
        model = model.module
    return model


def example_to_args(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return args and kwargs for an example.

    Args:
        example: a tuple or list of arguments, a mapping of names to arguments, or anything else as
            the only argument. A named tuple, such as a packed sequence, is one argument.
    """
    if isinstance(example, Mapping):
        return (), dict(example)
    several = isinstance(example, (tuple, list)) and not hasattr(example, "_fields")
    return (tuple(example), {}) if several else ((example,), {})


def clone_tensors(tree: Any) -> Any:
    """Copy the tensors among arguments, which a pass may overwrite."""

    def copy(leaf: Any) -> Any:
        is_tensor = isinstance(leaf, Tensor)
        return leaf.detach().clone().requires_grad_(leaf.requires_grad) if is_tensor else leaf

    return pytree.tree_map(copy, tree)


@contextlib.contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """Preserve buffers and random states, and run checkpoints and compiled models with a graph."""
    buffers = [(module, module._buffers.copy()) for module in model.modules()]
    clones = {id(b): b.clone() for _, own in buffers for b in own.values() if b is not None}
    random_states = RandomStates(model)
    states = random_states.take()
    with contextlib.ExitStack() as stack:
        # A reentrant checkpoint runs without a graph, and a compiled model is a single node.
        run_directly = staticmethod(lambda run, preserve, *args: run(*args))
        stack.enter_context(mock.patch.object(CheckpointFunction, "apply", run_directly))
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
                module._buffers.update(own | drawn)  # keep fixed feedback drawn in this pass


@contextlib.contextmanager
def preserve_modules(model: nn.Module) -> Iterator[None]:
    """Restore every module's class, hooks and attributes at the end of the context.

    Tensors keep their identity; changes of their values are not undone.
    """
    found = [(module, type(module), dict(vars(module))) for module in model.modules()]
    containers = [
        (v, v.copy()) for _, _, own in found for v in own.values() if type(v) in _CONTAINERS
    ]
    states = [(own["_lra"], dict(vars(own["_lra"]))) for _, _, own in found if "_lra" in own]
    try:
        yield
    finally:
        for module, cls, own in found:
            module.__class__ = cls
            vars(module).clear()
            vars(module).update(own)
        for container, content in containers:  # in place: handles of hooks refer to these objects
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)
        for state, fields in states:
            vars(state).update(fields)
