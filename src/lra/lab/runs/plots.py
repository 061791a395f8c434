"""The plot of a run: loss and accuracy over its epochs."""

import io
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lra.lab.runs.atomic import write_atomically


def curves(path: Path, rows: list[dict[str, Any]], title: str, *, text: bool = False) -> None:
    """Plot training and validation loss and accuracy over the epochs into a PNG.

    Args:
        path: the file to write.
        rows: the metrics of the epochs, as in metrics.csv.
        title: the title.
        text: whether the data are text; then only the loss is plotted.
    """
    per_character = " per character" if text else ""
    panels = {f"loss (cross-entropy, nats{per_character})": ("loss", "validation_loss")}
    if not text:
        panels["accuracy (%)"] = ("train_accuracy", "validation_accuracy")
    figure = Figure(figsize=(4.5 * len(panels) + text, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [row["epoch"] for row in rows]
    mark = "o" if len(rows) < 40 else ""
    for axes, (label, columns) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for column, name, colour in zip(
            columns, ("training", "validation"), ("C0", "C1"), strict=True
        ):
            values = [row[column] for row in rows]
            if None not in values:
                axes.plot(epochs, values, marker=mark, markersize=3, label=name, color=colour)
        axes.set(xlabel="epoch", ylabel=label)
        if "loss" in columns and not text:
            axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_atomically(path, buffer.getvalue())
