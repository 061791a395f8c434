"""A run's diagnoses: the table diagnose.csv, which is appended to during training."""

import csv
import io
import os
from pathlib import Path
from typing import Any

from lra.errors import OptionError, RunError
from lra.lab.runs import files
from lra.lab.runs.atomic import write_atomically, write_error
from lra.lab.runs.display import Reporter
from lra.torch.diagnose import COLUMNS as LAYER_COLUMNS
from lra.torch.diagnose import Diagnosis, as_table

COLUMNS = ("epoch", "step", *LAYER_COLUMNS)
"""The columns: the epoch, from 1; the number of finished steps of the run; and those of a layer."""

_TEXT_COLUMNS = frozenset({"layer", "kind", "type", "arrival"})
_INTEGER_COLUMNS = frozenset({"epoch", "step", "calls"})

Row = dict[str, Any]
"""The diagnosis of one layer at one step, by column."""


def read(folder: Path) -> list[Row]:
    """Read the diagnoses of a run, ordered by step and layer.

    Raises:
        RunError: the run has none, or the file is not such a table.
    """
    path = folder / files.DIAGNOSES
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} has no {files.DIAGNOSES}: train with --diagnose N to diagnose every N steps"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    complete, _, _ = text.rpartition("\n")  # a killed run may have left half a line
    lines = csv.reader(io.StringIO(complete))
    if tuple(next(lines, ())) != COLUMNS:
        raise RunError(f"{path} is not a table of diagnoses: its first line is not the header")
    try:
        return [
            {name: _parse(name, cell) for name, cell in zip(COLUMNS, line, strict=True)}
            for line in lines
        ]
    except ValueError as error:
        raise RunError(f"{path}: line {lines.line_num} cannot be parsed ({error})") from error


def read_any(folder: Path) -> list[Row]:
    """Read the diagnoses of a run as `read` does.

    Raises:
        RunError: also if there is no row yet.
    """
    rows = read(folder)
    if not rows:
        raise RunError("there is no diagnosis yet: the run has only begun")
    return rows


def _parse(name: str, cell: str) -> Any:
    if name in _TEXT_COLUMNS:
        return cell
    if name in _INTEGER_COLUMNS:
        return int(cell)
    return float(cell) if cell else None


def _format(rows: list[Row]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(rows)
    return text.getvalue()


class DiagnosesReporter(Reporter):
    """Writes each diagnosis to diagnose.csv.

    Args:
        folder: the run's folder.
        done: the number of finished steps. Later rows of an earlier session are dropped, since
            those steps are repeated.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self.path = folder / files.DIAGNOSES
        self.rows: list[Row] = []
        if self.path.exists() and done:
            self.rows = [row for row in read(folder) if row["step"] < done]

    def start(self, description: str, epochs: int, steps: int, text: bool) -> None:
        """Write the header and the rows of earlier sessions."""
        header = ",".join(COLUMNS) + "\n"
        write_atomically(self.path, (header + _format(self.rows)).encode())

    def diagnosis(self, epoch: int, step: int, diagnosis: Diagnosis) -> None:
        """Append the rows of a diagnosis."""
        new = [{"epoch": epoch, "step": step} | row for row in diagnosis.rows()]
        self.rows += new
        try:
            with self.path.open("ab") as file:
                file.write(_format(new).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from error


def table(rows: list[Row], step: int | None = None) -> str:
    """Format the diagnosis at a step as text, by default the last one.

    Raises:
        OptionError: there is no diagnosis at that step.
    """
    steps = sorted({row["step"] for row in rows})
    step = steps[-1] if step is None else step
    if step not in steps:
        some = ", ".join(map(str, steps[:5])) + (f", ... {steps[-1]}" if len(steps) > 5 else "")
        raise OptionError(f"no diagnosis at step {step}; there are diagnoses at {some}")
    selected = [row for row in rows if row["step"] == step]
    return f"step {step}, epoch {selected[0]['epoch']}\n{as_table(selected)}"


def layers(rows: list[Row]) -> list[str]:
    """Return the names of the layers in forward order."""
    return list(dict.fromkeys(row["layer"] for row in rows))
