"""Plots of a run's diagnoses: heat maps of layers by steps, and curves."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lra.display import label, plain, plural
from lra.figures import Figure
from lra.lab.runs import diagnoses, files, plots
from lra.lab.runs.diagnoses import Row
from lra.torch.diagnose import LayerKind
from lra.torch.diagnose.plot import AWAY, decades, label_layers, say

_MAX_LABELS = 24
"""The most layer names beside a heat map or in a legend."""

_SMALLEST = 1e-12
"""Smaller updates, relative to the weights, have the colour of this one."""


@dataclass(frozen=True)
class _Pattern:
    """Values that a heat map shows by a pattern, which does not depend on colour.

    Attributes:
        label: what the legend says.
        applies: the test for a value.
        style: how the cells are drawn.
    """

    label: str
    applies: Callable[[float | None], bool]
    style: dict[str, Any]


_UNDEFINED = _Pattern(
    "undefined", lambda x: x is None, {"facecolor": "white", "edgecolor": "0.6", "hatch": ".."}
)
_NOT_FINITE = _Pattern(
    "not finite",
    lambda x: x is not None and not math.isfinite(x),
    {"facecolor": "white", "edgecolor": "black", "hatch": "xxxx"},
)
_AWAY = _Pattern(
    f"more than {AWAY:g} degrees",
    lambda x: x is not None and AWAY < x < math.inf,
    {"facecolor": "black", "edgecolor": "white", "hatch": "////"},
)
_ZERO = _Pattern(
    "zero", lambda x: x == 0, {"facecolor": "white", "edgecolor": "0.5", "hatch": "---"}
)


@dataclass(frozen=True)
class _Panel:
    """A measure in the plot of curves.

    Attributes:
        column: its column.
        title: its name.
        scale: the scale of its axis.
        none: what the panel says where no layer has it.
        zero: what it says where it is zero everywhere.
    """

    column: str
    title: str
    scale: str
    none: str
    zero: str


_PANELS = (
    _Panel("angle", "angle to backprop's gradient (degrees)", "linear",
           "no angle is defined:\nupdates or gradients are zero,\nnot finite or missing",
           "all updates are backprop's"),
    _Panel("feedback_angle", "angle of E to W (degrees)", "linear",
           "no feedback weights\nwith the shape of W", "E has the direction of W\nin all layers"),
    _Panel("error", "norm of the received error", "log",
           "no errors are recorded\nin this rule", "all errors are zero"),
    _Panel("moved_relative", "distance of targets, relative to |h|", "log",
           "no targets in this rule", "all targets are equal to h"),
    _Panel("saturated", "share of saturated units", "linear",
           "not measured in this rule", "no saturated units"),
    _Panel("dead", "share of dead units", "linear",
           "not measured in this rule", "no dead units"),
)  # fmt: skip


def draw(folder: Path) -> list[Path]:
    """Write both plots to a run's folder and return their paths."""
    paths = [folder / files.HEAT_MAP, folder / files.DIAGNOSE_CURVES]
    for path, figure in zip(paths, (heat_map(folder), curves(folder)), strict=True):
        plots.save(figure, path)
    return paths


def heat_map(folder: Path) -> Figure:
    """Plot angle and size of the updates of each weight layer in each diagnosis of a run.

    The left map has the angle to backprop's gradient, hatched beyond 90 degrees; the right map has
    the size relative to the weights. The layer that reads the input is at the bottom.

    Raises:
        RunError: the run has no diagnoses.
    """
    rows = diagnoses.read_any(folder)
    rows = [row for row in rows if row["kind"] == LayerKind.WEIGHTS]
    layers = {row["layer"]: row["type"] for row in rows}
    height = min(12, 2.6 + 0.22 * max(3, len(layers)))
    figure = Figure(11, height)
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_title("update: angle to backprop's gradient")
    right.set_title("update: size relative to the weights")
    if rows:
        found = _draw_map(figure, left, rows, "angle", Normalize(0, AWAY), "max", "degrees",
                          (_AWAY, _NOT_FINITE, _UNDEFINED))  # fmt: skip
        sizes = [row["update_relative"] for row in rows]
        positive = [size for size in sizes if size and 0 < size < math.inf] or [_SMALLEST, 1.0]
        low, high = decades(positive)
        norm = LogNorm(max(low, _SMALLEST), max(high, 10 * _SMALLEST))
        found |= _draw_map(figure, right, rows, "update_relative", norm,
                           "min" if low < _SMALLEST else "neither", "times the weights",
                           (_ZERO, _NOT_FINITE, _UNDEFINED))  # fmt: skip
        if found:
            figure.legend(handles=[*found.values()], loc="outside lower center", ncols=4,
                          frameon=False, handlelength=3, handleheight=1.5)  # fmt: skip
    else:
        right.set_axis_off()
    label_layers(left, [*layers.items()], _MAX_LABELS)
    left.set_ylim(-0.5, max(1, len(layers)) - 0.5)
    figure.suptitle(plain(folder.resolve().name))
    return figure


