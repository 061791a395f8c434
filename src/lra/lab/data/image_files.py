"""Images in PNG and JPEG files, and folders of them by class."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from lra.errors import DataError, one_line
from lra.lab.data.arrays import build_dataset
from lra.lab.data.dataset import Dataset
from lra.lab.data.files import open_file
from lra.lab.data.images import channel_axis
from lra.lab.data.mirrors import EventHandler

Pixels = npt.NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_FILE = 2**28
"""The most bytes in an image file."""
MAX_PIXELS = 2**24
"""The most pixels in an image."""
MAX_VALUES = 2**31
"""The most values in all images of a dataset."""


def read_image(path: Path) -> Pixels:
    """Read an image file, as `decode` does.

    Raises:
        DataError: the file cannot be read as such an image.
    """
    with open_file(path, MAX_FILE) as stream:
        return decode(stream, str(path))


def decode(stream: BinaryIO, where: str) -> Pixels:
    """Decode an image of 8 bits per channel: greyscale, shape (H, W), or RGB, shape (H, W, 3).

    Args:
        stream: the bytes of a PNG or JPEG file.
        where: its path, for messages.

    Raises:
        DataError: it is no such image, or has transparent pixels.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(stream, formats=("PNG", "JPEG")) as image:
                if math.prod(image.size) > MAX_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels are too many")
                if any("16" in str(tile[-1]) for tile in image.tile):
                    raise ValueError("it has 16 bits per channel")
                if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
                    raise ValueError(f"it is in colour mode {image.mode}")
                pixels = np.asarray(image.convert("RGBA"))
                if pixels[:, :, 3].min() < 255:
                    raise ValueError("it has transparent pixels")
                return pixels[:, :, 0] if image.mode in ("1", "L", "LA") else pixels[:, :, :3]
        except Exception as error:  # a damaged file makes Pillow raise many types
            raise DataError(
                f"{where} cannot be read as an image ({one_line(error)}). Allowed are PNG and "
                "JPEG, greyscale or RGB with 8 bits per channel. Remedy: convert it, for example "
                "with Pillow: Image.open(path).convert('RGB').save(path)"
            ) from error


def load_folder(folder: Path, name: str, report: EventHandler) -> Dataset:
    """Load a folder with one folder of images for each class, or with such folders train and test.

    Images have shape (H, W) if all are greyscale, else (H, W, 3). They are sorted by class and
    name.

    Raises:
        DataError: the folder holds anything else, or images of different sizes.
    """
    parts = {path.name.lower(): path for path in _list(folder) if path.is_dir()}
    train = parts.get("train", folder)
    test = parts.get("test") if "train" in parts else None
    if unused := [path.name for part, path in parts.items() if part not in ("train", "test")]:
        if "train" in parts:
            report(f"{folder}: not used: {', '.join(unused)}; only train and test are read")
    elif "test" in parts and test is None:
        raise DataError(f"{folder} has a folder test, but no train. Remedy: add train")
    files = [(path, part.name) for part in _classes(train) for path in _images(part)]
    count = len(files)
    if test is not None:
        files += [(path, part.name) for part in _classes(test) for path in _images(part)]
    pixels = stack(len(files), ((str(path), read_image(path)) for path, _ in files))
    y = np.array([label for _, label in files])
    tests = (pixels[count:], y[count:]) if test else (None, None)
    return build_dataset(str(folder), name, (pixels[:count], y[:count], *tests))


