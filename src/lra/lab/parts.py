"""The parts that the workbench's networks are made of, with weights drawn as each is made."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from lra.crossing import Surrogate
from lra.errors import DataError, OptionError
from lra.inits import FanIn, Init
from lra.lab.images import channels_first
from lra.torch.layers.sampler import FeedbackSampler

Shape = tuple[int, ...]
LECUN, KAIMING = FanIn(math.sqrt(3)), FanIn(math.sqrt(6))
"""Weights with a variance of 1 and of 2 over the number of inputs."""


@dataclass(frozen=True)
class Parts:
    """Makes the parts of a network.

    Attributes:
        unit: makes a nonlinearity.
        init: how weights are drawn; biases, embeddings and positions have draws of their own.
        bias: whether linear layers, convolutions and layer norms have biases.
    """

    unit: Callable[[], nn.Module]
    init: Init
    bias: bool = True

    def linear(self, inputs: int, outputs: int) -> nn.Linear:
        """Make a linear layer."""
        layer = nn.Linear(inputs, outputs, bias=self.bias)
        self._draw(layer.weight)
        return layer

    def conv(self, inputs: int, outputs: int, size: int, **options: Any) -> nn.Conv2d:
        """Make a convolution with kernels of size x size; options as nn.Conv2d's."""
        layer = nn.Conv2d(inputs, outputs, size, **{"bias": self.bias} | options)
        self._draw(layer.weight)
        return layer

    def norm(self, width: int) -> nn.LayerNorm:
        """Make a layer norm."""
        return nn.LayerNorm(width, bias=self.bias)

    def _draw(self, weight: Tensor) -> None:
        drawn: Tensor = self.init.draw(FeedbackSampler(weight))
        with torch.no_grad():
            weight.copy_(drawn)


_STEPS = np.linspace(-3.0, 3.0, 31)
_LEVELS = np.tanh(np.linspace(-3.1, 3.1, 32)) + 0.08 * np.sin(np.arange(32.0) * 2)


def look_up(h: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Look up a device's answer to h in a table of 32 uneven levels, not all of them in order."""
    z: npt.NDArray[Any] = _LEVELS[np.searchsorted(_STEPS, h)]
    return z


class Table(lra.activations.BlackBox):
    """z by `look_up`: a unit that NumPy evaluates, and that autograd knows nothing of."""

    def __init__(self, straight_through: Surrogate | None = None) -> None:
        super().__init__(look_up, numpy=True, straight_through=straight_through)


def image_sizes(shape: Shape) -> tuple[int, int, int]:
    """Give channels, height and width of images of a shape.

    Raises:
        OptionError: where samples of this shape are no images.
    """
    try:
        _, *sizes = channels_first(torch.empty(1, *shape, device="meta")).shape
    except DataError as error:
        raise OptionError(f"{error}; or choose --model mlp, which reads any shape") from error
    return sizes[0], sizes[1], sizes[2]


class Images(nn.Module):
    """Views a batch of images, with channels first, last or none, as (n, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Put the channels first."""
        return channels_first(x)


class Residual(nn.Module):
    """x + scale f(x)."""

    def __init__(self, block: nn.Module, scale: float) -> None:
        super().__init__()
        self.block, self.scale = block, scale

    def forward(self, x: Tensor) -> Tensor:
        """Go around the block, and through it."""
        y: Tensor = x + self.scale * self.block(x)
        return y


class Thinned(nn.Module):
    """A way around a block without weights: every stride-th pixel, and channels of zeros added."""

    def __init__(self, stride: int, added: int) -> None:
        super().__init__()
        self.stride, self.added = stride, added

    def forward(self, x: Tensor) -> Tensor:
        """Leave out pixels, and add channels."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.added))


class ConvBlock(nn.Module):
    """unit(x + f(x)), with f two convolutions of 3x3, each with batch norm, and a unit between."""

    def __init__(self, parts: Parts, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            parts.conv(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            parts.unit(),
            parts.conv(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        plain = stride == 1 and inputs == outputs
        self.around = nn.Identity() if plain else Thinned(stride, outputs - inputs)
        self.unit = parts.unit()

    def forward(self, x: Tensor) -> Tensor:
        """Go around the block, and through it."""
        z: Tensor = self.unit(self.around(x) + self.block(x))
        return z


class Attention(nn.Module):
    """Self-attention by heads of 32 numbers, or of what divides the width."""

    def __init__(self, parts: Parts, width: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.heads = next(n for n in range(max(1, width // 32), 0, -1) if width % n == 0)
        self.qkv, self.out = parts.linear(width, 3 * width), parts.linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens (n, T, width), each with those before it where it is causal."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """A transformer's block: attention, then a perceptron of a hidden layer, with norms before."""

    def __init__(self, parts: Parts, width: int, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = parts.norm(width), parts.norm(width)
        self.attention = Attention(parts, width, causal)
        self.mlp = nn.Sequential(
            parts.linear(width, 4 * width), parts.unit(), parts.linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add what each of the two makes of the tokens (n, T, width)."""
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


def positions(count: int, width: int) -> nn.Parameter:
    """Draw what tokens learn of where they are, (count, width)."""
    return nn.Parameter(0.02 * torch.randn(count, width))
