"""Wirings other than the chain: what a layer reads hears the error of a layer further up.

In a forward pass the input z of a layer is handed to a hub, and the layer goes on with z.detach(),
which cuts the chain. The layer that z hears then ties it to its own result h, in one place: its
backward has the error e at h, and sends d = e E to z.
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
    """Where the batch stands in an input of several positions for each sample."""

    FIRST = "(batch, ...)"
    FLAT = "(batch * positions, ...)"
    SECOND = "(positions, batch, ...)"
    SECOND_FLAT = "(positions * batch, ...)"

    def fits(self, shape: Sequence[int], batch: int) -> bool:
        """Tell whether an input of some shape may be of this layout."""
        match self:
            case Layout.FIRST:
                return shape[0] == batch
            case Layout.SECOND:
                return len(shape) > 2 and shape[1] == batch
            case _:
                return shape[0] > batch and shape[0] % batch == 0

    def batched(self, z: Tensor, batch: int) -> Tensor:
        """Give an input as (batch, positions, ...), or as it is where the batch is first."""
        match self:
            case Layout.FIRST:
                return z
            case Layout.FLAT:
                return z.reshape(batch, -1, *z.shape[1:])
            case Layout.SECOND:
                return z.transpose(0, 1)
            case Layout.SECOND_FLAT:
                return z.reshape(-1, batch, *z.shape[1:]).transpose(0, 1)

    def back(self, d: Tensor, shape: torch.Size, batch: int) -> Tensor:
        """Give an error of (batch * ..., units) the shape and order of the input."""
        match self:
            case Layout.FIRST | Layout.FLAT:
                return d.reshape(shape)
            case Layout.SECOND:
                return d.reshape(batch, shape[0], *shape[2:]).transpose(0, 1)
            case Layout.SECOND_FLAT:
                return d.reshape(batch, -1, *shape[1:]).transpose(0, 1).reshape(shape)


@dataclass(frozen=True)
class Link:
    """Which layer the input of a layer hears.

    Attributes:
        site: the layer, by qualified name; with a colon, one of the products in its forward.
        source: the layer whose error its input hears; the batch comes first in its result.
        layout: where the batch stands in the input.
        tokens: whether both have the same positions between the batch and the last dimension, so
            that one E serves all of them.
        rank: the number of dimensions of the input, with the batch.
        source_rank: the same of the source's result.
    """

    site: str
    source: str
    layout: Layout
    tokens: bool
    rank: int
    source_rank: int

    def above(self, h: Tensor) -> Tensor:
        """Give the source's result, or its error, as rows that E knows."""
        h = h.unsqueeze(0) if h.dim() == self.source_rank - 1 else h  # one sample, without a batch
        return h.reshape(-1, h.shape[-1]) if self.tokens else h.reshape(len(h), -1)

    def below(self, z: Tensor, batch: int) -> Tensor:
        """Give the input as rows that E knows."""
        z = z.unsqueeze(0) if z.dim() == self.rank - 1 else z
        z = self.layout.batched(z, batch)
        return z.reshape(-1, z.shape[-1]) if self.tokens else z.reshape(len(z), -1)

    def check(self, z: Tensor, E: Tensor, h: Tensor) -> None:
        """Refuse shapes that are not those of the example."""
        above, batch = self.above(h), self.batch(h)
        fits = z.dim() < self.rank or self.layout.fits(z.shape, batch)
        below = self.below(z, batch) if fits else None
        shape = above.shape[1], *(below.shape[1:] if below is not None else ())
        if below is None or tuple(E.shape) != shape or len(below) != len(above):
            raise RuleError(
                f"layer {self.site!r} reads {tuple(z.shape)} and hears {self.source!r}, which "
                f"gives {tuple(h.shape)}, through feedback weights of {tuple(E.shape)}: those "
                "serve inputs of the shape that convert's example= had, batch aside"
            )

    def batch(self, h: Tensor) -> int:
        """Tell the number of samples from the source's result."""
        return 1 if h.dim() == self.source_rank - 1 else len(h)


Listener = tuple[Link, Tensor, Tensor]
"""A link, the input that hears, and the E through which it does."""


