"""Plots of a dataset's samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lra.display import printable
from lra.errors import DataError, OptionError
from lra.lab.data.dataset import Dataset, Floats, Ints, shuffled_indices
from lra.lab.data.images import channel_axis

if TYPE_CHECKING:
    from lra.figures import Figure


def sample_figure(dataset: Dataset, count: int = 40, seed: int = 0) -> Figure:
    """Plot training samples with their labels, taking the classes in turn.

    Images (H, W), (H, W, 1 or 3) or (1 or 3, H, W) are plotted as images, 1-D samples as lines.

    Args:
        dataset: the dataset.
        count: the number of samples, 1 or more; all samples if there are fewer.
        seed: the seed that selects the samples, 0 or more.

    Returns:
        The figure; `figure.savefig(path)` writes it.

    Raises:
        OptionError: `count` or `seed` is out of range.
        DataError: the samples are neither images nor 1-D.

    >>> from lra.lab import data
    >>> data.sample_figure(data.load("digits"), count=20).savefig("digits.png")
    """
    if count < 1:
        raise OptionError(f"count = {count}: it must be 1 or more")
    if dataset.reads == "text":
        raise DataError(
            f"dataset {dataset.name!r} is text and cannot be plotted. Remedy: open it in an "
            "editor; `lra data fetch` with its name prints its path"
        )
    from lra.figures import Figure

    chosen, columns = _choose_by_class(dataset.y_train, count, seed)
    samples = [_drawable(dataset, index) for index in chosen]
    lines = samples[0].ndim == 1
    low, high = float(min(s.min() for s in samples)), float(max(s.max() for s in samples))
    if not lines and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    span = (high - low) or 1.0
    rows = math.ceil(len(chosen) / columns)
    size = (max(1.1 * columns + 0.2, 3.6), 1.3 * rows + 0.5)
    figure = Figure(*size)
    title = f"{dataset.name}: {len(chosen)} of {len(dataset.y_train):,} training samples"
    figure.suptitle(printable(title), fontsize=10, parse_math=False)
    grid = figure.subplots(rows, columns, squeeze=False)
    for cell in grid.flat[len(chosen) :]:
        cell.set_axis_off()
    for cell, index, sample in zip(grid.flat, chosen, samples, strict=False):
        if lines:
            marker = "o" if len(sample) == 1 else ""
            cell.plot(sample, linewidth=0.8, marker=marker, markersize=3)
            cell.set_ylim(low - 0.05 * span, high + 0.05 * span)
        elif sample.ndim == 2:
            cell.imshow(sample, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        else:
            cell.imshow((sample - low) / span, interpolation="nearest")
        label = printable(dataset.classes[dataset.y_train[index]])
        label = label if len(label) <= 14 else f"{label[:13]}…"
        cell.set_title(label, fontsize=8, pad=3, parse_math=False)
        cell.set(xticks=[], yticks=[])
    return figure


def _choose_by_class(y: Ints, count: int, seed: int) -> tuple[list[int], int]:
    """Return random indices, the classes in turn, and the columns of a grid that aligns them."""
    order = shuffled_indices(len(y), seed)
    turn = np.empty(len(y), np.int64)  # the number of earlier samples of the same class
    groups = [order[y[order] == label] for label in np.unique(y)]
    for group in groups:
        turn[group] = np.arange(len(group))
    chosen = np.lexsort((y, turn))[:count]
    columns = 10 // len(groups) * len(groups) or (len(groups) if len(groups) <= 12 else 10)
    return [int(i) for i in chosen], min(columns, len(chosen))


def _drawable(dataset: Dataset, index: int) -> Floats:
    """Return a sample as a 1-D line, (H, W) or (H, W, 3)."""
    sample: Floats = dataset.x_train[index]
    axis = None if sample.ndim == 1 else channel_axis(sample.shape)
    if axis is None:
        return sample
    sample = np.moveaxis(sample, axis, -1)
    return sample[:, :, 0] if sample.shape[2] == 1 else sample
