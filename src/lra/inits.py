"""How feedback weights are drawn, or what they are made of before the first step."""

import math
from dataclasses import dataclass
from typing import Any, Protocol, cast

from lra.axis import Axis, count, finite
from lra.errors import OptionError


class Draw(Protocol):
    """What an initialisation knows of a weight layer, and how its framework draws for it."""

    @property
    def fan_in(self) -> int:
        """How many inputs each unit of the layer reads."""

    @property
    def rms(self) -> float:
        """The root mean square of the layer's weights W."""

    def __call__(self, kind: str, scale: float) -> Any:
        """Draw an array of W's shape: "normal" (by std), "uniform" (by bound) or "orthogonal"."""


class Firing(Draw, Protocol):
    """A draw for a layer that can be run."""

    def fire(self, samples: int) -> tuple[Any, Any]:
        """Run the layer without its bias on noise x ~ N(0, 1), y = f(x, W).

        Returns:
            What goes in correlated with what comes out, of W's shape: the layer's own adjoint in W,
            f*(x; y). And how often each weight was used: f*(1; 1).
        """


@dataclass(frozen=True)
class Init(Axis):
    """How feedback weights are drawn, with E's shape that of the layer's weight W."""

    def draw(self, draw: Draw) -> Any:
        """Draw E for a layer."""
        raise NotImplementedError


@dataclass(frozen=True)
class LikeWeights(Init):
    """E ~ U(-b, b) with b = scale sqrt(3) rms(W): as large as the layer's own weights.

    Where W is all zeros, or its values are not at hand (Keras builds feedback before it loads
    weights), E is drawn as by `FanIn`.
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
    """E ~ U(-b, b) with b = scale / sqrt(fan_in): how torch draws W itself, for scale 1."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        finite(self, "scale", above=0.0)

    def draw(self, draw: Draw) -> Any:
        """Draw E uniformly, within scale / sqrt(fan_in)."""
        return draw("uniform", self.scale / math.sqrt(draw.fan_in))


@dataclass(frozen=True)
class Normal(Init):
    """E ~ N(0, std^2), whatever the layer's size."""

    std: float = 0.1

    def __post_init__(self) -> None:
        finite(self, "std", above=0.0)

    def draw(self, draw: Draw) -> Any:
        """Draw E from the normal distribution."""
        return draw("normal", self.std)


@dataclass(frozen=True)
class Orthogonal(Init):
    """E = gain Q, with Q Q^T = 1, or Q^T Q = 1 where E has more rows than columns.

    A row is what a unit reads. Errors sent down through a square E keep their length, times gain.

    Source: Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks, ICLR 2014.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        finite(self, "gain", above=0.0)

    def draw(self, draw: Draw) -> Any:
        """Draw Q uniformly, and stretch it."""
        return draw("orthogonal", self.gain)


@dataclass(frozen=True)
class Mirror(Init):
    """E = f*(x; f(x, W)) / f*(1; 1) for noise x: what a layer's own firing tells of its weights W.

    The mean of E is W, though no weight is read: a layer runs on noise, and correlates what goes in
    with what comes out. The angle between E and W is about atan(sqrt(fan_in / samples)).

    Args:
        samples: how many times a layer fires.
        angle: in degrees; given instead, it decides how many times.

    Source: Akrout et al., Deep learning without weight transport, NeurIPS 2019.
    """

    samples: int = 10_000
    angle: float | None = None

    def __post_init__(self) -> None:
        count(self, "samples")
        if self.angle is not None:
            finite(self, "angle", above=0.0)
            if self.angle >= 90:
                raise OptionError(f"Mirror: angle must be below 90 degrees, got {self.angle!r}")

    def draw(self, draw: Draw) -> Any:
        """Fire, and correlate."""
        if not hasattr(draw, "fire"):
            raise OptionError(
                "Mirror: only layers that can be run mirror their weights; use FanIn()"
            )
        firing = cast(Firing, draw)
        wanted = self.samples
        if self.angle is not None:
            wanted = max(1, math.ceil(draw.fan_in / math.tan(math.radians(self.angle)) ** 2))
        told: Any = 0
        uses: Any = 0
        at_once = max(1, 2**22 // max(1, draw.fan_in))  # some megabytes of noise
        for fired in range(0, wanted, at_once):
            more, used = firing.fire(min(at_once, wanted - fired))
            told, uses = told + more, uses + used
        return told / (uses + (uses == 0))  # what is never used has no error to carry