def curves(folder: Path) -> Figure:
    """Plot errors, targets, feedback, saturated and dead units of each layer over the steps.

    Raises:
        RunError: the run has no diagnoses.
    """
    rows = diagnoses.read_any(folder)
    figure = Figure(13, 6.5)
    types = {row["layer"]: row["type"] for row in rows}
    shades = np.linspace(0, 0.8, len(types))  # from dark to light, with the depth
    styles = {
        name: {"color": colormaps["viridis"](shade), "marker": mark, "label": label(name, kind)}
        for (name, kind), shade, mark in zip(
            types.items(), shades, itertools.cycle("osD^vP*X"), strict=False
        )
    }
    lines: dict[str, Line2D] = {}
    for axes, panel in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
        lines |= _draw_lines(axes, rows, panel, styles)
    if lines:
        shown = [lines[name] for name in styles if name in lines]
        shown = shown[:: math.ceil(len(shown) / _MAX_LABELS)]
        figure.legend(handles=shown, loc="outside right upper", frameon=False, fontsize=8,
                      title="layer")  # fmt: skip
    figure.suptitle(plain(folder.resolve().name))
    return figure


def _draw_map(
    figure: Figure, axes: Axes, rows: list[Row], column: str, norm: Normalize, extend: Any,
    unit: str, patterns: tuple[_Pattern, ...],
) -> dict[str, Patch]:  # fmt: skip
    """Draw a column as a map of layers by steps, and return the patterns in it for a legend."""
    names = {name: i for i, name in enumerate(diagnoses.layers(rows))}
    steps = sorted({row["step"] for row in rows})
    edges = [*steps, 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[0] + 1]
    columns = {step: i for i, step in enumerate(steps)}
    values = np.full((len(names), len(steps)), None, object)
    for row in rows:
        values[names[row["layer"]], columns[row["step"]]] = row[column]
    shown = np.full(values.shape, np.nan)
    found = {}
    for at, value in np.ndenumerate(values):
        if not any(pattern.applies(value) for pattern in patterns):
            shown[at] = value
    mesh = axes.pcolormesh(
        edges,
        np.arange(len(names) + 1) - 0.5,
        np.ma.masked_invalid(shown),
        norm=norm,
        cmap=_shades(extend),
    )
    for pattern in patterns:
        applies = [[pattern.applies(value) for value in line] for line in values]
        for y, line in enumerate(applies):
            if spans := _spans(line, edges):
                axes.broken_barh(spans, (y - 0.5, 1), linewidth=0, **pattern.style)
                found[pattern.label] = Patch(label=pattern.label, **pattern.style)
        if all(map(all, applies)):
            say(axes, f"all {pattern.label}")
    ticks = range(0, 91, 30) if extend == "max" else None
    figure.colorbar(mesh, ax=axes, extend=extend, label=unit, ticks=ticks, fraction=0.05,
                         aspect=6 * figure.get_figheight())  # fmt: skip
    axes.set(xlabel="step", xlim=(edges[0], edges[-1]))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return found


def _shades(extend: str) -> Colormap:
    """Return colours from light to dark for angles, from dark to light for sizes."""
    if extend == "max":
        return colormaps["viridis_r"].with_extremes(over="black")
    return colormaps["magma"]


def _spans(applies: list[bool], edges: list[float]) -> list[tuple[float, float]]:
    """Return start and width of each sequence of columns to which a pattern applies."""
    groups = itertools.groupby(range(len(applies)), key=lambda i: applies[i])
    chosen = [[*columns] for holds, columns in groups if holds]
    return [(edges[c[0]], edges[c[-1] + 1] - edges[c[0]]) for c in chosen]


def _draw_lines(
    axes: Axes, rows: list[Row], panel: _Panel, styles: dict[str, Any]
) -> dict[str, Line2D]:
    """Draw a line for each layer and return them, or say why there are none."""
    axes.set_title(panel.title)
    steps = sorted({row["step"] for row in rows})
    measured = [row for row in rows if row[panel.column] is not None]
    finite = [row for row in measured if math.isfinite(row[panel.column])]
    if not any(row[panel.column] for row in finite):
        say(axes, panel.zero if finite else "no value is finite" if measured else panel.none)
        axes.set_axis_off()
        return {}
    if panel.scale == "log":
        finite = [row for row in finite if row[panel.column] > 0]
    lines = {}
    for name, style in styles.items():
        own = [row for row in finite if row["layer"] == name]
        if own:
            (lines[name],) = axes.plot(
                [row["step"] for row in own], [row[panel.column] for row in own],
                markersize=4, linewidth=1, markevery=math.ceil(len(own) / 24), **style,
            )  # fmt: skip
    missing = len(measured) - sum(math.isfinite(row[panel.column]) for row in measured)
    note = f" ({plural(missing, 'value')} not finite)" if missing else ""
    axes.set(xlabel=f"step{note}", yscale=panel.scale)
    if len(steps) == 1:
        axes.set(xlim=(steps[0] - 1, steps[0] + 1))
    if panel.scale == "linear":
        axes.set_ylim(0, max(0.05, axes.get_ylim()[1]))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return lines
