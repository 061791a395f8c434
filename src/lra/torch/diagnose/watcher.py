"""The watcher: notes for each layer of a pass what it is given, and the error that arrives."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lra.feedback import Transpose
from lra.loss_terms import count_terms
from lra.torch.diagnose.measures import Seen, angle_between
from lra.torch.diagnose.report import LayerKind, UpdateReport
from lra.torch.functions.module import InterceptedModule
from lra.torch.layers import (
    Local,
    LocalActivation,
    LocalWeights,
    is_activation,
    is_step_function,
)
from lra.torch.model_state import RandomStates
from lra.torch.ops.ops import BilinearOp, Gradients, Op, WeightOp
from lra.torch.registry import ACTIVATIONS, WEIGHT_LAYERS


def kind_of(module: nn.Module, converted: bool = True) -> LayerKind | None:
    """Tell what a module is to a rule; None for one that only holds or passes on."""
    if isinstance(module, LocalWeights) or (not converted and type(module) in WEIGHT_LAYERS):
        return LayerKind.WEIGHTS
    if isinstance(module, LocalActivation):
        return LayerKind.UNIT
    if not isinstance(module, Local) and (type(module) in ACTIVATIONS or is_activation(module)):
        return LayerKind.UNIT
    own = next(module.parameters(recurse=False), None)
    return None if own is None else LayerKind.OTHER


@dataclass
class _Running:
    """A module whose forward runs."""

    module: nn.Module
    seen: Seen | None
    is_place: bool = False


class Watch:
    """Watches one pass of a model. Everything is noted without autograd, and without moving it.

    Args:
        model: the model.
        kinds: what each of its modules is to the rule.
        deaf: whether errors that arrive are not listened to.
    """

    def __init__(
        self, model: nn.Module, kinds: dict[nn.Module, LayerKind | None], deaf: bool = False
    ) -> None:
        self._deaf = deaf
        self.rows: dict[str, Seen] = {}
        self.states = RandomStates(model)
        mine = self.states.take()
        self.states.seed(int(torch.randint(2**31, (), device="cpu")))
        self.others = self.states.take()
        self.states.put(mine)
        self._thread = threading.get_ident()
        self._paths = {module: path for path, module in model.named_modules()}
        self._kinds = kinds
        self._running: list[_Running] = []
        self._next: tuple[Any, str] | None = None
        self._places: dict[int, tuple[Op, Seen]] = {}

    @property
    def _elsewhere(self) -> bool:
        """Whether this is another's forward, or one that a backward pass computes again."""
        again = torch._C._current_graph_task_id() != -1
        return again or not self._running or threading.get_ident() != self._thread

    def hook(self) -> None:
        """Look at every module, until its hooks are taken off."""
        for module in self._paths:
            module.register_forward_pre_hook(self._before, prepend=True)
            module.register_forward_hook(self._after)

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        with _quiet():
            kind = self._kinds[module]
            seen = None if kind is None else self._row(self._paths[module], kind, _type(module))
            self._running.append(_Running(module, seen))
            if self._elsewhere or seen is None:
                return
            seen.calls += not isinstance(module, InterceptedModule)  # whose places are counted
            plain = not isinstance(module, Local)
            if kind is LayerKind.UNIT and plain and inputs and isinstance(inputs[0], Tensor):
                with self.separate_random():  # as it would run, but for its hooks
                    steps = is_step_function(module)
                    seen.unit(lambda v: type(module).forward(module, v), inputs[0].clone(), steps)

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        running = self._running[-1]
        deaf = self._deaf or running.is_place
        if not self._elsewhere and running.seen is not None and not deaf:
            running.seen.calls += isinstance(module, InterceptedModule)
            with torch._C.DisableTorchFunction():
                for t in pytree.tree_leaves(output):
                    if isinstance(t, Tensor) and t.requires_grad:
                        t.register_hook(self._hear(running.seen))  # type: ignore[no-untyped-call]
            if isinstance(module, LocalWeights) and not module.sees_input:
                running.seen.feedback += [0.0] * isinstance(module.rule.feedback, Transpose)
        self._running.pop()

    @staticmethod
    def _hear(seen: Seen) -> Any:
        def hear(error: Tensor) -> None:
            with _quiet():
                seen.arrive(error)

        return hear

    def _row(self, name: str, kind: LayerKind, type: str) -> Seen:
        return self.rows.setdefault(name, Seen(name, kind, type, deaf=self._deaf))

    # ------------------------------------------------------------ what places tell

    def name_next(self, layer: Any, name: str) -> None:
        """Say what the next place is, in a layer's own forward."""
        self._next = layer, name

    def forward(self, op: Op, x: Tensor, parameters: tuple[Tensor | None, ...]) -> None:
        """See a place with what it is given."""
        named, self._next = self._next, None
        if self._elsewhere:
            return
        with _quiet():
            if isinstance(op, WeightOp):
                W, _, E = parameters
                if op.offset:
                    assert W is not None
                    assert E is not None
                    E = W + E
            elif isinstance(op, BilinearOp):
                W, E = (x, *parameters)[op.at], parameters[-1]
            elif hasattr(op, "crossing"):
                W = E = None
            else:
                return
            is_activation = W is None
            module = self._running[-1].module
            seen = self._row_of(*named, is_activation) if named else self._running[-1].seen
            if seen is None:
                return
            self._running[-1].is_place |= seen is self._running[-1].seen
            self._places[id(op)] = op, seen
            steps = isinstance(module, LocalActivation) and module._lra.flat
            if is_activation:
                with self.separate_random():
                    seen.unit(op.phi, x.detach(), named is None and steps)  # type: ignore[attr-defined]
            elif _hears(*named) if named else _hears(module):
                return  # no error crosses the layer
            elif isinstance(W, Tensor) and isinstance(E, Tensor) and W.shape == E.shape:
                angle = angle_between(E, W)
                if angle is not None and not (
                    isinstance(module, LocalWeights) and module.sees_input
                ):
                    seen.feedback.append(angle)

    def _row_of(self, layer: Any, name: str, is_activation: bool) -> Seen | None:
        """Give the row of a function, or of a weight, in a layer's forward."""
        path = self._paths.get(layer)
        if path is None:
            return None
        if is_activation:
            seen = self._row(_join(path, f"{name}()"), LayerKind.UNIT, name)
        else:
            kind = _type(layer.get_submodule(name.partition(":")[0].rpartition(".")[0]))
            seen = self._row(row_of(path, name), LayerKind.WEIGHTS, kind)
            seen.kind = LayerKind.WEIGHTS
        seen.calls += 1
        return seen

    def backward(self, op: Op, kept: tuple[Tensor, ...], error: Tensor, sent: Gradients) -> None:
        """See an error that crossed a place."""
        known = self._places.get(id(op))
        if known is None:
            return
        seen = known[1]
        with _quiet():
            seen.arrive(error)
            if seen.kind is LayerKind.UNIT:
                h, d = kept[0], error
                if h.dtype in (torch.float16, torch.bfloat16):
                    h, d = h.float(), d.float()
                n = count_terms(op.terms, h.shape)  # type: ignore[attr-defined]
                m = op.crossing.move(d, n, torch)  # type: ignore[attr-defined]
                if m is not None:
                    seen.move(m, h)

    def assign(self, name: str, report: UpdateReport) -> None:
        """Give an update to the row of its layer; one of its own, for a layer that did not run."""
        self._row(name, LayerKind.OTHER, "not run").updates.append(report)

    @contextlib.contextmanager
    def separate_random(self) -> Iterator[None]:
        """Draw from random states that the plain model's draws do not depend on."""
        mine = self.states.take()
        self.states.put(self.others)
        try:
            yield
        finally:
            self.others = self.states.take()
            self.states.put(mine)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Compute unwatched: without autograd, and without those who follow functions."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        yield


def _hears(layer: Any, key: str = "") -> bool:
    """Tell whether the input of a layer, or of a product in it, hears another layer."""
    slot = layer._lra.slots.get(key or "weight")
    return slot is not None and slot.route is not None


def _type(module: nn.Module) -> str:
    return (module.plain if isinstance(module, Local) else type(module)).__name__


def row_of(layer: str, key: str) -> str:
    """Name the row of a weight that a layer's forward multiplies with."""
    owner, _, leaf = key.partition(":")[0].rpartition(".")
    return _join(layer, owner) if leaf == "weight" else _join(layer, owner, leaf)


def _join(*names: str) -> str:
    return ".".join(filter(None, names))
