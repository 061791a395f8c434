"""The backward functions: what autograd runs in place of backprop's where an error crosses.

A *place* is where a rule has a say: a weight layer, or a nonlinearity. It computes forward what
the plain layer computes, keeps what its backward needs, and sends an error across. `send` runs a
chain of places as one autograd Function, since in eager mode the cost of a small layer is mostly
the cost of a Function.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from lra.crossing import Crossing, LossTerms, count_terms
from lra.errors import RuleError
from lra.feedback import Feedback, Stored

Gradients = tuple[Tensor | None, ...]


class Operation(Protocol):
    """A weight layer's arithmetic: linear in its input and in its weight."""

    def forward(self, z: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        """Give h from z."""

    def backward(self, e: Tensor, z: Tensor, E: Tensor, needs: tuple[bool, ...]) -> Gradients:
        """Give (d, dW, db) with d = e E, dW = e^T z and db = sum e; None where not needed."""


class Place(Protocol):
    """Where a rule has a say in how an error crosses."""

    @property
    def parameters(self) -> int:
        """How many tensors `forward` takes after its input."""

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Compute what the plain layer computes."""

    def keep(self, x: Tensor, out: Tensor, *parameters: Any) -> tuple[Tensor, ...]:
        """Give the tensors that `backward` needs."""

    def backward(
        self, kept: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Give the error at the input, then the updates of the parameters."""


@dataclass(frozen=True)
class Weights:
    """h = z W^T + b forward; d = e E, dW = e^T z and dE by the feedback axis backward."""

    operation: Operation
    feedback: Feedback
    parameters = 3  # W, b, E

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Give h from z and (W, b, E)."""
        W, b, _ = parameters
        return self.operation.forward(x, W, b)

    def keep(self, x: Tensor, out: Tensor, *parameters: Any) -> tuple[Tensor, ...]:
        """Keep z and E; W itself is not needed."""
        return x, parameters[2]

    def backward(
        self, kept: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Give d, dW, db, dE."""
        z, E = kept
        need_d, need_W, need_b, need_E = needs
        learned = need_E and self.feedback.stored is Stored.LEARNED
        # Under autocast the layer computed in the error's type; its master weights are wider.
        d, dW, db = self.operation.backward(
            error, z.to(error.dtype), E.to(error.dtype), (need_d, need_W or learned, need_b)
        )
        dE = self.feedback.update(dW) if learned else None
        return d, dW if need_W else None, db, dE


@dataclass(frozen=True)
class Nonlinearity:
    """z = phi(h) forward; the crossing axis's error backward."""

    phi: Callable[[Tensor], Tensor]
    crossing: Crossing
    terms: LossTerms | float
    parameters = 0

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Give z from h."""
        return self.phi(x)

    def keep(self, x: Tensor, out: Tensor, *parameters: Any) -> tuple[Tensor, ...]:
        """Keep h and z."""
        return x, out

    def backward(
        self, kept: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Give the error at h."""
        h, z = kept
        return (cross(self.phi, self.crossing, self.terms, h, z, error),)


def cross(
    phi: Callable[[Tensor], Tensor],
    crossing: Crossing,
    terms: LossTerms | float,
    h: Tensor,
    z: Tensor,
    d: Tensor,
) -> Tensor:
    """Send an error d at z = phi(h) across phi, in float32 at least.

    The difference of an output and its target is far smaller than either: in 16 bits it would be
    mostly rounding, so there both are computed anew from h in 32.
    """
    n = count_terms(terms, h.shape)
    given = d.dtype
    if h.dtype in (torch.float16, torch.bfloat16):
        h, d = h.float(), d.float()
        z = phi(h)
    e: Tensor = crossing.error(phi, h, z, d, n, torch)
    return e.to(given)


class _Chain(Function):
    """A chain of places as one node of the graph; the fast form, for eager mode and compile."""

    @staticmethod
    def forward(ctx: Any, places: tuple[Place, ...], x: Tensor, *parameters: Any) -> Tensor:
        kept: list[Tensor] = []
        spans = []
        taken = 0
        for place in places:
            own = parameters[taken : taken + place.parameters]
            taken += place.parameters
            out = place.forward(x, *own)
            saved = place.keep(x, out, *own)
            spans.append(len(saved))
            kept += saved
            x = out
        ctx.places, ctx.spans = places, spans
        ctx.save_for_backward(*kept)
        return x.detach()  # not a view, so that it may be changed in place as a plain layer's

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuleError(
                "create_graph=True asks for the derivative of a learning rule's updates, which "
                "are not the gradient of anything; call backward() without it, or lra.restore "
                "the model to use backprop's gradient"
            )
        kept = ctx.saved_tensors
        needs = ctx.needs_input_grad[1:]
        end_kept, end = len(kept), len(needs)
        gradients: Gradients = ()
        for i in reversed(range(len(ctx.places))):
            place, span = ctx.places[i], ctx.spans[i]
            start = end - place.parameters
            below = i > 0 or needs[0]
            error, *own = place.backward(
                kept[end_kept - span : end_kept], error, (below, *needs[start:end])
            )
            gradients = (*own, *gradients)
            end_kept, end = end_kept - span, start
        return None, error, *gradients


class _Single(Function):
    """One place as one node, in the form that torch.func's transforms ask for."""

    @staticmethod
    def forward(place: Place, x: Tensor, *parameters: Any) -> Tensor:
        return place.forward(x, *parameters)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: Any, output: Any) -> None:
        place, x, *parameters = inputs
        ctx.place = place  # type: ignore[attr-defined]
        ctx.save_for_backward(*place.keep(x, output, *parameters))

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Any:
        return None, *ctx.place.backward(ctx.saved_tensors, error, ctx.needs_input_grad[1:])


def transforming() -> bool:
    """Tell whether a torch.func transform (grad, vjp, ...) is running."""
    return bool(torch._C._are_functorch_transforms_active())


def send(places: tuple[Place, ...], x: Tensor, *parameters: Tensor | None) -> Tensor:
    """Run a chain of places forward, and have errors come back across them by the rule.

    Args:
        places: in forward order.
        x: the first one's input.
        parameters: the tensors of all the places, one after the other.
    """
    if not transforming():
        result: Tensor = _Chain.apply(places, x, *parameters)  # type: ignore[no-untyped-call]
        return result
    for place in places:
        own, parameters = parameters[: place.parameters], parameters[place.parameters :]
        x = _Single.apply(place, x, *own)  # type: ignore[no-untyped-call]
    return x
