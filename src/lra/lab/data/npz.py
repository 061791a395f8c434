"""User datasets in `.npz` files, read without trusting their content."""

from __future__ import annotations

import io
import math
import zipfile
from collections import Counter
from collections.abc import Callable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lra.errors import DataError, one_line
from lra.lab.data.dataset import Dataset, Floats, Ints, scale_bytes

Array = npt.NDArray[Any]

MAX_CLASSES = 100_000
_NAMES = ("x", "y", "x_test", "y_test")
_ALLOWED = "allowed are x, y and, both or neither, x_test, y_test"


def read_arrays(path: Path | Traversable, only: str | None = None) -> dict[str, Array]:
    """Read those of the arrays x, y, x_test and y_test that an .npz file has.

    Pickled code is never run, and no array is created before its bytes are there.

    Args:
        path: the file.
        only: read this array alone, and ignore all others.

    Raises:
        DataError: the file cannot be read, lacks that array, or has an unexpected array.
    """
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            names = Counter(member.removesuffix(".npy") for member in archive.namelist())
            if only is not None:
                if only not in names:
                    raise ValueError(f"has {', '.join(names) or 'no array'}, but not {only}")
                names = Counter({only: names[only]})
            if extra := ", ".join(sorted(names.keys() - {*_NAMES})):
                raise ValueError(f"unexpected array {extra}; {_ALLOWED}")
            if names.total() > len(names):
                raise ValueError("two arrays have the same name")
            # zipfile allocates the declared size of a member before it reads any of it.
            if max((m.compress_size for m in archive.infolist()), default=0) > stream.seek(0, 2):
                raise ValueError("an array declares more bytes than the file has")
            return {
                name: _parse_npy(archive.read(member))
                for member in archive.namelist()
                if (name := member.removesuffix(".npy")) in names
            }
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: there is no such file. Remedy: check the path; it is relative to {Path.cwd()}"
        ) from error
    except Exception as error:  # a damaged file makes the readers raise many types
        raise DataError(
            f"{path} cannot be read as .npz ({one_line(error)}). Only plain arrays are allowed, no "
            "pickled objects. Remedy: write it with np.savez_compressed(path, x=x, y=y)"
        ) from error


def _parse_npy(content: bytes) -> Array:
    """Parse an .npy file, and check the size that its header declares."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"an array is stored in version {version} of its format, not 1.0 or 2.0")
    shape, fortran_order, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("an array holds pickled objects")
    start, declared = stream.tell(), math.prod(shape) * dtype.itemsize
    if len(content) - start != declared:
        raise ValueError(
            f"an array declares shape {shape} of {dtype}, so {declared:,} bytes, but has "
            f"{len(content) - start:,}"
        )
    return np.ndarray(shape, dtype, content, start, order="F" if fortran_order else "C")


def read_samples(path: Path) -> Floats:
    """Read an .npy file, or array x of an .npz file, as float32; uint8 is divided by 255.

    Raises:
        DataError: the file cannot be read, or values are neither floating-point nor uint8, or not
            finite.
    """
    try:
        with path.open("rb") as stream:
            is_zip = stream.read(2) == b"PK"
        x = read_arrays(path, "x")["x"] if is_zip else _parse_npy(path.read_bytes())
    except Exception as error:  # as in `read_arrays`
        raise DataError(
            f"{path}: expected an .npy array, or an .npz with an array x ({one_line(error)})"
        ) from error
    if x.dtype == np.uint8:
        return scale_bytes(x)
    if x.dtype.kind != "f":
        raise DataError(f"{path}: expected uint8 or floating-point values, got {x.dtype}")
    with np.errstate(over="ignore"):
        samples = x.astype(np.float32)
    if not np.isfinite(samples).all():
        raise DataError(f"{path}: some values are not finite in float32")
    return samples


def load_npz(path: Path) -> Dataset:
    """Load and check a user's dataset.

    Raises:
        DataError: the file cannot be read, or an array is invalid.
    """
    arrays = read_arrays(path)

    def require(good: bool, problem: str, remedy: str) -> None:
        if not good:
            raise DataError(f"{path}: {problem}. Remedy: {remedy}")

    has = ", ".join(sorted(arrays)) or "no array"
    require({"x", "y"} <= set(arrays), f"has {has}; {_ALLOWED}", "save both x and y")
    test = "x_test" in arrays
    require(test == ("y_test" in arrays), f"has {has}; {_ALLOWED}", "add the other or leave it out")
    x, y = _checked_pair(arrays, "", require)
    x_test, y_test = _checked_pair(arrays, "_test", require) if test else (None, None)
    if x_test is not None:
        kinds = arrays["x"].dtype, arrays["x_test"].dtype
        require(
            (kinds[0] == np.uint8) == (kinds[1] == np.uint8),
            f"x is {kinds[0]} and x_test {kinds[1]}, so only one would be divided by 255",
            "save both as uint8 or both as floating-point",
        )
        require(
            x.shape[1:] == x_test.shape[1:],
            f"samples of x have shape {x.shape[1:]}, those of x_test {x_test.shape[1:]}",
            "give both the same sample shape",
        )
    top = max(int(y.max()), int(y_test.max()) if y_test is not None else 0)
    return Dataset(path.name, x, y, x_test, y_test, tuple(str(i) for i in range(top + 1)))


def _checked_pair(
    arrays: dict[str, Array], suffix: str, require: Callable[[bool, str, str], None]
) -> tuple[Floats, Ints]:
    """Check samples and labels, and convert them to float32 and int64."""
    x, y = arrays[f"x{suffix}"], arrays[f"y{suffix}"]
    xs, ys = f"x{suffix}", f"y{suffix}"
    require(
        x.dtype == np.uint8 or x.dtype.kind == "f",
        f"{xs} has type {x.dtype}; allowed are floating-point numbers (used unchanged) and "
        "uint8 (divided by 255)",
        f"save {xs}.astype(np.float32)",
    )
    require(
        x.ndim >= 2,
        f"{xs} has shape {x.shape}; it needs a first axis of samples and at least one more",
        f"reshape it, for example {xs}[:, None]",
    )
    require(x.size > 0, f"{xs} has shape {x.shape}, so it is empty", "save at least one sample")
    require(
        y.dtype.kind in "iu",
        f"{ys} has type {y.dtype}; allowed are integers, the class indices",
        f"save {ys}.astype(np.int64)",
    )
    require(
        y.shape == x.shape[:1],
        f"{ys} has shape {y.shape}, but {xs} has {len(x)} samples; allowed is shape ({len(x)},)",
        "save one class index per sample",
    )
    low, high = int(y.min()), int(y.max())
    require(
        low >= 0 and high < MAX_CLASSES,
        f"{ys} holds labels from {low} to {high}; allowed are 0 to {MAX_CLASSES - 1}",
        f"number the classes from 0, for example np.unique({ys}, return_inverse=True)[1]",
    )
    if x.dtype == np.uint8:
        return scale_bytes(x), y.astype(np.int64)
    with np.errstate(over="ignore"):
        floats = x.astype(np.float32)
    bad = int(np.count_nonzero(~np.isfinite(floats)))
    require(
        bad == 0,
        f"{xs} has {bad} values that are not finite in float32",
        "repair or remove those samples",
    )
    return floats, y.astype(np.int64)
