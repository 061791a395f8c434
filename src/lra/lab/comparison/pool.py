"""A pool of threads, each of which runs one job of a comparison at a time, in a new process."""

import _thread
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lra.errors import LraError, RunError
from lra.lab.comparison.grid import Grid
from lra.lab.comparison.job import Job, execute
from lra.lab.comparison.progress import Display
from lra.lab.comparison.schedule import Schedule
from lra.lab.comparison.store import Outcome
from lra.lab.training.loop import Interrupted
from lra.lab.training.stop import Stop

MAX_DEATHS = 3
"""Number of times that a job's process may die before the job counts as failed."""
POLL_SECONDS = 0.2
"""Interval at which signals and the jobs of other machines are checked."""

START_METHOD = "forkserver" if os.name == "posix" else "spawn"
"""How a process starts: forked from a server that has loaded torch, it starts at once."""

_START = threading.Lock()
"""Held while a process starts or is joined, neither of which two threads may do at once."""


class Stopped(Interrupted):
    """Raised when a signal ended a comparison; the same command resumes it."""

    def __init__(self, number: int) -> None:
        LraError.__init__(self, "stopped; run the same command again to resume")
        self.signal = number


class Pool:
    """The worker processes of this machine.

    Each job has its own process, so that its peak memory is its own and its crash affects no other
    job. The processes do not import the caller's `__main__`, and end if this process ends.

    Args:
        grid: the grid of the comparison.
        out: the comparison's folder.
        jobs: the number of parallel processes.
        display: shows the progress.
    """

    def __init__(self, grid: Grid, out: Path, jobs: int, display: Display) -> None:
        self.grid, self.out, self.jobs, self.display = grid, out, jobs, display
        self.schedule = Schedule(grid, out)
        self.connections: set[Connection] = set()
        self.stopping = False
        self.context: Any = multiprocessing.get_context(START_METHOD)
        if START_METHOD == "forkserver":
            self.context.set_forkserver_preload([execute.__module__])

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
        running: dict[Future[Outcome | None], Job] = {}
        with stop.listening(), self.display, ThreadPoolExecutor(self.jobs) as threads:
            try:
                while not stop.signal:
                    while len(running) < self.jobs and (
                        job := self.schedule.next(running.values())
                    ):
                        running[threads.submit(self._run, job)] = job
                    if not running:
                        if self.schedule.finished():
                            return self.schedule
                        time.sleep(POLL_SECONDS)
                    done, _ = concurrent.futures.wait(
                        running, POLL_SECONDS, concurrent.futures.FIRST_COMPLETED
                    )
                    for future in done:
                        job, outcome = running.pop(future), future.result()
                        self.schedule.ended(job, outcome)
                        self.display.ended(self.schedule, job, outcome, self.jobs)
            finally:
                self._stop()
        assert stop.signal is not None
        raise Stopped(stop.signal)

    def _stop(self) -> None:
        """Stop the running processes, which save their runs."""
        with _START:
            self.stopping = True
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.send("stop")

    def _run(self, job: Job) -> Outcome | None:
        """Run a job, again if its process dies, and return its outcome if there is one."""
        self.display.started(self.grid, job)
        for _ in range(MAX_DEATHS):
            kind, what = self._run_once(job)
            if kind == "fatal error":
                raise RunError(what)
            if kind == "outcome" or self.stopping:
                return what if kind == "outcome" else None
        reason = f"its process died {MAX_DEATHS} times, the last time with exit code {what}"
        store, name = self.schedule.store, job.name(self.grid)
        with store.claim(name) as claimed:
            if not claimed:
                return None
            store.record(name, Outcome("failed", reason))
        return store.outcome(name)

    def _run_once(self, job: Job) -> tuple[str, Any]:
        """Run a job in a new process.

        Returns:
            "outcome" with the outcome, "fatal error" with a message, or "died" with the exit code.
        """
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_process, args=(self.grid, self.out, job, theirs))
        result: tuple[str, Any] | None = None
        with contextlib.closing(ours):
            with _START, _without_main():
                if self.stopping:
                    return "died", None
                process.start()
                self.connections.add(ours)
            theirs.close()
            try:
                while True:
                    kind, what = ours.recv()
                    if kind == "progress":
                        self.display.progress(job, what)
                    elif kind == "warning":
                        self.display.warn(f"{self.grid.experiments[job.experiment]}: {what}")
                    else:
                        result = kind, what
            except (EOFError, OSError):  # the process has ended
                with _START:
                    process.join()
                    self.connections.remove(ours)
        return result or ("died", process.exitcode)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the module `__main__`, which a new process would import, and so run a script again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _process(grid: Grid, out: Path, job: Job, connection: Connection) -> None:
    """Run a job in a worker process."""
    import torch

    if hasattr(os, "setsid"):
        os.setsid()  # so that the terminal sends Ctrl-C to the main process only
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
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
    try:
        threading.Thread(target=listen, daemon=True).start()
        send("outcome", execute(grid, out, job, lambda share: send("progress", share)))
    except (Interrupted, KeyboardInterrupt):
        pass
    except LraError as error:
        send("fatal error", str(error))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
