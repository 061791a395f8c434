"""Folders that Hugging Face's library `datasets` wrote with `save_to_disk`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lra.errors import DataError, one_line
from lra.lab.data.arrays import Array, build_dataset
from lra.lab.data.dataset import Dataset
from lra.lab.data.image_files import Pixels, decode, stack
from lra.lab.data.mirrors import EventHandler
from lra.lab.data.tables import LABELS

MARKS = ("dataset_dict.json", "state.json")
"""Files by which such a folder is recognised."""


def load_saved(folder: Path, name: str, report: EventHandler) -> Dataset:
    """Load a saved `Dataset`, or the splits train and test of a saved `DatasetDict`.

    The classes are in the column of type `ClassLabel`, or in one called label, class, target or y.
    The samples are in the column of type `Image`; or else in the only other column, if it holds
    arrays, or in all other columns, if they hold numbers.

    Raises:
        DataError: `datasets` is not installed, or the folder does not hold such columns.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{folder} was written by the library datasets, which is not installed. Remedy: "
            "pip install datasets"
        ) from error
    try:
        saved = datasets.load_from_disk(str(folder))
        parts = {"train": saved} if isinstance(saved, datasets.Dataset) else dict(saved)
        if "train" not in parts:
            raise ValueError(f"its splits are {', '.join(parts)}, and none of them is train")
        if unused := ", ".join(sorted(parts.keys() - {"train", "test"})):
            report(f"{folder}: not used: {unused}; only train and test are read")
        if "test" in parts and parts["test"].features != parts["train"].features:
            raise ValueError("the columns of test differ from those of train")
        label, samples = _choose_columns(parts["train"].features)
        if unused := ", ".join(sorted(parts["train"].features.keys() - {label, *samples})):
            report(f"{folder}: columns not used: {unused}")
        arrays: list[Array | None] = [None] * 4
        for i, split in enumerate(("train", "test")):
            if split in parts:
                parts[split].data.table.validate(full=True)  # a damaged one could crash the process
                x = _read_samples(parts[split], samples, f"{folder}, {split}")
                arrays[2 * i : 2 * i + 2] = x, _read_column(parts[split], label)
        classes = getattr(parts["train"].features[label], "names", None)
    except DataError:
        raise
    except Exception as error:  # a damaged folder makes the library raise many types
        raise DataError(
            f"{folder} cannot be read as a folder of the library datasets ({one_line(error)}). "
            "Remedy: write it with save_to_disk, with a column of classes and one of samples"
        ) from error
    return build_dataset(str(folder), name, arrays, classes)


def _choose_columns(features: Any) -> tuple[str, list[str]]:
    """Return the column of classes, and the columns of samples."""
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    named = [name for name in kinds if name.lower() in LABELS]
    typed = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    labels = typed if len(typed) == 1 else named
    if len(labels) != 1:
        raise ValueError(
            f"of the columns {', '.join(kinds)}, {len(labels)} could hold the classes; allowed is "
            f"one of type ClassLabel or called {', '.join(LABELS)}"
        )
    images = [name for name, kind in kinds.items() if kind == "Image"]
    others = [name for name in kinds if name not in labels]
    if len(images) > 1 or not others:
        raise ValueError(f"the columns {', '.join(others) or '(none)'} are not one of samples")
    return labels[0], images or others


def _read_samples(part: Any, columns: list[str], where: str) -> Array:
    if type(part.features[columns[0]]).__name__ == "Image":
        return stack(len(part), _read_images(part, columns[0], where))
    if len(columns) == 1 and (x := _read_column(part, columns[0])).ndim > 1:
        return x
    numbers = [_read_column(part, name) for name in columns]
    for name, column in zip(columns, numbers, strict=True):
        if column.ndim > 1 or column.dtype.kind not in "iuf":
            raise ValueError(
                f"column {name!r} holds {part.features[name]}; beside other columns of samples it "
                "must hold numbers"
            )
    return np.stack(numbers, axis=1).astype(np.float32)


def _read_images(part: Any, column: str, where: str) -> Iterator[tuple[str, Pixels]]:
    import datasets

    part = part.with_format(None).cast_column(column, datasets.Image(decode=False))
    for i, row in enumerate(part):
        if not row[column] or row[column]["bytes"] is None:  # a path could be any file's
            raise ValueError(f"image {i} is not stored in the folder itself")
        yield f"{where}, image {i}", decode(io.BytesIO(row[column]["bytes"]), f"{where}, image {i}")


def _read_column(part: Any, name: str) -> Array:
    """Read a column without changing the type of its numbers."""
    feature = part.features[name]
    while not getattr(feature, "dtype", None):
        feature = feature.feature
    options = {} if feature.dtype == "string" else {"dtype": feature.dtype}
    return np.asarray(part.with_format("numpy", columns=[name], **options)[:][name])
