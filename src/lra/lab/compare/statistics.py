"""Means, deviations, and differences by pairs with their intervals."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def student(degrees: int, confidence: float = 0.95) -> float:
    """Give how many standard errors an interval of Student's t reaches to either side.

    Args:
        degrees: of freedom, 1 or more.
        confidence: that the interval holds the truth.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    low, high = 0.0, 1.0
    while _within(high, degrees) < confidence:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return high


def _within(t: float, degrees: int) -> float:
    """Give the chance that |T| is below t."""
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
    """A mean and a sample standard deviation of `count` values; none of one value."""

    mean: float
    deviation: float | None
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Give the mean and the deviation of values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, len(values))


@dataclass(frozen=True)
class Gap:
    """A mean difference by pairs, and its interval of 95 %; none of one pair."""

    mean: float
    reach: float | None
    count: int

    @property
    def apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.reach is not None and abs(self.mean) > self.reach


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Gap:
    """Compare values of the same seeds: mean of ours - theirs, with the interval of Student's t."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    found = spread(gaps)
    if found.deviation is None:
        return Gap(found.mean, None, 1)
    reach = student(len(gaps) - 1) * found.deviation / math.sqrt(len(gaps))
    return Gap(found.mean, reach, len(gaps))
