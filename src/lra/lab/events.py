"""A run's TensorBoard log."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

from lra.lab.runs import COLUMNS

Log = Callable[[dict[str, Any]], None]
"""Adds an epoch's figures."""


@contextlib.contextmanager
def logging(
    folder: Path, rows: list[dict[str, Any]], trouble: Callable[[str], None]
) -> Iterator[Log]:
    """Open a new log with the epochs so far; a killed run's may lack its last.

    Args:
        folder: the run's folder.
        rows: the figures of the epochs so far.
        trouble: hears of a log that cannot be closed.
    """
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = SummaryWriter(str(folder))

    def log(row: dict[str, Any]) -> None:
        for column in COLUMNS[1:]:
            if row[column] is not None:
                writer.add_scalar(column, row[column], row["epoch"])

    try:
        for row in rows:
            log(row)
        yield log
    finally:
        try:
            writer.close()
        except OSError as error:  # a full disk must not hide the error that came before
            trouble(f"the TensorBoard log is not complete: {error}")
