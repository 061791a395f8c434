"""Plots of a diagnosis. They need matplotlib, which is imported when a plot is made."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lra.display import label, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lra.figures import Figure

AWAY = 90.0
"""The angle to backprop's gradient, in degrees, beyond which an update points away from it."""

_MAX_LABELS = 40
"""The most layers whose names a plot shows."""


def of_updates(rows: Sequence[Mapping[str, Any]], title: str) -> "Figure":
    """Plot angle and relative size of the updates of weight layers, the first at the bottom.

    Args:
        rows: the rows of a diagnosis's weight layers.
        title: the title.
    """
    from lra.figures import Figure

    figure = Figure(9, min(12, 2.2 + 0.22 * max(3, len(rows))))
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_points(left, [row["angle"] for row in rows])
    left.set(xlim=(-4, 184), xticks=range(0, 181, 45), xlabel="degrees",
             title="update: angle to backprop's gradient")  # fmt: skip
    left.axvspan(AWAY, 184, facecolor="none", edgecolor="0.8", hatch="//", linewidth=0, zorder=0)
    sizes = [row["update_relative"] for row in rows]
    _draw_points(right, sizes, above=0)
    right.set(xlabel="times the weights", title="update: size relative to the weights")
    if finite := [size for size in sizes if size and 0 < size < math.inf]:
        right.set_xscale("log")
        right.set_xlim(*decades(finite))
    else:
        right.set_xticks([])
    label_layers(left, [(row["layer"], row["type"]) for row in rows], _MAX_LABELS)
    left.set_ylim(-0.7, max(1, len(rows)) - 0.3)
    figure.suptitle(plain(title), fontsize=11)
    return figure


def label_layers(axes: "Axes", layers: Sequence[tuple[str, str]], most: int) -> None:
    """Write names and types of layers beside the positions 0, 1, 2, ... of the y axis.

    Args:
        axes: the axes.
        layers: the name and type of each layer.
        most: the most names to show; with more layers, every second one is named, and so on.
    """
    every = math.ceil(len(layers) / most) or 1
    shown = range(0, len(layers), every)
    axes.set_yticks(shown, [label(*layers[i]) for i in shown], fontsize=8)
    axes.set_ylabel("layer (input at the bottom)")
    if not layers:
        say(axes, "no weight layers")
        axes.set_axis_off()


def decades(values: Sequence[float]) -> tuple[float, float]:
    """Return the powers of ten around positive numbers, which are one or more decades apart."""
    low = max(-300, math.floor(math.log10(min(values))))
    high = min(300, math.ceil(math.log10(max(values))))
    return 10.0**low, 10.0 ** max(high, low + 1)


def say(axes: "Axes", text: str) -> None:
    """Write a text into the middle of empty axes."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="black",
              bbox={"facecolor": "white", "edgecolor": "none"})  # fmt: skip


def _draw_points(axes: "Axes", values: Sequence[float | None], above: float = -math.inf) -> None:
    """Draw a point for each value that is finite and above a bound, and a word for the others."""
    for i, value in enumerate(values):
        if value is not None and above < value < math.inf:
            axes.plot([value], [i], "o", color="black", markersize=5, clip_on=False)
        else:
            word = "undefined" if value is None else "0" if value == 0 else "not finite"
            axes.text(0.02, i, word, va="center", fontsize=8, color="0.3",
                      transform=axes.get_yaxis_transform())  # fmt: skip
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
