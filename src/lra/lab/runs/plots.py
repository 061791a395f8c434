"""The plot of a run, and how figures are written."""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
from matplotlib.ticker import MaxNLocator

from lra.display import plain
from lra.errors import OptionError
from lra.figures import Figure
from lra.lab.runs.atomic import write_atomically, write_error

_PANELS = {
    "loss": ("loss (nats{})", "loss", "validation_loss", "test_loss", ".4f"),
    "accuracy": ("accuracy (%)", "train_accuracy", "validation_accuracy", "test_accuracy", ".2f"),
}
"""The label of each panel, the columns of training and validation, and the test value."""


def curves(
    rows: Sequence[Mapping[str, Any]],
    title: str = "",
    *,
    text: bool = False,
    result: Mapping[str, Any] | None = None,
) -> Figure:
    """Plot training and validation loss and accuracy over the epochs.

    Args:
        rows: the metrics of the epochs, as in metrics.csv.
        title: the title.
        text: whether the data are text; then only the loss is plotted.
        result: the result of the run, as in result.json: its best epoch is marked by a vertical
            line, and the test value of the weights of that epoch by a star.
    """
    panels = [_PANELS["loss"]] if text else [*_PANELS.values()]
    figure = Figure(4.5 * len(panels) + text, 3.6)
    epochs = [row["epoch"] for row in rows]
    mark = len(rows) < 40
    best = result["best_epoch"] if result else None
    for axes, (label, training, validation, test, digits) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        for column, name, style in (
            (training, "training", {"color": "C0", "linestyle": "--", "marker": "o" * mark}),
            (validation, "validation", {"color": "C1", "marker": "s" * mark}),
        ):
            values = [row[column] for row in rows]
            if None not in values:
                axes.plot(epochs, values, markersize=3, label=name, **style)
        if best:
            axes.axvline(best, color="0.5", linewidth=1, linestyle=":", label=f"best epoch: {best}")
            if (value := result and result[test]) is not None:
                axes.plot([best], [value], "*", color="black", markersize=9, zorder=3,
                          label=f"test, weights of epoch {best}: {value:{digits}}")  # fmt: skip
        axes.set(xlabel="epoch", ylabel=label.format(" per character" if text else ""))
        if training == "loss" and not text:
            axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(epochs) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
    figure.suptitle(plain(title))
    return figure


def save(figure: matplotlib.figure.Figure, path: Path) -> None:
    """Write a figure atomically, in the format that the name of the file ends with.

    The folder is created if needed.

    Raises:
        OptionError: matplotlib does not write this format.
        RunError: the disk is full or refuses the write.
    """
    formats = figure.canvas.get_supported_filetypes()
    name = path.suffix.lower().removeprefix(".")
    if name not in formats:
        raise OptionError(
            f"{path}: the name of a figure must end with one of {', '.join(sorted(formats))}"
        )
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # such names appear as boxes
        figure.savefig(content, format=name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    write_atomically(path, content.getvalue())
