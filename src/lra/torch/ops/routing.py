"""Error routing for wirings other than the chain.

In a forward pass the input z of a layer is registered with the error router, and the layer goes on
from z.detach(), which cuts autograd's chain. The layer from which z receives its error then ties z
to its own result h in one op: the op's backward pass gets the error e at h and sends d = e E to z.
"""

import enum
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import RuleError
from lra.feedback import Feedback, Stored
from lra.torch.distributed import is_sharded
from lra.torch.ops.autograd import apply_ops, apply_weights
from lra.torch.ops.ops import BilinearOp, Gradients, WeightOp, needs_error


class Layout(enum.StrEnum):
    """Where the batch is in an input with several positions for each sample."""

    FIRST = "(batch, ...)"
    FLAT = "(batch * positions, ...)"
    SECOND = "(positions, batch, ...)"
    SECOND_FLAT = "(positions * batch, ...)"

    def fits(self, shape: Sequence[int], batch: int) -> bool:
        """Return whether an input of some shape can have this layout."""
        match self:
            case Layout.FIRST:
                return shape[0] == batch
            case Layout.SECOND:
                return len(shape) > 2 and shape[1] == batch
            case _:
                return shape[0] > batch and shape[0] % batch == 0

    def batched(self, z: Tensor, batch: int) -> Tensor:
        """Return an input as (batch, positions, ...), or unchanged where the batch is first."""
        match self:
            case Layout.FIRST:
                return z
            case Layout.FLAT:
                return z.reshape(batch, -1, *z.shape[1:])
            case Layout.SECOND:
                return z.transpose(0, 1)
            case Layout.SECOND_FLAT:
                return z.reshape(-1, batch, *z.shape[1:]).transpose(0, 1)

    def restored(self, d: Tensor, shape: torch.Size, batch: int) -> Tensor:
        """Return an error of (batch * ..., units) in the shape and order of the input."""
        match self:
            case Layout.FIRST | Layout.FLAT:
                return d.reshape(shape)
            case Layout.SECOND:
                return d.reshape(batch, shape[0], *shape[2:]).transpose(0, 1)
            case Layout.SECOND_FLAT:
                return d.reshape(batch, -1, *shape[1:]).transpose(0, 1).reshape(shape)


@dataclass(frozen=True)
class Link:
    """From which layer the input of a layer receives its error.

    Attributes:
        site: the layer, by qualified name; for a product in an intercepted module, the key of its
            weight comes after a colon.
        source: the layer whose error the input receives. The batch is first in its result.
        layout: where the batch is in the input.
        tokens: whether both have the same positions between the batch and the last dimension, so
            that one E serves all positions.
        rank: the number of dimensions of the input, with the batch.
        source_rank: the number of dimensions of the source's result.
    """

    site: str
    source: str
    layout: Layout
    tokens: bool
    rank: int
    source_rank: int

    def above(self, h: Tensor) -> Tensor:
        """Return the source's result, or its error, as rows that E multiplies."""
        h = h.unsqueeze(0) if h.dim() == self.source_rank - 1 else h  # one sample, without a batch
        return h.reshape(-1, h.shape[-1]) if self.tokens else h.reshape(len(h), -1)

    def below(self, z: Tensor, batch: int) -> Tensor:
        """Return the input as rows of E's units."""
        z = z.unsqueeze(0) if z.dim() == self.rank - 1 else z
        z = self.layout.batched(z, batch)
        return z.reshape(-1, z.shape[-1]) if self.tokens else z.reshape(len(z), -1)

    def check(self, z: Tensor, E: Tensor, h: Tensor) -> None:
        """Refuse shapes that do not fit the example's."""
        above, batch = self.above(h), self.batch(h)
        fits = z.dim() < self.rank or self.layout.fits(z.shape, batch)
        below = self.below(z, batch) if fits else None
        shape = above.shape[1], *(below.shape[1:] if below is not None else ())
        if below is None or tuple(E.shape) != shape or len(below) != len(above):
            raise RuleError(
                f"layer {self.site!r} reads {tuple(z.shape)} and receives its error from "
                f"{self.source!r}, which returns {tuple(h.shape)}, through feedback weights of "
                f"{tuple(E.shape)}. They fit only inputs of the shape that convert's example= had, "
                "apart from the batch"
            )

    def batch(self, h: Tensor) -> int:
        """Return the number of samples in the source's result."""
        return 1 if h.dim() == self.source_rank - 1 else len(h)


Listener = tuple[Link, Tensor, Tensor]
"""A link, the input that receives the error, and the E that the error goes through."""


