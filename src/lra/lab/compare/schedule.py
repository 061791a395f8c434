"""Which job is next, and which are done: from the folder and the database, which others fill."""

import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lra.lab.compare.grid import Contest, Grid
from lra.lab.compare.job import Job
from lra.lab.compare.store import Outcome, Store

if TYPE_CHECKING:  # Optuna takes a second to load, and not every comparison searches
    from lra.lab.compare.search import Found, Study

AGAIN = 2.0
"""Seconds after which a job that another process has is looked at again."""


class Schedule:
    """The jobs of a grid."""

    def __init__(self, grid: Grid, out: Path) -> None:
        self.grid, self.store = grid, Store(out)
        self.runs: dict[tuple[int, int], Outcome] = {}
        self.found: dict[int, Found] = {}
        self.studies: dict[int, Study] = {}
        self._names: dict[tuple[int, int], str] = {}
        self._aside: dict[object, float] = {}
        self._out: dict[int, Outcome] = {}
        if any(contest.trials for contest in grid.contests):
            from lra.lab.compare import search

            storage = search.open_storage(self.store.storage(grid.options.storage))
            self.studies = {
                i: search.Study(contest, storage)
                for i, contest in enumerate(grid.contests)
                if contest.trials
            }

    def next(self, running: Collection[Job], beginning: Collection[Job]) -> Job | None:
        """Give a job that nobody is at, in the grid's order.

        Args:
            running: the jobs of this process.
            beginning: those of them that have not taken their trial yet.
        """
        for i, _ in self._open():
            settings = self.settings(i)
            if settings is None:
                if self._rests(i):
                    continue
                if self.studies[i].takeable() > sum(job.contest == i for job in beginning):
                    return Job(i)
                self._rest(i)
                continue
            for seed in range(self.grid.seeds):
                job = Job(i, seed, tuple(settings.items()))
                if job in running or self.run(i, seed) or self._rests((i, seed)):
                    continue
                if self.store.free(self.name(i, seed)):
                    return job
                self._rest((i, seed))
        return None

    def finished(self) -> bool:
        """Tell whether all jobs are done, here or elsewhere."""
        return all(
            self.settings(i) is not None
            and all(self.run(i, seed) for seed in range(self.grid.seeds))
            for i, _ in self._open()
        )

    def look_again(self) -> None:
        """Look at everything again at once, since a job has ended."""
        self._aside.clear()

    def settings(self, contest: int) -> dict[str, Any] | None:
        """Give the settings that a contest's trials found; none where they are not done."""
        if not self.grid.contests[contest].trials:
            return {}
        if contest not in self.found and not self._rests(("found", contest)):
            found = self.studies[contest].found()
            if found is None:
                self._rest(("found", contest))
            else:
                self.found[contest] = found
        return self.found[contest].settings if contest in self.found else None

    def name(self, contest: int, seed: int) -> str:
        """Give the name of a run whose settings are known."""
        if (contest, seed) not in self._names:
            settings = self.settings(contest)
            assert settings is not None
            of = self.grid.contests[contest]
            self._names[contest, seed] = of.name_of(of.config(seed, settings))
        return self._names[contest, seed]

    def run(self, contest: int, seed: int) -> Outcome | None:
        """Tell what became of a run."""
        if (contest, seed) not in self.runs:
            outcome = self.store.outcome(self.name(contest, seed))
            if outcome is None:
                return None
            self.runs[contest, seed] = outcome
        return self.runs[contest, seed]

    def refusal(self, contest: int) -> Outcome | None:
        """Tell why a rule cannot train a network, where that is so."""
        if contest not in self._out:
            seeds = range(self.grid.seeds) if self.settings(contest) is not None else ()
            known = [self.run(contest, seed) for seed in seeds]
            found = next((o for o in known if o and o.state == "refused"), None)
            if found is None and contest in self.studies:
                record = self.store.outcome(self.grid.contests[contest].key)
                found = record if record and record.state in ("refused", "failed") else None
            if found is None:
                return None
            self._out[contest] = found
        return self._out[contest]

    def left(self) -> Iterator[tuple[int, bool, int]]:
        """Give how much is left: contest, whether of its trials, and how many of them."""
        for i, contest in self._open():
            settings = self.settings(i)
            if settings is None:
                yield i, True, contest.trials - self.studies[i].ended()
            ended = (
                0
                if settings is None
                else sum(self.run(i, seed) is not None for seed in range(self.grid.seeds))
            )
            yield i, False, self.grid.seeds - ended

    def _open(self) -> Iterator[tuple[int, Contest]]:
        for i, contest in enumerate(self.grid.contests):
            if self.refusal(i) is None:
                yield i, contest

    def _rests(self, what: object) -> bool:
        return time.monotonic() < self._aside.get(what, 0.0)

    def _rest(self, what: object) -> None:
        self._aside[what] = time.monotonic() + AGAIN
