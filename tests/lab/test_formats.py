"""The file formats of the named datasets, compared with handmade bytes."""

from __future__ import annotations

import numpy as np
import pytest

from lra.errors import DataError
from lra.lab.data.formats import parse_cifar, parse_idx


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\0",
        b"\0\0\x09\x01\0\0\0\x01a",
        b"\x01\0\x08\x01\0\0\0\x01a",
        b"\0\0\x08\x02\0\0\0\x01",
        idx(np.zeros((3, 2)))[:-1],
        idx(np.zeros((3, 2))) + b"\0",
    ],
)
def test_invalid_idx(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^here .*Remedy"):
        parse_idx(content, "here")


def test_idx() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(parse_idx(idx(array), ""), array)


def test_cifar() -> None:
    images = [
        bytes([label]) + bytes((label + 7 * i) % 256 for i in range(3072)) for label in (9, 0, 4)
    ]
    x, y = parse_cifar(b"".join(images), "")
    assert x.shape == (3, 3, 32, 32)
    assert x.dtype == y.dtype == np.uint8
    assert y.tolist() == [9, 0, 4]
    for n, image in enumerate(images):
        for channel in range(3):
            for row in range(32):
                start = 1 + 1024 * channel + 32 * row
                assert x[n, channel, row].tobytes() == image[start : start + 32]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes, and each image takes 3,073"),
        (bytes(3072), "it has 3,072 bytes"),
        (bytes(2 * 3073 + 1), "it has 6,147 bytes"),
        (bytes(3073) + b"\x0a" + bytes(3072), "an image has class 10, the highest is 9"),
    ],
)
def test_invalid_cifar(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"^here is not a file of CIFAR-10.*{message}.*Remedy"):
        parse_cifar(content, "here")
