"""The one way to write a file: aside, flushed, and renamed, so that it is whole at any moment."""

import contextlib
import errno
import os
import time
import uuid
from pathlib import Path

from lra.errors import RunError

ABANDONED = 3600.0
"""Seconds after which what was written aside, and never renamed, is a killed process's."""


def put(path: Path, content: bytes) -> None:
    """Write a file so that at any moment either the old or the new content is there, whole.

    What processes that were killed left aside of it is removed.

    Raises:
        OSError: where the disk is full or refuses.
    """
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        flush_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
    remove_leftovers(path, ABANDONED)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a run's file, as `put`.

    Raises:
        RunError: where the disk is full or refuses.
    """
    try:
        put(path, content)
    except OSError as error:
        raise refused(path, error) from error


def remove_leftovers(path: Path, age: float = 0.0) -> None:
    """Remove what was written aside of a file and never renamed, if it is so many seconds old."""
    for aside in path.parent.glob(f"{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - aside.stat().st_mtime >= age:
                aside.unlink()


def refused(path: Path, error: OSError) -> RunError:
    """Build the error for a file of a run that cannot be written."""
    full = "the disk is full; free some space, then lra train --resume goes on"
    why = full if error.errno == errno.ENOSPC else str(error)
    return RunError(f"cannot write {path}: {why}")


def flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system lets folders be flushed."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
