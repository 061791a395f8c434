"""The work of one process: a trial of a search, or a run."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lra.lab.comparison.grid import Grid
from lra.lab.comparison.search import Study
from lra.lab.comparison.store import Outcome, Pruned, Store
from lra.lab.runs.display import Reporter
from lra.lab.settings.config import TrainConfig

OnProgress = Callable[[float], None]
"""Receives the share of its steps that a run has completed."""


@dataclass(frozen=True)
class Job:
    """A trial of an experiment (`seed` is None), or a run with a seed, both with their settings."""

    experiment: int
    seed: int | None
    settings: tuple[tuple[str, Any], ...] = ()

    def config(self, grid: Grid) -> TrainConfig:
        """Return the configuration of the trial or run."""
        experiment, found = grid.experiments[self.experiment], dict(self.settings)
        if self.seed is None:
            return experiment.trial_config(found)
        return experiment.config(self.seed, found)

    def name(self, grid: Grid) -> str:
        """Return the name of the trial or run."""
        return grid.experiments[self.experiment].name_of(self.config(grid))


class EpochReporter(Reporter):
    """Reports a run's progress, and ends a trial early.

    Args:
        on_progress: receives the share of the run that is done.
        epochs: the number of epochs completed before.
        stop: returns after an epoch whether a trial ends there; None for a run.
    """

    def __init__(
        self, on_progress: OnProgress, epochs: int = 0, stop: Callable[[], bool] | None = None
    ) -> None:
        self.on_progress, self.before, self.stop = on_progress, epochs, stop

    def start(self, description: str, epochs: int, steps: int, text: bool) -> None:
        """Record the length of the run."""
        self.steps, self.total = steps, epochs * steps
        self.done = self.before * steps

    def step(self, step: int, loss_sum: float, correct: int, seen: int) -> None:
        """Report the share of the steps that are done."""
        self.on_progress((self.done + step) / self.total)

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Count the epoch, and raise `Pruned` if the trial ends here."""
        self.done = row["epoch"] * self.steps
        if self.stop and self.done < self.total and self.stop():
            raise Pruned(f"below the median of the other trials after epoch {row['epoch']}")


def execute(
    grid: Grid, out: Path, job: Job, on_progress: OnProgress = lambda share: None
) -> Outcome | None:
    """Run a job and return its outcome, or None if another process has taken the job.

    Raises:
        LraError: if the whole comparison cannot continue, or after a signal.
    """
    store, name, stop = Store(out), job.name(grid), None
    if job.seed is None and grid.options.prune:
        stop = functools.partial(Study(grid.experiments[job.experiment], store).is_behind, name)
    with store.claim(name) as claimed:
        if not claimed:
            return None
        reporter = EpochReporter(on_progress, len(store.curve(name)), stop)
        return store.train(name, job.config(grid), reporter)
