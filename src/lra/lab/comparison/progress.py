"""The progress of a comparison: a live display on a terminal, plain lines elsewhere."""

import time
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lra.lab.comparison.schedule import Schedule
from lra.lab.comparison.worker import Worker

REFRESH_SECONDS = 0.5
"""Interval at which the live display is refreshed."""


class Display:
    """Shows the number of finished jobs, the running jobs and the estimated time left.

    Args:
        console: the console to print on.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self.refreshed = 0.0
        self.seconds: dict[tuple[object, bool], list[float]] = defaultdict(list)

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def ended(self, schedule: Schedule, worker: Worker, jobs: int) -> None:
        """Record and print the outcome of a job that has ended."""
        assert worker.outcome is not None
        experiment = schedule.grid.experiments[worker.job.experiment]
        seconds = time.monotonic() - worker.began
        state = worker.outcome.state
        if state in ("done", "diverged"):
            for group in (worker.job.experiment, str(experiment.problem)):
                self.seconds[group, worker.job.seed is None].append(seconds)
        if self.console.is_terminal and state == "done":
            return
        what = "a trial" if worker.job.seed is None else f"seed {worker.job.seed}"
        done, total = self._count(schedule)
        self.say(
            f"{done}/{total}  {experiment}, {what}: {_outcome_text(worker)}, {_duration(seconds)}"
            f"{self._time_left(schedule, [], jobs)}"
        )

    def show(self, schedule: Schedule, workers: Sequence[Worker], jobs: int) -> None:
        """Refresh the live display, if the console is a terminal."""
        if not self.console.is_terminal or time.monotonic() - self.refreshed < REFRESH_SECONDS:
            return
        self.refreshed = time.monotonic()
        if self.live is None:
            self.live = Live(console=self.console, transient=True, auto_refresh=False)
            self.live.start()
        done, total = self._count(schedule)
        rows = Table.grid(padding=(0, 1))
        left = self._time_left(schedule, workers, jobs)
        rows.add_row(ProgressBar(total, done, width=30), Text(f"{done} of {total}{left}"))
        for worker in workers:
            experiment = schedule.grid.experiments[worker.job.experiment]
            what = "trial" if worker.job.seed is None else f"seed {worker.job.seed}"
            bar = ProgressBar(1.0, worker.share or 0.0, width=30)
            rows.add_row(bar, Text(f"{experiment}, {what}"))
        self.live.update(Group(rows), refresh=True)

    def close(self) -> None:
        """Remove the live display from the terminal."""
        if self.live:
            self.live.stop()
            self.live = None

    def _count(self, schedule: Schedule) -> tuple[int, int]:
        """Return the numbers of finished jobs and of all jobs, without those of refused rules."""
        total = sum(
            experiment.trials + schedule.grid.seeds
            for i, experiment in enumerate(schedule.grid.experiments)
            if schedule.refusal(i) is None
        )
        return total - sum(count for *_, count in schedule.remaining()), total

    def _time_left(self, schedule: Schedule, workers: Sequence[Worker], jobs: int) -> str:
        """Estimate the time left from finished jobs of the same rule or the same network."""
        known = [s for seconds in self.seconds.values() for s in seconds]
        if not known:  # extrapolate the running jobs
            now = time.monotonic()
            known = [(now - w.began) / w.share for w in workers if w.share and w.share > 0.02]
        if not known:
            return ""
        total = 0.0
        for i, of_trials, count in schedule.remaining():
            groups = (i, str(schedule.grid.experiments[i].problem))
            similar = (self.seconds.get((group, of_trials)) for group in groups)
            durations = next((seconds for seconds in similar if seconds), known)
            total += count * sum(durations) / len(durations)
        total -= sum(time.monotonic() - worker.began for worker in workers)
        return f"; about {_duration(max(total, 0.0) / jobs)} left"


def _outcome_text(worker: Worker) -> str:
    outcome = worker.outcome
    assert outcome is not None
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
