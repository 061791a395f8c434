"""The crossing axis: how an error d passes down a nonlinearity z = phi(h)."""

import dataclasses
import enum
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lra.axis import Axis, choice, finite, flag, instance
from lra.differences import Phi, known
from lra.errors import OptionError


@dataclass(frozen=True)
class LocalLoss(Axis):
    """The loss L(z, y) between a layer's output and its target, by its derivative in z."""

    def derivative(self, difference: Any, xp: Any) -> Any:
        """Give dL/dz from z - y."""
        raise NotImplementedError


@dataclass(frozen=True)
class Squared(LocalLoss):
    """L = 1/2 (z - y)^2, so the error is z - y itself."""

    def derivative(self, difference: Any, xp: Any) -> Any:
        """Give z - y."""
        return difference


@dataclass(frozen=True)
class Absolute(LocalLoss):
    """L = |z - y|, so the error is the sign of z - y."""

    def derivative(self, difference: Any, xp: Any) -> Any:
        """Give sign(z - y)."""
        return xp.sign(difference)


@dataclass(frozen=True)
class Cauchy(LocalLoss):
    """L = 1/2 log(1 + (z - y)^2), which bounds the error of an outlier."""

    def derivative(self, difference: Any, xp: Any) -> Any:
        """Give (z - y) / (1 + (z - y)^2)."""
        return difference / (1 + difference * difference)


@dataclass(frozen=True)
class Mixed(LocalLoss):
    """L = alpha 1/2 (z - y)^2 + (1 - alpha) |z - y|: between `Absolute` and `Squared`."""

    alpha: float = 0.24

    def __post_init__(self) -> None:
        finite(self, "alpha")
        if not 0 <= self.alpha <= 1:
            raise OptionError(f"Mixed: alpha must be from 0 to 1, got {self.alpha!r}")

    def derivative(self, difference: Any, xp: Any) -> Any:
        """Give alpha (z - y) + (1 - alpha) sign(z - y)."""
        return self.alpha * difference + (1 - self.alpha) * xp.sign(difference)


@dataclass(frozen=True)
class Surrogate(Axis):
    """A function s that stands in for phi where phi is flat: targets are taken through s."""

    def __call__(self, h: Any, xp: Any) -> Any:
        """Give s(h)."""
        raise NotImplementedError

    def phi(self, xp: Any) -> Phi:
        """Return s as an activation on the arrays of a namespace."""
        return Phi(functools.partial(self, xp=xp))


@dataclass(frozen=True)
class IdentitySurrogate(Surrogate):
    """s(h) = h: the error passes straight through, times beta."""

    def __call__(self, h: Any, xp: Any) -> Any:
        """Give h."""
        return h


@dataclass(frozen=True)
class TanhSurrogate(Surrogate):
    """s(h) = tanh(h): smooth and bounded, for saturating or binary units."""

    def __call__(self, h: Any, xp: Any) -> Any:
        """Give tanh(h)."""
        return xp.tanh(h)


@dataclass(frozen=True)
class HardTanhSurrogate(Surrogate):
    """s(h) = h between -1 and 1, constant beyond: the straight-through estimator of binary units.

    Source: Hubara et al., Binarized neural networks, NeurIPS 2016.
    """

    def __call__(self, h: Any, xp: Any) -> Any:
        """Give h, clipped."""
        return xp.clip(h, -1, 1)


@dataclass(frozen=True)
class SigmoidSurrogate(Surrogate):
    """s(h) = 1 / (1 + exp(-h)): for units of 0 and 1, and the mean of those that draw them."""

    def __call__(self, h: Any, xp: Any) -> Any:
        """Give the sigmoid of h."""
        return (1 + xp.tanh(h / 2)) / 2


@dataclass(frozen=True)
class Crossing(Axis):
    """Base of the crossing axis."""

    @property
    def needs_terms(self) -> bool:
        """Whether N, or the scale of the loss, matters to it."""
        return True

    def at_steps(self) -> "Crossing":
        """Give the crossing for units that are flat but for steps."""
        return self

    def move(self, d: Any, n: float, xp: Any) -> Any:
        """Give m, how far the target y = phi(h - m) is from h, for `error`'s d and n; or None."""
        return None

    def error(self, phi: Callable[[Any], Any], h: Any, z: Any, d: Any, n: float, xp: Any) -> Any:
        """Give the error at h from the error d at z.

        Args:
            phi: the elementwise nonlinearity; it may overwrite its argument.
            h: pre-activations, any shape.
            z: post-activations phi(h), of h's shape.
            d: the error at z, of h's shape, divided by N as the loss's mean left it.
            n: N, the number of terms of the loss.
            xp: the namespace of the arrays (numpy, torch, keras.ops).
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Derivative(Crossing):
    """e = phi'(h) d: backprop's chain rule, left to the framework's own derivative."""

    @property
    def needs_terms(self) -> bool:
        """Not: it is linear in d."""
        return False


