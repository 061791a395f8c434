"""The `Dataset` class, and drawing a validation set from it."""

from __future__ import annotations

import hashlib
import html
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lra.errors import OptionError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Hold samples and their classes, in memory.

    Attributes:
        name: the dataset's name, or the name of its file.
        x_train: samples: float32, shape (n, ...), with pixels in [0, 1]; or windows of text, int64,
            shape (n, context).
        y_train: class indices, int64, shape (n,). For text, the index of the next character at each
            position, shape (n, context).
        x_test: the test samples; None if there is no test set.
        y_test: their class indices; None if there is no test set.
        classes: the name of each class; for text, the characters.

    >>> from lra.lab import data
    >>> digits = data.load("digits")
    >>> digits.x_train.shape, digits.y_train.shape, digits.num_classes
    ((1437, 8, 8), (1437,), 10)
    """

    name: str
    x_train: Floats | Ints
    y_train: Ints
    x_test: Floats | Ints | None
    y_test: Ints | None
    classes: tuple[str, ...]

    @property
    def reads(self) -> Literal["text", "values"]:
        """The kind of samples: "text" for character indices, else "values"."""
        return "text" if self.x_train.dtype == np.int64 else "values"

    @property
    def num_classes(self) -> int:
        """The number of classes, including those without samples."""
        return len(self.classes)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.x_train.shape[1:]

    def describe(self) -> dict[str, str]:
        """Return short descriptions of the samples, their values and the classes."""
        tests = 0 if self.x_test is None else len(self.x_test)
        names = self.classes if len(self.classes) <= 12 else (*self.classes[:10], "...")
        return {
            "samples": f"{len(self.x_train):,} for training, {tests:,} for testing",
            "shape": f"{self.sample_shape}, {self.x_train.dtype}",
            "values": f"{self.x_train.min():g} to {self.x_train.max():g}",
            "classes": f"{self.num_classes}: {', '.join(map(_shorten, names))}",
        }

    def __repr__(self) -> str:
        text = "; ".join(f"{name}: {value}" for name, value in self.describe().items())
        return f"<Dataset {self.name!r}; {text}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>"
            for name, value in self.describe().items()
        )
        return f"<table><caption>{html.escape(self.name)}</caption>{rows}</table>"

    def fingerprint(self) -> str:
        """Return the SHA-256 of the classes and all arrays, with their dtypes and shapes."""
        digest = hashlib.sha256(repr(self.classes).encode(errors="backslashreplace"))
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def _shorten(name: str) -> str:
    """Return a class name in at most 20 printable characters."""
    name = name if name.isprintable() and name.strip() else repr(name)
    return name if len(name) <= 20 else f"{name[:19]}…"


def split(dataset: Dataset, validation: int, seed: int) -> tuple[Ints, Ints]:
    """Draw a validation set from the training samples; for text, whole windows.

    The draw depends only on the number of training samples, `validation` and `seed`.

    Args:
        dataset: the dataset to split.
        validation: the number of validation samples, 0 to n - 1.
        seed: the seed of the draw, 0 or more.

    Returns:
        The indices of the training and of the validation samples, each in ascending order.

    Raises:
        OptionError: `validation` or `seed` is out of range.

    >>> from lra.lab import data
    >>> training, validation = data.split(data.load("digits"), validation=100, seed=0)
    >>> len(training), len(validation)
    (1337, 100)
    """
    n = len(dataset.x_train)
    if not 0 <= validation < n:
        raise OptionError(
            f"validation = {validation} for dataset {dataset.name!r}: it must lie between 0 and "
            f"{n - 1}, since at least one of the {n} training samples must be left"
        )
    order = shuffled_indices(n, seed)
    return np.sort(order[validation:]), np.sort(order[:validation])


def shuffled_indices(n: int, seed: int) -> Ints:
    """Return 0 to n - 1 in random order, the same for a seed in every version of NumPy.

    The order comes from the raw stream of PCG64, which NumPy guarantees across versions.

    Raises:
        OptionError: `seed` is below 0.
    """
    if seed < 0:
        raise OptionError(f"seed = {seed}: it must be 0 or more")
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable").astype(np.int64)


def scale_bytes(x: npt.NDArray[np.uint8]) -> Floats:
    """Convert bytes to float32 in [0, 1]."""
    floats = x.astype(np.float32)
    floats /= 255
    return floats
