"""How the step size moves over a run: a factor that is a function of the step alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A way for the step size to go.

    Attributes:
        after: the factor after the warm-up, for t from 0 to 1 over the rest of the run.
        warmup: the share of all steps in which it rises to 1, unless told otherwise.
    """

    after: Callable[[float], float]
    warmup: float = 0.0


SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule(lambda t: 1.0),
    "cosine": Schedule(lambda t: (1 + math.cos(math.pi * t)) / 2),
    "one-cycle": Schedule(lambda t: 1 - t, warmup=0.3),
}
"""The schedules by name."""


def factor(name: str, warmup: float | None, step: int, steps: int) -> float:
    """Give the factor of the step size: up in a line while warming up, then as the schedule says.

    Args:
        name: of the schedule.
        warmup: the share of all steps that warm up; by default the schedule's own.
        step: number of the step, from 0.
        steps: how many there are in all.
    """
    schedule = SCHEDULES[name]
    rise = (schedule.warmup if warmup is None else warmup) * steps
    if step < rise:
        return min(1.0, (step + 1) / rise)
    return schedule.after((step - rise) / (steps - rise))
