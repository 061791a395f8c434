"""The rows of a diagnosis as the cells of a table, and as scalars for loggers."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lra.display import as_text

COLUMNS = (
    *("layer", "kind", "type", "calls", "error", "arrival", "feedback_angle", "moved"),
    *("moved_relative", "saturated", "dead", "update", "update_relative", "update_rms"),
    *("step_scale", "gradient", "angle"),
)
"""The columns of a diagnosis's rows."""

LEFT = 2
"""The number of columns of text in the table."""


def scalars_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a layer's row by name for loggers, such as `angle/LAYER`."""
    numbers = {name: row[name] for name in COLUMNS if isinstance(row[name], float)}
    return {
        f"{name}/{row['layer'] or 'model'}": value
        for name, value in numbers.items()
        if math.isfinite(value)
    }


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the rows of a diagnosis as a text table."""
    return as_text(HEADER, cells_of(rows), LEFT)


def cells_of(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Format the rows of a diagnosis as the cells of a table."""
    return [[format(row) for format in _CELLS.values()] for row in rows]


def _formatter(column: str, template: str) -> Callable[[Mapping[str, Any]], str]:
    def format(row: Mapping[str, Any]) -> str:
        return "-" if row[column] is None else template.format(row[column])

    return format


_CELLS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "layer": lambda row: row["layer"] or "(the model)",
    "type": lambda row: str(row["type"]),
    "error": _formatter("error", "{:.2e}"),
    "E to W": _formatter("feedback_angle", "{:.1f}°"),
    "target moved": _formatter("moved_relative", "{:.1e} |h|"),
    "saturated": _formatter("saturated", "{:.1%}"),
    "dead": _formatter("dead", "{:.1%}"),
    "update": _formatter("update_relative", "{:.1e} |W|"),
    "angle to backprop": _formatter("angle", "{:.1f}°"),
}
"""The headers of the table, and how each cell is formatted."""

HEADER = tuple(_CELLS)
"""The headers of the table."""
