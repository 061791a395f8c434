"""The results of a comparison: the figures of each rule on each network, and their differences."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lra.lab.comparison.grid import Experiment, Problem
from lra.lab.comparison.schedule import Schedule
from lra.lab.comparison.statistics import Gap, Spread, paired, spread
from lra.lab.comparison.store import Outcome
from lra.lab.runs.atomic import write_atomically


@dataclass(frozen=True)
class Run:
    """A run that has ended; `curve` has the rows of its metrics.csv."""

    name: str
    seed: int
    outcome: Outcome
    curve: Sequence[dict[str, float]]

    def figure(self, name: str) -> float | None:
        """Return a figure of its result, or None."""
        value = (self.outcome.result or {}).get(name)
        return None if value is None else float(value)


@dataclass(frozen=True)
class Entry:
    """The results of a rule on a network.

    Attributes:
        experiment: the rule and the network.
        settings: the settings chosen by the search.
        trials: each trial's settings and score (None: stopped early).
        runs: the runs that have ended, by seed.
        refusal: why the rule cannot train the network, or None.
        edges: the searched settings whose best trial lies at the edge of their range.
    """

    experiment: Experiment
    settings: dict[str, Any]
    trials: tuple[tuple[dict[str, Any], float | None], ...]
    runs: tuple[Run, ...]
    refusal: str | None
    edges: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The rule as given on the command line."""
        return self.experiment.rule.text

    @property
    def done(self) -> tuple[Run, ...]:
        """The runs that completed."""
        return tuple(run for run in self.runs if run.outcome.state == "done")

    def count(self, state: str) -> int:
        """Return the number of runs that ended in a state."""
        return sum(run.outcome.state == state for run in self.runs)

    def mean(self, name: str) -> float | None:
        """Return the mean of a figure over the runs that have it."""
        values = [v for run in self.done if (v := run.figure(name)) is not None]
        return spread(values).mean if values else None

    @property
    def step_seconds(self) -> float | None:
        """Seconds per step, including validation at the end of each epoch."""
        seconds, steps = self.mean("seconds"), self.mean("steps")
        return seconds / steps if seconds and steps else None

    @property
    def memory(self) -> int | None:
        """The largest peak memory of a run, in bytes."""
        known = [run.outcome.memory for run in self.done if run.outcome.memory is not None]
        return max(known, default=None)


@dataclass(frozen=True)
class Table:
    """The results on a network; the first entry is the baseline."""

    problem: Problem
    entries: tuple[Entry, ...]

    @property
    def text(self) -> bool:
        """Whether the data are text: then the figure is the loss, and lower is better."""
        return self.problem.text

    @cached_property
    def figure(self) -> str:
        """The name of the compared figure: of the test split, or of validation without one."""
        what = "loss" if self.text else "accuracy"
        test = f"test_{what}"
        tested = any(run.figure(test) is not None for e in self.entries for run in e.done)
        return test if tested else f"validation_{what}"

    @property
    def base(self) -> Entry:
        """The baseline."""
        return self.entries[0]

    def values(self, entry: Entry) -> dict[int, float]:
        """Return the compared figure of each completed run, by seed."""
        figures = {run.seed: run.figure(self.figure) for run in entry.done}
        return {seed: value for seed, value in figures.items() if value is not None}

    def spread(self, entry: Entry) -> Spread | None:
        """Return the mean and deviation over seeds, or None without results."""
        values = list(self.values(entry).values())
        return spread(values) if values else None

    def gap(self, entry: Entry) -> Gap | None:
        """Return the difference to the baseline, paired by seed.

        It is None for the baseline itself, and where the two have results for different seeds.
        """
        ours, theirs = self.values(entry), self.values(self.base)
        if entry is self.base or not ours or ours.keys() != theirs.keys():
            return None
        return paired([ours[s] for s in sorted(ours)], [theirs[s] for s in sorted(ours)])


def tables(schedule: Schedule) -> list[Table]:
    """Return the results so far, one table for each network."""
    entries = [_entry(schedule, i) for i in range(len(schedule.grid.experiments))]
    return [
        Table(problem, tuple(e for e in entries if e.experiment.problem == problem))
        for problem in schedule.grid.problems
    ]


def _entry(schedule: Schedule, index: int) -> Entry:
    experiment = schedule.grid.experiments[index]
    refusal = schedule.refusal(index)
    settings = None if refusal else schedule.settings(index)
    runs = []
    for seed in range(schedule.grid.seeds) if settings is not None else ():
        outcome = schedule.run(index, seed)
        if outcome is not None:
            name = schedule.name(index, seed)
            runs.append(Run(name, seed, outcome, schedule.store.curve(name)))
    found = schedule.search_results.get(index)
    return Entry(
        experiment,
        settings or {},
        found.trials if found else (),
        tuple(runs),
        f"{refusal.state}: {refusal.reason}" if refusal else None,
        found.edges if found else (),
    )


FIGURES = (
    *("validation_accuracy", "validation_loss", "test_accuracy", "test_loss"),
    *("best_epoch", "epochs", "steps", "seconds", "weights", "feedback_weights"),
)
"""The figures of a run's result that are written to runs.csv."""


def write_runs(found: Sequence[Table], path: Path) -> None:
    """Write one CSV row for each run.

    Raises:
        RunError: if the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("dataset", "network", "rule", "settings", "seed", "state", *FIGURES, "run"))
    for entry in (entry for table in found for entry in table.entries):
        problem = entry.experiment.problem
        settings = ",".join(f"{name}={value}" for name, value in entry.settings.items())
        for run in entry.runs:
            figures = [(run.outcome.result or {}).get(name) for name in FIGURES]
            known = (problem.dataset, problem.model_text, entry.label, settings, run.seed)
            writer.writerow((*known, run.outcome.state, *figures, run.name))
    write_atomically(path, text.getvalue().encode())
