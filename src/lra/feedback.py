"""The feedback axis: the tensor E that carries an error down across a weight layer, d = e E."""

import enum
import math
from dataclasses import dataclass, field
from typing import Any

from lra.axis import Axis, choice, finite, instance
from lra.inits import Draw, FanIn, Init, LikeWeights


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
