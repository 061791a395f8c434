"""Initialisations: how feedback weights are drawn before training."""

import math
from dataclasses import dataclass
from typing import Any, Protocol, cast

from lra.axis import Axis, count, finite
from lra.errors import OptionError


class Draw(Protocol):
    """A weight layer as an initialisation sees it; each framework implements it."""

    @property
    def fan_in(self) -> int:
        """The number of inputs that each unit of the layer reads."""

    @property
    def rms(self) -> float:
        """The root mean square of the layer's weights W."""

    def __call__(self, kind: str, scale: float) -> Any:
        """Draw an array of W's shape: "normal" (by std), "uniform" (by bound) or "orthogonal"."""


class RunnableDraw(Draw, Protocol):
    """A weight layer that can also be run on noise."""

    def noise_correlation(self, samples: int) -> tuple[Any, Any]:
        """Run the layer without its bias on noise x ~ N(0, 1), y = f(x, W).

        Returns:
            The correlation f*(x; y) of input and output, of W's shape, where f* is the layer's
            adjoint in W; and f*(1; 1), how often each weight was used.
        """


@dataclass(frozen=True)
class Init(Axis):
    """Base of the initialisations. E has the shape of the layer's weight W."""

    def draw(self, draw: Draw) -> Any:
        """Draw E for a layer."""
        raise NotImplementedError


@dataclass(frozen=True)
class LikeWeights(Init):
    """E ~ U(-b, b) with b = scale sqrt(3) rms(W): as large as the layer's own weights.

    E is drawn as by `FanIn` where W is all zeros, or holds no values as on a meta device.

    Args:
        scale: the size of E relative to W.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        finite(self, "scale", above=0.0)

    def draw(self, draw: Draw) -> Any:
        """Draw E uniformly, with scale times the root mean square of W."""
        rms = draw.rms
        known = math.isfinite(rms) and rms > 0.0
        return draw("uniform", self.scale * (math.sqrt(3) * rms if known else draw.fan_in**-0.5))


@dataclass(frozen=True)
class FanIn(Init):
    """E ~ U(-b, b) with b = scale / sqrt(fan_in): with scale 1, how torch draws W itself.

    Args:
        scale: the factor of the bound.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        finite(self, "scale", above=0.0)

    def draw(self, draw: Draw) -> Any:
        """Draw E uniformly, within scale / sqrt(fan_in)."""
        return draw("uniform", self.scale / math.sqrt(draw.fan_in))


@dataclass(frozen=True)
class Normal(Init):
    """E ~ N(0, std^2), whatever the layer's size.

    Args:
        std: the standard deviation.
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        finite(self, "std", above=0.0)

    def draw(self, draw: Draw) -> Any:
        """Draw E from the normal distribution."""
        return draw("normal", self.std)


@dataclass(frozen=True)
class Orthogonal(Init):
    """E = gain Q, with Q Q^T = 1, or Q^T Q = 1 where E has more rows than columns.

    A row belongs to one unit. Errors sent down through a square E keep their length, times gain.

    Args:
        gain: the factor of Q.

    Source: Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks, ICLR 2014.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        finite(self, "gain", above=0.0)

    def draw(self, draw: Draw) -> Any:
        """Draw Q uniformly and multiply it by gain."""
        return draw("orthogonal", self.gain)


@dataclass(frozen=True)
class Mirror(Init):
    """E = f*(x; f(x, W)) / f*(1; 1) with noise x ~ N(0, 1): an estimate of W that reads no W.

    The layer runs on noise, and E is the correlation of its input and output, divided by how often
    each weight was used. f* is the layer's own dW. The mean of E is W. The angle between the two is
    about atan(sqrt(fan_in / samples)).

    Args:
        samples: the number of noise samples.

    Source: Akrout et al., Deep learning without weight transport, NeurIPS 2019.
    """

    samples: int = 10_000

    def __post_init__(self) -> None:
        count(self, "samples")

    def draw(self, draw: Draw) -> Any:
        """Correlate noise with the layer's answer to it."""
        if not hasattr(draw, "noise_correlation"):
            raise OptionError(
                "Mirror: only layers that can be run mirror their weights; use FanIn()"
            )
        layer = cast(RunnableDraw, draw)
        total: Any = 0
        uses: Any = 0
        at_once = max(1, 2**22 // max(1, draw.fan_in))  # some megabytes of noise
        for done in range(0, self.samples, at_once):
            more, used = layer.noise_correlation(min(at_once, self.samples - done))
            total, uses = total + more, uses + used
        return total / (uses + (uses == 0))  # an unused weight carries no error
