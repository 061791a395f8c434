"""Building blocks of the workbench's networks, with initialised weights."""

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
from lra.lab.data.images import channels_first
from lra.torch.layers.sampler import FeedbackSampler

Shape = tuple[int, ...]
LECUN, KAIMING = FanIn(math.sqrt(3)), FanIn(math.sqrt(6))
"""Initialisations with a variance of 1 / fan-in and of 2 / fan-in."""


@dataclass(frozen=True)
class Parts:
    """A factory for the parts of a network.

    Attributes:
        activation: a function that builds an activation.
        init: the initialisation of weights, but not of biases, embeddings and positions.
        bias: whether linear layers, convolutions and layer norms have biases.
    """

    activation: Callable[[], nn.Module]
    init: Init
    bias: bool = True

    def linear(self, inputs: int, outputs: int) -> nn.Linear:
        """Build a linear layer."""
        layer = nn.Linear(inputs, outputs, bias=self.bias)
        self._draw(layer.weight)
        return layer

    def conv(self, inputs: int, outputs: int, size: int, **options: Any) -> nn.Conv2d:
        """Build a convolution with kernels of size x size and options of `nn.Conv2d`."""
        layer = nn.Conv2d(inputs, outputs, size, **{"bias": self.bias} | options)
        self._draw(layer.weight)
        return layer

    def norm(self, width: int) -> nn.LayerNorm:
        """Build a layer norm."""
        return nn.LayerNorm(width, bias=self.bias)

    def _draw(self, weight: Tensor) -> None:
        drawn: Tensor = self.init.draw(FeedbackSampler(weight))
        with torch.no_grad():
            weight.copy_(drawn)


_STEPS = np.linspace(-3.0, 3.0, 31)
_LEVELS = np.tanh(np.linspace(-3.1, 3.1, 32)) + 0.08 * np.sin(np.arange(32.0) * 2)


def look_up(h: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Look up a device's output for h in a table of 32 uneven, not fully sorted levels."""
    z: npt.NDArray[Any] = _LEVELS[np.searchsorted(_STEPS, h)]
    return z


class Table(lra.activations.BlackBox):
    """The activation z = `look_up`(h), which NumPy computes and autograd cannot differentiate."""

    def __init__(self, straight_through: Surrogate | None = None) -> None:
        super().__init__(look_up, numpy=True, straight_through=straight_through)


def image_sizes(shape: Shape) -> tuple[int, int, int]:
    """Return the channels, height and width of images of a shape.

    Raises:
        OptionError: samples of this shape are not images.
    """
    try:
        _, *sizes = channels_first(torch.empty(1, *shape, device="meta")).shape
    except DataError as error:
        raise OptionError(f"{error}; or choose --model mlp, which reads any shape") from error
    return sizes[0], sizes[1], sizes[2]


class ChannelsFirst(nn.Module):
    """A view of a batch of images, with channels first, last or absent, as (n, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Move the channels first."""
        return channels_first(x)


class Standardize(nn.Module):
    """(x - mean) / deviation, with two numbers for all values of a sample."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def forward(self, x: Tensor) -> Tensor:
        """Subtract the mean and divide by the deviation."""
        return (x - self.mean) / self.deviation


class Scale(nn.Module):
    """Multiplication by a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return self.factor * x


class Residual(nn.Module):
    """The residual block x + scale f(x)."""

    def __init__(self, block: nn.Module, scale: float) -> None:
        super().__init__()
        self.block, self.scale = block, scale

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's scaled output to its input."""
        y: Tensor = x + self.scale * self.block(x)
        return y


class Subsample(nn.Module):
    """A shortcut without weights: every stride-th pixel, with channels of zeros appended."""

    def __init__(self, stride: int, added: int) -> None:
        super().__init__()
        self.stride, self.added = stride, added

    def forward(self, x: Tensor) -> Tensor:
        """Subsample pixels and append channels."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.added))


class ConvBlock(nn.Module):
    """The residual block phi(x + f(x)): f is a 3x3 convolution, batch norm, phi, and both again."""

    def __init__(self, parts: Parts, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            parts.conv(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            parts.activation(),
            parts.conv(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same_shape = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same_shape else Subsample(stride, outputs - inputs)
        self.activation = parts.activation()

    def forward(self, x: Tensor) -> Tensor:
        """Add shortcut and block, and apply the activation."""
        z: Tensor = self.activation(self.shortcut(x) + self.block(x))
        return z


class Attention(nn.Module):
    """Self-attention with at most max(1, width // 32) heads, so that they divide the width."""

    def __init__(self, parts: Parts, width: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.heads = next(n for n in range(max(1, width // 32), 0, -1) if width % n == 0)
        self.qkv, self.out = parts.linear(width, 3 * width), parts.linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over tokens (n, T, width); causally, over earlier tokens only."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """A pre-norm transformer block: attention, then a perceptron with one hidden layer."""

    def __init__(self, parts: Parts, width: int, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = parts.norm(width), parts.norm(width)
        self.attention = Attention(parts, width, causal)
        self.mlp = nn.Sequential(
            parts.linear(width, 4 * width), parts.activation(), parts.linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the outputs of both to the tokens (n, T, width)."""
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


def draw_positions(count: int, width: int) -> nn.Parameter:
    """Draw learned position embeddings, (count, width)."""
    return nn.Parameter(0.02 * torch.randn(count, width))
