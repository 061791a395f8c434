"""The feedback axis: the tensor E that carries an error down across a weight layer, d = e E."""

import enum
import math
from dataclasses import dataclass, field
from typing import Any

from lra.axis import Axis, choice, finite, instance
from lra.inits import Draw, FanIn, Init, LikeWeights


class Stored(enum.Enum):
    """Name what a layer stores for its feedback."""

    #: Nothing: E is computed from W in each pass.
    NOTHING = "nothing"
    #: An array that training does not move.
    FIXED = "fixed"
    #: A parameter that the optimizer moves.
    LEARNED = "learned"


@dataclass(frozen=True)
class Feedback(Axis):
    """Define the tensor E that carries an error down across a weight layer: base of the axis.

        d = e E

    A layer stores what `stored` says, drawn by `draw`. In each training pass errors go down through
    `effective`, and learned feedback moves by `update`. A subclass is a frozen dataclass, whose
    fields are its settings.

    >>> import dataclasses
    >>> @dataclasses.dataclass(frozen=True)
    ... class Scaled(lra.feedback.Feedback):
    ...     scale: float = 0.5
    ...     stored = lra.feedback.Stored.NOTHING
    ...     def effective(self, W, kept, draw, xp):
    ...         return self.scale * W
    >>> print(lra.Rule(feedback=Scaled(0.25)))
    Rule(feedback=Scaled(scale=0.25))
    """

    @property
    def stored(self) -> Stored:
        """What the layer stores: nothing, a fixed array, or a learned one."""
        raise NotImplementedError

    def draw(self, draw: Draw) -> Any:
        """Draw what the layer stores.

        Args:
            draw: the layer, and the source of random numbers.

        Returns:
            An array of W's shape.
        """
        raise NotImplementedError

    def effective(self, W: Any, kept: Any, draw: Draw, xp: Any) -> Any:
        """Compute the E of one pass. By default it is what the layer stores.

        Args:
            W: the layer's weights, any shape.
            kept: what the layer stores, of W's shape, or None.
            draw: the layer, and the source of random numbers.
            xp: the array namespace: numpy, torch, keras.ops or jax.numpy.

        Returns:
            E, of W's shape.
        """
        return kept

    def update(self, dW: Any) -> Any:
        """Compute dE for learned feedback.

        Args:
            dW: the layer's own update, of W's shape.

        Returns:
            dE, a new array of W's shape.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Transpose(Feedback):
    """Use the forward weights, E = W: backprop's weight transport.

    >>> lra.Backprop().feedback
    Transpose()
    """

    @property
    def stored(self) -> Stored:
        """Nothing: errors go down through the forward weights."""
        return Stored.NOTHING

    def effective(self, W: Any, kept: Any, draw: Draw, xp: Any) -> Any:
        """Return W itself."""
        return W


@dataclass(frozen=True)
class Random(Feedback):
    """Keep E at its random draw: feedback alignment.

    Args:
        init: how E is drawn.

    Source: Lillicrap et al., Nature Communications 2016.

    >>> lra.feedback.Random(lra.inits.Normal(0.1))
    Random(init=Normal(std=0.1))
    """

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
    """Learn E beside W, as LRA-E and Kolen and Pollack (1994) do.

        dE = gamma dW

    With gamma = 1 and one optimizer for both, each step moves E exactly as it moves W. E - W then
    changes by weight decay alone, and E aligns with W as W is learned. Optimizers of Adam's kind
    divide each step by the size of the gradients, so gamma has no effect there unless it is 0: give
    E an optimizer group with its own learning rate instead.

    Args:
        gamma: the step of E relative to that of W.
        init: how E is drawn.

    Raises:
        OptionError: for a gamma that is not a finite number.

    >>> lra.feedback.Learned(gamma=0.5).update(np.array([2.0, -1.0]))
    array([ 1. , -0.5])
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
    """Store learned feedback as its difference from the weights, D = E - W.

        E = W + D

    This is `Learned` with gamma 1. D needs no update and no optimizer state. `lra.share_feedback`
    shrinks it by weight decay as E - W would shrink.

    Args:
        init: how E is drawn when it is drawn again.

    >>> offset = lra.feedback.Offset(lra.inits.FanIn())
    >>> W, D = np.array([1.0, 2.0]), np.array([0.5, 0.0])
    >>> offset.effective(W, D, None, np)
    array([1.5, 2. ])
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
    def fan_out(self) -> int:
        return self.layer.fan_out

    @property
    def rms(self) -> float:
        return self.layer.rms

    def __call__(self, kind: str, scale: float, rank: int = 0) -> Any:
        return scale / math.sqrt(self.fan_in) if kind == "orthogonal" else scale  # the rms of a row


class Magnitude(enum.StrEnum):
    """Name where the magnitudes of sign-symmetric feedback come from."""

    #: One constant for the layer: uSF.
    UNIFORM = "uniform"
    #: Drawn once: frSF.
    FIXED = "fixed"
    #: Drawn for every batch: brSF.
    BATCH = "batch"


@dataclass(frozen=True)
class SignSymmetric(Feedback):
    """Take the sign of W for E, but not its size.

        E = |M| sign(W)

    Args:
        magnitude: M constant (uSF), drawn once (frSF), or drawn for every batch (brSF).
        init: how M is drawn; the constant of uSF is the scale of this draw.

    Source: Liao, Leibo and Poggio, AAAI 2016.

    >>> feedback = lra.feedback.SignSymmetric("fixed")
    >>> W, M = np.array([0.5, -3.0]), np.array([0.1, -0.2])
    >>> feedback.effective(W, M, None, np)
    array([ 0.1, -0.2])
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
