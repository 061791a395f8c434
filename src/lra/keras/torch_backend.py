"""The torch backend's custom gradient and adjoint; nothing else imports torch here."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class Send(Function):
    """`lra.keras.backend.send` as one node of autograd's graph.

    Keras's own custom gradient on torch would have to compute the output anew on the way back, or
    keep it in a way that autograd cannot free; this keeps it as autograd does.
    """

    @staticmethod
    def forward(ctx: Any, forward: Any, backward: Any, *inputs: Tensor) -> Any:
        """Give the output of `forward`, and keep what it says."""
        out, kept = forward(*inputs)
        ctx.updates = backward
        ctx.save_for_backward(*kept)
        return out

    @staticmethod
    def backward(ctx: Any, error: Any) -> Any:
        """Give the updates of `backward`."""
        return None, None, *ctx.updates(ctx.saved_tensors, error, ctx.needs_input_grad[2:])


def adjoint(
    operation: Callable[[Any, Any], Any], z: Tensor, W: Tensor, e: Tensor, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Give the adjoints of a bilinear operation, by autograd; see `lra.keras.backend.adjoint`."""
    if not any(needs):
        return None, None
    with torch.enable_grad():
        z, W = z.detach().requires_grad_(needs[0]), W.detach().requires_grad_(needs[1])
        h = operation(z, W)
    wanted = [x for x, need in zip((z, W), needs, strict=True) if need]
    found = iter(torch.autograd.grad(h, wanted, e))
    d, dW = (next(found) if need else None for need in needs)
    return d, dW
