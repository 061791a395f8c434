"""The crossing axis: how an error d crosses an activation z = phi(h)."""

import dataclasses
import enum
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lra.axis import Axis, choice, finite, flag, instance
from lra.differences import Phi, known
from lra.errors import OptionError


@dataclass(frozen=True)
class LocalLoss(Axis):
    """Define a loss L(z, y) between a layer's output z and its target y: base of local losses."""

    def derivative(self, difference: Any, xp: Any) -> Any:
        """Compute dL/dz.

        Args:
            difference: z - y, any shape.
            xp: the array namespace: numpy, torch, keras.ops or jax.numpy.

        Returns:
            dL/dz, of the same shape.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Squared(LocalLoss):
    """Use L = 1/2 (z - y)^2, so that the error is z - y itself.

    >>> lra.crossing.Squared().derivative(np.array([-0.5, 2.0]), np)
    array([-0.5,  2. ])
    """

    def derivative(self, difference: Any, xp: Any) -> Any:
        """Return z - y."""
        return difference


@dataclass(frozen=True)
class Absolute(LocalLoss):
    """Use L = abs(z - y), so that the error is the sign of z - y.

    >>> lra.crossing.Absolute().derivative(np.array([-0.5, 2.0]), np)
    array([-1.,  1.])
    """

    def derivative(self, difference: Any, xp: Any) -> Any:
        """Compute sign(z - y)."""
        return xp.sign(difference)


@dataclass(frozen=True)
class Cauchy(LocalLoss):
    """Use L = 1/2 log(1 + (z - y)^2), which bounds the error of an outlier.

    >>> lra.crossing.Cauchy().derivative(np.array([-0.5, 2.0]), np)
    array([-0.4,  0.4])
    """

    def derivative(self, difference: Any, xp: Any) -> Any:
        """Compute (z - y) / (1 + (z - y)^2)."""
        return difference / (1 + difference * difference)


@dataclass(frozen=True)
class Mixed(LocalLoss):
    """Mix `Squared` and `Absolute`.

        L = alpha/2 (z - y)^2 + (1 - alpha) |z - y|

    Args:
        alpha: the share of the squared loss, from 0 to 1.

    Raises:
        OptionError: for an alpha out of range.

    >>> lra.crossing.Mixed(alpha=0.5).derivative(np.array([-0.5, 2.0]), np)
    array([-0.75,  1.5 ])
    """

    alpha: float = 0.24

    def __post_init__(self) -> None:
        finite(self, "alpha")
        if not 0 <= self.alpha <= 1:
            raise OptionError(f"Mixed: alpha must be from 0 to 1, got {self.alpha!r}")

    def derivative(self, difference: Any, xp: Any) -> Any:
        """Compute alpha (z - y) + (1 - alpha) sign(z - y)."""
        return self.alpha * difference + (1 - self.alpha) * xp.sign(difference)


@dataclass(frozen=True)
class Surrogate(Axis):
    """Define a function s to take targets through instead of phi, where phi is flat.

    This is the base of the surrogates. A subclass defines `__call__(h, xp)`.
    """

    form: ClassVar[str | None] = None
    """The name of the closed form of s(h) - s(h - delta), or None to subtract."""

    def __call__(self, h: Any, xp: Any) -> Any:
        """Compute s(h)."""
        raise NotImplementedError

    def phi(self, xp: Any) -> Phi:
        """Return s as an activation of arrays of one namespace."""
        f = functools.partial(self, xp=xp)
        return Phi(f) if self.form is None else known(self.form, f)


@dataclass(frozen=True)
class IdentitySurrogate(Surrogate):
    """Use s(h) = h: the error passes straight through, times beta.

    >>> lra.crossing.IdentitySurrogate()(np.array([-2.0, 0.5]), np)
    array([-2. ,  0.5])
    """

    form = "identity"

    def __call__(self, h: Any, xp: Any) -> Any:
        """Return h."""
        return h


@dataclass(frozen=True)
class TanhSurrogate(Surrogate):
    """Use s(h) = tanh(h): smooth and bounded, for saturating or binary activations.

    >>> lra.crossing.TanhSurrogate()(np.array([-2.0, 0.5]), np).round(3)
    array([-0.964,  0.462])
    """

    form = "tanh"

    def __call__(self, h: Any, xp: Any) -> Any:
        """Compute tanh(h)."""
        return xp.tanh(h)


@dataclass(frozen=True)
class HardTanhSurrogate(Surrogate):
    """Use s(h) = h between -1 and 1, constant beyond: the usual straight-through estimator.

    Source: Hubara et al., Binarized neural networks, NeurIPS 2016.

    >>> lra.crossing.HardTanhSurrogate()(np.array([-2.0, 0.5]), np)
    array([-1. ,  0.5])
    """

    form = "hardtanh"

    def __call__(self, h: Any, xp: Any) -> Any:
        """Clip h to [-1, 1]."""
        return xp.clip(h, -1, 1)


@dataclass(frozen=True)
class SigmoidSurrogate(Surrogate):
    """Use s(h) = 1 / (1 + exp(-h)): for activations of 0 and 1, and the mean of sampled ones.

    >>> lra.crossing.SigmoidSurrogate()(np.array([-2.0, 0.5]), np).round(3)
    array([0.119, 0.622])
    """

    form = "sigmoid"

    def __call__(self, h: Any, xp: Any) -> Any:
        """Compute the sigmoid of h."""
        return (1 + xp.tanh(h / 2)) / 2


@dataclass(frozen=True)
class Crossing(Axis):
    """Define how an error crosses an activation z = phi(h): base of the crossing axis.

    A subclass defines `error`. It is a frozen dataclass, whose fields are its settings.

    >>> import dataclasses
    >>> @dataclasses.dataclass(frozen=True)
    ... class SignOnly(lra.crossing.Crossing):
    ...     def error(self, phi, h, z, d, n, xp):
    ...         return xp.sign(d) / n
    >>> print(lra.Rule(crossing=SignOnly()))
    Rule(crossing=SignOnly())
    """

    @property
    def needs_terms(self) -> bool:
        """Whether the error depends on N, and so on the scale of the loss."""
        return True

    def at_steps(self) -> "Crossing":
        """Return the crossing for step functions, which are flat between their steps."""
        return self

    def move(self, d: Any, n: float, xp: Any) -> Any:
        """Compute the distance m of the target y = phi(h - m).

        Args:
            d: the error at z, divided by N.
            n: N, the number of terms of the loss.
            xp: the array namespace.

        Returns:
            m, of d's shape, in units of h; None where there is no target.
        """
        return None

    def error(self, phi: Callable[[Any], Any], h: Any, z: Any, d: Any, n: float, xp: Any) -> Any:
        """Compute the error at h from the error d at z.

        Args:
            phi: the activation. Call it, or use `phi.difference(h, delta, xp)` for phi(h) - phi(h
                - delta), which does not cancel wherever a closed form is known.
            h: pre-activations, any shape.
            z: activations phi(h), of h's shape.
            d: the error at z, of h's shape, divided by N as the loss's mean left it.
            n: N, the number of terms of the loss.
            xp: the array namespace: numpy, torch, keras.ops or jax.numpy.

        Returns:
            The error at h, of h's shape, divided by N.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Derivative(Crossing):
    """Cross by backprop's chain rule, e = phi'(h) d, which the framework computes.

    >>> lra.Backprop().crossing
    Derivative()
    """

    @property
    def needs_terms(self) -> bool:
        """False: the error is linear in d."""
        return False


