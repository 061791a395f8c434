"""Statistics of a comparison: spreads, paired differences, equivalence, ranks over networks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05
"""The probability of an error: intervals have 95 %."""


@dataclass(frozen=True)
class Spread:
    """The mean and sample standard deviation of `count` values; of one value it is None."""

    mean: float
    deviation: float | None
    count: int

    def text(self, digits: int) -> str:
        """Format as mean ± deviation."""
        deviation = "" if self.deviation is None else f" ± {self.deviation:.{digits}f}"
        return f"{self.mean:.{digits}f}{deviation}"


def spread(values: Sequence[float]) -> Spread:
    """Return the mean and the deviation of values."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


@dataclass(frozen=True)
class Gap:
    """A mean paired difference, with tests that are adjusted for the number of differences.

    Attributes:
        mean: the mean difference.
        half_width: half of its simultaneous 95 % interval; None for one pair.
        p_equivalent: the p-value of the test for equivalence; None for one pair.
    """

    mean: float
    half_width: float | None
    p_equivalent: float | None

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    @property
    def equivalent(self) -> bool:
        """Whether the true difference is within the margin, with an error of 5 %."""
        return self.p_equivalent is not None and self.p_equivalent <= LEVEL

    def text(self, digits: int) -> str:
        """Format as mean (low to high)."""
        if self.half_width is None:
            return f"{self.mean:+.{digits}f}"
        low, high = self.mean - self.half_width, self.mean + self.half_width
        return f"{self.mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def paired(ours: Sequence[float], theirs: Sequence[float], margin: float, tests: int = 1) -> Gap:
    """Test ours - theirs, paired by seed, for a difference and for equivalence.

    Both tests are Student's t tests with Bonferroni's correction. Equivalence is tested by two
    one-sided tests: for a difference above -margin, and for one below margin.

    Args:
        ours: a rule's figures, by seed.
        theirs: the baseline's figures for the same seeds.
        margin: the largest difference that counts as equal.
        tests: the number of rules that are compared with the baseline.

    Source: D. J. Schuirmann, A comparison of the two one-sided tests procedure, 1987.
    """
    values = spread([a - b for a, b in zip(ours, theirs, strict=True)])
    mean, degrees = values.mean, values.count - 1
    if values.deviation is None:
        return Gap(mean, None, None)
    error = values.deviation / math.sqrt(values.count)
    half_width = float(stats.t.isf(LEVEL / 2 / tests, degrees)) * error
    if error:
        p = float(stats.t.sf((margin - abs(mean)) / error, degrees))
    else:
        p = float(abs(mean) >= margin)
    return Gap(mean, half_width, min(1.0, p * tests))


@dataclass(frozen=True)
class Ranking:
    """The mean ranks of rules over networks; 1 is the best.

    Attributes:
        ranks: the mean rank of each rule.
        networks: the number of networks.
        p_value: the p-value of Friedman's test that all rules rank alike; None for two rules.
        critical_difference: the difference of mean ranks above which Nemenyi's test is significant.
    """

    ranks: tuple[float, ...]
    networks: int
    p_value: float | None
    critical_difference: float

    @property
    def powerless(self) -> bool:
        """Whether no ranks could differ significantly."""
        return self.critical_difference >= len(self.ranks) - 1


def rank(scores: Sequence[Sequence[float]]) -> Ranking:
    """Rank rules by their scores on several networks.

    Args:
        scores: a row for each network, with a score for each of two or more rules; higher is
            better.

    Source: J. Demšar, Statistical comparisons of classifiers over multiple data sets, 2006.
    """
    ranks = stats.rankdata(-np.asarray(scores), axis=1)
    networks, rules = ranks.shape
    p_value = None
    if rules > 2:  # the test is undefined if all ranks are equal
        p_value = float(stats.friedmanchisquare(*ranks.T).pvalue) if np.ptp(ranks) else 1.0
    quantile = float(stats.studentized_range.isf(LEVEL, rules, np.inf)) / math.sqrt(2)
    critical_difference = quantile * math.sqrt(rules * (rules + 1) / (6 * networks))
    return Ranking(tuple(map(float, ranks.mean(0))), networks, p_value, critical_difference)
