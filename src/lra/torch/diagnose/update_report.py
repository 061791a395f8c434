"""The report on one parameter's update: its size, its angle, and what eps leaves of its step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UpdateReport:
    """Report on the rule's update of one parameter: what `backward()` adds to its gradient.

    Attributes:
        name: the parameter's qualified name.
        size: the norm of the update.
        relative: its ratio to the norm of the parameter; None if that is 0.
        gradient: the norm of backprop's gradient; None where backprop has none, as for feedback
            weights and below black boxes.
        angle: the angle to backprop's gradient, in degrees; None if either is zero, not finite or
            missing.
        feedback: whether the parameter is a feedback weight.
        rms: the root mean square of the update's nonzero numbers; 0 if there are none.
        eps: what the optimizer adds to the size of the update before it divides by it; Adam's
            default if no optimizer was given; None for SGD and the like.
        smallest_normal: the smallest normal number of the parameter's type.
    """

    name: str
    size: float
    relative: float | None
    gradient: float | None
    angle: float | None
    feedback: bool = False
    rms: float = 0.0
    eps: float | None = None
    smallest_normal: float = 0.0

    @property
    def step_scale(self) -> float | None:
        """The share of a full step that eps leaves, rms / (rms + eps); None without an eps."""
        return None if self.eps is None or not self.rms else self.rms / (self.rms + self.eps)

    @property
    def below_eps(self) -> bool:
        """Whether eps more than halves the optimizer's step."""
        return self.eps is not None and 0 < self.rms < self.eps

    @property
    def subnormal(self) -> bool:
        """Whether the update is below the smallest normal number of its type."""
        return 0 < self.rms < self.smallest_normal
