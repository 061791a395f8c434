"""A lock on a run's folder. The operating system releases it when the process ends."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from lra.errors import RunError

NAME = ".lock"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Lock a run's folder. A killed process leaves an empty file but no lock.

    Raises:
        RunError: another process holds the lock, or the folder cannot be locked.
    """
    lock = filelock.FileLock(folder / NAME, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RunError(
            f"{folder} is in use: another process is training in it. Wait until it has finished, "
            "stop it, or choose another folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise RunError(f"{folder} cannot be locked: {error}") from error
    try:
        yield
    finally:
        lock.release()
