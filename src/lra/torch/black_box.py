"""Functions that can only be run: without autograd, on plain tensors, under every transform."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lra.errors import RuleError


class RunOnly(Function):
    """z = f(h) where no derivative of f is known."""

    @staticmethod
    def forward(f: Callable[[Tensor], Tensor], refusal: str, h: Tensor) -> Tensor:
        """Run f."""
        return f(h)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save the message."""
        ctx.refusal = inputs[1]

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, f: Callable[[Tensor], Tensor], refusal: str, h: Tensor
    ) -> tuple[Tensor, int]:
        """Run f on the whole batch, with the mapped dimension first."""
        z: Tensor = RunOnly.apply(f, refusal, h.movedim(in_dims[2], 0))  # type: ignore[no-untyped-call]
        return z, 0

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        """Refuse the error."""
        raise RuleError(ctx.refusal)


def run_only(f: Callable[[Tensor], Tensor], h: Tensor, refusal: str) -> Tensor:
    """Run f on plain tensors, and refuse an error that autograd sends back to it.

    Args:
        f: the function. Under vmap the mapped dimension of its argument is the first.
        h: its argument.
        refusal: the message for an error that would have to cross f.

    Raises:
        RuleError: in the backward pass.
    """
    if torch.compiler.is_compiling():
        torch._dynamo.graph_break()  # a compiler would look into f
    z: Tensor = RunOnly.apply(f, refusal, h)  # type: ignore[no-untyped-call]
    return z
