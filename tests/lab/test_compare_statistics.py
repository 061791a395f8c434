"""Intervals, equivalence and ranks, against published examples, closed forms and hand loops."""

import math

import numpy as np
import pytest
from scipy import stats

from lra.lab.comparison.statistics import paired, rank, spread

PUBLISHED = {
    **{1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262},
    **{10: 2.228, 15: 2.131, 20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980},
}
"""Student's t at 0.975, as printed in tables (NIST/SEMATECH e-Handbook, section 1.3.6.7.2)."""


def with_unit_error(degrees: int) -> list[float]:
    """Return numbers with mean 0 whose standard error is 1."""
    values = np.arange(degrees + 1.0)
    values -= values.mean()
    return list(values * math.sqrt(degrees + 1) / values.std(ddof=1))


@pytest.mark.parametrize("degrees", PUBLISHED)
def test_an_interval_of_one_difference_has_the_published_width(degrees: int) -> None:
    gap = paired(with_unit_error(degrees), [0.0] * (degrees + 1), 1.0)
    assert gap.half_width is not None
    assert round(gap.half_width, 3) == PUBLISHED[degrees]


@pytest.mark.parametrize("tests", [1, 3, 12])
def test_intervals_are_simultaneous_by_bonferroni(tests: int) -> None:
    p = 1 - 0.05 / tests  # of two degrees of freedom: t = p sqrt(2 / (1 - p^2))
    gap = paired(with_unit_error(2), [0.0] * 3, 1.0, tests)
    assert gap.half_width == pytest.approx(p * math.sqrt(2 / (1 - p * p)), rel=1e-9)


def test_a_paired_difference() -> None:
    gap = paired([97.0, 96.0, 98.0], [96.0, 96.5, 96.5], 0.5)  # 1.0, -0.5, 1.5
    assert gap.mean == pytest.approx(2 / 3)
    deviation = math.sqrt(((1 / 3) ** 2 + (7 / 6) ** 2 + (5 / 6) ** 2) / 2)
    assert gap.half_width == pytest.approx(4.302653 * deviation / math.sqrt(3), rel=1e-6)
    assert not gap.significant
    assert paired([3.0, 4.0, 5.1], [1.0, 2.0, 3.0], 0.5).significant


def probability_below(t: float) -> float:
    """Return Student's distribution function of two degrees of freedom."""
    return 0.5 + t / (2 * math.sqrt(2 + t * t))


@pytest.mark.parametrize("tests", [1, 4])
@pytest.mark.parametrize("values", [(0.1, -0.2, 0.3), (-0.4, -0.1, -0.3), (0.7, 0.9, 0.2)])
def test_equivalence_in_closed_form(values: tuple[float, ...], tests: int) -> None:
    error = np.std(values, ddof=1) / math.sqrt(3)
    above = 1 - probability_below((np.mean(values) + 0.5) / error)
    below = probability_below((np.mean(values) - 0.5) / error)
    gap = paired(values, [0.0] * 3, 0.5, tests)
    assert gap.p_equivalent == pytest.approx(min(1.0, tests * max(above, below)))


@pytest.mark.parametrize("shift", [-0.6, -0.3, 0.0, 0.2, 0.45, 0.8])
def test_equivalence_is_two_t_tests(shift: float) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(shift, 0.3, 6), rng.normal(0.0, 0.1, 6)
    above = stats.ttest_rel(ours, theirs - 0.5, alternative="greater").pvalue
    below = stats.ttest_rel(ours, theirs + 0.5, alternative="less").pvalue
    gap = paired(list(ours), list(theirs), 0.5)
    assert gap.p_equivalent == pytest.approx(max(above, below))
    assert gap.equivalent == (max(above, below) <= 0.05)


def test_a_difference_can_be_significant_and_inside_the_margin() -> None:
    gap = paired([96.9, 97.0, 97.1, 97.0, 97.0], [96.8, 96.89, 97.0, 96.9, 96.91], 0.5)
    assert gap.significant
    assert gap.equivalent


