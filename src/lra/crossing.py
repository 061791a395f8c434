"""The crossing axis: how an error d passes down a nonlinearity z = phi(h)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lra.axis import Axis, finite, instance


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
class Surrogate(Axis):
    """A function s that stands in for phi where phi is flat: targets are taken through s."""

    def __call__(self, h: Any, xp: Any) -> Any:
        """Give s(h)."""
        raise NotImplementedError


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
class Crossing(Axis):
    """Base of the crossing axis."""

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


@dataclass(frozen=True)
class TargetDifference(Crossing):
    """e = gain L'(z - y) / N with the target y = phi(h - beta N d): LRA's local alignment.

    No derivative of phi is taken. With gain = 1/beta and beta -> 0 this tends to `Derivative`.

    Args:
        beta: how far the target moves from h, the paper's beta.
        gain: the factor of the local error; 2 where the local loss is the squared distance.
        local_loss: the L between output and target.
        through: a surrogate to take output and target through in phi's stead.
    """

    beta: float = 0.1
    gain: float = 1.0
    local_loss: LocalLoss = field(default_factory=Squared)
    through: Surrogate | None = None

    def __post_init__(self) -> None:
        finite(self, "beta", above=0.0)
        finite(self, "gain", above=0.0)
        instance(self, "local_loss", LocalLoss)
        if self.through is not None:
            instance(self, "through", Surrogate)

    def error(self, phi: Callable[[Any], Any], h: Any, z: Any, d: Any, n: float, xp: Any) -> Any:
        """Give e = gain L'(z - y) / N."""
        target = h - (self.beta * n) * d
        if self.through is None:
            difference = z - phi(target)
        else:
            difference = self.through(h, xp) - self.through(target, xp)
        e = self.local_loss.derivative(difference, xp)
        e *= self.gain / n  # in place, where arrays can be
        return e
