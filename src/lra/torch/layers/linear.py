"""The linear layer, over any number of leading dimensions, and matrix products in user code."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.torch.layers.base import LocalWeights
from lra.torch.layers.tracing import Proxy, as_leaf
from lra.torch.ops.ops import BilinearMap, Gradients


@dataclass(frozen=True)
class LinearMap:
    """h = z W^T + b for z of shape (..., in)."""

    def forward(self, z: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        """Compute h of shape (..., out)."""
        return F.linear(z, W, b)

    def adjoint(self, e: Tensor, z: Tensor, E: Tensor, needs: tuple[bool, ...]) -> Gradients:
        """Compute d = e E, dW = e^T z and db = sum e, summed over the leading dimensions."""
        need_d, need_W, need_b = needs
        rows = _as_matrix(e)
        d = (rows @ E).view(*e.shape[:-1], E.shape[1]) if need_d else None
        dW = rows.t() @ _as_matrix(z) if need_W else None
        return d, dW, _bias_update(rows, need_b)


@dataclass(frozen=True)
class MatmulMap:
    """h = z W + b for z of shape (..., in) and W of (in, out).

    Attributes:
        f: torch.matmul(z, W) or torch.addmm(b, z, W), or an equivalent function.
    """

    f: Callable[..., Tensor]

    def forward(self, z: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        """Compute h of shape (..., out)."""
        return self.f(z, W) if b is None else self.f(b, z, W)

    def adjoint(self, e: Tensor, z: Tensor, E: Tensor, needs: tuple[bool, ...]) -> Gradients:
        """Compute d = e E^T, dW = z^T e and db = sum e, summed over the leading dimensions."""
        need_d, need_W, need_b = needs
        rows = _as_matrix(e)
        d = (rows @ E.t()).view(*e.shape[:-1], E.shape[0]) if need_d else None
        dW = _as_matrix(z).t() @ rows if need_W else None
        return d, dW, _bias_update(rows, need_b)


def _as_matrix(t: Tensor) -> Tensor:
    return t if t.dim() == 2 else t.reshape(-1, t.shape[-1])


def _bias_update(rows: Tensor, needed: bool) -> Tensor | None:
    return rows.sum(0) if needed else None


class LocalLinear(LocalWeights, nn.Linear):  # type: ignore[misc]
    """torch.nn.Linear under a rule."""

    plain = nn.Linear
    fuses = True

    def map(self) -> BilinearMap:
        """Return h = z W^T + b."""
        return LinearMap()

    def forward(self, input: Tensor) -> Tensor:
        """Compute h = z W^T + b."""
        if isinstance(input, Proxy):
            return as_leaf(self, (input,), {})
        if not torch.is_grad_enabled():
            return super().forward(input)
        self.check_input(input, 1)
        return (
            self.run(input)
            if self.follows_rule
            else self.with_backward_check(super().forward(input))
        )
