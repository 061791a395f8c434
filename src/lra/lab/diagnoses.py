"""A run's diagnoses: the table diagnose.csv, which grows as the run goes and outlives its stops."""

import csv
import io
import os
from pathlib import Path
from typing import Any

from lra.errors import OptionError, RunError
from lra.lab import runs
from lra.lab.atomic import refused, write_atomically
from lra.lab.display import Reporter
from lra.torch.diagnose import COLUMNS as OF_A_LAYER
from lra.torch.diagnose import Diagnosis, as_table

COLUMNS = ("epoch", "step", *OF_A_LAYER)
"""The columns: the epoch, from 1; the steps of the run that were done before; and a layer's."""

_TEXTS = frozenset({"layer", "kind", "type", "arrival"})
_WHOLE = frozenset({"epoch", "step", "calls"})

Row = dict[str, Any]


def read(folder: Path) -> list[Row]:
    """Read what a run's diagnoses found, in the order of the steps and of the layers.

    Raises:
        RunError: where there are none, or the file is no such table.
    """
    path = folder / runs.DIAGNOSES
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} has no {runs.DIAGNOSES}: train with --diagnose N to diagnose every N steps"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    whole, _, _ = text.rpartition("\n")  # a killed run may have left half a line
    lines = csv.reader(io.StringIO(whole))
    if tuple(next(lines, ())) != COLUMNS:
        raise RunError(f"{path} is no table of diagnoses: its first line is another")
    try:
        return [
            {name: _value(name, cell) for name, cell in zip(COLUMNS, line, strict=True)}
            for line in lines
        ]
    except ValueError as error:
        raise RunError(f"{path}: line {lines.line_num} cannot be understood ({error})") from error


def _value(name: str, cell: str) -> Any:
    if name in _TEXTS:
        return cell
    if name in _WHOLE:
        return int(cell)
    return float(cell) if cell else None


def _lines(rows: list[Row]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(rows)
    return text.getvalue()


class DiagnosesReporter(Reporter):
    """Writes diagnose.csv: each diagnosis when it is heard.

    Args:
        folder: the run's folder.
        done: how many steps of the run are done; what an earlier go found after them comes again.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self.path = folder / runs.DIAGNOSES
        self.rows: list[Row] = []
        if self.path.exists() and done:
            self.rows = [row for row in read(folder) if row["step"] < done]

    def start(self, what: str, epochs: int, steps: int, text: bool) -> None:
        """Write what was found before."""
        header = ",".join(COLUMNS) + "\n"
        write_atomically(self.path, (header + _lines(self.rows)).encode())

    def diagnosis(self, epoch: int, step: int, found: Diagnosis) -> None:
        """Add the rows of a diagnosis."""
        new = [{"epoch": epoch, "step": step} | row for row in found.rows()]
        self.rows += new
        try:
            with self.path.open("ab") as file:
                file.write(_lines(new).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise refused(self.path, error) from error


def table(rows: list[Row], step: int | None = None) -> str:
    """Write one diagnosis of a run as text: that at a step, or the last.

    Raises:
        OptionError: where there is none at that step.
        RunError: where there is none at all.
    """
    steps = sorted({row["step"] for row in rows})
    if not steps:
        raise RunError("there is no diagnosis yet: the run has only begun")
    step = steps[-1] if step is None else step
    if step not in steps:
        some = ", ".join(map(str, steps[:5])) + (f", ... {steps[-1]}" if len(steps) > 5 else "")
        raise OptionError(f"no diagnosis at step {step}; there are some at {some}")
    found = [row for row in rows if row["step"] == step]
    return f"step {step}, epoch {found[0]['epoch']}\n{as_table(found)}"


def layers(rows: list[Row]) -> list[str]:
    """Name the layers in forward order."""
    return list(dict.fromkeys(row["layer"] for row in rows))
