"""The work of one process: a trial of a search, or a run."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lra.errors import LraError
from lra.lab.comparison.grid import Experiment, Grid
from lra.lab.comparison.store import Outcome, Store
from lra.lab.runs.display import Reporter

OnProgress = Callable[[float], None]
"""Receives the share of its steps that a run has completed."""
OnEpoch = Callable[[int, float], None]
"""Receives an epoch's number and its validation score."""


@dataclass(frozen=True)
class Job:
    """A trial of an experiment (`seed` is None), or a run with a seed and the chosen settings."""

    experiment: int
    seed: int | None = None
    settings: tuple[tuple[str, Any], ...] = ()


class TrialFailed(LraError):  # noqa: N818 - ends a trial
    """Ends a trial whose rule cannot train the network; the outcome has the reason."""


class EpochReporter(Reporter):
    """Reports a run's progress and the validation score of each epoch.

    Args:
        on_progress: receives the share of the run that is done.
        on_epoch: receives each epoch's number and score.
        epochs: the number of epochs completed before.
    """

    def __init__(
        self, on_progress: OnProgress, on_epoch: OnEpoch | None = None, epochs: int = 0
    ) -> None:
        self.on_progress, self.on_epoch, self.before = on_progress, on_epoch, epochs

    def start(self, description: str, epochs: int, steps: int, text: bool) -> None:
        """Record the length of the run."""
        self.steps, self.total, self.text = steps, epochs * steps, text
        self.done = self.before * steps

    def step(self, step: int, loss_sum: float, correct: int, seen: int) -> None:
        """Report the share of the steps that are done."""
        self.on_progress((self.done + step) / self.total)

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Report the epoch's validation score."""
        self.done = row["epoch"] * self.steps
        if self.on_epoch:
            self.on_epoch(row["epoch"], validation_score(row, self.text))


def validation_score(figures: Mapping[str, Any], text: bool) -> float:
    """Return the score by which settings are chosen, higher is better.

    It is the validation accuracy; on text, minus the validation loss.
    """
    return float(-figures["validation_loss"] if text else figures["validation_accuracy"])


def execute(
    grid: Grid, out: Path, job: Job, on_progress: OnProgress = lambda share: None
) -> Outcome | None:
    """Run a job and return its outcome, or None if another process has taken the job.

    Raises:
        LraError: if the whole comparison cannot continue, or after a signal.
    """
    store, experiment = Store(out), grid.experiments[job.experiment]
    if job.seed is None:
        return _try_settings(store, experiment, on_progress)
    config = experiment.config(job.seed, dict(job.settings))
    name = experiment.name_of(config)
    with store.claim(name) as claimed:
        if not claimed:
            return None
        return store.train(name, config, EpochReporter(on_progress, None, len(store.curve(name))))


def _try_settings(store: Store, experiment: Experiment, on_progress: OnProgress) -> Outcome | None:
    from lra.lab.comparison.search import Score, Study, open_storage

    text = experiment.problem.text
    outcomes: list[Outcome] = []

    def train(settings: dict[str, Any], on_epoch: OnEpoch) -> Score:
        config = experiment.trial_config(settings)
        name = experiment.name_of(config)
        with _claim_when_free(store, name):
            before = store.curve(name)  # of an interrupted trial
            for row in before:
                on_epoch(int(row["epoch"]), validation_score(row, text))
            outcome = store.train(name, config, EpochReporter(on_progress, on_epoch, len(before)))
        outcomes.append(outcome)
        if outcome.state in ("refused", "failed"):
            store.record(experiment.key, outcome)
            raise TrialFailed(outcome.reason)
        if outcome.result is None:  # diverged: worse than any other trial
            return Score(-1e9 if text else 0.0, 1e9)
        return Score(validation_score(outcome.result, text), outcome.result["validation_loss"])

    study = Study(experiment, open_storage(store.storage(experiment.grid.options.storage)))
    with contextlib.suppress(TrialFailed):
        study.run_one(train)
    return outcomes[0] if outcomes else None


@contextlib.contextmanager
def _claim_when_free(store: Store, name: str) -> Any:
    """Claim a run, waiting while a process that has lost its trial still trains it."""
    while True:
        with store.claim(name) as claimed:
            if claimed:
                yield
                return
        time.sleep(0.5)
