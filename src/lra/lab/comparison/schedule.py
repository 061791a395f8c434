"""The schedule of a comparison's jobs, read from a folder and a database that machines share."""

import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lra.lab.comparison.grid import Experiment, Grid
from lra.lab.comparison.job import Job
from lra.lab.comparison.store import Outcome, Store

if TYPE_CHECKING:  # loaded only for a search, since importing Optuna takes a second
    from lra.lab.comparison.search import SearchResult, Study

RETRY_SECONDS = 2.0
"""Seconds until a job held by another process is checked again."""


class Schedule:
    """The jobs of a grid."""

    def __init__(self, grid: Grid, out: Path) -> None:
        self.grid, self.store = grid, Store(out)
        self.runs: dict[tuple[int, int], Outcome] = {}
        self.search_results: dict[int, SearchResult] = {}
        self.studies: dict[int, Study] = {}
        self._names: dict[tuple[int, int], str] = {}
        self._retry_at: dict[object, float] = {}
        self._refusals: dict[int, Outcome] = {}
        if any(experiment.trials for experiment in grid.experiments):
            from lra.lab.comparison import search

            storage = search.open_storage(self.store.storage(grid.options.storage))
            self.studies = {
                i: search.Study(experiment, storage)
                for i, experiment in enumerate(grid.experiments)
                if experiment.trials
            }

    def next(self, running: Collection[Job], beginning: Collection[Job]) -> Job | None:
        """Return the next free job in the grid's order, or None.

        Args:
            running: the jobs that this process has started.
            beginning: those of them that have not claimed their trial yet.
        """
        for i, _ in self._active():
            settings = self.settings(i)
            if settings is None:
                if self._is_deferred(i):
                    continue
                if self.studies[i].num_waiting() > sum(job.experiment == i for job in beginning):
                    return Job(i)
                self._defer(i)
                continue
            for seed in range(self.grid.seeds):
                job = Job(i, seed, tuple(settings.items()))
                if job in running or self.run(i, seed) or self._is_deferred((i, seed)):
                    continue
                if self.store.free(self.name(i, seed)):
                    return job
                self._defer((i, seed))
        return None

    def finished(self) -> bool:
        """Return whether all jobs are done, here or on other machines."""
        return all(
            self.settings(i) is not None
            and all(self.run(i, seed) for seed in range(self.grid.seeds))
            for i, _ in self._active()
        )

    def retry_now(self) -> None:
        """Check all jobs again without waiting for `RETRY_SECONDS`."""
        self._retry_at.clear()

    def settings(self, experiment: int) -> dict[str, Any] | None:
        """Return the settings chosen for an experiment, or None while its trials are running."""
        if not self.grid.experiments[experiment].trials:
            return {}
        search = ("search", experiment)
        if experiment not in self.search_results and not self._is_deferred(search):
            result = self.studies[experiment].result()
            if result is None:
                self._defer(search)
            else:
                self.search_results[experiment] = result
        known = self.search_results.get(experiment)
        return None if known is None else known.settings

    def name(self, experiment: int, seed: int) -> str:
        """Return the name of a run; its settings must be known."""
        if (experiment, seed) not in self._names:
            settings = self.settings(experiment)
            assert settings is not None
            owner = self.grid.experiments[experiment]
            self._names[experiment, seed] = owner.name_of(owner.config(seed, settings))
        return self._names[experiment, seed]

    def run(self, experiment: int, seed: int) -> Outcome | None:
        """Return the outcome of a run, or None if it has not ended."""
        if (experiment, seed) not in self.runs:
            outcome = self.store.outcome(self.name(experiment, seed))
            if outcome is None:
                return None
            self.runs[experiment, seed] = outcome
        return self.runs[experiment, seed]

    def refusal(self, experiment: int) -> Outcome | None:
        """Return the outcome that says why a rule cannot train a network, or None."""
        if experiment not in self._refusals:
            seeds = range(self.grid.seeds) if self.settings(experiment) is not None else ()
            known = [self.run(experiment, seed) for seed in seeds]
            found = next((o for o in known if o and o.state == "refused"), None)
            if found is None and experiment in self.studies:
                record = self.store.outcome(self.grid.experiments[experiment].key)
                found = record if record and record.state in ("refused", "failed") else None
            if found is None:
                return None
            self._refusals[experiment] = found
        return self._refusals[experiment]

    def remaining(self) -> Iterator[tuple[int, bool, int]]:
        """Yield the open jobs as (experiment, whether they are trials, number of jobs)."""
        for i, experiment in self._active():
            settings = self.settings(i)
            if settings is None:
                yield i, True, experiment.trials - self.studies[i].num_finished()
            done = (
                0
                if settings is None
                else sum(self.run(i, seed) is not None for seed in range(self.grid.seeds))
            )
            yield i, False, self.grid.seeds - done

    def _active(self) -> Iterator[tuple[int, Experiment]]:
        for i, experiment in enumerate(self.grid.experiments):
            if self.refusal(i) is None:
                yield i, experiment

    def _is_deferred(self, what: object) -> bool:
        return time.monotonic() < self._retry_at.get(what, 0.0)

    def _defer(self, what: object) -> None:
        self._retry_at[what] = time.monotonic() + RETRY_SECONDS