@dataclass(frozen=True)
class BroadcastOp:
    """h as it is; its error e goes on, and as d = e E to the inputs that hear it.

    Its tensors are these inputs and the E between, each once.

    Attributes:
        heard: for each link, which of the tensors is its input, and which its E.
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
        """Give h, if it fits what hears it."""
        for link, z, E in self.listeners:
            link.check(parameters[z], parameters[E], x)
        return x.view_as(x)

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Keep every E, and the inputs where E learns from them."""
        return tuple(parameters[i] for i in self._held())

    def _held(self) -> list[int]:
        """Tell which tensors are kept."""
        learned = self.feedback.stored is Stored.LEARNED
        return sorted({i for _, z, E in self.listeners for i in ((z, E) if learned else (E,))})

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Give e, then d for each input and dE = the update of e^T z."""
        learned = self.feedback.stored is Stored.LEARNED
        known = dict(zip(self._held(), saved, strict=True))
        found: list[Tensor | None] = [None] * self.parameters

        def add(i: int, gradient: Tensor) -> None:
            before = found[i]
            found[i] = gradient if before is None else before + gradient

        for link, z, E in self.listeners:
            e, batch = link.above(error).to(known[E].dtype), link.batch(error)
            if needs[1 + z]:
                add(z, link.layout.back(e @ known[E], self.shapes[z], batch))
            if needs[1 + E] and learned:
                rows = link.below(known[z], batch).to(e.dtype)
                add(E, self.feedback.update(e.t() @ rows))
        return error if needs[0] else None, *found


def _relay(listeners: list[Listener], feedback: Feedback) -> tuple[BroadcastOp, list[Tensor]]:
    """Give the place that sends errors to what hears them, with its tensors."""
    tensors = [*{id(t): t for _, *pair in listeners for t in pair}.values()]
    at = {id(t): i for i, t in enumerate(tensors)}
    links = tuple((link, at[id(z)], at[id(E)]) for link, z, E in listeners)
    return BroadcastOp(links, tuple(t.shape for t in tensors), feedback), tensors


def _backward_runs() -> bool:
    """Tell whether this is called in a backward pass, as what checkpointing computes again is."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@dataclass
class ErrorRouter:
    """Brings what hears together with what it hears, in each forward pass.

    Attributes:
        feedback: the feedback axis.
        links: for each layer whose input hears another layer, that link.
        told: the layers whose inputs have heard one in the last pass.
    """

    feedback: Feedback
    links: dict[str, Link] = field(default_factory=dict)
    delivered: set[str] = field(default_factory=set)
    _waiting: dict[int, dict[str, list[Listener]]] = field(default_factory=dict)
    _traced: dict[str, list[Listener]] = field(default_factory=dict)
    """What waits while a pass is compiled: apart, or a graph would depend on eager passes."""

    def __getstate__(self) -> dict[str, Any]:
        emptied: dict[str, Any] = {"_waiting": {}, "_traced": {}}
        return vars(self) | emptied  # of the tensors of a pass that has not ended

    def _own(self) -> dict[str, list[Listener]]:
        """Give what waits in this thread's pass."""
        if torch.compiler.is_compiling():
            return self._traced
        return self._waiting.setdefault(threading.get_ident(), {})

    def detach_input(self, site: str, z: Tensor, E: Tensor | None, last: bool) -> Tensor:
        """Take a layer's input to hear another layer, and give it without its past.

        Args:
            site: the layer.
            z: its input.
            E: the feedback weights through which the input hears.
            last: whether the layer's units are in the last dimension.
        """
        link = self.links.get(site)
        if link is None or not needs_error(z):
            return z
        assert E is not None
        if _backward_runs():
            if site not in self.delivered:
                raise RuleError(
                    f"layer {site!r} runs with gradients only inside the backward pass, where no "
                    "error can reach it any more: call checkpoint with use_reentrant=False"
                )
            return z.detach()
        waiting = self._own().setdefault(link.source, [])
        if not any(given is z and other is link for other, given, _ in waiting):
            waiting.append((link, z, E))
        return z.detach()

    def run(self, site: str, op: WeightOp | BilinearOp, z: Tensor, *tensors: Any) -> Tensor:
        """Give a layer's result, tied to the inputs that wait for its error."""
        listeners = self._own().pop(site, None)
        if not listeners:
            return apply_weights(op, z, *tensors)
        if not torch.compiler.is_compiling():
            self.delivered.update(link.site for link, _, _ in listeners)
        relay, given = _relay(listeners, self.feedback)
        return apply_ops((op, relay), z, *tensors, *given)

    def begin(self, module: nn.Module, args: Any) -> None:
        """Forget what a pass that failed has left; a hook before the model's forward."""
        if not torch.compiler.is_compiling() and any(is_sharded(m) for m in module.modules()):
            raise RuleError(
                "errors that skip layers need the feedback weights of one layer while another "
                "runs, when FSDP holds them no more; use DistributedDataParallel, or lra.wiring.Chain()"
            )
        if not _backward_runs():
            self._own().clear()
            if torch.is_grad_enabled() and not torch.compiler.is_compiling():
                self.delivered.clear()

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        """See that all have heard; a hook after the model's forward."""
        waiting = self._own()
        missed = sorted({link.site for listeners in waiting.values() for link, _, _ in listeners})
        sources = sorted(source for source, listeners in waiting.items() if listeners)
        waiting.clear()
        if missed:
            raise RuleError(
                f"{', '.join(missed)} would learn nothing in this pass: what they read hears "
                f"{', '.join(sources)}, which did not run after them, as it did in the example. "
                "Convert with an example= of what training does, or use lra.wiring.Chain()"
            )


def remove_router(model: nn.Module) -> None:
    """Take the hub's hooks off."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), ErrorRouter):
                del hooks[key]
