"""The feedback axis: the tensor E that carries an error down across a weight layer, d = e E."""

import enum
import math
from dataclasses import dataclass, field
from typing import Any

from lra.axis import Axis, choice, finite, instance
from lra.inits import Draw, FanIn, Init, LikeWeights


class Stored(enum.Enum):
    """What a layer stores for its feedback."""

    NOTHING = "nothing"
    FIXED = "fixed"
    LEARNED = "learned"


@dataclass(frozen=True)
class Feedback(Axis):
    """Base of the feedback axis.

    A layer stores what `stored` says, drawn by `draw`. In each training pass errors go down through
    `effective`, and learned feedback moves by `update`.
    """

    @property
    def stored(self) -> Stored:
        """What the layer stores: nothing, a fixed array, or a learned one."""
        raise NotImplementedError

    def draw(self, draw: Draw) -> Any:
        """Draw what the layer stores, of W's shape."""
        raise NotImplementedError

    def effective(self, W: Any, kept: Any, draw: Draw, xp: Any) -> Any:
        """Return the E of one pass, of W's shape; `kept` is what the layer stores, or None."""
        return kept

    def update(self, dW: Any) -> Any:
        """Compute dE from the layer's own dW, for learned feedback."""
        raise NotImplementedError


@dataclass(frozen=True)
class Transpose(Feedback):
    """E = W: backprop's weight transport."""

    @property
    def stored(self) -> Stored:
        """Nothing: errors go down through the forward weights."""
        return Stored.NOTHING

    def effective(self, W: Any, kept: Any, draw: Draw, xp: Any) -> Any:
        """Return W itself."""
        return W


@dataclass(frozen=True)
class Random(Feedback):
    """E fixed at its random draw: feedback alignment (Lillicrap et al. 2016)."""

    init: Init = field(default_factory=LikeWeights)

    def __post_init__(self) -> None:
        instance(self, "init", Init)

    @property
    def stored(self) -> Stored:
        """A fixed array."""
        return Stored.FIXED

    def draw(self, draw: Draw) -> Any:
        """Draw E once."""
        return self.init.draw(draw)


@dataclass(frozen=True)
class Learned(Feedback):
    """E learned beside W by dE = gamma dW: LRA-E, and Kolen and Pollack (1994).

    With gamma = 1 and one optimizer for both, each step moves E exactly as it moves W. E - W then
    changes by weight decay alone, and E aligns with W as W is learned. Optimizers of Adam's kind
    divide each step by the size of the gradients, so gamma has no effect there unless it is 0: give
    E an optimizer group with its own learning rate instead.

    Args:
        gamma: the step of E relative to that of W.
        init: how E is drawn.
    """

    gamma: float = 1.0
    init: Init = field(default_factory=LikeWeights)

    def __post_init__(self) -> None:
        finite(self, "gamma")
        instance(self, "init", Init)

    @property
    def stored(self) -> Stored:
        """An array that the optimizer moves."""
        return Stored.LEARNED

    def draw(self, draw: Draw) -> Any:
        """Draw E once, where learning starts."""
        return self.init.draw(draw)

    def update(self, dW: Any) -> Any:
        """Compute dE = gamma dW as a new array."""
        return self.gamma * dW


@dataclass(frozen=True)
class Offset(Feedback):
    """E = W + D with D fixed: `Learned` with gamma 1, stored as the difference D = E - W.

    D needs no update and no optimizer state. `lra.share_feedback` shrinks it by weight decay as
    E - W would shrink.

    Args:
        init: how E is drawn when it is drawn again.
    """

    init: Init

    @property
    def stored(self) -> Stored:
        """D, a fixed array."""
        return Stored.FIXED

    def draw(self, draw: Draw) -> Any:
        """Draw E; the layer stores D = E - W."""
        return self.init.draw(draw)

    def effective(self, W: Any, kept: Any, draw: Draw, xp: Any) -> Any:
        """Compute W + D."""
        return W + kept


@dataclass(frozen=True)
class _Scale:
    """Returns the scale of a draw instead of the draw."""

    layer: Draw

    @property
    def fan_in(self) -> int:
        return self.layer.fan_in

    @property
    def rms(self) -> float:
        return self.layer.rms

    def __call__(self, kind: str, scale: float) -> Any:
        return scale / math.sqrt(self.fan_in) if kind == "orthogonal" else scale  # the rms of a row


class Magnitude(enum.StrEnum):
    """Where the magnitudes of sign-symmetric feedback come from."""

    UNIFORM = "uniform"  # one constant for the layer: uSF
    FIXED = "fixed"  # drawn once: frSF
    BATCH = "batch"  # drawn for every batch: brSF


@dataclass(frozen=True)
class SignSymmetric(Feedback):
    """E = |M| sign(W): feedback shares the sign of W, not its size (Liao et al. 2016).

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
        """The magnitudes where they are drawn once, else nothing."""
        return Stored.FIXED if self.magnitude is Magnitude.FIXED else Stored.NOTHING

    def draw(self, draw: Draw) -> Any:
        """Draw the magnitudes M of frSF."""
        return self.init.draw(draw)

    def effective(self, W: Any, kept: Any, draw: Draw, xp: Any) -> Any:
        """Compute |M| sign(W) with the current W."""
        if self.magnitude is Magnitude.UNIFORM:
            return self.init.draw(_Scale(draw)) * xp.sign(W)
        M = self.init.draw(draw) if self.magnitude is Magnitude.BATCH else kept
        return abs(M) * xp.sign(W)
