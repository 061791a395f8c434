"""User datasets: valid files, and errors for invalid, damaged and hostile ones."""

from __future__ import annotations

import io
import os
import random
import re
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lra.errors import DataError
from lra.lab import data
from lra.lab.data import npz

X = np.arange(24, dtype=np.float64).reshape(4, 6) - 9.5
Y = np.array([0, 2, 1, 2])
U = np.array([[0, 255], [51, 102]], np.uint8)


def save(folder: Path, **arrays: object) -> Path:
    path = folder / "own.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_npz_floats_are_used_unchanged(tmp_path: Path) -> None:
    path = save(tmp_path, x=X, y=Y.astype(np.int8), x_test=X[:1], y_test=np.array([4], np.uint64))
    dataset = data.load(str(path))
    np.testing.assert_array_equal(dataset.x_train, X.astype(np.float32))
    np.testing.assert_array_equal(dataset.y_train, Y)
    np.testing.assert_array_equal(dataset.x_test, X[:1].astype(np.float32))
    assert dataset.x_train.dtype == np.float32
    assert dataset.y_train.dtype == np.int64
    assert dataset.y_test is not None
    assert dataset.y_test.dtype == np.int64
    assert dataset.classes == ("0", "1", "2", "3", "4")  # the test pair's labels count too
    assert (dataset.name, dataset.num_classes, dataset.sample_shape) == ("own.npz", 5, (6,))
    assert data.fetch(str(path)) == [path]


def test_npz_bytes_are_scaled_and_the_test_set_is_optional(tmp_path: Path) -> None:
    dataset = data.load(str(save(tmp_path, x=U, y=Y[:2])))
    np.testing.assert_array_equal(dataset.x_train, np.array([[0, 1], [0.2, 0.4]], np.float32))
    assert dataset.x_test is None
    assert dataset.y_test is None


