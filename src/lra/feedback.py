"""The feedback axis: the tensor E that carries an error down across a weight layer, d = e E."""

import enum
import math
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from lra.axis import Axis, choice, count, finite, instance
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


class Stored(enum.Enum):
    """What a layer keeps for its feedback."""

    NOTHING = "nothing"
    FIXED = "fixed"
    LEARNED = "learned"


@dataclass(frozen=True)
class Feedback(Axis):
    """Base of the feedback axis.

    A layer holds what `stored` says, drawn by `init`; each training pass sends errors down
    through `effective`; learned feedback moves by `update`.
    """

    @property
    def stored(self) -> Stored:
        """What the layer keeps: nothing, a fixed array, or a learned one."""
        raise NotImplementedError

    def draw(self, draw: Draw) -> Any:
        """Draw what the layer keeps, of W's shape."""
        raise NotImplementedError

    def effective(self, W: Any, kept: Any, draw: Draw, xp: Any) -> Any:
        """Give the E of one pass, of W's shape; `kept` is what the layer keeps, or None."""
        return kept

    def update(self, dW: Any) -> Any:
        """Give dE from the layer's own dW, for learned feedback."""
        raise NotImplementedError


@dataclass(frozen=True)
class Transpose(Feedback):
    """E = W: backprop's weight transport."""

    @property
    def stored(self) -> Stored:
        """Keep nothing: the forward weights serve."""
        return Stored.NOTHING

    def effective(self, W: Any, kept: Any, draw: Draw, xp: Any) -> Any:
        """Send errors through W itself."""
        return W


@dataclass(frozen=True)
class Random(Feedback):
    """E fixed at its random draw: feedback alignment (Lillicrap et al. 2016)."""

    init: Init = field(default_factory=LikeWeights)

    def __post_init__(self) -> None:
        instance(self, "init", Init)

    @property
    def stored(self) -> Stored:
        """Keep a fixed array."""
        return Stored.FIXED

    def draw(self, draw: Draw) -> Any:
        """Draw E once."""
        return self.init.draw(draw)


@dataclass(frozen=True)
class Learned(Feedback):
    """E learned beside W by dE = gamma dW: LRA-E, and Kolen and Pollack (1994).

    With gamma = 1 and one optimizer for both, a step moves E as it moves W: E - W stays what it was
    when E was drawn, and only weight decay shrinks it. E aligns with W as far as W is learned.
    Adam and its kin divide a step by the size of what they are given, so there gamma makes no
    difference unless it is 0: give E an optimizer group with a step size of its own instead.

    Args:
        gamma: the step of E relative to W's.
        init: how E is drawn.
    """

    gamma: float = 1.0
    init: Init = field(default_factory=LikeWeights)

    def __post_init__(self) -> None:
        finite(self, "gamma")
        instance(self, "init", Init)

    @property
    def stored(self) -> Stored:
        """Keep an array that the optimizer moves."""
        return Stored.LEARNED

    def draw(self, draw: Draw) -> Any:
        """Draw E once; learning moves it from there."""
        return self.init.draw(draw)

    def update(self, dW: Any) -> Any:
        """Give dE = gamma dW, as an array of its own."""
        return self.gamma * dW


@dataclass(frozen=True)
class Offset(Feedback):
    """E = W + D with D as it is: `Learned` by gamma = 1, kept as what it differs from W by.

    It needs no update and no state of an optimizer; whoever moves W sees to it that D shrinks by
    weight decay as E - W would (`lra.share_feedback`).

    Args:
        init: how E is drawn, when it is drawn anew.
    """

    init: Init

    @property
    def stored(self) -> Stored:
        """Keep D."""
        return Stored.FIXED

    def draw(self, draw: Draw) -> Any:
        """Draw E; D is what it differs from W by."""
        return self.init.draw(draw)

    def effective(self, W: Any, kept: Any, draw: Draw, xp: Any) -> Any:
        """Give W + D."""
        return W + kept


@dataclass(frozen=True)
class _Scale:
    """Gives the scale of a draw in place of the draw."""

    layer: Draw

    @property
    def fan_in(self) -> int:
        return self.layer.fan_in

    @property
    def rms(self) -> float:
        return self.layer.rms

    def __call__(self, kind: str, scale: float) -> Any:
        return scale / math.sqrt(self.fan_in) if kind == "orthogonal" else scale  # a row's rms


class Magnitude(enum.StrEnum):
    """Where the magnitudes of sign-symmetric feedback come from."""

    UNIFORM = "uniform"  # one constant for the layer: uSF
    FIXED = "fixed"  # drawn once: frSF
    BATCH = "batch"  # drawn anew for every batch: brSF


@dataclass(frozen=True)
class SignSymmetric(Feedback):
    """E = |M| sign(W): the sign travels, the size does not (Liao et al. 2016).

    Args:
        magnitude: M constant (uSF), drawn once (frSF), or drawn for every batch (brSF).
        init: how M is drawn; the constant of uSF is the scale of this draw.
    """

    magnitude: Magnitude = Magnitude.UNIFORM
    init: Init = field(default_factory=FanIn)

    def __post_init__(self) -> None:
        choice(self, "magnitude", Magnitude)
        instance(self, "init", Init)

    @property
    def stored(self) -> Stored:
        """Keep magnitudes where they are drawn once, else nothing."""
        return Stored.FIXED if self.magnitude is Magnitude.FIXED else Stored.NOTHING

    def draw(self, draw: Draw) -> Any:
        """Draw the magnitudes M of frSF."""
        return self.init.draw(draw)

    def effective(self, W: Any, kept: Any, draw: Draw, xp: Any) -> Any:
        """Give |M| sign(W) for the W of now."""
        if self.magnitude is Magnitude.UNIFORM:
            return self.init.draw(_Scale(draw)) * xp.sign(W)
        M = self.init.draw(draw) if self.magnitude is Magnitude.BATCH else kept
        return abs(M) * xp.sign(W)
