"""The linear layer, over any number of leading dimensions."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.torch.layers.base import LocalWeights
from lra.torch.places import Gradients, Operation


@dataclass(frozen=True)
class LinearOperation:
    """h = z W^T + b for z of shape (..., in)."""

    def forward(self, z: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        """Give h of shape (..., out)."""
        return F.linear(z, W, b)

    def backward(self, e: Tensor, z: Tensor, E: Tensor, needs: tuple[bool, ...]) -> Gradients:
        """Give d = e E, dW = e^T z, db = sum e, summed over the leading dimensions."""
        need_d, need_W, need_b = needs
        rows, seen = (t if t.dim() == 2 else t.reshape(-1, t.shape[-1]) for t in (e, z))
        d = e @ E if need_d else None
        dW = rows.t() @ seen if need_W else None
        db = rows.sum(0) if need_b else None
        return d, dW, db


class LocalLinear(LocalWeights, nn.Linear):  # type: ignore[misc]
    """torch.nn.Linear under a rule."""

    plain = nn.Linear
    fuses = True

    def operation(self) -> Operation:
        """Give h = z W^T + b."""
        return LinearOperation()

    def forward(self, input: Tensor) -> Tensor:
        """Give h = z W^T + b."""
        if not torch.is_grad_enabled():
            return super().forward(input)
        self.check_input(input, 1)
        return self.run(input) if self.follows_rule else super().forward(input)
