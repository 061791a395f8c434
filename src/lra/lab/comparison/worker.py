"""The state of one worker process of a comparison."""

import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from lra.lab.comparison.job import Job
from lra.lab.comparison.store import Outcome


@dataclass
class Worker:
    """A process that runs a job.

    Attributes:
        job: the job.
        process: the process.
        connection: the pipe over which it reports.
        began: its start time, by `time.monotonic`.
        share: the share of the job that is done, from 0 to 1, or None before the first step.
        outcome: the outcome, if there is one.
        finished: whether the worker reported that the job is over.
        fatal_error: the message of an error that ends the whole comparison.
    """

    job: Job
    process: Any
    connection: Connection
    began: float = field(default_factory=time.monotonic)
    share: float | None = None
    outcome: Outcome | None = None
    finished: bool = False
    fatal_error: str | None = None
