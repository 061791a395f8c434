"""Custom backward passes and adjoints on Keras's torch backend; only this file imports torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import torch
from torch import Tensor
from torch.autograd import Function


@contextmanager
def values_only() -> Iterator[None]:
    """Compute on the CPU without autograd: Keras finds the shapes of a model on the meta device."""
    with keras.device("cpu"), torch.no_grad():
        yield


class CustomBackward(Function):
    """`lra.keras.backend.custom_backward` as one node of autograd's graph.

    Keras's own `custom_gradient` on torch computes the output again in the backward pass, or stores
    it where autograd cannot free it. This function saves tensors as autograd does.
    """

    @staticmethod
    def forward(ctx: Any, forward: Any, backward: Any, *inputs: Tensor) -> Any:
        """Compute the output of `forward`, and save the other tensors that it returns."""
        out, saved = forward(*inputs)
        ctx.updates = backward
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    def backward(ctx: Any, error: Any) -> Any:
        """Return the updates of `backward`."""
        return None, None, *ctx.updates(ctx.saved_tensors, error, ctx.needs_input_grad[2:])


def adjoint(
    bilinear: Callable[[Any, Any], Any], z: Tensor, W: Tensor, e: Tensor, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the adjoints of a bilinear function by autograd; see `lra.keras.backend.adjoint`."""
    if not any(needs):
        return None, None
    with torch.enable_grad():
        z, W = z.detach().requires_grad_(needs[0]), W.detach().requires_grad_(needs[1])
        h = bilinear(z, W)
    wanted = [x for x, need in zip((z, W), needs, strict=True) if need]
    found = iter(torch.autograd.grad(h, wanted, e))
    d, dW = (next(found) if need else None for need in needs)
    return d, dW
