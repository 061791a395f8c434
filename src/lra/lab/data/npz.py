"""Arrays in `.npz` and `.npy` files, read without trusting their content."""

from __future__ import annotations

import io
import math
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lra.errors import DataError, one_line
from lra.lab.data.arrays import Array, build_dataset
from lra.lab.data.dataset import Dataset
from lra.lab.data.files import MAX_BYTES, open_file

LAYOUTS = ("x", "y", "x_test", "y_test"), ("x_train", "y_train", "x_test", "y_test")
"""The names of the arrays in a file: lra's own, and those of Keras's files."""


def load_npz(path: Path) -> Dataset:
    """Load a dataset from an `.npz` file with the arrays of one of the `LAYOUTS`.

    Raises:
        DataError: the file cannot be read, or an array is missing, unexpected or invalid.
    """
    arrays = read_npz(path)
    own, keras = LAYOUTS
    names = keras if {*keras[:2]} & {*arrays} else own
    suffix = names[0].removeprefix("x")
    if extra := ", ".join(sorted(arrays.keys() - {*names})):
        raise DataError(
            f"{path}: unexpected array {extra}; allowed are {', '.join(own)}, or "
            f"{', '.join(keras)}. Remedy: save only these"
        )
    return build_dataset(str(path), path.name, [arrays.get(n) for n in names], suffix=suffix)


def read_npz(path: Path, only: Sequence[str] | None = None) -> dict[str, Array]:
    """Read the arrays of an .npz file.

    Pickled code is never run, and no array is created before its bytes are there: `numpy.load`
    would first create the array that a header declares.

    Args:
        path: the file.
        only: read the first of these arrays that the file has, and ignore all others. By default,
            all arrays that one of the `LAYOUTS` names, and the names of the others.

    Raises:
        DataError: the file cannot be read, or has none of these arrays.
    """
    with open_file(path) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                return _read_members(archive, stream.seek(0, 2), only)
        except Exception as error:  # a damaged file makes the readers raise many types
            raise DataError(
                f"{path} cannot be read as .npz ({one_line(error)}). Only plain arrays are "
                "allowed, no pickled objects. Remedy: write it with "
                "np.savez_compressed(path, x=x, y=y)"
            ) from error


def _read_members(
    archive: zipfile.ZipFile, size: int, only: Iterable[str] | None
) -> dict[str, Array]:
    members = archive.infolist()
    names = Counter(member.filename.removesuffix(".npy") for member in members)
    wanted = {name for layout in LAYOUTS for name in layout}
    if only is not None:
        wanted = {next((name for name in only if name in names), "")}
        if not wanted & names.keys():
            raise ValueError(f"has {', '.join(names) or 'no array'}, but not {' or '.join(only)}")
    elif extra := ", ".join(sorted(names.keys() - wanted)):
        raise ValueError(f"unexpected array {extra}; allowed are {', '.join(sorted(wanted))}")
    chosen = [m for m in members if m.filename.removesuffix(".npy") in wanted]
    if any(names[name] > 1 for name in wanted):
        raise ValueError("two arrays have the same name")
    # zipfile allocates the declared size of a member before it reads any of it.
    if max((member.compress_size for member in chosen), default=0) > size:
        raise ValueError("an array declares more bytes than the file has")
    if sum(member.file_size for member in chosen) > MAX_BYTES:
        raise ValueError(f"its arrays have more than {MAX_BYTES:,} bytes")
    return {m.filename.removesuffix(".npy"): parse_npy(archive.read(m)) for m in chosen}


def read_npy(path: Path) -> Array:
    """Read an `.npy` file.

    Raises:
        DataError: the file cannot be read.
    """
    with open_file(path) as stream:
        try:
            return parse_npy(stream.read())
        except Exception as error:  # as in `read_npz`
            raise DataError(
                f"{path} cannot be read as .npy ({one_line(error)}). Remedy: write it with "
                "np.save(path, x)"
            ) from error


def parse_npy(content: bytes) -> Array:
    """Parse the content of an .npy file, and check the size that its header declares.

    Raises:
        Exception: of many types, if the content is damaged.
    """
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
