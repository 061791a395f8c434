"""A pool of worker processes that run a comparison's jobs, one thread each."""

import _thread
import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
import warnings
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from lra.errors import LraError, RunError
from lra.lab.comparison.grid import Grid
from lra.lab.comparison.job import Job, execute
from lra.lab.comparison.progress import Display
from lra.lab.comparison.schedule import Schedule
from lra.lab.comparison.store import Outcome
from lra.lab.comparison.worker import Worker
from lra.lab.training.loop import Interrupted
from lra.lab.training.stop import Stop

MAX_CRASHES = 3
"""Number of times that a job's process may die before the job counts as failed."""
POLL_SECONDS = 0.2
"""Interval at which signals and the jobs of other machines are checked."""


class Stopped(Interrupted):
    """Raised when a signal ended a comparison; the same command resumes it."""

    def __init__(self, number: int) -> None:
        LraError.__init__(self, "stopped; run the same command again to resume")
        self.signal = number


class Pool:
    """The worker processes of this machine.

    Args:
        grid: the grid of the comparison.
        out: the comparison's folder.
        jobs: the number of parallel processes.
        display: shows the progress.
    """

    def __init__(self, grid: Grid, out: Path, jobs: int, display: Display) -> None:
        self.grid, self.out, self.jobs, self.display = grid, out, jobs, display
        self.schedule = Schedule(grid, out)
        self.workers: list[Worker] = []
        self.crashes: dict[Job, int] = {}
        method = "forkserver" if os.name == "posix" else "spawn"
        self.context = multiprocessing.get_context(method)
        if os.name == "posix":
            preload = ["lra.lab.comparison.job"]
            if self.schedule.studies:
                preload.append("lra.lab.comparison.search")
            self.context.set_forkserver_preload(preload)

    def work(self) -> Schedule:
        """Run all jobs, together with other machines that share the folder.

        Returns:
            The schedule with all outcomes.

        Raises:
            Stopped: after Ctrl-C or SIGTERM; every run has a checkpoint.
            RunError: if a job meets an error that ends the whole comparison.
        """
        self.schedule.store.forget_refusals()
        stop = Stop()
        with stop.listening(), contextlib.closing(self.display):
            try:
                while not stop.signal:
                    self._start()
                    if not self.workers and self.schedule.finished():
                        return self.schedule
                    self._receive(POLL_SECONDS)
                    self.display.show(self.schedule, self.workers, self.jobs)
            finally:
                self._end()
        assert stop.signal is not None
        raise Stopped(stop.signal)

    def _start(self) -> None:
        """Start free jobs until all worker slots are taken."""
        while len(self.workers) < self.jobs:
            beginning = [w.job for w in self.workers if w.job.seed is None and w.share is None]
            job = self.schedule.next([w.job for w in self.workers], beginning)
            if job is None:
                return
            ours, theirs = self.context.Pipe()
            process = self.context.Process(  # type: ignore[attr-defined]
                target=_process, args=(self.grid, self.out, job, theirs)
            )
            process.start()
            theirs.close()
            self.workers.append(Worker(job, process, ours))

    def _receive(self, seconds: float) -> None:
        """Wait for messages from workers, and reap those that have ended."""
        if not self.workers:
            time.sleep(seconds)
        ready = wait([w.connection for w in self.workers], seconds)
        for worker in [w for w in self.workers if w.connection in ready]:
            try:
                while worker.connection.poll():
                    self._handle(worker, *worker.connection.recv())
            except (EOFError, OSError):
                self._reap(worker)

    def _handle(self, worker: Worker, kind: str, what: Any) -> None:
        match kind:
            case "progress":
                worker.share = what
            case "warning":
                self.display.say(f"{self.grid.experiments[worker.job.experiment]}: {what}")
            case "outcome":
                worker.outcome, worker.finished = what, True
            case "fatal error":
                worker.fatal_error = what

    def _reap(self, worker: Worker) -> None:
        """Remove a worker that has ended; record its job as failed after `MAX_CRASHES` deaths."""
        worker.process.join()
        worker.connection.close()
        self.workers.remove(worker)
        self.schedule.retry_now()
        if worker.fatal_error is not None:
            raise RunError(worker.fatal_error)
        if worker.finished:
            if worker.outcome is not None:
                self.display.ended(self.schedule, worker, self.jobs)
            return
        job = worker.job
        self.crashes[job] = self.crashes.get(job, 0) + 1
        if self.crashes[job] == MAX_CRASHES:
            code = worker.process.exitcode
            reason = f"its process died {MAX_CRASHES} times, the last time with exit code {code}"
            experiment = self.grid.experiments[job.experiment]
            name = (
                experiment.key if job.seed is None else self.schedule.name(job.experiment, job.seed)
            )
            self.schedule.store.record(name, Outcome("failed", reason))

    def _end(self) -> None:
        """Stop the workers, and wait until they have saved their runs."""
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.connection.send("stop")
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()
        self.workers.clear()


def _process(grid: Grid, out: Path, job: Job, connection: Connection) -> None:
    """Run a job in a worker process."""
    import torch

    if hasattr(os, "setsid"):
        os.setsid()  # so that the terminal sends Ctrl-C to the main process only
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    lock = threading.Lock()

    def send(kind: str, what: Any) -> None:
        with lock, contextlib.suppress(OSError):  # the main process has ended
            connection.send((kind, what))

    def listen() -> None:
        """Interrupt this process when the main process sends a message or ends."""
        with contextlib.suppress(EOFError, OSError):
            connection.recv()
        _thread.interrupt_main()

    warnings.showwarning = lambda message, *_, **__: send("warning", str(message))
    threading.Thread(target=listen, daemon=True).start()
    try:
        send("outcome", execute(grid, out, job, lambda share: send("progress", share)))
    except (Interrupted, KeyboardInterrupt):
        pass
    except LraError as error:
        send("fatal error", str(error))
