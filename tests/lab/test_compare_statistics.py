"""Intervals and differences, against published tables and hand calculations."""

import math

import pytest

from lra.lab.comparison.statistics import paired, spread, student

PUBLISHED = {
    **{1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262},
    **{10: 2.228, 15: 2.131, 20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980},
}
"""Student's t at 0.975, as printed in tables (NIST/SEMATECH e-Handbook, section 1.3.6.7.2)."""


@pytest.mark.parametrize("degrees", PUBLISHED)
def test_students_t_is_the_published_one(degrees: int) -> None:
    assert round(student(degrees), 3) == PUBLISHED[degrees]


def test_students_t_in_closed_form() -> None:
    assert student(1, 0.9) == pytest.approx(math.tan(math.pi * 0.45), rel=1e-9)
    p = 0.98  # of two degrees: t = p sqrt(2 / (1 - p^2))
    assert student(2, p) == pytest.approx(p * math.sqrt(2 / (1 - p * p)), rel=1e-9)


def test_a_paired_difference() -> None:
    gap = paired([97.0, 96.0, 98.0], [96.0, 96.5, 96.5])  # 1.0, -0.5, 1.5
    assert gap.mean == pytest.approx(2 / 3)
    deviation = math.sqrt(((1 / 3) ** 2 + (7 / 6) ** 2 + (5 / 6) ** 2) / 2)
    assert gap.half_width == pytest.approx(4.302653 * deviation / math.sqrt(3), rel=1e-6)
    assert not gap.significant
    assert paired([3.0, 4.0, 5.1], [1.0, 2.0, 3.0]).significant


def test_one_seed_gives_no_interval() -> None:
    gap = paired([97.0], [96.0])
    assert (gap.mean, gap.half_width, gap.significant) == (1.0, None, False)
    assert spread([97.0]).deviation is None


def test_equal_runs_do_not_differ() -> None:
    assert not paired([97.0, 96.0], [97.0, 96.0]).significant