class Relative(enum.StrEnum):
    """What the largest error is taken over, that a target's distance is relative to."""

    UNIT = "unit"
    SAMPLE = "sample"
    BATCH = "batch"


_LEAST = 1e-33
"""The smallest error that counts as one; beta over it is still finite."""

_FAR = 0.1
"""The relative beta from which on subtraction loses at most two of float32's seven digits."""


@dataclass(frozen=True)
class TargetDifference(Crossing):
    """e = gain L'(z - y) / N with the target y = phi(h - beta N d): LRA's local alignment.

    No derivative of phi is taken. With gain = 1/beta and beta -> 0 this tends to `Derivative`.

    Two-sided, it compares a target towards which the error points with one away from it,
    e = gain L'((phi(h + m) - phi(h - m)) / 2) / N with m = beta N d, whose bias falls like beta^2.
    Relative, beta is a length in units of h: with s the largest |d|, m = beta d / s, and s stands
    in the place of 1/N; the scale of the loss then is no matter. Where s is taken over each unit by
    itself, every target is beta away from its h, and e is d times the slope of phi's chord there.

    Args:
        beta: how far the target moves from h, the paper's beta.
        gain: the factor of the local error; 2 where the local loss is the squared distance.
        local_loss: the L between output and target, or between the two targets.
        through: a surrogate to take output and target through in phi's stead.
        normalized: take gain / beta for the factor, so that e keeps d's scale.
        two_sided: take a target on either side of h.
        relative: take s over a "unit", a "sample" (all but dimension 0; all of a vector), or the
            "batch".
        where_flat: what to take s over, in relative's stead, at units that are flat but for steps:
            a target that is close to h would hardly ever be on another step.

    Source: Ororbia and Mali, AAAI 2019, for the one-sided target at beta N d.
    """

    beta: float = 0.1
    gain: float = 1.0
    local_loss: LocalLoss = field(default_factory=Squared)
    through: Surrogate | None = None
    normalized: bool = False
    two_sided: bool = False
    relative: Relative | None = None
    where_flat: Relative | None = None

    def __post_init__(self) -> None:
        finite(self, "beta", above=0.0)
        finite(self, "gain", above=0.0)
        instance(self, "local_loss", LocalLoss)
        if self.through is not None:
            instance(self, "through", Surrogate)
        flag(self, "normalized")
        flag(self, "two_sided")
        for name in ("relative", "where_flat"):
            if getattr(self, name) is not None:
                choice(self, name, Relative)

    @property
    def needs_terms(self) -> bool:
        """Whether N, or the scale of the loss, matters."""
        return self.relative is None

    def error(self, phi: Callable[[Any], Any], h: Any, z: Any, d: Any, n: float, xp: Any) -> Any:
        """Compute e = gain L'(z - y) / N, or its two-sided or relative form.

        Differences are taken by `phi.difference` where phi has one; z may be None.
        """
        phi = Phi.of(phi)
        if self.through is not None:
            phi, z = self.through.phi(xp), None
        step, factor = self._step(d, n, xp)
        m = phi.inside(h, step * d, xp)
        if self.two_sided:
            far = self.relative is not None and self.beta >= _FAR
            difference = phi.centred(h, m, xp, z, far) / 2
        else:
            difference = phi.difference(h, m, xp, z)
        e = self.local_loss.derivative(difference, xp)
        e *= factor
        return e

    def move(self, d: Any, n: float, xp: Any) -> Any:
        """Give beta N d, or beta d / s where it is relative."""
        return self._step(d, n, xp)[0] * d

    def _step(self, d: Any, n: float, xp: Any) -> tuple[Any, Any]:
        """Compute m / d, and the factor that takes an error back to the scale of d."""
        gain = self.gain / self.beta if self.normalized else self.gain
        if self.relative is None:
            return self.beta * n, gain / n
        s = self._largest(d, xp)
        return self.beta / s, gain * s

    def at_steps(self) -> Crossing:
        """Give the crossing with `where_flat` for `relative`, unless there is a surrogate."""
        if self.where_flat is None or self.through is not None:
            return self
        return dataclasses.replace(self, relative=self.where_flat)

    def _largest(self, d: Any, xp: Any) -> Any:
        """Give the largest |d| that `relative` asks for; next to nothing where there is none."""
        if 0 in tuple(d.shape):
            return 1.0
        s = xp.abs(d)
        if self.relative is not Relative.UNIT:
            every = tuple(range(len(d.shape)))
            axes = every[1:] or every if self.relative is Relative.SAMPLE else every
            s = xp.amax(s, axis=axes, keepdims=True)
        return xp.clip(s, _LEAST, math.inf)
