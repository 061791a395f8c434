"""The command line that describes a grid."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from lra.lab.comparison.grid import Grid


def command(grid: Grid, out: Path | None = None, verb: str = "compare") -> str:
    """Return the command that runs a comparison."""
    words = ["lra", verb, *grid.datasets, *_flags(grid, ("datasets", "options"))]
    words += _flags(grid.options, ())
    return shlex.join([*words, *(("--out", str(out)) if out else ())])


def _flags(options: Any, exclude: tuple[str, ...]) -> list[str]:
    """Return the fields of a dataclass that differ from their defaults, as flags."""
    words: list[str] = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in exclude or value == field.default:
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if value is not True:
            words += map(str, value if isinstance(value, tuple) else (value,))
    return words
