"""Means, deviations, and paired differences with confidence intervals."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def student(degrees: int, confidence: float = 0.95) -> float:
    """Return the half-width, in standard errors, of a Student's t confidence interval.

    Args:
        degrees: degrees of freedom, 1 or more.
        confidence: the confidence level.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    low, high = 0.0, 1.0
    while _probability_within(high, degrees) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if _probability_within(middle, degrees) < confidence else (low, middle)
        )
    return high


def _probability_within(t: float, degrees: int) -> float:
    """Return the probability that |T| < t for Student's T."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(2 if odd else 1, degrees, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


@dataclass(frozen=True)
class Spread:
    """The mean and sample standard deviation of `count` values; of one value it is None."""

    mean: float
    deviation: float | None
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Return the mean and the deviation of values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, len(values))


@dataclass(frozen=True)
class Gap:
    """A mean paired difference with the half-width of its 95 % interval; None for one pair."""

    mean: float
    half_width: float | None
    count: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Gap:
    """Return the mean of ours - theirs, paired by seed, with its Student's t interval."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    values = spread(gaps)
    if values.deviation is None:
        return Gap(values.mean, None, 1)
    half_width = student(len(gaps) - 1) * values.deviation / math.sqrt(len(gaps))
    return Gap(values.mean, half_width, len(gaps))
