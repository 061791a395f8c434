"""The picture of a run: loss and accuracy over its epochs."""

import io
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lra.lab.checkpoint import write_atomically


def curves(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Draw training loss, and training and validation accuracy, over the epochs, into a PNG.

    Args:
        path: where the picture goes.
        rows: the epochs' figures, as in metrics.csv.
        title: what was trained.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    mark = "o" if len(rows) < 40 else ""
    loss.plot(epochs, [row["loss"] for row in rows], marker=mark, markersize=3, color="C0")
    loss.set(xlabel="epoch", ylabel="training loss (cross-entropy, nats)")
    loss.set_ylim(bottom=0)
    for column, label, colour in (
        ("train_accuracy", "training", "C0"),
        ("validation_accuracy", "validation", "C1"),
    ):
        values = [row[column] for row in rows]
        if None not in values:
            accuracy.plot(epochs, values, marker=mark, markersize=3, label=label, color=colour)
    accuracy.set(xlabel="epoch", ylabel="accuracy (%)")
    accuracy.legend(frameon=False)
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_atomically(path, buffer.getvalue())
