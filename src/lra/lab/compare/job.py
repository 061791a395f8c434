"""What one process does: a trial of a search, or a run."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lra.errors import LraError
from lra.lab.compare.grid import Contest, Grid
from lra.lab.compare.store import Outcome, Store
from lra.lab.display import Reporter
from lra.lab.networks import NETWORKS

Tell = Callable[[float], None]
"""Hears which share of its steps a run has done."""
Hear = Callable[[int, float], None]
"""Hears an epoch's number, and how good it was: the larger the better."""


@dataclass(frozen=True)
class Job:
    """A trial of a contest (`seed` None), or the run of a seed with the settings found."""

    contest: int
    seed: int | None = None
    settings: tuple[tuple[str, Any], ...] = ()


class Unfit(LraError):  # noqa: N818 - ends a trial, whose outcome says why
    """A trial of a rule that cannot train the network; its outcome says why."""


class EpochReporter(Reporter):
    """Tells how far a run is, and how good each epoch was; `epochs` of it were done before."""

    def __init__(self, tell: Tell, hear: Hear | None = None, epochs: int = 0) -> None:
        self.tell, self.hear, self.before = tell, hear, epochs

    def start(self, what: str, epochs: int, steps: int, text: bool) -> None:
        """Hear how long the run is."""
        self.steps, self.all, self.text = steps, epochs * steps, text
        self.done = self.before * steps

    def step(self, step: int, loss_sum: float, correct: int, seen: int) -> None:
        """Tell the share of the steps that are done."""
        self.tell((self.done + step) / self.all)

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Tell how good an epoch was."""
        self.done = row["epoch"] * self.steps
        if self.hear:
            self.hear(row["epoch"], merit(row, self.text))


def merit(figures: Mapping[str, Any], text: bool) -> float:
    """Give what settings are chosen by: validation accuracy, or the loss of text, negative."""
    return float(-figures["validation_loss"] if text else figures["validation_accuracy"])


def execute(grid: Grid, out: Path, job: Job, tell: Tell = lambda share: None) -> Outcome | None:
    """Do a job; None where another process is at it, or did it.

    Raises:
        LraError: where the whole comparison cannot go on, or a signal came.
    """
    store, contest = Store(out), grid.contests[job.contest]
    if job.seed is None:
        return _try_settings(store, contest, tell)
    config = contest.config(job.seed, dict(job.settings))
    name = contest.name_of(config)
    with store.claim(name) as ours:
        if not ours:
            return None
        return store.train(name, config, EpochReporter(tell, None, len(store.curve(name))))


def _try_settings(store: Store, contest: Contest, tell: Tell) -> Outcome | None:
    from lra.lab.compare.search import Score, Study, open_storage

    text = NETWORKS[contest.problem.model.name].text
    ended: list[Outcome] = []

    def score(settings: dict[str, Any], hear: Hear) -> Score:
        config = contest.trial_config(settings)
        name = contest.name_of(config)
        with _patiently(store, name):
            before = store.curve(name)
            for row in before:  # of a trial that was stopped before
                hear(int(row["epoch"]), merit(row, text))
            outcome = store.train(name, config, EpochReporter(tell, hear, len(before)))
        ended.append(outcome)
        if outcome.state in ("refused", "failed"):
            store.record(contest.key, outcome)
            raise Unfit(outcome.reason)
        if outcome.result is None:  # diverged: worse than all others
            return Score(-1e9 if text else 0.0, 1e9)
        return Score(merit(outcome.result, text), outcome.result["validation_loss"])

    study = Study(contest, open_storage(store.storage(contest.grid.options.storage)))
    with contextlib.suppress(Unfit):
        study.try_one(score)
    return ended[0] if ended else None


@contextlib.contextmanager
def _patiently(store: Store, name: str) -> Any:
    """Take a run, once nobody else is at it: who lost a trial while asleep may still be."""
    while True:
        with store.claim(name) as ours:
            if ours:
                yield
                return
        time.sleep(0.5)
