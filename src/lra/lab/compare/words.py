"""A grid as the words of a command."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from lra.lab.compare.grid import Grid


def command(grid: Grid, out: Path | None = None, verb: str = "compare") -> str:
    """Write the command that makes a comparison."""
    words = ["lra", verb, *grid.datasets, *_flags(grid, ("datasets", "options"))]
    words += _flags(grid.options, ())
    return shlex.join([*words, *(("--out", str(out)) if out else ())])


def _flags(value: Any, but: tuple[str, ...]) -> list[str]:
    """Give the options of a dataclass that are not as by default."""
    words: list[str] = []
    for field in dataclasses.fields(value):
        given = getattr(value, field.name)
        if field.name in but or given == field.default:
            continue
        words.append(f"--{field.name.replace('_', '-')}")
        if given is not True:
            words += map(str, given if isinstance(given, tuple) else (given,))
    return words
