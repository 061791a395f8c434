"""Plots of a run's diagnoses: heat maps of layers by steps, and curves."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lra.lab.runs import diagnoses, files
from lra.lab.runs.atomic import write_atomically
from lra.lab.runs.diagnoses import Row
from lra.torch.diagnose import LayerKind

UNDEFINED = "0.85"
"""The grey of undefined values."""

_MAX_LABELS = 24
"""The most layer names beside a heat map or in a legend."""


def draw(folder: Path) -> list[Path]:
    """Write both plots to a run's folder and return their paths."""
    paths = []
    for name, figure in (
        (files.HEAT_MAP, heat_map(folder)),
        (files.DIAGNOSE_CURVES, curves(folder)),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        write_atomically(folder / name, buffer.getvalue())
        paths.append(folder / name)
    return paths


def heat_map(folder: Path) -> Figure:
    """Plot angle and size of the updates of each weight layer in each diagnosis of a run.

    The left map has the angle to backprop's gradient, red beyond 90 degrees; the right map has the
    size relative to the weights. The layer that reads the input is at the bottom. Grey is zero or
    undefined.

    Raises:
        RunError: the run has no diagnoses.
    """
    rows = [row for row in diagnoses.read(folder) if row["kind"] == LayerKind.WEIGHTS]
    names = diagnoses.layers(rows)
    figure = Figure(figsize=(10, min(12, 2.4 + 0.22 * len(names))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    angles = colormaps["viridis_r"].with_extremes(over="crimson", bad=UNDEFINED)
    _draw_map(left, rows, "angle", Normalize(0, 90), angles, "max", "degrees")
    left.set_title("update: angle to backprop's gradient")
    sizes = [r["update_relative"] for r in rows if _positive(r["update_relative"])]
    norm = LogNorm(max(min(sizes, default=1e-3), 1e-12), max(sizes, default=1.0) * 1.01)
    spread = colormaps["magma"].with_extremes(bad=UNDEFINED)
    _draw_map(right, rows, "update_relative", norm, spread, "min", "times the weights")
    right.set_title("update: size relative to the weights")
    every = math.ceil(len(names) / _MAX_LABELS)
    left.set_yticks([i + 0.5 for i in range(0, len(names), every)], names[::every])
    left.set_ylabel("layer (input at the bottom)")
    figure.suptitle(f"{folder.resolve().name} (grey: zero or undefined)")
    return figure


def curves(folder: Path) -> Figure:
    """Plot errors, targets, feedback, saturated and dead units of each layer over the steps.

    Raises:
        RunError: the run has no diagnoses.
    """
    rows = diagnoses.read(folder)
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = {
        "angle": ("angle to backprop's gradient (degrees)", "linear"),
        "feedback_angle": ("angle of E to W (degrees)", "linear"),
        "error": ("norm of the received error", "log"),
        "moved_relative": ("distance of targets, relative to |h|", "log"),
        "saturated": ("share of saturated units", "linear"),
        "dead": ("share of dead units", "linear"),
    }
    names = diagnoses.layers(rows)
    colours = {name: colormaps["viridis"](0.9 * i / max(1, len(names) - 1)) for i, name in
               enumerate(names)}  # fmt: skip
    for axes, (column, (label, scale)) in zip(
        figure.subplots(2, 3).flat, panels.items(), strict=True
    ):
        _draw_lines(axes, rows, column, colours, scale)
        axes.set(title=label, xlabel="step")
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    labels = [name or "(the model)" for name in names if (name or "(the model)") in lines]
    labels = labels[:: math.ceil(len(labels) / _MAX_LABELS) or 1]
    figure.legend([lines[label] for label in labels], labels, loc="outside right upper",
                  frameon=False, fontsize=8, title="layer")  # fmt: skip
    figure.suptitle(folder.resolve().name)
    return figure


def _draw_map(
    axes: Axes, rows: list[Row], column: str, norm: Normalize, colours: Any, extend: Any, unit: str
) -> None:
    names = {name: i for i, name in enumerate(diagnoses.layers(rows))}
    steps = sorted({row["step"] for row in rows})
    columns = {step: i for i, step in enumerate(steps)}
    values = np.full((len(names), len(steps)), np.nan)
    for row in rows:
        value = row[column]
        if value is not None and (value > 0 or not isinstance(norm, LogNorm)):
            values[names[row["layer"]], columns[row["step"]]] = value
    last = steps[-1] - steps[-2] if len(steps) > 1 else 1
    mesh = axes.pcolormesh([*steps, steps[-1] + last], range(len(names) + 1),
                           np.ma.masked_invalid(values), norm=norm, cmap=colours)  # fmt: skip
    assert isinstance(axes.figure, Figure)
    axes.figure.colorbar(mesh, ax=axes, extend=extend, label=unit)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _draw_lines(
    axes: Axes, rows: list[Row], column: str, colours: dict[str, Any], scale: str
) -> None:
    for name, colour in colours.items():
        defined = [row for row in rows if row["layer"] == name and row[column] is not None]
        defined = [row for row in defined if scale == "linear" or _positive(row[column])]
        if defined:
            steps, values = [row["step"] for row in defined], [row[column] for row in defined]
            axes.plot(steps, values, color=colour, label=name or "(the model)", marker=".",
                      markersize=3, linewidth=1)  # fmt: skip
    if axes.lines:
        axes.set_yscale(scale)
        if scale == "linear":
            axes.set_ylim(0, max(0.05, axes.get_ylim()[1]))
    else:
        axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes, color="0.5")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _positive(value: float | None) -> bool:
    return value is not None and 0 < value < math.inf
