"""Parsers for the files of the named datasets: IDX (MNIST) and the binary version of CIFAR-10."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from lra.errors import DataError

Bytes = npt.NDArray[np.uint8]


def parse_idx(content: bytes, where: str) -> Bytes:
    """Parse an IDX file of unsigned bytes, the format of MNIST.

    Args:
        content: the unpacked bytes of the file.
        where: its path, for error messages.

    Raises:
        DataError: the bytes are not such a file, or do not match the shape in its header.
    """
    ndim = content[3] if len(content) > 3 else 0
    if content[:3] != b"\0\0\x08" or ndim == 0 or len(content) < 4 + 4 * ndim:
        raise DataError(
            f"{where} is not an IDX file of unsigned bytes: it must start with 00 00 08, the "
            "number of axes and their lengths. Remedy: use a good copy of the file"
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", ndim, 4))
    body = len(content) - 4 - 4 * ndim
    if math.prod(shape) != body:
        raise DataError(
            f"{where} declares shape {shape}, so {math.prod(shape):,} bytes of data, but has "
            f"{body:,}. Remedy: use a good copy of the file"
        )
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def parse_cifar(content: bytes, where: str) -> tuple[Bytes, Bytes]:
    """Parse a file of CIFAR-10's binary version.

    Each image is a byte for its class, then its red, green and blue values in 32 rows of 32.

    Args:
        content: the bytes of the file.
        where: its path, for error messages.

    Returns:
        Images of shape (n, 3, 32, 32), and their classes, shape (n,).

    Raises:
        DataError: the bytes are not a whole number of images, or a class is above 9.
    """
    size = 1 + 3 * 32 * 32
    if not content or len(content) % size:
        raise DataError(
            f"{where} is not a file of CIFAR-10's binary version: it has {len(content):,} bytes, "
            f"and each image takes {size:,}. Remedy: use a good copy of the file"
        )
    images = np.frombuffer(content, np.uint8).reshape(-1, size)
    y = images[:, 0]
    if y.max() > 9:
        raise DataError(
            f"{where} is not a file of CIFAR-10's binary version: an image has class {y.max()}, "
            "the highest is 9. Remedy: use a good copy of the file"
        )
    return images[:, 1:].reshape(-1, 3, 32, 32), y
