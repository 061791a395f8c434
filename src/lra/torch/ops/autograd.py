"""The autograd Functions that run ops: their backward passes are the rule's.

A chain of ops is one Function, since in eager mode the cost of a small layer is mostly the cost of
calling a Function.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from lra.crossing import Crossing
from lra.differences import Phi
from lra.errors import RuleError
from lra.loss_terms import LossTerms
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

run_batched: Callable[..., Tensor] | None = None
"""How a chain of ops runs under `torch.vmap` over networks. `lra.torch.ensemble` sets it."""

SECOND_DERIVATIVE = (
    "create_graph=True, or a derivative of a derivative, asks for the derivative of a learning "
    "rule's updates, which are not the gradient of any function; leave it out, or call lra.restore "
    "to use backprop's gradient"
)


class ChainFunction(Function):
    """A chain of ops as one node of the graph, for eager mode and torch.compile."""

    @staticmethod
    def forward(ctx: Any, ops: tuple[Op, ...], x: Tensor, *parameters: Any) -> Tensor:
        """Run the ops, and save what their backward passes need."""
        saved: list[Tensor] = []
        spans = []
        taken = 0
        for i, op in enumerate(ops, 1):
            own = parameters[taken : taken + op.parameters]
            taken += op.parameters
            out = op.forward(x, *own)
            needed = op.save(x, out, i == len(ops), *own)
            spans.append(len(needed))
            saved += needed
            x = out
        ctx.ops, ctx.spans = ops, spans
        ctx.save_for_backward(*saved)
        return x.detach()  # no view, so that it can be changed in place like a plain layer's output

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Any:
        """Send the error across the ops in reverse."""
        if torch.is_grad_enabled():
            raise RuleError(SECOND_DERIVATIVE)
        saved = ctx.saved_tensors
        needs = ctx.needs_input_grad[1:]
        end_saved, end = len(saved), len(needs)
        gradients: Gradients = ()
        for i in reversed(range(len(ctx.ops))):
            op, span = ctx.ops[i], ctx.spans[i]
            start = end - op.parameters
            given = saved[end_saved - span : end_saved]
            sent = op.backward(given, error, (i > 0 or needs[0], *needs[start:end]))
            if observer.current is not None:
                observer.current.backward(op, given, error, sent)
            error, *own = sent
            gradients = (*own, *gradients)
            end_saved, end = end_saved - span, start
        return None, error, *gradients


class InPlaceFunction(ChainFunction):
    """One activation that overwrites its input, as a node of the graph."""

    @staticmethod
    def forward(ctx: Any, ops: tuple[ActivationOp], x: Tensor, in_place: Any) -> Tensor:  # type: ignore[override]
        """Save h, then overwrite it with z."""
        (op,) = ops
        assert op.recompute
        op.recompute.h = x.clone()
        ctx.ops, ctx.spans = ops, [1]
        ctx.save_for_backward(op.recompute.h)
        in_place(x)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Any:
        """Send the error across the activation."""
        return *ChainFunction.backward(ctx, error), None


class TransformFunction(Function):
    """One op as one node, in the form that torch.func's transforms require."""

    generate_vmap_rule = True  # for updates per sample, by vmap over grad

    @staticmethod
    def forward(op: Op, x: Tensor, *parameters: Any) -> Tensor:
        """Run the op."""
        return op.forward(x, *parameters)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: Any, output: Any) -> None:
        """Save what the backward pass needs."""
        op, x, *parameters = inputs
        ctx.op = op  # type: ignore[attr-defined]
        ctx.save_for_backward(*op.save(x, output, True, *parameters))

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> Any:
        """Send the error across the op, as a node that refuses second derivatives."""
        present = _Present()
        needs = ctx.needs_input_grad[1:]
        found = iter(_Updates.apply(ctx.op, needs, present, error, *ctx.saved_tensors))  # type: ignore[no-untyped-call]
        return None, *(next(found) if there else None for there in present.gradients)


NODES = (ChainFunction, InPlaceFunction, TransformFunction)
"""The nodes of the graph across which a rule sends errors."""


class _Present:
    """Records which of an op's gradients are not None."""

    gradients: list[bool]


class _Updates(Function):
    """The backward pass of one op, as a node that cannot be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        op: Op, needs: tuple[bool, ...], present: _Present, error: Tensor, *saved: Tensor
    ) -> tuple[Tensor, ...]:
        gradients = op.backward(saved, error, needs)
        present.gradients = [gradient is not None for gradient in gradients]
        return tuple(gradient for gradient in gradients if gradient is not None)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: Any, output: Any) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Any:
        raise RuleError(SECOND_DERIVATIVE)


def apply_ops(ops: tuple[Op, ...], x: Tensor, *parameters: Tensor | None) -> Tensor:
    """Run a chain of ops forward, with the rule's backward pass.

    Args:
        ops: in forward order.
        x: the input of the first.
        parameters: the tensors of all ops, one op after the other.
    """
    if not transforming():
        if observer.current is not None:  # it sees the ops one by one, except at a broadcast
            observer.current.forward(ops[0], x, parameters[: ops[0].parameters])
        result: Tensor = ChainFunction.apply(ops, x, *parameters)  # type: ignore[no-untyped-call]
        return result
    if run_batched is not None:
        return run_batched(ops, x, *parameters)
    for op in ops:
        own, parameters = parameters[: op.parameters], parameters[op.parameters :]
        x = TransformFunction.apply(op, x, *own)  # type: ignore[no-untyped-call]
    return x


def apply_weights(op: WeightOp | BilinearOp, z: Tensor, *parameters: Any) -> Tensor:
    """Run one weight layer, which shares what the activation below it saves."""
    recompute = Recompute.of(z)
    if recompute is not None and isinstance(op, WeightOp):
        op = replace(op, recompute=recompute)
    return apply_ops((op,), z, *parameters)


def apply_activation(
    phi: Phi,
    crossing: Crossing,
    terms: LossTerms | float,
    h: Tensor,
    in_place: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Run one activation, z = phi(h).

    Args:
        phi: the activation, which leaves its argument as it is.
        crossing: the crossing axis.
        terms: N, or how to count it.
        h: pre-activations, any shape.
        in_place: the activation that overwrites h, where the module does.
    """
    separate = torch.compiler.is_compiling() or transforming()
    if in_place is None:
        recompute = None if separate else Recompute(phi, h.detach())
        z = apply_ops((ActivationOp(phi, crossing, terms, recompute),), h)
        return z if recompute is None else recompute.mark(z)
    if separate or h._is_view():  # autograd's own copy_ knows what the base of a view needs
        return h.copy_(apply_ops((ActivationOp(phi, crossing, terms),), h.clone()))
    recompute = Recompute(phi, h.detach())
    op = ActivationOp(phi, crossing, terms, recompute)
    if observer.current is not None:
        observer.current.forward(op, h.detach(), ())
    return recompute.mark(InPlaceFunction.apply((op,), h, in_place))  # type: ignore[no-untyped-call]
