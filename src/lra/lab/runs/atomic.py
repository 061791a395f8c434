"""Atomic file writes: write to a temporary file, flush it, and rename it."""

import contextlib
import errno
import os
import time
import uuid
from pathlib import Path

from lra.errors import RunError

STALE_SECONDS = 3600.0
"""The age in seconds from which a temporary file counts as left by a killed process."""


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically: it holds the old or the new content at any time, never a part.

    Stale temporary files of the same path are removed.

    Raises:
        OSError: the disk is full or refuses the write.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    remove_leftovers(path, STALE_SECONDS)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file of a run by `replace_file`.

    Raises:
        RunError: the disk is full or refuses the write.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        raise write_error(path, error) from error


def remove_leftovers(path: Path, age: float = 0.0) -> None:
    """Remove temporary files of a path that are at least `age` seconds old."""
    for temporary in path.parent.glob(f"{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - temporary.stat().st_mtime >= age:
                temporary.unlink()


def write_error(path: Path, error: OSError) -> RunError:
    """Build the error for a file of a run that cannot be written."""
    full = "the disk is full; free some space, then continue with lra train --resume"
    reason = full if error.errno == errno.ENOSPC else str(error)
    return RunError(f"cannot write {path}: {reason}")


def flush_folder(folder: Path) -> None:
    """Flush a folder on POSIX systems, so that a rename in it survives a power failure."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
