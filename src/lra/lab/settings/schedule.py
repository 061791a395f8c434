"""Learning rate schedules: a factor that depends on the step alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A learning rate schedule.

    Attributes:
        after: the factor after the warm-up, as a function of t from 0 to 1 over the other steps.
        warmup: the default share of all steps in which the factor rises to 1.
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
    """Return the factor of the learning rate: a linear warm-up, then that of the schedule.

    Args:
        name: the name of the schedule.
        warmup: the share of all steps that warm up; by default that of the schedule.
        step: the number of the step, from 0.
        steps: the total number of steps.
    """
    schedule = SCHEDULES[name]
    warmup_steps = (schedule.warmup if warmup is None else warmup) * steps
    if step < warmup_steps:
        return min(1.0, (step + 1) / warmup_steps)
    return schedule.after((step - warmup_steps) / (steps - warmup_steps))
