"""Datasets as NumPy arrays: load, list, fetch, split and plot them.

There are five named datasets. `digits` is part of the package (`digits.md` has its licence and
origin) and needs no network. `mnist`, `fashion-mnist` and `cifar-10` come from a folder that the
user names, from the cache, or from the network (`lra.lab.data.sources`); each file is verified at
every load. `python` is text, the source of Python's standard library (`lra.lab.data.text`). Any
other dataset is a file or a folder (`docs/guides/data.md`).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lra.axis import unknown
from lra.errors import DataError, OptionError
from lra.lab.data import hugging_face, image_files, sources, tables, text
from lra.lab.data.dataset import Dataset, scale_bytes
from lra.lab.data.mirrors import EventHandler
from lra.lab.data.npz import load_npz, read_npz

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]

_DIGITS = tuple("0123456789")
_CLOTHING = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_OBJECTS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)

FILES = (
    "an .npz, .csv or .txt file, a folder of images by class, a folder with train.csv, or a "
    "folder written by save_to_disk"
)
"""The kinds of files and folders that `load` reads."""

LARGE = 20.0
"""The largest value of a sample without a remark."""


@dataclass(frozen=True)
class Entry:
    """Describe a dataset in the catalogue.

    Attributes:
        name: the name that `load` takes.
        summary: a short description.
        sample_shape: the shape of one sample.
        classes: the name of each class; for text, the characters.
        num_train: the number of training samples.
        num_test: the number of test samples.
        licence: the licence.
        where: the verified folder or file on this machine; None if it has to be fetched.
    """

    name: str
    summary: str
    sample_shape: tuple[int, ...]
    classes: tuple[str, ...]
    num_train: int
    num_test: int
    licence: str
    where: Path | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def reads(self) -> str:
        """The kind of samples: "text" or "values"."""
        return "text" if self.name == "python" else "values"

    @property
    def available(self) -> bool:
        """Whether the dataset can be loaded without network access."""
        return self.where is not None


def _list_entries() -> dict[str, Entry]:
    small = ((8, 8), _DIGITS, 1_437, 360)
    images = 60_000, 10_000
    photos = ((3, 32, 32), _OBJECTS, 50_000, 10_000)
    cut, rest = text.PYTHON_CHARACTERS * 9 // 10, text.PYTHON_CHARACTERS // 10
    windows = ((cut - 1) // text.CONTEXT, (rest - 1) // text.CONTEXT)
    characters = (*text.PYTHON_VOCABULARY, text.UNKNOWN_CHARACTER)
    source = f"text, the source of Python {platform.python_version()}'s library"
    entries = (
        Entry("digits", "small handwritten digits (UCI)", *small, "CC BY 4.0"),
        Entry("mnist", "handwritten digits (NIST)", (28, 28), _DIGITS, *images, "CC BY-SA 3.0"),
        Entry(
            "fashion-mnist", "articles of clothing (Zalando)", (28, 28), _CLOTHING, *images, "MIT"
        ),
        Entry("cifar-10", "photographs of ten kinds", *photos, "no licence stated"),
        Entry("python", source, (text.CONTEXT,), characters, *windows, "PSF licence"),
    )
    return {entry.name: entry for entry in entries}


ENTRIES = _list_entries()
"""The named datasets, without their places on this machine."""

NAMES = tuple(ENTRIES)
"""The names of the named datasets."""


def load(
    dataset: str | os.PathLike[str],
    folder: Path | None = None,
    on_event: EventHandler | None = None,
    context: int = text.CONTEXT,
) -> Dataset:
    """Load a dataset, and fetch it first if it is not on this machine.

    Args:
        dataset: a name from `NAMES`, or a path: an .npz, .csv or .txt file, a folder of images by
            class, or what `datasets` saves. `docs/guides/data.md` describes them.
        folder: the folder with the files of `mnist`, `fashion-mnist` or `cifar-10`, plain or .gz,
            directly or in a subfolder with the dataset's name. By default the environment variable
            `LRA_DATA`, if set. Other datasets ignore it.
        on_event: called with a line of text for each download and each remark.
        context: the number of characters in a window of text. Other data ignore it.

    Returns:
        The dataset.

    Raises:
        OptionError: the name is unknown, or `context` is out of range.
        DataError: the data cannot be found, fetched, verified or read.

    >>> from lra.lab import data
    >>> data.load("digits").sample_shape
    (8, 8)
    """
    report = on_event or (lambda event: None)
    dataset = os.fspath(dataset)
    if dataset not in ENTRIES:
        own = _load_path(dataset, context, report)
        low, high = own.x_train.min(), own.x_train.max()
        if own.reads == "values" and max(-low, high) > LARGE:
            report(
                f"{own.name}: values from {low:g} to {high:g} are used unchanged; networks learn "
                "best from values of about -1 to 1"
            )
        return own
    if dataset == "python":
        library = text.read_library(text.library_folder())
        return text.make_dataset(dataset, library, context, text.PYTHON_VOCABULARY)
    if dataset == "digits":
        return _load_digits()
    files = sources.obtain(dataset, folder, report)
    contents = [content for _, content in files.values()]
    (x, y), (x_test, y_test) = (_parse_cifar if dataset == "cifar-10" else _parse_idx)(contents)
    pairs = scale_bytes(x), y.astype(np.int64), scale_bytes(x_test), y_test.astype(np.int64)
    return Dataset(dataset, *pairs, ENTRIES[dataset].classes)


def fetch(
    name: str | os.PathLike[str], folder: Path | None = None, on_event: EventHandler | None = None
) -> list[Path]:
    """Fetch a dataset if it is not on this machine, and verify it.

    Errors are those of `load`.

    Args:
        name: a name from `NAMES`, or a path.
        folder: as in `load`.
        on_event: as in `load`.

    Returns:
        The paths of its files, training files first; or the one file, archive or folder that holds
        all of it.

    >>> from lra.lab import data
    >>> [path.name for path in data.fetch("digits")]
    ['digits.npz']
    """
    name = os.fspath(name)
    if name in sources.CHECKSUMS:
        paths = (path for path, _ in sources.obtain(name, folder, on_event).values())
        return list(dict.fromkeys(paths))
    if name == "digits":
        return [_digits_path()]
    if name == "python":
        text.read_library(text.library_folder())
        return [text.library_folder()]
    path = Path(name).expanduser()
    if path.suffix.lower() == ".txt":
        text.read_text(path)  # whose windows depend on the network
    else:
        load(name, folder, on_event)
    return [path]


def catalogue(folder: Path | None = None) -> list[Entry]:
    """List the named datasets and where each is on this machine, without fetching anything.

    Args:
        folder: as in `load`. If it lacks valid files, the dataset counts as not on this machine.

    Returns:
        An entry for each dataset.

    >>> from lra.lab import data
    >>> [entry.name for entry in data.catalogue() if entry.available][0]
    'digits'
    """
    library = text.library_folder() if text.library_files(text.library_folder()) else None
    where = {name: sources.locate(name, folder) for name in sources.CHECKSUMS}
    where |= {"digits": _digits_path(), "python": library}
    return [replace(entry, where=where[name]) for name, entry in ENTRIES.items()]


def _load_path(dataset: str, context: int, report: EventHandler) -> Dataset:
    """Load a file by its suffix, or a folder by its content."""
    path = Path(dataset).expanduser()
    name = path.name or path.resolve().name
    readers: dict[str, Callable[[], Dataset]] = {
        ".npz": lambda: load_npz(path),
        ".csv": lambda: tables.load_tables(path, None, name),
        ".txt": lambda: _load_text(path, context, report),
    }
    try:
        if path.is_dir():
            return _load_folder(path, name, report)
        if read := readers.get(path.suffix.lower()):
            return read()
        found = path.exists()
    except MemoryError as error:
        raise DataError(f"{path} does not fit into memory. Remedy: use less of it") from error
    except OSError as error:
        if isinstance(error, DataError):
            raise
        where = error.filename or path
        raise DataError(f"{where} cannot be read ({error.strerror}). Remedy: check it") from error
    if found:
        raise DataError(f"{path} is of no known kind. Remedy: use {FILES}")
    if len(path.parts) > 1 or path.suffix:
        raise DataError(
            f"{path}: there is no such file or folder. Remedy: check the path; it is relative to "
            f"{Path.cwd()}"
        )
    from lra.lab.settings.recipes import RECIPES  # above this package, and only for this message

    if dataset == "arrays":
        raise OptionError(
            "the run was trained on arrays in memory: open it with lra.lab.Run.open(folder, "
            "dataset=(x, y))"
        )
    if dataset in RECIPES:
        raise OptionError(f"{dataset} is a recipe, not a dataset: use --recipe {dataset}")
    raise OptionError(f"{unknown('dataset', dataset, NAMES)} For your own data, give {FILES}.")


def is_text(dataset: str) -> bool:
    """Return whether a name or path is that of a text dataset."""
    return dataset == "python" or dataset.lower().endswith(".txt")


def _load_folder(folder: Path, name: str, report: EventHandler) -> Dataset:
    names = {path.name for path in folder.iterdir()}
    if names & {*hugging_face.MARKS}:
        return hugging_face.load_saved(folder, name, report)
    if "train.csv" in names:
        test = folder / "test.csv" if "test.csv" in names else None
        return tables.load_tables(folder / "train.csv", test, name)
    if any(path.is_dir() for path in folder.iterdir()):
        return image_files.load_folder(folder, name, report)
    raise DataError(f"{folder} is a folder of no known kind. Remedy: use {FILES}")


def _digits_path() -> Path:
    return Path(str(resources.files("lra.lab.data").joinpath("digits.npz")))


def _load_digits() -> Dataset:
    arrays = read_npz(_digits_path())
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


def _parse_idx(contents: list[bytes]) -> tuple[Pair, Pair]:
    """Return training and test pair of four IDX files of unsigned bytes, already verified."""
    arrays = []
    for content in contents:  # 00 00 08, the number of axes, and their lengths; then the bytes
        shape = np.frombuffer(content, ">u4", content[3], 4).astype(int)
        body = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape))
        arrays.append(body.reshape(*shape))
    x, y, x_test, y_test = arrays
    return (x, y), (x_test, y_test)


def _parse_cifar(contents: list[bytes]) -> tuple[Pair, Pair]:
    """Return training and test pair of CIFAR-10's binary files, the last of which is the test.

    Each image is a byte for its class, then its red, green and blue values in 32 rows of 32.
    """
    images = [np.frombuffer(c, np.uint8).reshape(-1, 1 + 3 * 32 * 32) for c in contents]
    train, test = (
        (part[:, 1:].reshape(-1, 3, 32, 32), part[:, 0])
        for part in (np.concatenate(images[:-1]), images[-1])
    )
    return train, test
