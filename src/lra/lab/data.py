"""Datasets as NumPy arrays: load, list, fetch, split and look at them.

Five sets have names. `digits` lies in the package (its licence and making: `digits.md`) and needs
no network. `mnist`, `fashion-mnist` and `cifar-10` come from a folder you name, from the cache or
from the network (`lra.lab.sources`), each file checked at every load. `python` is text, the source
of Python's own library (`lra.lab.text`). Any other set is an `.npz` or a `.txt` file.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from lra.axis import unknown
from lra.errors import OptionError
from lra.lab import sources, text
from lra.lab.dataset import Dataset, scaled, split
from lra.lab.formats import Bytes, parse_cifar, parse_idx
from lra.lab.npz import load_npz, read_arrays
from lra.lab.pictures import sample_figure
from lra.lab.remote import Event

__all__ = ["NAMES", "Dataset", "Entry", "catalogue", "fetch", "load", "sample_figure", "split"]

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
"""The datasets that have names."""


@dataclass(frozen=True)
class Entry:
    """A line of the catalogue.

    Attributes:
        name: what `load` calls it.
        summary: what it is.
        sample_shape: shape of one sample.
        num_classes: number of classes.
        num_train: number of training samples.
        num_test: number of test samples.
        licence: under which it may be used.
        where: folder or file on this machine, checked; None where it has to be fetched.
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
        """Whether it can be loaded without a network."""
        return self.where is not None


def load(
    dataset: str,
    folder: Path | None = None,
    on_event: Event | None = None,
    context: int = text.CONTEXT,
) -> Dataset:
    """Load a dataset, fetching it first where it is not on this machine.

    Args:
        dataset: a name in `NAMES`; or the path of an `.npz` file with arrays x and y and, if there
            is a test pair, x_test and y_test, where x is floating-point (taken as it is) or uint8
            (divided by 255), shape (n, ...), and y holds class indices, shape (n,); or the path of
            a `.txt` file in UTF-8.
        folder: where the files of `mnist`, `fashion-mnist` or `cifar-10` are, plain or .gz,
            directly or in a subfolder of the dataset's name; else the environment variable
            `LRA_DATA`, where set. The other datasets do not need it.
        on_event: hears, in one line each, what is fetched from where, and what else to know.
        context: number of characters in a window of text; other data have no use for it.

    Raises:
        OptionError: the name is unknown, or `context` is out of range.
        DataError: the data cannot be found, fetched, or trusted.
    """
    if _is_npz(dataset):
        return load_npz(Path(dataset).expanduser())
    if _is_text(dataset):
        return _load_text(Path(dataset).expanduser(), context, on_event)
    if _known(dataset) == "python":
        library = text.read_library(text.library_folder())
        return text.make_dataset(dataset, library, context, text.PYTHON_KINDS)
    if dataset == "digits":
        return _load_digits()
    found = sources.obtain(dataset, folder, on_event)
    (x, y), (x_test, y_test) = _cifar(found) if dataset == "cifar-10" else _idx(found)
    pairs = scaled(x), y.astype(np.int64), scaled(x_test), y_test.astype(np.int64)
    return Dataset(dataset, *pairs, _CLASSES[dataset])


def fetch(name: str, folder: Path | None = None, on_event: Event | None = None) -> list[Path]:
    """Make sure that a dataset is on this machine and checked; arguments and errors as `load`.

    Returns:
        Paths of its files, those of the training pair first; or the one file, archive or folder
        that has it all.
    """
    path = Path(name).expanduser()
    if _is_npz(name):
        load_npz(path)
        return [path]
    if _is_text(name):
        text.read_text(path)
        return [path]
    if _known(name) == "digits":
        return [_digits_path()]
    if name == "python":
        text.read_library(text.library_folder())
        return [text.library_folder()]
    paths = (path for path, _ in sources.obtain(name, folder, on_event).values())
    return list(dict.fromkeys(paths))


def catalogue(folder: Path | None = None) -> list[Entry]:
    """List the datasets that have names, and where each lies on this machine; fetches nothing.

    Args:
        folder: as in `load`. A named folder without good files counts as: not on this machine.
    """
    small = ((8, 8), 10, 1_437, 360)
    images = ((28, 28), 10, 60_000, 10_000)
    photos = ((3, 32, 32), 10, 50_000, 10_000)
    cut, rest = text.PYTHON_CHARACTERS * 9 // 10, text.PYTHON_CHARACTERS // 10
    windows = ((cut - 1) // text.CONTEXT, (rest - 1) // text.CONTEXT)
    characters = ((text.CONTEXT,), len(text.PYTHON_KINDS) + 1, *windows)
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


def _is_text(dataset: str) -> bool:
    return str(dataset).lower().endswith(".txt")


def _known(name: str) -> str:
    """The name, if there is a dataset of that name."""
    if name in NAMES:
        return name
    raise OptionError(
        f"{unknown('dataset', name, NAMES)} A dataset of your own is the path of a file that ends "
        "in .npz or .txt."
    )


def _digits_path() -> Path:
    return Path(str(resources.files("lra.lab").joinpath("digits.npz")))


def _load_digits() -> Dataset:
    arrays = read_arrays(resources.files("lra.lab").joinpath("digits.npz"))
    x, x_test = (arrays[k].astype(np.float32) / np.float32(16) for k in ("x", "x_test"))
    y, y_test = (arrays[k].astype(np.int64) for k in ("y", "y_test"))
    return Dataset("digits", x, y, x_test, y_test, _DIGITS)


def _load_text(path: Path, context: int, on_event: Event | None) -> Dataset:
    """Load a text of the user's own, and tell what is not in its vocabulary."""
    dataset = text.make_dataset(path.name, text.read_text(path), context)
    if on_event and (count := text.count_stand_ins(dataset)):
        on_event(
            f"{dataset.name}: {count:,} characters are not in the vocabulary of "
            f"{dataset.num_classes - 1} and become {text.STAND_IN}"
        )
    return dataset


def _idx(found: sources.Files) -> tuple[tuple[Bytes, Bytes], tuple[Bytes, Bytes]]:
    """Training and test pair of four IDX files."""
    x, y, x_test, y_test = (parse_idx(content, str(path)) for path, content in found.values())
    return (x, y), (x_test, y_test)


def _cifar(found: sources.Files) -> tuple[tuple[Bytes, Bytes], tuple[Bytes, Bytes]]:
    """Training and test pair of CIFAR-10's files, of which the last one has the test pair."""
    *parts, test = (parse_cifar(content, str(path)) for path, content in found.values())
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return (x, y), test
