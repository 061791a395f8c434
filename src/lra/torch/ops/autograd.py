"""The backward functions: what autograd runs in place of backprop's where an error crosses.

Places are run forward, as a chain in one autograd Function, since in eager mode the cost of a small
layer is mostly the cost of a Function.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from lra.crossing import Crossing
from lra.errors import RuleError
from lra.loss_terms import LossTerms
from lra.torch.ensemble import across
from lra.torch.ops import observer
from lra.torch.ops.ops import (
    ActivationOp,
    BilinearOp,
    Gradients,
    Op,
    Recompute,
    WeightOp,
    transforming,
)
from lra.torch.swift import Over, Swift

_SECOND = (
    "create_graph=True, or a derivative of a derivative, asks for the derivative of a learning "
    "rule's updates, which are not the gradient of anything; go without it, or lra.restore the "
    "model to use backprop's gradient"
)


class _Places(Function):
    """A chain of places as one node of the graph; the fast form, for eager mode and compile."""

    @staticmethod
    def forward(ctx: Any, ops: tuple[Op, ...], x: Tensor, *parameters: Any) -> Tensor:
        saved: list[Tensor] = []
        spans = []
        taken = 0
        for i, op in enumerate(ops, 1):
            own = parameters[taken : taken + op.parameters]
            taken += op.parameters
            out = op.forward(x, *own)
            saved = op.save(x, out, i == len(ops), *own)
            spans.append(len(saved))
            saved += saved
            x = out
        ctx.ops, ctx.spans = ops, spans
        ctx.save_for_backward(*saved)
        return x.detach()  # not a view, so that it may be changed in place as a plain layer's

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuleError(_SECOND)
        saved = ctx.saved_tensors
        needs = ctx.needs_input_grad[1:]
        end_kept, end = len(saved), len(needs)
        gradients: Gradients = ()
        for i in reversed(range(len(ctx.ops))):
            op, span = ctx.ops[i], ctx.spans[i]
            start = end - op.parameters
            below, last = i > 0 or needs[0], i + 1 == len(ctx.ops)
            given = saved[end_kept - span : end_kept]
            arrived, own = error, []
            if type(op) is ActivationOp and not (last or observer.watcher):
                error = op.send(given, arrived, spare=True)  # nobody else has it
            else:
                error, *own = op.backward(given, arrived, (below, *needs[start:end]))
            if observer.watcher is not None:
                observer.watcher.backward(op, given, arrived, (error, *own))
            gradients = (*own, *gradients)
            end_kept, end = end_kept - span, start
        return None, error, *gradients


class _Overwriting(_Places):
    """One nonlinearity that is written over its input, as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, ops: tuple[ActivationOp], x: Tensor) -> Tensor:  # type: ignore[override]
        (op,) = ops
        assert op.over
        assert op.origin
        op.origin.h = x.clone()
        ctx.ops, ctx.spans = ops, [1]
        ctx.save_for_backward(op.origin.h)
        op.over(x)
        ctx.mark_dirty(x)
        return x


class _OnePlace(Function):
    """One place as one node, in the form that torch.func's transforms ask for."""

    generate_vmap_rule = True  # updates per sample, by vmap over grad

    @staticmethod
    def forward(op: Op, x: Tensor, *parameters: Any) -> Tensor:
        return op.forward(x, *parameters)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: Any, output: Any) -> None:
        op, x, *parameters = inputs
        ctx.op = op  # type: ignore[attr-defined]
        ctx.save_for_backward(*op.save(x, output, True, *parameters))

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Any:
        there = _There()
        needs = ctx.needs_input_grad[1:]
        found = iter(_Updates.apply(ctx.op, needs, there, error, *ctx.saved_tensors))  # type: ignore[no-untyped-call]
        return None, *(next(found) if is_there else None for is_there in there.gradients)


