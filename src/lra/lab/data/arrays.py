"""Datasets from arrays: one set of checks for arrays in memory and for all kinds of files."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lra.errors import DataError
from lra.lab.data.dataset import Dataset, Floats, Ints, scale_bytes

Array = npt.NDArray[Any]

MAX_CLASSES = 100_000


def from_arrays(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    x_test: npt.ArrayLike | None = None,
    y_test: npt.ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
) -> Dataset:
    """Build a dataset from arrays in memory, and check it.

    Args:
        x: training samples, shape (n, ...): floating-point numbers (used unchanged) or uint8
            (divided by 255). Images are (n, H, W), (n, H, W, C) or (n, C, H, W).
        y: their classes, shape (n,) or (n, 1): indices from 0, or names.
        x_test: test samples; both or neither of x_test and y_test.
        y_test: their classes.
        classes: the names of all classes. By default the distinct names in y and y_test, sorted;
            for indices, the numbers from 0 to the largest one.
        name: the name of the dataset, for messages.

    Returns:
        The dataset.

    Raises:
        DataError: an array has the wrong type or shape, values are not finite, or classes are out
            of range.

    >>> from lra.lab import data
    >>> dataset = data.from_arrays(np.zeros((4, 3)), ["cat", "dog", "cat", "dog"])
    >>> dataset.classes
    ('cat', 'dog')
    """
    return build_dataset(name, name, (x, y, x_test, y_test), classes)


def build_dataset(
    where: str,
    name: str,
    arrays: Sequence[npt.ArrayLike | None],
    classes: Iterable[str] | None = None,
    suffix: str = "",
) -> Dataset:
    """Build a dataset as `from_arrays` does.

    Args:
        where: the beginning of messages, such as a path.
        name: the name of the dataset.
        arrays: x, y, x_test and y_test.
        classes: as in `from_arrays`.
        suffix: what follows x and y in the names of the training arrays.
    """
    x, y, x_test, y_test = (None if array is None else np.asarray(array) for array in arrays)
    names = f"x{suffix}", f"y{suffix}", "x_test", "y_test"
    has = ", ".join(n for n, a in zip(names, (x, y, x_test, y_test), strict=True) if a is not None)
    if x is None or y is None or (x_test is None) != (y_test is None):
        raise _error(
            where,
            f"has {has or 'no array'}; allowed are {names[0]}, {names[1]} and, both or neither, "
            "x_test, y_test",
            "add the missing array, or leave out a test array without the other",
        )
    samples, labels = _check_pair(where, x, y, names[:2])
    if x_test is None or y_test is None:
        (indices,), known = _index(where, [labels], classes)
        return Dataset(name, samples, indices, None, None, known)
    test_samples, test_labels = _check_pair(where, x_test, y_test, names[2:])
    if (x.dtype == np.uint8) != (x_test.dtype == np.uint8):
        raise _error(
            where,
            f"{names[0]} is {x.dtype} and x_test {x_test.dtype}, so only one would be divided by "
            "255",
            "use uint8 for both or floating-point numbers for both",
        )
    if x.shape[1:] != x_test.shape[1:]:
        raise _error(
            where,
            f"samples of {names[0]} have shape {x.shape[1:]}, those of x_test {x_test.shape[1:]}",
            "use the same sample shape for both",
        )
    (indices, test_indices), known = _index(where, [labels, test_labels], classes)
    return Dataset(name, samples, indices, test_samples, test_indices, known)


def convert_samples(where: str, x: Array, name: str = "x") -> Floats:
    """Convert samples to float32: floating-point numbers unchanged, uint8 divided by 255.

    Raises:
        DataError: the samples have another type, or values are not finite in float32.
    """
    if x.dtype == np.uint8:
        return scale_bytes(x)
    if x.dtype.kind != "f":
        raise _error(
            where,
            f"{name} has type {x.dtype}; allowed are floating-point numbers (used unchanged) and "
            "uint8 (divided by 255)",
            f"use {name}.astype(np.float32)",
        )
    with np.errstate(over="ignore"):
        floats = x.astype(np.float32)
    if bad := int(np.count_nonzero(~np.isfinite(floats))):
        raise _error(
            where,
            f"{name} has {bad} values that are not finite in float32",
            "repair or remove those samples",
        )
    return floats


def _error(where: str, problem: str, remedy: str) -> DataError:
    return DataError(f"{where}: {problem}. Remedy: {remedy}")


def _check_pair(where: str, x: Array, y: Array, names: Sequence[str]) -> tuple[Floats, Array]:
    """Check samples and classes; return samples as float32, and classes as int64 or strings."""
    xs, ys = names
    samples = convert_samples(where, x, xs)
    if x.ndim < 2:
        raise _error(
            where,
            f"{xs} has shape {x.shape}; it needs a first axis of samples and at least one more",
            f"reshape it, for example {xs}[:, None]",
        )
    if not x.size:
        raise _error(where, f"{xs} has shape {x.shape}, so it is empty", "add at least one sample")
    if y.shape == (len(x), 1):
        y = y[:, 0]
    if y.shape != x.shape[:1]:
        raise _error(
            where,
            f"{ys} has shape {y.shape}, but {xs} has {len(x)} samples; allowed is shape "
            f"({len(x)},)",
            f"use one class per sample, for one-hot codes {ys}.argmax(1)",
        )
    if y.dtype.kind in "iu":
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= MAX_CLASSES:
            raise _error(
                where,
                f"{ys} holds labels from {low} to {high}; allowed are 0 to {MAX_CLASSES - 1}",
                f"number the classes from 0, for example np.unique({ys}, return_inverse=True)[1]",
            )
        return samples, y.astype(np.int64)
    if y.dtype.kind in "UT" or (y.dtype == object and all(isinstance(n, str) for n in y)):
        return samples, y.astype(str)
    raise _error(
        where,
        f"{ys} has type {y.dtype}; allowed are integers, the class indices, and strings, the names "
        "of the classes",
        f"use {ys}.astype(np.int64) or {ys}.astype(str)",
    )


def _index(
    where: str, labels: Sequence[Array], classes: Iterable[str] | None
) -> tuple[list[Ints], tuple[str, ...]]:
    """Return class indices for labels, which are indices or names, and the names of the classes."""
    if len({y.dtype.kind for y in labels}) > 1:
        raise _error(
            where,
            "one of the training and test sets holds class indices, and the other one names",
            "use the same kind for both",
        )
    named = labels[0].dtype.kind == "U"
    if classes is not None:
        known = tuple(classes)
    elif named:
        known = sort_names({str(name) for y in labels for name in np.unique(y)})
    else:
        known = tuple(map(str, range(1 + max(int(y.max()) for y in labels))))
    if len(set(known)) < len(known) or len(known) > MAX_CLASSES:
        raise _error(
            where,
            f"has {len(known):,} classes, {len(set(known)):,} of them different",
            f"use different names, at most {MAX_CLASSES:,}",
        )
    for name in known:
        if not name.strip() or any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
            raise _error(
                where,
                f"a class has the name {name!r}, which is empty or has control characters",
                "rename it",
            )
    if not named:
        if (top := max(int(y.max()) for y in labels)) >= len(known):
            raise _error(
                where,
                f"a label is {top}, but there are {len(known)} classes",
                "name all classes",
            )
        return list(labels), known
    index = {name: i for i, name in enumerate(known)}
    if unknown := {str(n) for y in labels for n in np.unique(y)} - index.keys():
        raise _error(
            where,
            f"the label {min(unknown)!r} is none of the classes {', '.join(known)[:200]}",
            "add it to the classes, or correct the label",
        )
    return [np.array([index[name] for name in y.tolist()], np.int64) for y in labels], known


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names, whole numbers by value and others as text."""
    names = sorted(names)
    digits = all(name.isascii() and name.isdigit() and len(name) < 20 for name in names)
    return tuple(sorted(names, key=int) if digits else names)