def test_one_seed_tests_nothing() -> None:
    gap = paired([97.0], [96.0], 0.5)
    assert (gap.mean, gap.half_width, gap.p_equivalent) == (1.0, None, None)
    assert not gap.significant
    assert not gap.equivalent
    assert spread([97.0]).deviation is None


@pytest.mark.parametrize(("shift", "equivalent"), [(0.0, True), (0.25, True), (0.5, False)])
def test_runs_without_any_spread_are_decided_by_their_difference(
    shift: float, equivalent: bool
) -> None:
    gap = paired([97.0 + shift, 96.0 + shift], [97.0, 96.0], 0.5)
    assert gap.half_width == 0
    assert gap.significant == (shift != 0)
    assert gap.equivalent == equivalent


DEMSAR = np.array(
    [
        *([4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1]),
        *([1, 2.5, 4, 2.5], [3, 2, 4, 1], [2.5, 2.5, 4, 1], [4, 3, 2, 1]),
        *([2.5, 2.5, 2.5, 2.5], [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3], [3, 1, 4, 2]),
    ]
)
"""Ranks of four variants of C4.5 on 14 datasets (Demšar 2006, table 6)."""

BASES = [
    *([5.40, 5.50, 5.55], [5.85, 5.70, 5.75], [5.20, 5.60, 5.50], [5.55, 5.50, 5.40]),
    *([5.90, 5.85, 5.70], [5.45, 5.55, 5.60], [5.40, 5.40, 5.35], [5.45, 5.50, 5.35]),
    *([5.25, 5.15, 5.00], [5.85, 5.80, 5.70], [5.25, 5.20, 5.10], [5.65, 5.55, 5.45]),
    *([5.60, 5.35, 5.45], [5.05, 5.00, 4.95], [5.50, 5.50, 5.40], [5.45, 5.55, 5.50]),
    *([5.55, 5.55, 5.35], [5.45, 5.50, 5.55], [5.50, 5.45, 5.25], [5.65, 5.60, 5.40]),
    *([5.70, 5.65, 5.55], [6.30, 6.30, 6.25]),
]
"""Seconds of 22 players by three ways to round first base (Hollander and Wolfe 1973, p. 140)."""


def test_mean_ranks_and_their_critical_difference_are_the_published_ones() -> None:
    found = rank(list(-DEMSAR))
    assert [round(r, 3) for r in found.ranks] == [3.143, 2.000, 2.893, 1.964]
    assert round(found.critical_difference, 2) == 1.25
    assert found.networks == 14


def test_friedmans_test_is_the_published_one() -> None:
    found = rank([[-seconds for seconds in row] for row in BASES])
    assert found.p_value is not None
    assert round(found.p_value, 6) == 0.003805  # chi squared is 11.143 of two degrees


@pytest.mark.parametrize(
    ("rules", "quantile"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)]
)
def test_critical_differences_use_the_published_quantiles(rules: int, quantile: float) -> None:
    scores = np.random.default_rng(0).normal(size=(9, rules))  # Demšar 2006, table 5 (a)
    expected = quantile * math.sqrt(rules * (rules + 1) / 54)
    assert rank(list(scores)).critical_difference == pytest.approx(expected, rel=3e-4)


@pytest.mark.parametrize(
    ("rules", "networks", "powerless"), [(2, 3, True), (2, 4, False), (4, 2, True), (4, 4, False)]
)
def test_too_few_networks_have_no_power(rules: int, networks: int, powerless: bool) -> None:
    scores = np.tile(np.arange(rules), (networks, 1))
    assert rank(list(scores)).powerless == powerless


def test_equal_rules_rank_equally() -> None:
    found = rank([[1.0, 1.0, 1.0]] * 5)
    assert found.ranks == (2.0, 2.0, 2.0)
    assert found.p_value == 1.0
    assert rank([[1.0, 2.0]] * 5).p_value is None  # Friedman's test needs three rules
