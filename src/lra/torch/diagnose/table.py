"""The rows of a diagnosis as text and as scalars for loggers."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

COLUMNS = (
    *("layer", "kind", "type", "calls", "error", "arrival", "feedback_angle", "moved"),
    *("moved_relative", "saturated", "dead", "update", "update_relative", "update_rms"),
    *("step_scale", "gradient", "angle"),
)
"""The columns of a diagnosis's rows."""


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
    lines = [tuple(_CELLS), *(tuple(format(row) for format in _CELLS.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


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