class Relative(enum.StrEnum):
    """Name what the largest error is taken over, for targets at a relative distance."""

    #: Each number by itself.
    UNIT = "unit"
    #: All dimensions but the first.
    SAMPLE = "sample"
    #: All dimensions.
    BATCH = "batch"


_LEAST = 1e-33
"""The smallest error that counts as one; beta over it is still finite."""

_FAR = 0.1
"""The relative beta from which on subtraction loses at most two of float32's seven digits."""


@dataclass(frozen=True)
class TargetDifference(Crossing):
    """Cross by the difference between the output z and a target y: LRA's local alignment.

        y = phi(h - beta N d)
        e = gain L'(z - y) / N

    It takes no derivative of phi. With gain = 1/beta it tends to `Derivative` as beta goes to 0.

    Two-sided, it compares one target on each side of h, and the bias falls like beta^2 instead of
    beta:

        m = beta N d
        e = gain L'((phi(h + m) - phi(h - m)) / 2) / N

    Relative, m = beta d / s with s the largest abs(d), and s replaces 1/N. beta is then a distance
    in units of h, and the scale of the loss does not matter. With s taken per unit, every target
    is beta away from its h, and e is d times the slope of a chord of phi.

    Differences are exact where phi has a closed form, and targets stay inside the domain of
    functions such as log and sqrt.

    Args:
        beta: the distance of the target from h, per unit of error.
        gain: the factor of the local error; 2 where the local loss is the squared distance.
        local_loss: the loss between output and target, or between the two targets.
        surrogate: a function to take outputs and targets through instead of phi.
        normalized: use gain / beta as the factor, so that e keeps d's scale.
        two_sided: compare targets on both sides of h.
        relative: take s over a "unit", a "sample" (all dimensions but the first) or the "batch".
        relative_if_flat: the value of `relative` at step functions, where a target near h would
            hardly ever reach another step.

    Raises:
        OptionError: for a value out of range.

    Source: Ororbia and Mali, AAAI 2019, for the one-sided target at beta N d.

    With a small beta it is the derivative times d, here tanh'(0) = 1 and tanh'(1) = 0.42:

    >>> h, d = np.array([0.0, 1.0]), np.array([0.1, 0.1])
    >>> crossing = lra.crossing.TargetDifference(beta=0.001, normalized=True)
    >>> crossing.error(np.tanh, h, np.tanh(h), d, 1, np).round(4)
    array([0.1  , 0.042])
    """

    beta: float = 0.1
    gain: float = 1.0
    local_loss: LocalLoss = field(default_factory=Squared)
    surrogate: Surrogate | None = None
    normalized: bool = False
    two_sided: bool = False
    relative: Relative | None = None
    relative_if_flat: Relative | None = None

    def __post_init__(self) -> None:
        finite(self, "beta", above=0.0)
        finite(self, "gain", above=0.0)
        instance(self, "local_loss", LocalLoss)
        if self.surrogate is not None:
            instance(self, "surrogate", Surrogate)
        flag(self, "normalized")
        flag(self, "two_sided")
        for name in ("relative", "relative_if_flat"):
            if getattr(self, name) is not None:
                choice(self, name, Relative)

    @property
    def needs_terms(self) -> bool:
        """Whether the error depends on N: not where targets are relative."""
        return self.relative is None

    def error(self, phi: Callable[[Any], Any], h: Any, z: Any, d: Any, n: float, xp: Any) -> Any:
        """Compute e = gain L'(z - y) / N, or its two-sided or relative form.

        phi may be any function here, and z may be None.
        """
        phi = Phi.of(phi)
        if self.surrogate is not None:
            phi, z = self.surrogate.phi(xp), None
        step, factor = self._step(d, n, xp)
        m = phi.inside(h, step * d, xp)
        if self.two_sided:
            # An ensemble replaces beta by a tensor, which is not compared.
            far = self.relative is not None and isinstance(self.beta, (int, float))
            far = far and self.beta >= _FAR
            difference = phi.centred(h, m, xp, z, far)
        else:
            difference = phi.difference(h, m, xp, z)
        e = self.local_loss.derivative(difference, xp)
        e *= factor
        return e

    def move(self, d: Any, n: float, xp: Any) -> Any:
        """Compute beta N d, or beta d / s where targets are relative."""
        return self._step(d, n, xp)[0] * d

    def _step(self, d: Any, n: float, xp: Any) -> tuple[Any, Any]:
        """Compute m / d, and the factor that takes an error back to the scale of d."""
        gain = self.gain / self.beta if self.normalized else self.gain
        if self.relative is None:
            return self.beta * n, gain / n
        s = self._largest(d, xp)
        return self.beta / s, gain * s

    def at_steps(self) -> Crossing:
        """Return the crossing with `relative_if_flat` as `relative`, unless it has a surrogate."""
        if self.relative_if_flat is None or self.surrogate is not None:
            return self
        return dataclasses.replace(self, relative=self.relative_if_flat)

    def _largest(self, d: Any, xp: Any) -> Any:
        """Compute the largest |d| over what `relative` says, at least `_LEAST`."""
        if 0 in tuple(d.shape):
            return 1.0
        s = xp.abs(d)
        if self.relative is not Relative.UNIT:
            every = tuple(range(len(d.shape)))
            axes = every[1:] or every if self.relative is Relative.SAMPLE else every
            s = xp.amax(s, axis=axes, keepdims=True)
        return xp.clip(s, _LEAST, math.inf)


def crossing_at(crossing: Crossing, surrogate: Surrogate | None, flat: bool) -> Crossing:
    """Return a rule's crossing as it applies to one activation.

    Args:
        crossing: the rule's.
        surrogate: the surrogate registered for the activation, if there is one.
        flat: whether the activation is a step function.
    """
    if surrogate is not None and isinstance(crossing, TargetDifference):
        return dataclasses.replace(crossing, surrogate=surrogate)
    return crossing.at_steps() if flat and surrogate is None else crossing
