"""How far a comparison is: a live display on a terminal, plain lines elsewhere."""

import time
from collections import defaultdict
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lra.lab.compare.schedule import Schedule
from lra.lab.compare.worker import Worker

EVERY = 0.5
"""Seconds between two pictures."""


class Display:
    """Shows how many jobs are done, which are under way, and how long the rest may take."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self.shown = 0.0
        self.seconds: dict[tuple[object, bool], list[float]] = defaultdict(list)

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def ended(self, schedule: Schedule, worker: Worker, jobs: int) -> None:
        """Hear that a job has ended, and how."""
        assert worker.outcome is not None
        contest = schedule.grid.contests[worker.job.contest]
        seconds = time.monotonic() - worker.began
        state = worker.outcome.state
        if state in ("done", "diverged"):
            for kind in (worker.job.contest, str(contest.problem)):
                self.seconds[kind, worker.job.seed is None].append(seconds)
        if self.console.is_terminal and state == "done":
            return
        what = "a trial" if worker.job.seed is None else f"seed {worker.job.seed}"
        done, total = self._count(schedule)
        self.say(
            f"{done}/{total}  {contest}, {what}: {_shown(worker)}, {_time(seconds)}"
            f"{self._left(schedule, [], jobs)}"
        )

    def show(self, schedule: Schedule, workers: Sequence[Worker], jobs: int) -> None:
        """Show how far things are."""
        if not self.console.is_terminal or time.monotonic() - self.shown < EVERY:
            return
        self.shown = time.monotonic()
        if self.live is None:
            self.live = Live(console=self.console, transient=True, auto_refresh=False)
            self.live.start()
        done, total = self._count(schedule)
        rows = Table.grid(padding=(0, 1))
        left = self._left(schedule, workers, jobs)
        rows.add_row(ProgressBar(total, done, width=30), Text(f"{done} of {total}{left}"))
        for worker in workers:
            contest = schedule.grid.contests[worker.job.contest]
            what = "trial" if worker.job.seed is None else f"seed {worker.job.seed}"
            bar = ProgressBar(1.0, worker.share or 0.0, width=30)
            rows.add_row(bar, Text(f"{contest}, {what}"))
        self.live.update(Group(rows), refresh=True)

    def close(self) -> None:
        """Take the display off the screen."""
        if self.live:
            self.live.stop()
            self.live = None

    def _count(self, schedule: Schedule) -> tuple[int, int]:
        """Count the jobs that are done, and all of them; a refused rule has none."""
        total = sum(
            contest.trials + schedule.grid.seeds
            for i, contest in enumerate(schedule.grid.contests)
            if schedule.refusal(i) is None
        )
        return total - sum(count for *_, count in schedule.left()), total

    def _left(self, schedule: Schedule, workers: Sequence[Worker], jobs: int) -> str:
        """Estimate the time left from how long the rule's jobs took, or others' on the network."""
        known = [s for seconds in self.seconds.values() for s in seconds]
        if not known:  # what is under way tells something
            now = time.monotonic()
            known = [(now - w.began) / w.share for w in workers if w.share and w.share > 0.02]
        if not known:
            return ""
        total = 0.0
        for i, of_trials, count in schedule.left():
            kinds = (i, str(schedule.grid.contests[i].problem))
            alike = (self.seconds.get((kind, of_trials)) for kind in kinds)
            own = next((seconds for seconds in alike if seconds), known)
            total += count * sum(own) / len(own)
        total -= sum(time.monotonic() - worker.began for worker in workers)
        return f"; about {_time(max(total, 0.0) / jobs)} left"


def _shown(worker: Worker) -> str:
    outcome = worker.outcome
    assert outcome is not None
    if outcome.result is None:
        return f"{outcome.state} ({outcome.reason})" if outcome.state != "diverged" else "diverged"
    accuracy, loss = (outcome.result[f"validation_{what}"] for what in ("accuracy", "loss"))
    if accuracy is None:
        return "done"
    return f"validation {accuracy:.2f} %, loss {loss:.4f}"


def _time(seconds: float) -> str:
    """Write a duration."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