@dataclass(frozen=True)
class BroadcastOp:
    """h unchanged; its error e passes on, and goes as d = e E to the inputs that wait for it.

    Its tensors are these inputs and the E of each, each tensor once.

    Attributes:
        listeners: for each link, the indices of its input and of its E among the tensors.
        shapes: the shapes of the tensors.
        feedback: the feedback axis.
    """

    listeners: tuple[tuple[Link, int, int], ...]
    shapes: tuple[torch.Size, ...]
    feedback: Feedback

    @property
    def parameters(self) -> int:
        """All tensors."""
        return len(self.shapes)

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Return h, if it fits the inputs that wait for it."""
        for link, z, E in self.listeners:
            link.check(parameters[z], parameters[E], x)
        return x.view_as(x)

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Save every E, and the inputs where E learns from them."""
        return tuple(parameters[i] for i in self._saved())

    def _saved(self) -> list[int]:
        """Return the indices of the tensors that are saved."""
        learned = self.feedback.stored is Stored.LEARNED
        return sorted({i for _, z, E in self.listeners for i in ((z, E) if learned else (E,))})

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Compute e, then d for each input, and dE as the feedback's update of e^T z."""
        learned = self.feedback.stored is Stored.LEARNED
        known = dict(zip(self._saved(), saved, strict=True))
        found: list[Tensor | None] = [None] * self.parameters

        def add(i: int, gradient: Tensor) -> None:
            before = found[i]
            found[i] = gradient if before is None else before + gradient

        for link, z, E in self.listeners:
            e, batch = link.above(error).to(known[E].dtype), link.batch(error)
            if needs[1 + z]:
                add(z, link.layout.restored(e @ known[E], self.shapes[z], batch))
            if needs[1 + E] and learned:
                rows = link.below(known[z], batch).to(e.dtype)
                add(E, self.feedback.update(e.t() @ rows))
        return error if needs[0] else None, *found


def _broadcast(waiting: list[Listener], feedback: Feedback) -> tuple[BroadcastOp, list[Tensor]]:
    """Return the op that sends errors to the inputs that wait for them, with its tensors."""
    tensors = [*{id(t): t for _, *both in waiting for t in both}.values()]
    at = {id(t): i for i, t in enumerate(tensors)}
    listeners = tuple((link, at[id(z)], at[id(E)]) for link, z, E in waiting)
    return BroadcastOp(listeners, tuple(t.shape for t in tensors), feedback), tensors


def _in_backward_pass() -> bool:
    """Return whether this runs in a backward pass, as checkpointing's recomputation does."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@dataclass
class ErrorRouter:
    """Matches each input with the layer whose error it receives, in each forward pass.

    Attributes:
        feedback: the feedback axis.
        delivered: the sites whose inputs were matched in the last pass.
    """

    feedback: Feedback
    delivered: set[str] = field(default_factory=set)
    _waiting: dict[int, dict[str, list[Listener]]] = field(default_factory=dict)
    _traced: dict[str, list[Listener]] = field(default_factory=dict)
    """What waits while a pass is compiled: separate, or a graph would depend on eager passes."""

    def __getstate__(self) -> dict[str, Any]:
        emptied: dict[str, Any] = {"_waiting": {}, "_traced": {}}
        return vars(self) | emptied  # without the tensors of a pass that has not ended

    def _own(self) -> dict[str, list[Listener]]:
        """Return what waits in this thread's pass, by source."""
        if torch.compiler.is_compiling():
            return self._traced
        return self._waiting.setdefault(threading.get_ident(), {})

    def detach_input(
        self, site: str, link: Link | None, z: Tensor, E: Tensor | None, units_last: bool
    ) -> Tensor:
        """Register a layer's input for an error from another layer, and return it detached.

        Args:
            site: the layer.
            link: where the error comes from; None to leave the input in autograd's chain.
            z: the input.
            E: the feedback weights that the error goes through.
            units_last: whether the layer's units are in the last dimension.
        """
        if link is None or not needs_error(z):
            return z
        assert E is not None
        if _in_backward_pass():
            if site not in self.delivered:
                raise RuleError(
                    f"layer {site!r} runs with gradients only inside the backward pass, where no "
                    "error can reach it; call checkpoint with use_reentrant=False"
                )
            return z.detach()
        waiting = self._own().setdefault(link.source, [])
        if not any(given is z and other is link for other, given, _ in waiting):
            waiting.append((link, z, E))
        return z.detach()

    def run(self, site: str, op: WeightOp | BilinearOp, z: Tensor, *tensors: Any) -> Tensor:
        """Run a layer, and tie its result to the inputs that wait for its error."""
        waiting = self._own().pop(site, None)
        if not waiting:
            return apply_weights(op, z, *tensors)
        if not torch.compiler.is_compiling():
            self.delivered.update(link.site for link, _, _ in waiting)
        broadcast, given = _broadcast(waiting, self.feedback)
        return apply_ops((op, broadcast), z, *tensors, *given)

    def begin(self, module: nn.Module, args: Any) -> None:
        """Forget what a failed pass has left; a hook before the model's forward."""
        if not torch.compiler.is_compiling() and any(is_sharded(m) for m in module.modules()):
            raise RuleError(
                "errors that skip layers need the feedback weights of one layer while another "
                "runs, when FSDP no longer holds them; use DistributedDataParallel, or "
                "lra.wiring.Chain()"
            )
        if not _in_backward_pass():
            self._own().clear()
            if torch.is_grad_enabled() and not torch.compiler.is_compiling():
                self.delivered.clear()

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        """Check that every input was matched; a hook after the model's forward."""
        waiting = self._own()
        missed = sorted({link.site for each in waiting.values() for link, _, _ in each})
        sources = sorted(source for source, each in waiting.items() if each)
        waiting.clear()
        if missed:
            raise RuleError(
                f"{', '.join(missed)} would learn nothing in this pass: the error comes from "
                f"{', '.join(sources)}, which did not run after them as it did in the example. "
                "Convert with an example= that does what training does, or use lra.wiring.Chain()"
            )


def remove_router(model: nn.Module) -> None:
    """Remove the hooks of an error router."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), ErrorRouter):
                del hooks[key]
