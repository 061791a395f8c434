"""One process at a time works on a run: a lock of the operating system, which ends with it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from lra.errors import RunError

NAME = ".lock"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a run's folder; a process that is killed leaves an empty file, and no lock.

    Raises:
        RunError: where another process holds it, or none can.
    """
    lock = filelock.FileLock(folder / NAME, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RunError(
            f"{folder} is in use: another process trains in it. Wait for its end, stop it, or "
            "choose another folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise RunError(f"{folder} cannot be locked for this process: {error}") from error
    try:
        yield
    finally:
        lock.release()
