"""Build the study's tables and plots from the results of its runs."""

import contextlib
import csv
import io
import math
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

Row = dict[str, Any]

_STYLE = {
    "backprop": ("black", "o"),
    "mirrored LRA": ("C3", "s"),
    "mirror, one-sided": ("C1", "^"),
    "LRA-E": ("C0", "D"),
    "LRA-E, normalised": ("C9", "v"),
    "Kolen-Pollack, mirror": ("C2", "P"),
    "feedback alignment": ("C7", "X"),
}


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write result rows as CSV, sorted by part, network, rule and seed."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda r: (r["part"], r["network"], r["rule"], r["seed"])))
    path.write_text(text.getvalue(), encoding="utf-8")


def read_rows(path: Path) -> list[Row]:
    """Read the rows that `write_rows` wrote; none if there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows: list[Row] = list(csv.DictReader(file))
    for row in rows:
        row["failed"] = row["failed"] == "True"
        row["seed"] = int(row["seed"])
        for name in row.keys() - {"part", "network", "rule", "seed", "failed"}:
            row[name] = float(row[name]) if row[name] else None
    return rows


def write_plain(path: Path, rows: Sequence[Row]) -> None:
    """Write rows with any columns as CSV, in the given order."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def read_plain(path: Path) -> list[Row]:
    """Read rows with any columns; numbers and booleans are converted from text."""
    with path.open(encoding="utf-8", newline="") as file:
        rows: list[Row] = list(csv.DictReader(file))
    for row in rows:
        for name, value in row.items():
            if value in ("True", "False"):
                row[name] = value == "True"
            else:
                with contextlib.suppress(ValueError):
                    row[name] = float(value)
    return rows


def plain_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table of rows with any columns."""
    lines = [f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        cells = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure_of(row: Row) -> float:
    """Return a run's score: the test accuracy in percent, or for text the test loss in nats."""
    if row["failed"]:
        return 0.0 if not _text(row) else float("inf")
    return float(row["test_loss"] if _text(row) else row["test_accuracy"])


