"""Tables in `.csv` files: a column of classes, and numbers in all other columns."""

from __future__ import annotations

import csv
import io
import itertools
import math
from array import array
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lra.errors import DataError
from lra.lab.data.arrays import build_dataset
from lra.lab.data.dataset import Dataset, Floats
from lra.lab.data.files import open_file

LABELS = ("label", "class", "target", "y")
"""Names of the column of classes, in any case. Without one of them, it is the last column."""
MAX_LINE = 2**24
"""The most characters in a line."""


class Header(NamedTuple):
    """The columns of a table: the name of the one of classes, if any, and those of the numbers."""

    label: str | None
    columns: tuple[str, ...]


class Table(NamedTuple):
    """The content of a table: its header, numbers of shape (n, columns), and class names."""

    header: Header
    x: Floats
    labels: list[str]


def load_tables(train: Path, test: Path | None, name: str) -> Dataset:
    """Load a dataset from a table, with a test set from another table of the same columns.

    Raises:
        DataError: a file cannot be read as a table, or their columns differ.
    """
    table = read_table(train)
    if test is None:
        return build_dataset(str(train), name, (table.x, table.labels, None, None))
    other = read_table(test, like=(table.header, train))
    if other.header.label is None:
        raise DataError(f"{test} has no column {table.header.label!r}. Remedy: add the classes")
    return build_dataset(str(train.parent), name, (table.x, table.labels, other.x, other.labels))


def read_header(path: Path) -> Header:
    """Read the header of a table.

    Raises:
        DataError: the file cannot be read as a table.
    """
    rows = _rows(path)
    _, names = next(rows)
    rows.close()
    return _split_header(path, names)


def read_table(
    path: Path, like: tuple[Header, Path] | None = None, size: int | None = None
) -> Table:
    """Read a table.

    Args:
        path: the file.
        like: the header of another table, and its path. Both must have the same columns, in the
            same order. The column of classes may be missing.
        size: without `like`, the number of columns of numbers; again without classes, perhaps.

    Raises:
        DataError: the file cannot be read as a table, or its columns differ.
    """
    rows = _rows(path)
    _, names = next(rows)
    header = _split_header(path, names, like[0].label if like else None, size)
    if like and header.columns != like[0].columns:
        raise DataError(
            f"{path} has other columns than {like[1]}: {_difference(header, like[0])}. Remedy: "
            "write both with the same columns in the same order"
        )
    at = names.index(header.label) if header.label is not None else None
    values, labels = array("f"), []
    for line, cells in rows:
        if len(cells) != len(names):
            raise _error(
                path,
                f"line {line} has {len(cells)} cells, and the header {len(names)}",
                "put cells that contain the separator into double quotes",
            )
        if at is not None:
            labels.append(cells.pop(at).strip())
            if not labels[-1]:
                raise _error(path, f"line {line} has no class", "fill it in, or remove the line")
        try:
            numbers = [*map(float, cells)]
            finite = math.isfinite(sum(numbers)) or all(map(math.isfinite, numbers))
        except ValueError:
            finite = False
        if not finite:
            raise _cell_error(path, line, header.columns, cells)
        values.extend(numbers)
    x = np.array(values, np.float32).reshape(-1, len(header.columns))
    classes = {label: _number(label) for label in labels}
    broken = [label for label, value in classes.items() if not value.is_integer()]
    if broken and not any(map(math.isnan, classes.values())):
        raise _error(
            path,
            f"the column of classes, {header.label!r}, holds numbers such as {broken[0]}, and "
            "classes are names or whole numbers",
            f"name the column of classes {', '.join(LABELS[:-1])} or {LABELS[-1]}, or put it last",
        )
    return Table(header, x, labels)


def _rows(path: Path) -> Generator[tuple[int, list[str]], None, None]:
    """Return the rows that are not empty, with the numbers of their last lines.

    Commas, semicolons and tabs separate cells, whichever is most frequent in the first line.

    Raises:
        DataError: the file has no rows, is not UTF-8, or not a table.
    """
    with open_file(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
        line = 0
        try:
            first = text.readline(MAX_LINE)
            lines = itertools.chain((first,), iter(lambda: text.readline(MAX_LINE), ""))
            reader = csv.reader(lines, delimiter=max(",;\t", key=first.count), strict=True)
            for cells in reader:
                if cells:
                    line = reader.line_num
                    yield line, cells
        except (csv.Error, UnicodeDecodeError) as error:
            raise _error(path, f"after line {line}: {error}", "save it as CSV in UTF-8") from error
        if not line:
            raise _error(path, "it is empty", "begin it with the names of the columns")


def _split_header(
    path: Path, names: Sequence[str], label: str | None = None, size: int | None = None
) -> Header:
    """Find the column of classes: `label`, one of `LABELS`, or the last one.

    There may be none if `label` or `size`, the number of other columns, is given.
    """
    if not any(math.isnan(_number(name)) for name in names):
        raise _error(path, "its first line holds numbers", "begin it with the names of the columns")
    for i, name in enumerate(names):
        if not name.strip() or name in names[:i]:
            problem = f"has the name {name!r} again" if name.strip() else "has no name"
            raise _error(
                path,
                f"column {i + 1} {problem}",
                "name each column differently; leave out row numbers (pandas: index=False)",
            )
    found = [name for name in names if name.strip().lower() in LABELS]
    if label is not None:
        found = [label] if label in names else []
    elif not found and size != len(names):
        found = [names[-1]]
    if len(found) > 1:
        raise _error(
            path,
            f"columns {' and '.join(found)} could both hold the classes",
            f"name only one column {', '.join(LABELS[:-1])} or {LABELS[-1]}",
        )
    columns = tuple(name for name in names if name not in found)
    if not columns:
        raise _error(path, f"it has only the column {names[0]!r}", "add columns of numbers")
    return Header(found[0] if found else None, columns)


def _difference(header: Header, other: Header) -> str:
    """Describe the first difference between the columns of two tables."""
    for i, (a, b) in enumerate(zip(header.columns, other.columns, strict=False)):
        if a != b:
            return f"{a!r} instead of {b!r} as number {i + 1}"
    return f"{len(header.columns)} columns of numbers instead of {len(other.columns)}"


def _cell_error(path: Path, line: int, columns: Sequence[str], cells: Sequence[str]) -> DataError:
    """Return the error for the first cell of a line that is not a finite number."""
    name, cell = next(
        (name, cell)
        for name, cell in zip(columns, cells, strict=True)
        if not math.isfinite(_number(cell))
    )
    where = f"line {line}, column {name!r}:"
    if not cell.strip():
        return _error(path, f"{where} no value", "fill it in, or remove the line")
    if math.isfinite(_number(cell.replace(",", "."))):
        return _error(path, f"{where} {cell[:40]!r} has a decimal comma", "write a decimal point")
    return _error(
        path,
        f"{where} {cell[:40]!r} is not a finite number",
        "write numbers, such as a column of 0 and 1 for each kind; only classes may have names",
    )


def _number(text: str) -> float:
    """Return the number that a text is, or nan."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _error(path: Path, problem: str, remedy: str) -> DataError:
    return DataError(f"{path}: {problem}. Remedy: {remedy}")
