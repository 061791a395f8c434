"""Opening of a user's files, with a limit on their size."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from lra.errors import DataError

MAX_BYTES = 8 * 2**30
"""The largest file, and the largest unpacked content of one, that are accepted."""


def open_file(path: Path, most: int = MAX_BYTES) -> BinaryIO:
    """Open a regular file of at most `most` bytes.

    Raises:
        DataError: there is no such file, or it is too large or cannot be read.
    """
    try:
        if not path.exists():
            problem = f"there is no such file; the path is relative to {Path.cwd()}"
        elif not path.is_file():  # opening a pipe would wait
            problem = "it is not a file"
        elif path.stat().st_size > most:
            problem = f"it has more than {most:,} bytes"
        else:
            return path.open("rb")
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    raise DataError(f"{path}: {problem}. Remedy: check the path and the file")
