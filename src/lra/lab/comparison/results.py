"""The results of a comparison: the figures of each rule on each network, and their differences."""

import csv
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lra.lab.comparison.grid import Experiment, Problem
from lra.lab.comparison.page import render, visible
from lra.lab.comparison.schedule import Schedule
from lra.lab.comparison.statistics import Gap, Ranking, Spread, paired, rank, spread
from lra.lab.comparison.store import Outcome
from lra.lab.runs.atomic import write_atomically

MARGINS = {False: 0.5, True: 0.02}
"""Default margins of equivalence: percentage points of accuracy, and on text nats of loss."""


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
    def memory(self) -> int | None:
        """The largest peak memory of a run, in bytes."""
        known = [run.outcome.memory for run in self.done if run.outcome.memory is not None]
        return max(known, default=None)


@dataclass(frozen=True, repr=False)
class Table:
    """The results on a network; the first entry is the baseline."""

    problem: Problem
    entries: tuple[Entry, ...]

    @property
    def text(self) -> bool:
        """Whether the data are text: then the figure is the loss, and lower is better."""
        return self.problem.text

    @property
    def digits(self) -> int:
        """The number of printed decimals of the compared figure."""
        return 3 if self.text else 2

    @property
    def samples(self) -> int | None:
        """The number of test samples (on text, of predicted characters), or None if unknown."""
        sizes = {run.figure("test_samples") for e in self.entries for run in e.done} - {None}
        known = self.figure.startswith("test") and len(sizes) == 1
        return round(sizes.pop() or 0) if known else None

    @property
    def margin(self) -> float:
        """The largest difference that counts as equal, in percentage points or nats."""
        given = self.base.experiment.grid.margin
        return MARGINS[self.text] if given is None else given

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

    @cached_property
    def gaps(self) -> dict[str, Gap]:
        """The differences of the rules to the baseline, paired by seed, by label.

        Rules whose results are for other seeds than the baseline's are left out.
        """
        base = self.values(self.base)
        others = {entry.label: self.values(entry) for entry in self.entries[1:]}
        others = {k: v for k, v in others.items() if v and v.keys() == base.keys()}
        theirs = list(base.values())
        return {
            label: paired([ours[seed] for seed in base], theirs, self.margin, len(others))
            for label, ours in others.items()
        }

    @cached_property
    def means(self) -> dict[str, float]:
        """The means of the baseline and of the rules that are compared with it, by label."""
        found = {entry.label: self.spread(entry) for entry in self.entries}
        names = {self.base.label, *self.gaps}
        return {label: v.mean for label, v in found.items() if v and label in names}

    @property
    def best(self) -> set[str]:
        """The labels of the rules with the best of `means`, to the printed digits."""
        means = {label: round(mean, self.digits) for label, mean in self.means.items()}
        best = (min if self.text else max)(means.values(), default=None)
        return {label for label, mean in means.items() if mean == best}

    def __repr__(self) -> str:
        found = ((entry.label, self.spread(entry)) for entry in self.entries)
        rows = [(str(self.problem), self.figure.replace("_", " "))]
        rows += [(label, v.text(self.digits) if v else "no result") for label, v in found]
        width = max(len(visible(label)) for label, _ in rows)
        return "\n".join(f"{visible(label):{width}}  {text}" for label, text in rows)

    def _repr_html_(self) -> str:
        return render("summary.html", tables=[self])


class Tables(tuple[Table, ...]):
    """The results of a comparison, one table for each network."""

    @cached_property
    def ranked(self) -> list[str]:
        """The labels of the rules that are compared on every network."""
        return [label for label in self[0].means if all(label in table.means for table in self)]

    @cached_property
    def ranking(self) -> Ranking | None:
        """The ranks of `ranked` over the networks; None with fewer than two of either."""
        signs = [-1 if table.text else 1 for table in self]
        if len(self) < 2 or len(self.ranked) < 2:
            return None
        return rank(
            [[s * t.means[k] for k in self.ranked] for s, t in zip(signs, self, strict=True)]
        )

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, self))

    def _repr_html_(self) -> str:
        return render("summary.html", tables=self)


def tables(schedule: Schedule) -> Tables:
    """Return the results so far."""
    entries = [_entry(schedule, i) for i in range(len(schedule.grid.experiments))]
    return Tables(
        Table(problem, tuple(e for e in entries if e.experiment.problem == problem))
        for problem in schedule.grid.problems
    )


def _entry(schedule: Schedule, index: int) -> Entry:
    experiment = schedule.grid.experiments[index]
    refusal = schedule.refusal(index)
    settings = None if refusal else schedule.settings(index)
    name = functools.partial(schedule.name, index)
    runs = [
        Run(name(seed), seed, outcome, schedule.store.curve(name(seed)))
        for seed in range(schedule.grid.seeds)
        if settings is not None and (outcome := schedule.run(index, seed))
    ]
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
    *("test_samples", "best_epoch", "epochs", "steps", "seconds", "weights", "feedback_weights"),
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
    write_atomically(path, text.getvalue().encode(errors="backslashreplace"))
