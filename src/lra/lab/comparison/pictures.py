"""The plots of a comparison, as SVG in the colours of the page that shows them."""

import io
import re
import statistics
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from lra.lab.comparison.results import Table

_STYLES = ("-", "--", ":", "-.")
_COLOURS = ("#d1495b", "#2e86de", "#2a9d5c", "#e08e0b", "#8e5cc7", "#0fa3a3", "#c2559d", "#8a8d3a")
_TEXT_COLOUR = "#000000"
"""Black is replaced by the text colour of the page."""

_DARK = "<style>@media (prefers-color-scheme: dark) { svg { color: #ddd } }</style>"


def curves(table: Table) -> str | None:
    """Plot each rule's validation curve as mean and range over seeds; None without curves."""
    column = "validation_loss" if table.text else "validation_accuracy"
    figure, axes = _axes(4.6, 3.4)
    drawn = 0
    for i, entry in enumerate(table.entries):
        lines = [_line(run.curve, column) for run in entry.done]
        lines = [line for line in lines if line]
        if not lines:
            continue
        epochs = range(1, min(map(len, lines)) + 1)
        columns = list(zip(*(line[: len(epochs)] for line in lines), strict=True))
        means = [statistics.fmean(c) for c in columns]
        style = _style(i)
        axes.plot(epochs, means, label=entry.label, marker="o" * (len(epochs) < 8), ms=3, **style)
        if len(lines) > 1:
            low, high = [min(c) for c in columns], [max(c) for c in columns]
            axes.fill_between(epochs, low, high, color=style["color"], alpha=0.12, linewidth=0)
        drawn += 1
    if not drawn:
        return None
    label = "validation loss (nats)" if table.text else "validation error (%)"
    axes.set(xlabel="epoch", ylabel=label, yscale="log", title=str(table.problem))
    axes.title.set_fontsize(9)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    steps = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)
    ticks = [m * 10.0**e for e in range(-4, 3) for m in steps]
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return _svg(figure, f"curves {table.problem}")


def gaps(table: Table) -> str | None:
    """Plot each rule's difference to the baseline: every seed, the mean and its 95 % interval."""
    shown = [(entry, gap) for entry in table.entries if (gap := table.gap(entry))]
    if not shown:
        return None
    figure, axes = _axes(4.6, 1.2 + 0.28 * len(shown))
    axes.axvline(0, color=_TEXT_COLOUR, linewidth=1)
    base = table.values(table.base)
    for y, (entry, gap) in enumerate(shown):
        colour = _style(table.entries.index(entry))["color"]
        each = [value - base[seed] for seed, value in table.values(entry).items()]
        axes.plot(each, [y] * len(each), "o", color=colour, ms=3, alpha=0.5)
        axes.errorbar([gap.mean], [y], xerr=gap.half_width, fmt="|", color=colour, ms=9, capsize=3)
    axes.set_yticks(range(len(shown)), [entry.label for entry, _ in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    unit = "loss (nats)" if table.text else "accuracy (percentage points)"
    where = table.figure.partition("_")[0]
    axes.set_xlabel(f"{where} {unit},\nminus {table.base.label}")
    axes.set_title(str(table.problem), fontsize=9)
    return _svg(figure, f"gaps {table.problem}")


def _line(curve: Any, column: str) -> list[float]:
    values = [row[column] for row in curve if column in row]
    if column == "validation_loss":
        return values
    return [max(100 - value, 1e-2) for value in values]  # a log axis cannot show 0


def _style(index: int) -> dict[str, Any]:
    """Return the colour and line style of a rule; the baseline has the page's text colour."""
    if index == 0:
        return {"color": _TEXT_COLOUR, "linestyle": "-"}
    colour = _COLOURS[(index - 1) % len(_COLOURS)]
    return {"color": colour, "linestyle": _STYLES[(index - 1) // len(_COLOURS) % len(_STYLES)]}


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as reproducible SVG whose ids are unique within a page."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    mark = "".join(c if c.isalnum() else "-" for c in name)
    svg = re.sub(r'\bid="', f'id="{mark}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{mark}-", svg)
    svg = svg.replace(_TEXT_COLOUR, "currentColor")
    head, _, body = svg.partition(">")
    return f'{head} role="img" fill="currentColor">{_DARK}<title>{name}</title>{body}'


def all_pictures(table: Table) -> dict[str, str]:
    """Return all plots of a network's results that have data, by name."""
    drawn = {"gaps": gaps(table), "curves": curves(table)}
    return {name: svg for name, svg in drawn.items() if svg is not None}
