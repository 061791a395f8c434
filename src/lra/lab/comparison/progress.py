"""The progress of a comparison: bars on a terminal, plain lines elsewhere, or silence."""

import time
import warnings
from collections import defaultdict
from collections.abc import Iterable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from lra.errors import LraWarning
from lra.lab.comparison.grid import Grid
from lra.lab.comparison.job import Job
from lra.lab.comparison.schedule import Count, Schedule
from lra.lab.comparison.store import Outcome


class Display:
    """Shows the number of finished jobs, the running jobs and the estimated time left.

    Args:
        console: the console to print on; without one, the display is silent.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(quiet=True)
        self.bars = Progress(
            *(BarColumn(30), TextColumn("{task.description}", markup=False)),
            console=self.console,
            transient=True,
            disable=console is None or not console.is_terminal,
            refresh_per_second=2,
        )
        self.all = self.bars.add_task("starting", total=None)
        self.tasks: dict[Job, tuple[TaskID, float]] = {}
        self.seconds: dict[object, list[float]] = defaultdict(list)

    def __enter__(self) -> Self:
        """Start the display."""
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bars from the terminal."""
        self.bars.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning of a run, or issue it if the display is silent."""
        if self.console.quiet:
            warnings.warn(text, LraWarning, stacklevel=2)
        self.say(text)

    def started(self, grid: Grid, job: Job) -> None:
        """Show a job that has started."""
        task = self.bars.add_task(_title(grid, job), total=1.0)
        self.tasks[job] = task, time.monotonic()

    def progress(self, job: Job, share: float) -> None:
        """Show the share of a job that is done, from 0 to 1."""
        self.bars.update(self.tasks[job][0], completed=share)

    def ended(self, schedule: Schedule, job: Job, outcome: Outcome | None, jobs: int) -> None:
        """Show that a job has ended, here or, without an outcome, elsewhere."""
        task, began = self.tasks.pop(job)
        self.bars.remove_task(task)
        if outcome is None:
            return
        seconds, trial = time.monotonic() - began, job.seed is None
        if outcome.state in ("done", "diverged"):
            for group in _groups(schedule.grid, job.experiment, trial):
                self.seconds[group].append(seconds)
        counts = list(schedule.counts())
        done, total = sum(count[2] for count in counts), sum(count[3] for count in counts)
        left = self._time_left(schedule.grid, counts, jobs)
        text = f"{done} of {total}{left}"
        self.bars.update(self.all, total=total, completed=done, description=text)
        if not self.console.is_terminal or outcome.state != "done":
            self.say(
                f"{done}/{total}  {_title(schedule.grid, job)}: {_outcome_text(outcome)}, "
                f"{_duration(seconds)}{left}"
            )

    def _time_left(self, grid: Grid, counts: Iterable[Count], jobs: int) -> str:
        """Estimate the time left from finished jobs of the same rule or the same network."""
        left = 0.0
        for i, trials, done, total in counts:
            known = (self.seconds.get(group) for group in _groups(grid, i, trials))
            seconds = next(filter(None, known), [0.0])
            left += (total - done) * sum(seconds) / len(seconds)
        return f"; about {_duration(left / jobs)} left" if left else ""


def _groups(grid: Grid, experiment: int, trial: bool) -> tuple[object, ...]:
    """Return the groups of jobs that take about as long, from the most to the least similar."""
    return (experiment, trial), (str(grid.experiments[experiment].problem), trial), None


def _title(grid: Grid, job: Job) -> str:
    what = "a trial" if job.seed is None else f"seed {job.seed}"
    return f"{grid.experiments[job.experiment]}, {what}"


def _outcome_text(outcome: Outcome) -> str:
    if outcome.result is None:
        return f"{outcome.state} ({outcome.reason})" if outcome.state != "diverged" else "diverged"
    accuracy, loss = (outcome.result[f"validation_{what}"] for what in ("accuracy", "loss"))
    if accuracy is None:
        return "done"
    return f"validation {accuracy:.2f} %, loss {loss:.4f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
