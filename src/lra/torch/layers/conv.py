"""The convolutions in one, two and three dimensions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.torch.layers.base import LocalWeights
from lra.torch.layers.tracing import Proxy, as_leaf
from lra.torch.ops.ops import BilinearMap, Gradients

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class ConvMap:
    """h = z * W + b over 1, 2 or 3 dimensions. All settings are tuples of that length."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def forward(self, z: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        """Compute h of shape (batch, out, ...) from z of shape (batch, in, ...)."""
        convolve = _CONVOLUTIONS[len(self.stride)]
        return convolve(z, W, b, self.stride, self.padding, self.dilation, self.groups)

    def positions(self, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """Return the number of positions of a kernel in an input of these sizes."""
        settings = zip(sizes, self._reach(kernel), self.stride, self.padding, strict=True)
        return tuple((n + 2 * p - k) // s + 1 for n, k, s, p in settings)

    def smallest(self, kernel: Sequence[int]) -> tuple[int, ...]:
        """Return the sizes of the smallest input that a whole kernel has a position in."""
        settings = zip(self._reach(kernel), self.stride, self.padding, strict=True)
        return tuple(k + -p % s for k, s, p in settings)

    def _reach(self, kernel: Sequence[int]) -> list[int]:
        return [d * (k - 1) + 1 for d, k in zip(self.dilation, kernel, strict=True)]

    def adjoint(self, e: Tensor, z: Tensor, E: Tensor, needs: tuple[bool, ...]) -> Gradients:
        """Compute d, dW and db by one call of the convolution's backward kernel with E as weight.

        d depends on the weight alone and dW on z alone, so the call returns d for E and dW for W.
        """
        gradients: Gradients = torch.ops.aten.convolution_backward(
            e,
            z,
            E,
            [E.shape[0]],
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            self.groups,
            list(needs),
        )
        return gradients


class _LocalConv(LocalWeights, nn.modules.conv._ConvNd):
    """The base of the three convolutions."""

    dimensions: ClassVar[int]
    units_last = False

    def map(self) -> BilinearMap:
        """Return the convolution, with the padding that torch's kernel does itself."""
        return ConvMap(self.stride, self._padding()[0], self.dilation, self.groups)

    def _padding(self) -> tuple[tuple[int, ...], list[int]]:
        """Split the padding into the kernel's part and the part that F.pad must do before."""
        if self.padding_mode != "zeros":
            return (0,) * self.dimensions, self._reversed_padding_repeated_twice
        if not isinstance(self.padding, str):
            return self.padding, []
        both = self._reversed_padding_repeated_twice  # last dimension first, (left, right) each
        left, right = both[-2::-2], both[::-2]
        extra = [x for a, b in zip(left[::-1], right[::-1], strict=True) for x in (0, b - a)]
        return tuple(left), extra if any(extra) else []

    def forward(self, input: Tensor) -> Tensor:
        """Compute h = z * W + b."""
        if isinstance(input, Proxy):
            return as_leaf(self, (input,), {})
        if not torch.is_grad_enabled():
            return super().forward(input)  # type: ignore[no-any-return]
        self.check_input(input, self.dimensions + 1)
        if not self.follows_rule:
            return self.run_plain(input)
        _, extra = self._padding()
        unbatched = input.dim() == self.dimensions + 1
        z = input.unsqueeze(0) if unbatched else input
        if extra:
            z = F.pad(z, extra, "constant" if self.padding_mode == "zeros" else self.padding_mode)
        h: Tensor = self.run(z)
        return h.squeeze(0) if unbatched else h


class LocalConv1d(_LocalConv, nn.Conv1d):
    """torch.nn.Conv1d under a rule."""

    plain: ClassVar[type[Any]] = nn.Conv1d
    dimensions = 1


class LocalConv2d(_LocalConv, nn.Conv2d):
    """torch.nn.Conv2d under a rule."""

    plain: ClassVar[type[Any]] = nn.Conv2d
    dimensions = 2


class LocalConv3d(_LocalConv, nn.Conv3d):
    """torch.nn.Conv3d under a rule."""

    plain: ClassVar[type[Any]] = nn.Conv3d
    dimensions = 3