class _Together(Function):
    """A chain of places of many networks; `torch.vmap` over networks finds its `vmap`."""

    @staticmethod
    def forward(ops: tuple[Op, ...], x: Tensor, *parameters: Any) -> Tensor:
        """Give what one network gives; where errors come back there are many."""
        for op in ops:
            own, parameters = parameters[: op.parameters], parameters[op.parameters :]
            x = op.forward(x, *own)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: the chain of places does."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, ops: tuple[Op, ...], *tensors: Any) -> Any:
        """Run the places across networks as one ordinary node."""
        K = info.batch_size
        first = [
            t if t is None or d == 0 else t.expand(K, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip(tensors, in_dims[1:], strict=True)
        ]
        assert across.numbers is not None
        chain = tuple(across.Across(op, across.numbers) for op in ops)
        return _Places.apply(chain, *first), 0  # type: ignore[no-untyped-call]


NODES = (_Places, _Overwriting, _OnePlace)
"""What the nodes of the graph are across which a rule sends errors."""


class _There:
    """Which of a place's gradients there are."""

    gradients: list[bool]


class _Updates(Function):
    """The way back across one place, as a node that may not be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        op: Op, needs: tuple[bool, ...], there: _There, error: Tensor, *saved: Tensor
    ) -> tuple[Tensor, ...]:
        gradients = op.backward(saved, error, needs)
        there.gradients = [gradient is not None for gradient in gradients]
        return tuple(gradient for gradient in gradients if gradient is not None)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Any:
        raise RuleError(_SECOND)


def apply_ops(ops: tuple[Op, ...], x: Tensor, *parameters: Tensor | None) -> Tensor:
    """Run a chain of places forward, and have errors come back across them by the rule.

    Args:
        places: in forward order.
        x: the first one's input.
        parameters: the tensors of all the places, one after the other.
    """
    if not transforming():
        if observer.watcher is not None:  # who watches has chains run apart, but for what hears
            observer.watcher.forward(ops[0], x, parameters[: ops[0].parameters])
        result: Tensor = _Places.apply(ops, x, *parameters)  # type: ignore[no-untyped-call]
        return result
    if across.numbers is not None:
        together: Tensor = _Together.apply(ops, x, *parameters)  # type: ignore[no-untyped-call]
        return together
    for op in ops:
        own, parameters = parameters[: op.parameters], parameters[op.parameters :]
        x = _OnePlace.apply(op, x, *own)  # type: ignore[no-untyped-call]
    return x


def apply_weights(op: WeightOp | BilinearOp, z: Tensor, *parameters: Any) -> Tensor:
    """Give h = z W^T + b of one weight layer, which keeps what the unit before it keeps anyway."""
    origin = Recompute.of(z)
    if origin is not None and isinstance(op, WeightOp):
        op = replace(op, origin=origin)
    return apply_ops((op,), z, *parameters)


def apply_activation(
    phi: Callable[[Tensor], Tensor],
    crossing: Crossing,
    terms: LossTerms | float,
    h: Tensor,
    overwrites: bool = False,
    over: Over | None = None,
    swift: Swift | None = None,
) -> Tensor:
    """Give z = phi(h) of one unit; written over h, where phi overwrites its argument."""
    apart = torch.compiler.is_compiling() or transforming()
    if not overwrites:
        origin = None if apart else Recompute(phi, h.detach())
        z = apply_ops((ActivationOp(phi, crossing, terms, origin, over, swift),), h)
        return z if origin is None else origin.mark(z)

    def pure(v: Tensor) -> Tensor:
        return phi(v.clone())

    if apart or h._is_view():  # autograd's own copy knows what a view's base needs
        return h.copy_(apply_ops((ActivationOp(pure, crossing, terms, swift=swift),), h.clone()))
    origin = Recompute(pure, h.detach())
    op = ActivationOp(pure, crossing, terms, origin, phi, swift)
    if observer.watcher is not None:
        observer.watcher.forward(op, h.detach(), ())
    return origin.mark(_Overwriting.apply((op,), h))  # type: ignore[no-untyped-call]