def find_images(folder: Path) -> list[Path]:
    """List the PNG and JPEG files in a folder and its subfolders, sorted.

    Raises:
        DataError: there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"{folder} has no PNG or JPEG file. Remedy: check the path")
    return found


def fit_image(path: Path, pixels: Pixels, shape: Sequence[int]) -> Pixels:
    """Convert an image to another layout or number of channels, if that loses nothing.

    Args:
        path: its path, for messages.
        pixels: the image, shape (H, W) or (H, W, 3).
        shape: (H, W), (H, W, C) or (C, H, W) with C 1 or 3.

    Raises:
        DataError: the shape is not that of an image, has another height or width, or has one
            channel and the image is in colour.
    """
    try:
        axis = channel_axis(shape)
    except DataError as error:
        raise DataError(
            f"{path} is an image; the network was trained on samples of shape {tuple(shape)}. "
            "Remedy: give samples of that shape as .npy, .npz or .csv"
        ) from error
    size = tuple(n for i, n in enumerate(shape) if i != axis)
    if pixels.shape[:2] != size:
        raise DataError(
            f"{path} has {_size(pixels)} pixels; the network was trained on "
            f"{size[1]} x {size[0]}. Remedy: resize it, for example with Pillow: "
            f"Image.open(path).resize({(size[1], size[0])}).save(path)"
        )
    channels = 1 if axis is None else shape[axis]
    if pixels.ndim == 3 and channels == 1:
        if (pixels != pixels[:, :, :1]).any():
            raise DataError(
                f"{path} is in colour; the network was trained on greyscale images. Remedy: "
                "convert it, for example with Pillow: Image.open(path).convert('L').save(path)"
            )
        pixels = pixels[:, :, 0]
    if pixels.ndim == 2 and axis is not None:
        pixels = np.repeat(pixels[:, :, None], channels, axis=2)
    return pixels if axis is None else np.moveaxis(pixels, 2, axis)


def _list(folder: Path) -> list[Path]:
    """List a folder without the files that systems hide in it."""
    hidden = "thumbs.db", "desktop.ini"
    paths = (p for p in folder.iterdir() if p.name.lower() not in hidden)
    return sorted(path for path in paths if not path.name.startswith("."))


def _classes(folder: Path) -> list[Path]:
    """List the folders of the classes."""
    paths = _list(folder)
    if stray := next((p for p in paths if p.suffix.lower() in SUFFIXES and p.is_file()), None):
        raise DataError(
            f"{stray} is in no class. Remedy: put each image into a folder with the name of its "
            "class"
        )
    found = [path for path in paths if path.is_dir()]
    if not found:
        raise DataError(
            f"{folder} has no folder for a class. Remedy: put images into one folder per class"
        )
    return found


def _images(folder: Path) -> list[Path]:
    """List the images of a class."""
    paths = _list(folder)
    if other := next((p for p in paths if p.suffix.lower() not in SUFFIXES or p.is_dir()), None):
        raise DataError(
            f"{other} is not a PNG or JPEG file. Remedy: convert it, or move it out of the folder "
            "of its class"
        )
    if not paths:
        raise DataError(f"{folder} is a class without images. Remedy: add some, or remove it")
    return paths


def stack(count: int, named_images: Iterable[tuple[str, Pixels]]) -> Pixels:
    """Stack images of one size, shape (n, H, W), or (n, H, W, 3) if one of them is in colour.

    Args:
        count: the number of images.
        named_images: the path of each image, for messages, and the image.

    Raises:
        DataError: images have different sizes, or are too large together.
    """
    images: list[Pixels] = []
    first = ""
    for where, image in named_images:
        images.append(image)
        first = first or where
        if image.shape[:2] != images[0].shape[:2]:
            raise DataError(
                f"images have different sizes: {first} has {_size(images[0])} pixels, and "
                f"{where} {_size(image)}. Remedy: resize all to one size, for example with "
                "Pillow: Image.open(path).resize((32, 32)).save(path)"
            )
        if image.size * count > MAX_VALUES:
            raise DataError(
                f"{count:,} images of {_size(image)} pixels are too large together ({where}). "
                "Remedy: make them smaller, or use fewer"
            )
    if any(image.ndim == 3 for image in images):
        images = [
            np.repeat(image[:, :, None], 3, 2) if image.ndim == 2 else image for image in images
        ]
    return np.stack(images)


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"
