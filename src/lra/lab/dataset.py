"""What a dataset is, in memory, and how a validation part is drawn out of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lra.errors import OptionError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples and their classes, in memory.

    Attributes:
        name: the dataset's name, or the name of its file.
        x_train: samples: float32, shape (n, ...), pixels of images in [0, 1]; or windows of text,
            int64, shape (n, context).
        y_train: class indices, int64, shape (n,); of text the index of the character that comes
            next, at each place of each window, shape (n, context).
        x_test: the test pair's samples; None where there is no test pair.
        y_test: the test pair's class indices; None where there is no test pair.
        classes: a name for each class index; of text the characters.
    """

    name: str
    x_train: Floats | Ints
    y_train: Ints
    x_test: Floats | Ints | None
    y_test: Ints | None
    classes: tuple[str, ...]

    @property
    def reads(self) -> Literal["text", "values"]:
        """What the samples are: indices of characters, or values."""
        return "text" if self.x_train.dtype == np.int64 else "values"

    @property
    def num_classes(self) -> int:
        """Number of classes, those without a sample included."""
        return len(self.classes)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.x_train.shape[1:]

    def fingerprint(self) -> str:
        """SHA-256 over the classes and all arrays, with their types and shapes."""
        digest = hashlib.sha256(repr(self.classes).encode(errors="backslashreplace"))
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def split(dataset: Dataset, validation: int, seed: int) -> tuple[Ints, Ints]:
    """Draw a validation part out of the training pair; of text, whole windows.

    The draw depends on the number of training samples, `validation` and `seed` alone.

    Args:
        dataset: whose training pair is split.
        validation: number of validation samples, 0 to n - 1.
        seed: of the draw, 0 or more.

    Returns:
        Indices of the training and of the validation samples, each in ascending order.

    Raises:
        OptionError: `validation` or `seed` is out of range.
    """
    n = len(dataset.x_train)
    if not 0 <= validation < n:
        raise OptionError(
            f"validation = {validation} for dataset {dataset.name!r}: it must lie between 0 and "
            f"{n - 1}, for there are {n} training samples and at least one must be left"
        )
    order = shuffled(n, seed)
    return np.sort(order[validation:]), np.sort(order[:validation])


def shuffled(n: int, seed: int) -> Ints:
    """Numbers 0 to n - 1 in random order, the same for each seed in every version of NumPy.

    It uses the raw stream of PCG64, which NumPy keeps the same from version to version.

    Raises:
        OptionError: `seed` is below 0.
    """
    if seed < 0:
        raise OptionError(f"seed = {seed}: it must be 0 or more")
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable").astype(np.int64)


def scaled(x: npt.NDArray[np.uint8]) -> Floats:
    """Bytes as float32 in [0, 1]."""
    floats = x.astype(np.float32)
    floats /= 255
    return floats
