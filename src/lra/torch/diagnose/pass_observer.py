"""The observer of one pass: records for each layer its inputs and the errors that arrive."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lra.differences import Phi
from lra.feedback import Transpose
from lra.loss_terms import count_terms
from lra.torch.diagnose.measures import LayerRecord, angle_between
from lra.torch.diagnose.report import LayerKind
from lra.torch.diagnose.roles import join, row_of, type_name
from lra.torch.diagnose.update_report import UpdateReport
from lra.torch.functions.module import InterceptedModule
from lra.torch.layers import Local, LocalActivation, LocalWeights, is_step_function
from lra.torch.ops.ops import BilinearOp, Gradients, Op, WeightOp
from lra.torch.random_states import RandomStates


@dataclass
class _Running:
    """A module whose forward is running.

    Attributes:
        module: the module.
        record: its measurements, if it has a role.
        is_op: whether it ran as an op, which records its errors itself.
    """

    module: nn.Module
    record: LayerRecord | None
    is_op: bool = False


class PassObserver:
    """Records one pass of a model, by module hooks and as the `Observer` of its ops.

    Measurements leave the pass unchanged: they build no graph and draw from other random states.

    Args:
        model: the model.
        kinds: the role of each module.
        records_errors: whether to record the errors that arrive.
    """

    def __init__(
        self,
        model: nn.Module,
        kinds: dict[nn.Module, LayerKind | None],
        records_errors: bool = True,
    ) -> None:
        self.records: dict[str, LayerRecord] = {}
        self.states = RandomStates(model)
        own = self.states.take()
        self.states.seed(int(torch.randint(2**31, (), device="cpu")))
        self.others = self.states.take()
        self.states.put(own)
        self._records_errors = records_errors
        self._thread = threading.get_ident()
        self._paths = {module: path for path, module in model.named_modules()}
        self._kinds = kinds
        self._running: list[_Running] = []
        self._next: tuple[Any, str] | None = None
        self._ops: dict[int, tuple[Op, LayerRecord]] = {}

    @property
    def _is_other_pass(self) -> bool:
        """Whether this is the forward of another thread, or a checkpoint's recomputation."""
        recomputes = torch._C._current_graph_task_id() != -1
        return recomputes or not self._running or threading.get_ident() != self._thread

    def register_hooks(self) -> None:
        """Register the hooks of every module; `preserve_modules` removes them."""
        for module in self._paths:
            module.register_forward_pre_hook(self._before, prepend=True)
            module.register_forward_hook(self._after)

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        with _unrecorded():
            kind = self._kinds[module]
            path = self._paths[module]
            record = None if kind is None else self._record(path, kind, type_name(module))
            self._running.append(_Running(module, record))
            if self._is_other_pass or record is None:
                return
            record.calls += not isinstance(module, InterceptedModule)  # whose ops are counted
            plain = not isinstance(module, Local)
            if kind is LayerKind.ACTIVATION and plain and inputs and isinstance(inputs[0], Tensor):
                with self.separate_random():
                    record.measure_activation(
                        lambda v: type(module).forward(module, v),  # without its hooks
                        inputs[0].clone(),
                        is_step_function(module),
                    )

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        running = self._running[-1]
        record = running.record
        wanted = self._records_errors and not running.is_op
        if not self._is_other_pass and record is not None and wanted:
            record.calls += isinstance(module, InterceptedModule)
            with torch._C.DisableTorchFunction():
                for t in pytree.tree_leaves(output):
                    if isinstance(t, Tensor) and t.requires_grad:
                        t.register_hook(_error_hook(record))  # type: ignore[no-untyped-call]
            if isinstance(module, LocalWeights) and not module.sees_input:
                record.feedback_angles += [0.0] * isinstance(module.rule.feedback, Transpose)
        self._running.pop()

    def _record(self, name: str, kind: LayerKind, type: str) -> LayerRecord:
        new = LayerRecord(name, kind, type, self._records_errors)
        return self.records.setdefault(name, new)

    # ------------------------------------------------------------ the ops' Observer

    def name_next(self, layer: Any, name: str) -> None:
        """Name the next op within an intercepted module's forward."""
        self._next = layer, name

    def forward(self, op: Op, x: Tensor, parameters: tuple[Tensor | None, ...]) -> None:
        """Measure an op from its inputs."""
        named, self._next = self._next, None
        if self._is_other_pass:
            return
        with _unrecorded():
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
            activation = W is None
            running = self._running[-1]
            module = running.module
            record = self._record_of_op(*named, activation) if named else running.record
            if record is None:
                return
            running.is_op |= record is running.record
            self._ops[id(op)] = op, record
            if activation:
                is_flat = named is None and isinstance(module, LocalActivation) and module._lra.flat
                with self.separate_random():
                    record.measure_activation(op.phi, x.detach(), is_flat)  # type: ignore[attr-defined]
            elif _is_linked(*named) if named else _is_linked(module):
                return  # no error crosses the layer
            elif isinstance(W, Tensor) and isinstance(E, Tensor) and W.shape == E.shape:
                angle = angle_between(E, W)
                unused = isinstance(module, LocalWeights) and module.sees_input
                if angle is not None and not unused:
                    record.feedback_angles.append(angle)

    def _record_of_op(self, layer: Any, name: str, activation: bool) -> LayerRecord | None:
        """Return the record of a function or a weight in an intercepted module's forward."""
        path = self._paths.get(layer)
        if path is None:
            return None
        if activation:
            record = self._record(join(path, f"{name}()"), LayerKind.ACTIVATION, name)
        else:
            owner = layer.get_submodule(name.partition(":")[0].rpartition(".")[0])
            record = self._record(row_of(path, name), LayerKind.WEIGHTS, type_name(owner))
            record.kind = LayerKind.WEIGHTS
        record.calls += 1
        return record

    def backward(self, op: Op, saved: tuple[Tensor, ...], error: Tensor, sent: Gradients) -> None:
        """Record an error that arrived at an op, and how far its targets are."""
        known = self._ops.get(id(op))
        if known is None:
            return
        record = known[1]
        with _unrecorded():
            record.add_error(error)
            if record.kind is LayerKind.ACTIVATION:
                h, d = saved[0], error
                if h.dtype in (torch.float16, torch.bfloat16):
                    h, d = h.float(), d.float()
                n = count_terms(op.terms, h.shape)  # type: ignore[attr-defined]
                m = op.crossing.move(d, n, torch)  # type: ignore[attr-defined]
                if m is not None:
                    record.add_move(m, h, subtracts=_subtracts(op))

    def assign(self, name: str, report: UpdateReport) -> None:
        """Add an update to the record of its layer, which is new if the layer did not run."""
        self._record(name, LayerKind.OTHER, "not run").updates.append(report)

    @contextlib.contextmanager
    def separate_random(self) -> Iterator[None]:
        """Draw random numbers without moving the random states of the plain model."""
        own = self.states.take()
        self.states.put(self.others)
        try:
            yield
        finally:
            self.others = self.states.take()
            self.states.put(own)


@contextlib.contextmanager
def _unrecorded() -> Iterator[None]:
    """Compute without autograd and without function modes."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        yield


def _error_hook(record: LayerRecord) -> Callable[[Tensor], None]:
    def hook(error: Tensor) -> None:
        with _unrecorded():
            record.add_error(error)

    return hook


def _subtracts(op: Any) -> bool:
    """Return whether an activation's targets are compared by subtraction, for want of a formula."""
    surrogate = getattr(op.crossing, "surrogate", None)
    phi = op.phi if surrogate is None else surrogate.phi(torch)
    return isinstance(phi, Phi) and phi.form is None


def _is_linked(layer: Any, key: str = "") -> bool:
    """Return whether errors for the input of a layer, or of a product in it, skip the layer."""
    slot = layer._lra.slots.get(key or "weight")
    return slot is not None and slot.route is not None
