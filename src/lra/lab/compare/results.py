"""What a comparison found: for each network and rule the figures, and how they differ."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lra.lab.atomic import write_atomically
from lra.lab.compare.grid import Contest, Problem
from lra.lab.compare.schedule import Schedule
from lra.lab.compare.statistics import Gap, Spread, paired, spread
from lra.lab.compare.store import Outcome
from lra.lab.networks import NETWORKS


@dataclass(frozen=True)
class Run:
    """A run that has ended; `curve` has its epochs, as in metrics.csv."""

    name: str
    seed: int
    outcome: Outcome
    curve: Sequence[dict[str, float]]

    def figure(self, name: str) -> float | None:
        """Give a figure of its result."""
        value = (self.outcome.result or {}).get(name)
        return None if value is None else float(value)


@dataclass(frozen=True)
class Entry:
    """A rule on a network: what its trials found, and its runs.

    Attributes:
        contest: which.
        settings: what the search found.
        trials: each trial's settings, and how good it was (None: stopped early).
        runs: those that have ended, by seed.
        refusal: why there are none.
    """

    contest: Contest
    settings: dict[str, Any]
    trials: tuple[tuple[dict[str, Any], float | None], ...]
    runs: tuple[Run, ...]
    refusal: str | None

    @property
    def label(self) -> str:
        """The rule, as the command named it."""
        return self.contest.entrant.text

    @property
    def done(self) -> tuple[Run, ...]:
        """The runs that came to their end."""
        return tuple(run for run in self.runs if run.outcome.state == "done")

    def count(self, state: str) -> int:
        """Count the runs that ended in one way."""
        return sum(run.outcome.state == state for run in self.runs)

    def mean(self, name: str) -> float | None:
        """Give the mean of a figure over the runs that have it."""
        values = [v for run in self.done if (v := run.figure(name)) is not None]
        return spread(values).mean if values else None

    @property
    def step_seconds(self) -> float | None:
        """Seconds that a step took, validation at the ends of epochs included."""
        seconds, steps = self.mean("seconds"), self.mean("steps")
        return seconds / steps if seconds and steps else None

    @property
    def memory(self) -> int | None:
        """The most memory that a run held, in bytes."""
        known = [run.outcome.memory for run in self.done if run.outcome.memory is not None]
        return max(known, default=None)


@dataclass(frozen=True)
class Table:
    """A network's entries, the first one to compare with."""

    problem: Problem
    entries: tuple[Entry, ...]

    @property
    def text(self) -> bool:
        """Whether the data are text, where the loss counts, and less is better."""
        return NETWORKS[self.problem.model.name].text

    @cached_property
    def figure(self) -> str:
        """The name of the figure that counts: of the test pair, or of validation without one."""
        what = "loss" if self.text else "accuracy"
        test = f"test_{what}"
        tested = any(run.figure(test) is not None for e in self.entries for run in e.done)
        return test if tested else f"validation_{what}"

    @property
    def base(self) -> Entry:
        """What the others are compared with."""
        return self.entries[0]

    def values(self, entry: Entry) -> dict[int, float]:
        """Give the figure of each seed that came to its end."""
        found = {run.seed: run.figure(self.figure) for run in entry.done}
        return {seed: value for seed, value in found.items() if value is not None}

    def spread(self, entry: Entry) -> Spread | None:
        """Give mean and deviation over seeds."""
        values = list(self.values(entry).values())
        return spread(values) if values else None

    def gap(self, entry: Entry) -> Gap | None:
        """Give the difference to the base over the same seeds; none where any run diverged."""
        ours, theirs = self.values(entry), self.values(self.base)
        if entry is self.base or not ours or ours.keys() != theirs.keys():
            return None
        return paired([ours[s] for s in sorted(ours)], [theirs[s] for s in sorted(ours)])


def tables(schedule: Schedule) -> list[Table]:
    """Read what a comparison found so far, or in the end."""
    entries = [_entry(schedule, i) for i in range(len(schedule.grid.contests))]
    return [
        Table(problem, tuple(e for e in entries if e.contest.problem == problem))
        for problem in schedule.grid.problems
    ]


def _entry(schedule: Schedule, index: int) -> Entry:
    contest = schedule.grid.contests[index]
    refusal = schedule.refusal(index)
    settings = None if refusal else schedule.settings(index)
    runs = []
    for seed in range(schedule.grid.seeds) if settings is not None else ():
        outcome = schedule.run(index, seed)
        if outcome is not None:
            name = schedule.name(index, seed)
            runs.append(Run(name, seed, outcome, schedule.store.curve(name)))
    found = schedule.found.get(index)
    return Entry(
        contest,
        settings or {},
        found.trials if found else (),
        tuple(runs),
        f"{refusal.state}: {refusal.reason}" if refusal else None,
    )


FIGURES = (
    *("validation_accuracy", "validation_loss", "test_accuracy", "test_loss"),
    *("best_epoch", "epochs", "steps", "seconds", "weights", "feedback_weights"),
)
"""What of a run's result goes into runs.csv."""


def write_runs(found: Sequence[Table], path: Path) -> None:
    """Write a line for each run as CSV.

    Raises:
        RunError: where the disk refuses.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("dataset", "network", "rule", "settings", "seed", "state", *FIGURES, "run"))
    for entry in (entry for table in found for entry in table.entries):
        problem = entry.contest.problem
        settings = ",".join(f"{name}={value}" for name, value in entry.settings.items())
        for run in entry.runs:
            figures = [(run.outcome.result or {}).get(name) for name in FIGURES]
            known = (problem.dataset, problem.model_text, entry.label, settings, run.seed)
            writer.writerow((*known, run.outcome.state, *figures, run.name))
    write_atomically(path, text.getvalue().encode())
