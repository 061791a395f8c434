"""Samples for prediction, from files and folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lra.errors import DataError
from lra.lab.data import image_files, tables
from lra.lab.data.arrays import convert_samples
from lra.lab.data.dataset import Floats
from lra.lab.data.files import open_file
from lra.lab.data.npz import read_npy, read_npz


def read_samples(path: Path, shape: Sequence[int], dataset: str) -> tuple[list[str], Floats]:
    """Read samples for a network.

    Args:
        path: a PNG or JPEG file; a folder, for all such files in it and its subfolders; an .npy
            array; an .npz with an array x, x_test or x_train, the first of these that it has; or a
            .csv, with or without classes.
        shape: the shape of one sample. Images are converted to it if that loses nothing.
        dataset: the dataset that the network was trained on. A .csv must have the same columns.

    Returns:
        The name of each sample: the path of an image, else the sample's index. And the samples,
        float32, shape (n, ...), as training reads them; not necessarily of the given shape.

    Raises:
        DataError: the file cannot be read, holds no such samples, or an image does not fit.
    """
    path = path.expanduser()
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in image_files.SUFFIXES:
        paths = image_files.find_images(path) if path.is_dir() else [path]
        images = ((p, image_files.read_image(p)) for p in paths)
        fitted = ((str(p), image_files.fit_image(p, image, shape)) for p, image in images)
        return [*map(str, paths)], convert_samples(str(path), image_files.stack(len(paths), fitted))
    if suffix == ".csv":
        x = _read_table(path, shape, Path(dataset).expanduser())
    elif suffix == ".npz":
        (x,) = read_npz(path, ("x", "x_test", "x_train")).values()
    elif suffix == ".npy":
        x = read_npy(path)
    else:
        open_file(path).close()  # which raises a better error if there is no such file
        raise DataError(
            f"{path} is of no known kind. Remedy: use .png or .jpg files, a folder of them, .npy, "
            ".npz or .csv"
        )
    samples = convert_samples(str(path), x)
    samples = samples[None] if samples.shape == tuple(shape) else samples
    return [*map(str, range(len(samples) if samples.ndim else 0))], samples


def _read_table(path: Path, shape: Sequence[int], dataset: Path) -> Floats:
    like = dataset / "train.csv" if dataset.is_dir() else dataset
    if like.suffix.lower() == ".csv" and like.is_file():
        return tables.read_table(path, (tables.read_header(like), like)).x
    return tables.read_table(path, size=int(np.prod(shape))).x
