"""The command line that describes a grid."""

import shlex
from pathlib import Path

from lra.axis import Axis
from lra.lab.comparison.grid import Grid, changed


def command(grid: Grid, out: Path | None = None, verb: str = "compare") -> str:
    """Return the command that runs a comparison."""
    words = ["lra", verb, *grid.datasets, *flags(grid), *flags(grid.options)]
    return shlex.join([*words, *(("--out", str(out)) if out else ())])


def flags(options: Axis) -> list[str]:
    """Return the fields of a grid or a search that differ from their defaults, as flags."""
    words: list[str] = []
    for name, value in changed(options).items():
        if name != "datasets":
            words.append(f"--{name.replace('_', '-')}")
            if value is not True:
                words += map(str, value if isinstance(value, tuple) else (value,))
    return words
