"""Processes that do a comparison's jobs: as many at once as asked for, one thread each."""

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
from lra.lab.compare.grid import Grid
from lra.lab.compare.job import Job, execute
from lra.lab.compare.progress import Display
from lra.lab.compare.schedule import Schedule
from lra.lab.compare.store import Outcome
from lra.lab.compare.worker import Worker
from lra.lab.stop import Stop
from lra.lab.training import Interrupted

DEATHS = 3
"""How often the process of a job may be killed before the job is given up."""
LOOK = 0.2
"""Seconds between looks at what others do, and at signals."""


class Stopped(Interrupted):
    """A comparison that a signal ended; the same command goes on."""

    def __init__(self, number: int) -> None:
        LraError.__init__(self, "stopped; the same command again goes on")
        self.signal = number


class Pool:
    """The processes of this machine.

    Args:
        grid: what is compared.
        out: the comparison's folder.
        jobs: how many processes at once.
        display: shows how far they are.
    """

    def __init__(self, grid: Grid, out: Path, jobs: int, display: Display) -> None:
        self.grid, self.out, self.jobs, self.display = grid, out, jobs, display
        self.schedule = Schedule(grid, out)
        self.workers: list[Worker] = []
        self.deaths: dict[Job, int] = {}
        portable = "forkserver" if os.name == "posix" else "spawn"
        self.context = multiprocessing.get_context(portable)
        if os.name == "posix":
            preload = ["lra.lab.compare.job"]
            if self.schedule.studies:
                preload.append("lra.lab.compare.search")
            self.context.set_forkserver_preload(preload)

    def work(self) -> Schedule:
        """Do all jobs, with others who share the folder; gives what became of them.

        Raises:
            Stopped: after Ctrl-C or SIGTERM; every run has a checkpoint.
            RunError: where a job says that none can go on.
        """
        self.schedule.store.forget_refusals()
        stop = Stop()
        with stop.listening(), contextlib.closing(self.display):
            try:
                while not stop.signal:
                    self._start()
                    if not self.workers and self.schedule.finished():
                        return self.schedule
                    self._hear(LOOK)
                    self.display.show(self.schedule, self.workers, self.jobs)
            finally:
                self._end()
        assert stop.signal is not None
        raise Stopped(stop.signal)

    def _start(self) -> None:
        """Start jobs that nobody is at, as long as there is room."""
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

    def _hear(self, seconds: float) -> None:
        """Wait for news from workers, and see who has ended."""
        if not self.workers:
            time.sleep(seconds)
        ready = wait([w.connection for w in self.workers], seconds)
        for worker in [w for w in self.workers if w.connection in ready]:
            try:
                while worker.connection.poll():
                    self._note(worker, *worker.connection.recv())
            except (EOFError, OSError):
                self._bury(worker)

    def _note(self, worker: Worker, kind: str, what: Any) -> None:
        match kind:
            case "share":
                worker.share = what
            case "note":
                self.display.say(f"{self.grid.contests[worker.job.contest]}: {what}")
            case "end":
                worker.outcome, worker.said = what, True
            case "trouble":
                worker.trouble = what

    def _bury(self, worker: Worker) -> None:
        """See what a worker that has ended leaves."""
        worker.process.join()
        worker.connection.close()
        self.workers.remove(worker)
        self.schedule.look_again()
        if worker.trouble is not None:
            raise RunError(worker.trouble)
        if worker.said:
            if worker.outcome is not None:
                self.display.ended(self.schedule, worker, self.jobs)
            return
        job = worker.job
        self.deaths[job] = self.deaths.get(job, 0) + 1
        if self.deaths[job] == DEATHS:
            how = worker.process.exitcode
            reason = f"its process ended {DEATHS} times before the run did, the last time by {how}"
            contest = self.grid.contests[job.contest]
            name = contest.key if job.seed is None else self.schedule.name(job.contest, job.seed)
            self.schedule.store.record(name, Outcome("failed", reason))

    def _end(self) -> None:
        """Ask the workers to stop, and wait until they have saved their runs."""
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.connection.send("stop")
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()
        self.workers.clear()


def _process(grid: Grid, out: Path, job: Job, connection: Connection) -> None:
    """Do a job in a process of its own."""
    import torch

    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C is the first process's to hear
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    lock = threading.Lock()

    def tell(kind: str, what: Any) -> None:
        with lock, contextlib.suppress(OSError):  # nobody listens any more
            connection.send((kind, what))

    def listen() -> None:
        """Stop at a word of the first process, or at its end."""
        with contextlib.suppress(EOFError, OSError):
            connection.recv()
        _thread.interrupt_main()

    warnings.showwarning = lambda message, *_, **__: tell("note", str(message))
    threading.Thread(target=listen, daemon=True).start()
    try:
        tell("end", execute(grid, out, job, lambda share: tell("share", share)))
    except (Interrupted, KeyboardInterrupt):
        pass
    except LraError as error:
        tell("trouble", str(error))
