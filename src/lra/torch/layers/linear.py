"""The linear layer, over any number of leading dimensions, and products written by hand."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.torch.layers.base import LocalWeights
from lra.torch.ops.ops import BilinearMap, Gradients
from lra.torch.products import multiply


@dataclass(frozen=True)
class LinearMap:
    """h = z W^T + b for z of shape (..., in)."""

    def forward(self, z: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        """Give h of shape (..., out)."""
        return F.linear(z, W, b)

    def backward(self, e: Tensor, z: Tensor, E: Tensor, needs: tuple[bool, ...]) -> Gradients:
        """Give d = e E, dW = e^T z, db = sum e, summed over the leading dimensions."""
        need_d, need_W, need_b = needs
        rows, seen, db = _as_rows(e, z, need_b)
        d = multiply(rows, E).view(*e.shape[:-1], E.shape[1]) if need_d else None
        dW = multiply(rows.t(), seen) if need_W else None
        return d, dW, db


@dataclass(frozen=True)
class MatmulMap:
    """h = z W + b for z of shape (..., in) and W of (in, out).

    Attributes:
        f: torch.matmul(z, W) or torch.addmm(b, z, W), or what does the same.
    """

    f: Callable[..., Tensor]

    def forward(self, z: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        """Give h of shape (..., out)."""
        return self.f(z, W) if b is None else self.f(b, z, W)

    def backward(self, e: Tensor, z: Tensor, E: Tensor, needs: tuple[bool, ...]) -> Gradients:
        """Give d = e E^T, dW = z^T e, db = sum e, summed over the leading dimensions."""
        need_d, need_W, need_b = needs
        rows, seen, db = _as_rows(e, z, need_b)
        d = multiply(rows, E.t()).view(*e.shape[:-1], E.shape[0]) if need_d else None
        dW = multiply(seen.t(), rows) if need_W else None
        return d, dW, db


def _as_rows(e: Tensor, z: Tensor, need_b: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Give e and z as matrices, and db."""
    rows, seen = (t if t.dim() == 2 else t.reshape(-1, t.shape[-1]) for t in (e, z))
    return rows, seen, rows.sum(0) if need_b else None


class LocalLinear(LocalWeights, nn.Linear):  # type: ignore[misc]
    """torch.nn.Linear under a rule."""

    plain = nn.Linear
    fuses = True

    def operation(self) -> BilinearMap:
        """Give h = z W^T + b."""
        return LinearMap()

    def forward(self, input: Tensor) -> Tensor:
        """Give h = z W^T + b."""
        if not torch.is_grad_enabled():
            return super().forward(input)
        self.check_input(input, 1)
        return self.run(input) if self.follows_rule else super().forward(input)