def with_value(value: float) -> np.ndarray:
    x = X.copy()
    x[1, 1] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "has x; allowed"),
        ({"y": Y}, "has y; allowed"),
        ({}, "has no array; allowed"),
        ({"x": X, "y": Y, "z": Y, "w": Y}, "unexpected array w, z; allowed"),
        ({"x": X, "y": Y, "x_test": X}, "has x, y, x_test; allowed"),
        ({"x": X, "y": Y, "y_test": Y}, "has x, y, y_test; allowed"),
        ({"x": X.astype(np.int64), "y": Y}, "x has type int64"),
        ({"x": X > 0, "y": Y}, "x has type bool"),
        ({"x": X + 1j, "y": Y}, "x has type complex128"),
        ({"x": X.astype(str), "y": Y}, "x has type <U32"),
        ({"x": X[:, 0], "y": Y}, r"x has shape \(4,\)"),
        ({"x": X[0, 0], "y": Y}, r"x has shape \(\)"),
        ({"x": X[:0], "y": Y[:0]}, r"x has shape \(0, 6\), so it is empty"),
        ({"x": X[:, :0], "y": Y}, r"x has shape \(4, 0\), so it is empty"),
        ({"x": X, "y": Y.astype(float)}, "y has type float64"),
        ({"x": X, "y": Y > 0}, "y has type bool"),
        ({"x": X, "y": Y[:3]}, r"y has shape \(3,\), but x has 4 samples"),
        ({"x": X, "y": np.eye(3)[Y].astype(int)}, r"y has shape \(4, 3\).*argmax"),
        ({"x": X, "y": Y - 1}, "labels from -1 to 1; allowed are 0 to"),
        ({"x": X, "y": Y * 10**9}, "labels from 0 to 2000000000; allowed are 0 to"),
        ({"x": with_value(np.nan), "y": Y}, "x has 1 values that are not finite"),
        ({"x": with_value(np.inf), "y": Y}, "x has 1 values that are not finite"),
        ({"x": with_value(1e300), "y": Y}, "x has 1 values that are not finite in float32"),
        ({"x": X, "y": Y, "x_test": with_value(np.nan), "y_test": Y}, "x_test has 1 values"),
        ({"x": X, "y": Y, "x_test": X, "y_test": -Y}, "y_test holds labels from -2"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y[:1]}, "but x_test has 4 samples"),
        ({"x": X, "y": Y, "x_test": X[:0], "y_test": Y[:0]}, "x_test .* empty"),
        ({"x": X, "y": Y, "x_test": X[:, :5], "y_test": Y}, r"\(6,\), those of x_test \(5,\)"),
        ({"x": X, "y": Y, "x_test": U, "y_test": Y[:2]}, "x is float64 and x_test uint8"),
        ({"x": U, "y": Y[:2], "x_test": X, "y_test": Y}, "x is uint8 and x_test float64"),
        ({"x": np.array([[object()]]), "y": Y[:1]}, "cannot be read as .npz"),
    ],
)
def test_invalid_npz_arrays(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    path = save(tmp_path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        data.load(str(path))
    assert str(path) in str(caught.value)
    assert "Remedy" in str(caught.value)


def test_files_that_are_not_npz(tmp_path: Path) -> None:
    good = save(tmp_path, x=X, y=Y).read_bytes()
    path = tmp_path / "bad.NPZ"
    with pytest.raises(DataError, match=r"no such file; .*Remedy"):
        data.load(str(path))
    half, flipped = good[: len(good) // 2], bytearray(good)
    flipped[200] ^= 1
    stream = io.BytesIO()
    np.save(stream, X)
    for content in (b"", b"text", half, bytes(flipped), stream.getvalue()):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.NPZ cannot be read as \.npz .*Remedy"):
            data.load(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with named pipes")
def test_a_pipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.NPZ"
    os.mkfifo(path)  # opening it would wait for ever
    with pytest.raises(DataError, match=r"bad\.NPZ: it is not a file\. Remedy"):
        data.load(str(path))


def test_a_file_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MAX_BYTES", 10_000_000)
    path = tmp_path / "own.npz"
    np.savez_compressed(path, x=np.zeros((2_000_000, 3)), y=np.zeros(2_000_000, int))
    assert path.stat().st_size < 10**6
    assert "more than 10,000,000 bytes" in refusal(path)


@pytest.mark.parametrize("suffix", ["", "_train"])
@pytest.mark.parametrize("column", [False, True])
def test_both_layouts_of_names_are_read(tmp_path: Path, suffix: str, column: bool) -> None:
    y, y_test = (a[:, None] if column else a for a in (Y, Y[::-1]))
    arrays = {f"x{suffix}": U[[0, 1, 0, 1]], f"y{suffix}": y, "x_test": U[[1, 1, 0, 0]]}
    dataset = data.load(save(tmp_path, **arrays, y_test=y_test))
    np.testing.assert_array_equal(dataset.x_train * 255, U[[0, 1, 0, 1]])
    np.testing.assert_array_equal(dataset.y_train, Y)
    np.testing.assert_array_equal(dataset.y_test, Y[::-1])
    del arrays[f"y{suffix}"]
    with pytest.raises(DataError, match=f"has x{suffix}, x_test, y_test; .*y{suffix}"):
        data.load(save(tmp_path, **arrays, y_test=y_test))


def test_both_layouts_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unexpected array x, y; allowed are"):
        data.load(save(tmp_path, x=X, y=Y, x_train=X, y_train=Y))


@pytest.mark.parametrize("axis", [1, 3])
def test_npz_of_colour_images_keeps_their_layout(tmp_path: Path, axis: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
    x = np.moveaxis(images, 3, axis)  # not contiguous for axis 1
    dataset = data.load(str(save(tmp_path, x=x, y=Y)))
    assert dataset.sample_shape == x.shape[1:]
    np.testing.assert_array_equal(dataset.x_train, (x / 255).astype(np.float32))


def test_npz_in_fortran_order_and_big_endian(tmp_path: Path) -> None:
    path = save(tmp_path, x=np.asfortranarray(X), y=Y.astype(">i4"))
    dataset = data.load(str(path))
    np.testing.assert_array_equal(dataset.x_train, X.astype(np.float32))
    np.testing.assert_array_equal(dataset.y_train, Y)
    dataset.x_train[0] = 0  # the arrays are writable
    dataset.y_train[0] = 0


# hostile files


def npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version)
    return stream.getvalue()


def npy_declaring(shape: str, body: bytes = bytes(64)) -> bytes:
    """Return an .npy whose header declares a shape of 8-byte numbers, with any body."""
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + body


def zipped(path: Path, members: list[tuple[str, bytes]], kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def refusal(path: Path) -> str:
    """Return the error message for a file, and check that reading it took little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            data.load(str(path))
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path} cannot be read as .npz (")
    assert "Remedy" in str(caught.value)
    return str(caught.value)


def test_the_parts_of_the_hostile_files_are_valid(tmp_path: Path) -> None:
    members = [("x.npy", npy_declaring("(4, 2)")), ("y.npy", npy(Y, (2, 0)))]
    dataset = data.load(str(zipped(tmp_path / "own.npz", members)))
    np.testing.assert_array_equal(dataset.x_train, np.zeros((4, 2)))
    np.testing.assert_array_equal(dataset.y_train, Y)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            npy_declaring("(4, 1000000000)"),
            r"declares shape \(4, 1000000000\) .* 32,000,000,000 .* has 64",
        ),
        (npy_declaring("(3, 2)"), "so 48 bytes, but has 64"),
        (npy_declaring("(-4, -2)"), "negative"),
        (npy_declaring("(4, 2.0)"), "shape"),
        (npy_declaring("(4, 2"), r"\(.+\)"),
        (npy_declaring("__import__('os')"), "malformed"),
        (npy(X, (3, 0)), r"version \(3, 0\)"),
        (npy(X)[:50], "EOF"),
        (b"P3\n", "EOF"),
        (b"\x80\x04K\x01." * 9, "magic string"),
        (npy(np.array([{}])), "an array holds pickled objects"),
    ],
)
@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_npz_with_a_false_member_header(tmp_path: Path, x: bytes, message: str) -> None:
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = zipped(tmp_path / "own.npz", [("x.npy", x), ("y.npy", npy(Y))], kind)
        assert re.search(message, refusal(path))


def test_npz_with_unexpected_members(tmp_path: Path) -> None:
    x, y = ("x.npy", npy(X)), ("y.npy", npy(Y))
    for extra in ("readme.txt", "../x.npy", "x/", "z.npy"):
        path = zipped(tmp_path / "own.npz", [x, y, (extra, b"")])
        assert "unexpected array" in refusal(path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = zipped(tmp_path / "own.npz", [x, y, x])
    assert "two arrays have the same name" in refusal(path)


def alter(path: Path, offset: int, value: bytes) -> Path:
    """Alter a field of the first member, at an offset in the zip's directory."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02") + offset
    content[start : start + len(value)] = value
    path.write_bytes(content)
    return path


def test_npz_with_a_false_directory(tmp_path: Path) -> None:
    def fresh() -> Path:
        return save(tmp_path, x=X, y=Y)

    assert "encrypted" in refusal(alter(fresh(), 8, b"\x01\x00"))
    assert "compression" in refusal(alter(fresh(), 10, b"\x63\x00"))
    assert "CRC" in refusal(alter(fresh(), 16, b"\x00\x00\x00\x00"))
    assert "more bytes than the file has" in refusal(alter(fresh(), 20, b"\xff\xff\xff\x7f"))
    refusal(alter(fresh(), 42, b"\xff\xff\xff\x7f"))  # the offset of the member


def mutate(content: bytes, rng: random.Random) -> bytes:
    body = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        position = rng.randrange(len(body))
        match rng.randrange(5):
            case 0:
                body[position] = rng.randrange(256)
            case 1:
                body[position] ^= 1 << rng.randrange(8)
            case 2:
                body[position : position + 4] = b"\xff\xff\xff\x7f"
            case 3:
                del body[position : position + 9]
            case 4:
                body[position:position] = rng.randbytes(5)
    return bytes(body)


def test_every_mutated_npz_loads_or_is_refused(tmp_path: Path) -> None:
    rng, ends = random.Random(0), Counter[str]()
    path = tmp_path / "own.npz"
    for write in (np.savez, np.savez_compressed):
        write(path, x=X, y=Y, x_test=X, y_test=Y)
        good = path.read_bytes()
        tracemalloc.start()
        try:
            for _ in range(500):
                path.write_bytes(mutate(good, rng))
                try:
                    data.load(str(path))
                    ends["loads"] += 1
                except DataError:
                    ends["is refused"] += 1
            assert tracemalloc.get_traced_memory()[1] < 2**23
        finally:
            tracemalloc.stop()
    assert ends["loads"] > 20
    assert ends["is refused"] > 500