def _text(row: Row) -> bool:
    return row["network"].startswith("GPT")


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Format the mean and the sample standard deviation."""
    if any(v == float("inf") for v in values):
        return "diverged"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def paired(rows: Sequence[Row], base: Sequence[Row]) -> str:
    """Format the mean difference from the base rule, paired by seed, and its 95 % interval."""
    other = {row["seed"]: figure_of(row) for row in base}
    gaps = [figure_of(row) - other[row["seed"]] for row in rows if row["seed"] in other]
    if not gaps or any(abs(gap) == float("inf") for gap in gaps):
        return "-"
    digits = 3 if _text(rows[0]) else 2
    mean = statistics.mean(gaps)
    if len(gaps) == 1:
        return f"{mean:+.{digits}f}"
    reach = float(stats.t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / len(gaps) ** 0.5
    return f"{mean:+.{digits}f} ± {reach:.{digits}f}"


def order(names: Iterable[str]) -> list[str]:
    """Return the distinct names, in order of first appearance."""
    return list(dict.fromkeys(names))


def table(rows: Sequence[Row], base: str = "backprop") -> str:
    """Return a Markdown table with a line per network and rule, and the difference from `base`."""
    lines = [
        "| network | rule | learning rate | test | minus backprop, paired (95 %) | each seed |",
        "|---|---|---|---|---|---|",
    ]
    for network in order(r["network"] for r in rows):
        there = [r for r in rows if r["network"] == network]
        against = [r for r in there if r["rule"] == base]
        for rule in order(r["rule"] for r in there):
            own = [r for r in there if r["rule"] == rule]
            digits = 3 if _text(own[0]) else 2
            gap = "" if rule == base else paired(own, against)
            each = ", ".join(
                "diverged" if r["failed"] else f"{figure_of(r):.{digits}f}" for r in own
            )
            lines.append(
                f"| {network} | {rule} | {own[0]['lr']:g} | "
                f"{spread([figure_of(r) for r in own], digits)} | {gap} | {each} |"
            )
    return "\n".join(lines)


def wide(rows: Sequence[Row], base: str = "backprop") -> str:
    """Return a Markdown table of means with a column per rule, and the differences from `base`."""
    rules = order(r["rule"] for r in rows)
    lines = [f"| network | {' | '.join(rules)} |", "|---" * (len(rules) + 1) + "|"]
    for network in order(r["network"] for r in rows):
        there = [r for r in rows if r["network"] == network]
        against = {r["seed"]: figure_of(r) for r in there if r["rule"] == base}
        cells = []
        for rule in rules:
            own = [r for r in there if r["rule"] == rule]
            if not own:
                cells.append("")
                continue
            text = f"{statistics.mean(figure_of(r) for r in own):.1f}"
            if rule != base and against:
                gap = statistics.mean(figure_of(r) - against[r["seed"]] for r in own)
                text += f" ({gap:+.1f})"
            cells.append(text)
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot_depth(rows: Sequence[Row], path: Path) -> None:
    """Plot test error against depth, with a panel per kind of network."""
    kinds = order(r["network"].partition(",")[0] for r in rows)
    figure = Figure(figsize=(4.2 * len(kinds), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for rule in order(r["rule"] for r in rows):
            colour, mark = _STYLE[rule]
            own = [r for r in rows if r["rule"] == rule and r["network"].startswith(f"{kind},")]
            depths = sorted({_layers(r) for r in own})
            groups = [[100 - figure_of(r) for r in own if _layers(r) == d] for d in depths]
            if not groups:
                continue
            means = [statistics.mean(g) for g in groups]
            low = [m - min(g) for m, g in zip(means, groups, strict=True)]
            high = [max(g) - m for m, g in zip(means, groups, strict=True)]
            axes.errorbar(
                depths, means, (low, high), color=colour, marker=mark, markersize=5, capsize=3,
                label=rule, alpha=0.85,
            )  # fmt: skip
        shown = sorted({_layers(r) for r in rows if r["network"].startswith(f"{kind},")})
        axes.set_xscale("log", base=2)
        axes.set_xticks(shown, [str(d) for d in shown])
        axes.set(title=kind, xlabel="weight layers", ylabel="test error (%)", yscale="log")
        ticks = [2, 3, 5, 10, 20, 40, 90]
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        _tidy(axes)
    figure.axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(path, dpi=120)


def plot_bars(rows: Sequence[Row], path: Path, title: str) -> None:
    """Plot each seed as a point, with a row per rule and a line at backprop's mean."""
    rules = order(r["rule"] for r in rows)
    figure = Figure(figsize=(7.5, 0.9 + 0.3 * len(rules)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    base = [figure_of(r) for r in rows if r["rule"] == "backprop"]
    if base:
        axes.axvline(statistics.mean(base), color="black", linewidth=1, linestyle=":")
    for i, rule in enumerate(rules):
        values = [figure_of(r) for r in rows if r["rule"] == rule]
        axes.plot(values, [i] * len(values), "o", color="C3" if i == 1 else "C0", markersize=4)
        axes.plot([statistics.mean(values)], [i], "|", color="black", markersize=12)
    axes.set_yticks(range(len(rules)), rules, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy (%)", title=title)
    _tidy(axes)
    figure.savefig(path, dpi=120)


def plot_distances(rows: Sequence[Row], path: Path) -> None:
    """Plot the distance of targets, and the angle of updates to the gradient, against beta."""
    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, column, label in zip(
        figure.subplots(1, 2),
        ("distance", "angle, mean of layers"),
        ("distance of targets (share of the range)", "angle to the gradient (degrees)"),
        strict=True,
    ):
        for when, mark in (("drawn", "o"), ("trained", "s")):
            own = [r for r in rows if r["weights"] == when]
            axes.plot([r["beta"] for r in own], [r[column] for r in own], marker=mark, label=when)
        axes.set(xscale="log", xlabel="beta", ylabel=label)
        axes.legend(frameon=False, fontsize=8)
        _tidy(axes)
    figure.savefig(path, dpi=120)


def plot_networks(rows: Sequence[Row], path: Path) -> None:
    """Plot each seed's test result as a point, with a panel per network and a row per rule.

    A line marks the mean of each rule, and a dotted line that of backprop.
    """
    networks = order(r["network"] for r in rows)
    rules = [rule for rule in _STYLE if any(r["rule"] == rule for r in rows)]
    columns = math.ceil(len(networks) / 2)
    figure = Figure(figsize=(4.6 * columns, 3.8), layout="constrained")
    grid = figure.subplots(2, columns, squeeze=False)
    for axes in grid.flat[len(networks) :]:
        axes.set_axis_off()
    for axes, network in zip(grid.flat, networks, strict=False):
        there = [r for r in rows if r["network"] == network]
        shown = [rule for rule in rules if any(r["rule"] == rule for r in there)]
        for i, rule in enumerate(shown):
            values = [figure_of(r) for r in there if r["rule"] == rule]
            axes.plot(values, [i] * len(values), _STYLE[rule][1], color="black", markersize=5,
                      fillstyle="none")  # fmt: skip
            mean = statistics.mean(values)
            axes.plot([mean], [i], "|", color="black", markersize=16)
            if rule == "backprop":
                axes.axvline(mean, color="0.5", linewidth=1, linestyle=":")
        axes.set_yticks(range(len(shown)), shown, fontsize=8)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_title(textwrap.fill(network, 42), fontsize=9)
        text = _text(there[0])
        axes.set_xlabel("test loss (nats), lower is better" if text else "test accuracy (%)",
                        fontsize=8)  # fmt: skip
        _tidy(axes)
    figure.savefig(path, dpi=120)


def _layers(row: Row) -> int:
    return int(row["network"].rpartition(", ")[2].partition(" ")[0])


def _tidy(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
