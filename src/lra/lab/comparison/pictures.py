"""The plots of a comparison, as matplotlib figures and as files."""

import io
import textwrap
import warnings
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from lra.figures import Figure
from lra.lab.comparison.page import visible
from lra.lab.comparison.results import Entry, Table

FORMATS = ("svg", "pdf", "png")

_LINES = ("-", "--", ":", "-.")
_COLOURS = ("#d1495b", "#2e86de", "#2a9d5c", "#e08e0b", "#8e5cc7", "#0fa3a3", "#c2559d", "#8a8d3a")
_BACKGROUND = ("figure.facecolor", "axes.facecolor")
_FOREGROUND = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
_DARK: dict[Any, Any] = dict.fromkeys(_BACKGROUND, "#15181c") | dict.fromkeys(
    _FOREGROUND, "#dfe3e8"
)
"""The colours of page.css on dark screens."""
_FILES: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "lra", "pdf.fonttype": 42}
_UNDATED: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Metadata that make the files reproducible."""

_as_given = mpl.rc_context({"text.parse_math": False})
"""Names may contain dollar signs."""


@_as_given
def curves(table: Table) -> Figure | None:
    """Plot each rule's validation curve as mean and range over seeds; None without curves."""
    column = "validation_loss" if table.text else "validation_accuracy"
    figure, axes = _axes(4.6, 3.6)
    handles, labels = [], []
    for i, entry in enumerate(table.entries):
        lines = [[row[column] for row in run.curve if column in row] for run in entry.done]
        length = min(map(len, lines), default=0)
        if not length:
            continue
        values = np.array([line[:length] for line in lines])
        if not table.text:
            values = np.maximum(100 - values, 1e-2)  # a log axis cannot show 0
        epochs, marker = range(1, length + 1), "o" * (length < 8)
        line = _LINES[max(i - 1, 0) // len(_COLOURS) % len(_LINES)]
        handles += axes.plot(epochs, values.mean(0), line, marker=marker, ms=3, color=_colour(i))
        labels.append(_label(entry))
        axes.fill_between(
            epochs, values.min(0), values.max(0), color=_colour(i), alpha=0.12, linewidth=0
        )
    if not handles:
        return None
    label = "validation loss (nats)" if table.text else "validation error (%)"
    axes.set(xlabel="epoch", ylabel=f"← better · {label}", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    steps = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    place: Any = "outside lower center"
    figure.legend(handles, labels, loc=place, ncols=2, frameon=False, fontsize=8)
    return figure


@_as_given
def gaps(table: Table) -> Figure | None:
    """Plot each rule's difference to the baseline: every seed, the mean and its 95 % interval."""
    shown = [
        (entry, table.gaps[entry.label]) for entry in table.entries if entry.label in table.gaps
    ]
    if not shown:
        return None
    labels = [_label(entry) for entry, _ in shown]
    figure, axes = _axes(4.6, 1.2 + 0.14 * sum(2 + label.count("\n") for label in labels))
    axes.axvspan(-table.margin, table.margin, color="grey", alpha=0.15, linewidth=0)
    axes.axvline(0, color=_colour(0), linewidth=1)
    base = table.values(table.base)
    for y, (entry, gap) in enumerate(shown):
        colour = _colour(table.entries.index(entry))
        each = [value - base[seed] for seed, value in table.values(entry).items()]
        axes.plot(each, [y + 0.2] * len(each), "o", color=colour, ms=3, alpha=0.5)
        axes.errorbar([gap.mean], [y], xerr=gap.half_width, fmt="|", color=colour, ms=9, capsize=3)
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    unit = "loss (nats)" if table.text else "accuracy (percentage points)"
    where = table.figure.partition("_")[0]
    name = f"{where} {unit},\nminus {_label(table.base)}"
    axes.set_xlabel(f"← better · {name}" if table.text else f"{name} · better →")
    return figure


def pictures(table: Table) -> dict[str, dict[str, bytes]]:
    """Return the files of all plots that have data, by name and format.

    The format dark is SVG for dark screens.
    """
    found: dict[str, dict[str, bytes]] = {}
    for name, draw in (("gaps", gaps), ("curves", curves)):
        for kind in (*FORMATS, "dark"):
            file, form = io.BytesIO(), "svg" if kind == "dark" else kind
            style = _FILES | (_DARK if kind == "dark" else {})
            with mpl.rc_context(style), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Glyph .* missing")  # in a name of the user's
                figure = draw(table)
                if figure is not None:
                    figure.savefig(file, format=form, dpi=200, metadata=_UNDATED.get(form))
                    found.setdefault(name, {})[kind] = file.getvalue()
    return found


def _label(entry: Entry) -> str:
    return textwrap.fill(visible(entry.label), 28, break_on_hyphens=False)


def _colour(index: int) -> str:
    """Return the colour of a rule; the baseline has the colour of text."""
    colours: str = mpl.rcParams["text.color"]
    return _COLOURS[(index - 1) % len(_COLOURS)] if index else colours


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(width, height)
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    return figure, axes
