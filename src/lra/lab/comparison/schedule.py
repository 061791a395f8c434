"""The schedule of a comparison's jobs, read from a folder that machines can share."""

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from lra.lab.comparison.grid import Grid
from lra.lab.comparison.job import Job
from lra.lab.comparison.search import SearchResult, Study
from lra.lab.comparison.store import Outcome, Store

RETRY_SECONDS = 2.0
"""Seconds until the files and the lock of a job are checked again."""

Count = tuple[int, bool, int, int]
"""Jobs of an experiment: its number, whether they are trials, the number of ended ones, and all."""


class Schedule:
    """The jobs of a grid."""

    def __init__(self, grid: Grid, out: Path) -> None:
        self.grid, self.store = grid, Store(out)
        self.search_results: dict[int, SearchResult] = {}
        self.studies = {
            i: Study(experiment, self.store)
            for i, experiment in enumerate(grid.experiments)
            if experiment.trials
        }
        self._trials: dict[int, list[Job]] = {}
        self._outcomes: dict[Job, Outcome] = {}
        self._names: dict[Job, str] = {}
        self._checked: dict[object, float] = {}

    def next(self, running: Collection[Job]) -> Job | None:
        """Return the next free job in the grid's order, or None.

        Args:
            running: the jobs that this process has started.
        """
        for i in self._active():
            searching = self.settings(i) is None
            job = self._first_free(self.trials(i) if searching else self.runs(i), running)
            if job is None and searching and len(self.trials(i)) < self._num_trials(i):
                self.studies[i].draw()
                del self._trials[i]
                job = self._first_free(self.trials(i), running)
            if job is not None:
                return job
        return None

    def _first_free(self, jobs: Sequence[Job], running: Collection[Job]) -> Job | None:
        for job in jobs:
            open_here = job not in running and self.outcome(job) is None
            if open_here and self._is_due((job, "lock")) and self.store.free(self.job_name(job)):
                return job
        return None

    def finished(self) -> bool:
        """Return whether all jobs are done, here or on other machines."""
        return all(ended == total for *_, ended, total in self.counts())

    def ended(self, job: Job, outcome: Outcome | None) -> None:
        """Record the outcome of a job that this process has run, if it has one."""
        if outcome is not None:
            self._outcomes[job] = outcome

    def trials(self, experiment: int) -> Sequence[Job]:
        """Return the trials of an experiment whose settings are known."""
        if experiment not in self.studies:
            return ()
        drawing = len(self._trials.get(experiment, ())) < self._num_trials(experiment)
        if experiment not in self._trials or (drawing and self._is_due((experiment, "drawn"))):
            known = self.studies[experiment].settings()
            self._trials[experiment] = [Job(experiment, None, tuple(s.items())) for s in known]
        return self._trials[experiment]

    def runs(self, experiment: int) -> list[Job]:
        """Return the runs of an experiment; none while its trials are running."""
        settings = self.settings(experiment)
        if settings is None:
            return []
        return [Job(experiment, seed, tuple(settings.items())) for seed in range(self.grid.seeds)]

    def settings(self, experiment: int) -> dict[str, Any] | None:
        """Return the settings chosen for an experiment, or None while its trials are running."""
        if experiment not in self.studies:
            return {}
        if experiment not in self.search_results:
            outcomes = [self.outcome(trial) for trial in self.trials(experiment)]
            ended = [outcome for outcome in outcomes if outcome]
            refused = any(outcome.state in ("refused", "failed") for outcome in ended)
            if refused or len(ended) < self._num_trials(experiment):
                return None
            self.search_results[experiment] = self.studies[experiment].result(ended)
        return self.search_results[experiment].settings

    def outcome(self, job: Job) -> Outcome | None:
        """Return the outcome of a job, or None if it has not ended."""
        if job not in self._outcomes and self._is_due(job):
            found = self.store.outcome(self.job_name(job))
            if found is not None:
                self._outcomes[job] = found
        return self._outcomes.get(job)

    def job_name(self, job: Job) -> str:
        """Return the name of a trial or run."""
        if job not in self._names:
            self._names[job] = job.name(self.grid)
        return self._names[job]

    def name(self, experiment: int, seed: int) -> str:
        """Return the name of a run; its settings must be known."""
        return self.job_name(self.runs(experiment)[seed])

    def run(self, experiment: int, seed: int) -> Outcome | None:
        """Return the outcome of a run, or None if it has not ended."""
        return self.outcome(self.runs(experiment)[seed])

    def refusal(self, experiment: int) -> Outcome | None:
        """Return the outcome that says why a rule cannot train a network, or None."""
        for job in (*self.trials(experiment), *self.runs(experiment)):
            found = self.outcome(job)
            states = ("refused", "failed") if job.seed is None else ("refused",)
            if found and found.state in states:
                return found
        return None

    def counts(self) -> Iterator[Count]:
        """Count the trials and the runs of each experiment, except those of refused rules."""
        for i in self._active():
            for jobs, trials, total in (
                (self.trials(i), True, self._num_trials(i)),
                (self.runs(i), False, self.grid.seeds),
            ):
                yield i, trials, sum(self.outcome(job) is not None for job in jobs), total

    def _active(self) -> Iterator[int]:
        """Yield the experiments whose rule can train their network, as far as is known."""
        return (i for i in range(len(self.grid.experiments)) if self.refusal(i) is None)

    def _num_trials(self, experiment: int) -> int:
        return self.grid.experiments[experiment].trials

    def _is_due(self, what: object) -> bool:
        """Return whether to check files again, at most once in `RETRY_SECONDS`."""
        now = time.monotonic()
        if now < self._checked.get(what, -RETRY_SECONDS) + RETRY_SECONDS:
            return False
        self._checked[what] = now
        return True
