"""Datasets as NumPy arrays: load, list, fetch, split and plot them.

There are five named datasets. `digits` is part of the package (`digits.md` has its licence and
origin) and needs no network. `mnist`, `fashion-mnist` and `cifar-10` come from a folder that the
user names, from the cache, or from the network (`lra.lab.data.sources`); each file is verified at
every load. `python` is text, the source of Python's standard library (`lra.lab.data.text`). Any
other dataset is an `.npz` or a `.txt` file.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from lra.axis import unknown
from lra.errors import OptionError
from lra.lab.data import sources, text
from lra.lab.data.dataset import Dataset, scale_bytes
from lra.lab.data.formats import Bytes, parse_cifar, parse_idx
from lra.lab.data.npz import load_npz, read_arrays
from lra.lab.data.remote import EventHandler

_DIGITS = tuple("0123456789")
_CLASSES = {
    "mnist": _DIGITS,
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "cifar-10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}

NAMES = ("digits", *_CLASSES, "python")
"""The named datasets."""


@dataclass(frozen=True)
class Entry:
    """A dataset in the catalogue.

    Attributes:
        name: the name that `load` takes.
        summary: a short description.
        sample_shape: the shape of one sample.
        num_classes: the number of classes.
        num_train: the number of training samples.
        num_test: the number of test samples.
        licence: the licence.
        where: the verified folder or file on this machine; None if it has to be fetched.
    """

    name: str
    summary: str
    sample_shape: tuple[int, ...]
    num_classes: int
    num_train: int
    num_test: int
    licence: str
    where: Path | None

    @property
    def available(self) -> bool:
        """Whether the dataset can be loaded without network access."""
        return self.where is not None


def load(
    dataset: str,
    folder: Path | None = None,
    on_event: EventHandler | None = None,
    context: int = text.CONTEXT,
) -> Dataset:
    """Load a dataset, and fetch it first if it is not on this machine.

    An `.npz` file holds arrays x and y and, optionally, x_test and y_test. x has shape (n, ...) and
    is floating-point (used unchanged) or uint8 (divided by 255). y holds class indices, shape (n,).

    Args:
        dataset: a name from `NAMES`, or the path of an `.npz` file or of a `.txt` file in UTF-8.
        folder: the folder with the files of `mnist`, `fashion-mnist` or `cifar-10`, plain or .gz,
            directly or in a subfolder with the dataset's name. By default the environment variable
            `LRA_DATA`, if set. Other datasets ignore it.
        on_event: called with a line of text for each download and each remark.
        context: the number of characters in a window of text. Other data ignore it.

    Raises:
        OptionError: the name is unknown, or `context` is out of range.
        DataError: the data cannot be found, fetched or verified.
    """
    if _is_npz(dataset):
        return load_npz(Path(dataset).expanduser())
    if dataset != "python" and is_text(dataset):
        return _load_text(Path(dataset).expanduser(), context, on_event)
    if _check_name(dataset) == "python":
        library = text.read_library(text.library_folder())
        return text.make_dataset(dataset, library, context, text.PYTHON_VOCABULARY)
    if dataset == "digits":
        return _load_digits()
    files = sources.obtain(dataset, folder, on_event)
    (x, y), (x_test, y_test) = _parse_cifar(files) if dataset == "cifar-10" else _parse_idx(files)
    pairs = scale_bytes(x), y.astype(np.int64), scale_bytes(x_test), y_test.astype(np.int64)
    return Dataset(dataset, *pairs, _CLASSES[dataset])


def fetch(
    name: str, folder: Path | None = None, on_event: EventHandler | None = None
) -> list[Path]:
    """Fetch a dataset if it is not on this machine, and verify it.

    Arguments and errors are those of `load`.

    Returns:
        The paths of its files, training files first; or the one file, archive or folder that holds
        all of it.
    """
    path = Path(name).expanduser()
    if _is_npz(name):
        load_npz(path)
        return [path]
    if name != "python" and is_text(name):
        text.read_text(path)
        return [path]
    if _check_name(name) == "digits":
        return [_digits_path()]
    if name == "python":
        text.read_library(text.library_folder())
        return [text.library_folder()]
    paths = (path for path, _ in sources.obtain(name, folder, on_event).values())
    return list(dict.fromkeys(paths))


def catalogue(folder: Path | None = None) -> list[Entry]:
    """List the named datasets and where each is on this machine, without fetching anything.

    Args:
        folder: as in `load`. If it lacks valid files, the dataset counts as not on this machine.
    """
    small = ((8, 8), 10, 1_437, 360)
    images = ((28, 28), 10, 60_000, 10_000)
    photos = ((3, 32, 32), 10, 50_000, 10_000)
    cut, rest = text.PYTHON_CHARACTERS * 9 // 10, text.PYTHON_CHARACTERS // 10
    windows = ((cut - 1) // text.CONTEXT, (rest - 1) // text.CONTEXT)
    characters = ((text.CONTEXT,), len(text.PYTHON_VOCABULARY) + 1, *windows)
    mnist, fashion, cifar = (sources.locate(name, folder) for name in _CLASSES)
    source = f"text, the source of Python {platform.python_version()}'s library"
    library = text.library_folder() if text.library_files(text.library_folder()) else None
    return [
        Entry("digits", "small handwritten digits (UCI)", *small, "CC BY 4.0", _digits_path()),
        Entry("mnist", "handwritten digits (NIST)", *images, "CC BY-SA 3.0", mnist),
        Entry("fashion-mnist", "articles of clothing (Zalando)", *images, "MIT", fashion),
        Entry("cifar-10", "photographs of ten kinds", *photos, "no licence stated", cifar),
        Entry("python", source, *characters, "PSF licence", library),
    ]


def _is_npz(dataset: str) -> bool:
    return str(dataset).lower().endswith(".npz")


def is_text(dataset: str) -> bool:
    """Return whether a name or path is that of a text dataset."""
    return dataset == "python" or str(dataset).lower().endswith(".txt")


def _check_name(name: str) -> str:
    """Return the name of a named dataset, or raise `OptionError`."""
    if name in NAMES:
        return name
    raise OptionError(
        f"{unknown('dataset', name, NAMES)} For your own data, give the path of an .npz or .txt "
        "file."
    )


def _digits_path() -> Path:
    return Path(str(resources.files("lra.lab.data").joinpath("digits.npz")))


def _load_digits() -> Dataset:
    arrays = read_arrays(resources.files("lra.lab.data").joinpath("digits.npz"))
    x, x_test = (arrays[k].astype(np.float32) / np.float32(16) for k in ("x", "x_test"))
    y, y_test = (arrays[k].astype(np.int64) for k in ("y", "y_test"))
    return Dataset("digits", x, y, x_test, y_test, _DIGITS)


def _load_text(path: Path, context: int, on_event: EventHandler | None) -> Dataset:
    """Load a user's text, and report the number of characters that are not in its vocabulary."""
    dataset = text.make_dataset(path.name, text.read_text(path), context)
    if on_event and (count := text.count_unknown(dataset)):
        on_event(
            f"{dataset.name}: {count:,} characters are not in the vocabulary of "
            f"{dataset.num_classes - 1} and become {text.UNKNOWN_CHARACTER}"
        )
    return dataset


def _parse_idx(files: sources.Files) -> tuple[tuple[Bytes, Bytes], tuple[Bytes, Bytes]]:
    """Return training and test pair of four IDX files."""
    x, y, x_test, y_test = (parse_idx(content, str(path)) for path, content in files.values())
    return (x, y), (x_test, y_test)


def _parse_cifar(files: sources.Files) -> tuple[tuple[Bytes, Bytes], tuple[Bytes, Bytes]]:
    """Return training and test pair of CIFAR-10's files, the last of which is the test pair."""
    *parts, test = (parse_cifar(content, str(path)) for path, content in files.values())
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return (x, y), test
