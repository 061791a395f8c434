"""The record that a comparison keeps of each of its worker processes."""

import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from lra.lab.compare.job import Job
from lra.lab.compare.store import Outcome


@dataclass
class Worker:
    """A process that runs a job.

    Attributes:
        job: what it runs.
        process: the process.
        connection: the pipe over which it reports.
        began: when it started, by `time.monotonic`.
        share: the part of the job that is done, from 0 to 1.
        outcome: the result, where there is one.
        said: whether the worker reported its end.
        trouble: the message of an error that stops the whole comparison.
    """

    job: Job
    process: Any
    connection: Connection
    began: float = field(default_factory=time.monotonic)
    share: float | None = None
    outcome: Outcome | None = None
    said: bool = False
    trouble: str | None = None
