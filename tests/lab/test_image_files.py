"""Images in files and folders, written by Pillow and compared with their pixels."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lra.errors import DataError
from lra.lab import data
from lra.lab.data import image_files
from lra.lab.data.image_files import fit_image, read_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 4), np.uint8)
RGB = RNG.integers(0, 256, (5, 4, 3), np.uint8)


def save(path: Path, pixels: np.ndarray = GREY, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


# files


@pytest.mark.parametrize(
    ("mode", "pixels"),
    [
        *((None, GREY), (None, RGB), ("LA", GREY), ("RGBA", RGB)),
        ("1", np.where(GREY > 127, 255, 0).astype(np.uint8)),
        ("P", np.repeat(GREY[:, :, None], 3, 2)),
    ],
)
def test_png(tmp_path: Path, mode: str | None, pixels: np.ndarray) -> None:
    source = RGB if pixels is RGB else pixels if mode == "1" else GREY
    found = read_image(save(tmp_path / "a.PNG", source, mode))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("pixels", [np.full((8, 8), 77, np.uint8), np.full((8, 8, 3), 9, np.uint8)])
def test_jpeg(tmp_path: Path, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.jpeg", pixels)), pixels)


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """Return a PNG whose header declares a size, with any data."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    for kind, part in ((b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b"")):
        content += struct.pack(">I", len(part)) + kind + part
        content += struct.pack(">I", zlib.crc32(kind + part))
    return content


def encoded(pixels: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


SEE_THROUGH = np.concatenate((RGB, np.full((5, 4, 1), 254, np.uint8)), 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot identify"),
        (b"text", "cannot identify"),
        (encoded(GREY, "PNG")[:-40], "truncated|Truncated|broken"),
        (encoded(GREY, "JPEG")[:-200], "truncated|Truncated|cannot identify"),
        (encoded(GREY, "GIF"), "cannot identify"),
        (encoded(GREY, "TIFF"), "cannot identify"),
        (encoded(SEE_THROUGH, "PNG"), "transparent pixels"),
        (encoded(GREY, "PNG", transparency=int(GREY[0, 0])), "transparent pixels"),
        (encoded(GREY.astype(np.uint16), "PNG"), "16 bits per channel"),
        (encoded(RGB, "JPEG", "CMYK"), "colour mode CMYK"),
        (png(5000, 5000), "5000 x 5000 pixels are too many"),
        (png(60_000, 60_000), "exceeds limit|decompression bomb"),
        (png(9, 9, bytes(5)), "truncated|broken|unrecognized"),
    ],
)
def test_invalid_images(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.png cannot be read as an image \(.*({message})"):
        read_image(path)


def test_16_bits_in_colour_are_not_cut_off(tmp_path: Path) -> None:
    content = bytearray(png(1, 1, b"\0" + bytes(6)))
    at = content.index(b"IHDR")
    content[at + 12 : at + 14] = b"\x10\x02"  # 16 bits, RGB
    content[at + 17 : at + 21] = struct.pack(">I", zlib.crc32(content[at : at + 17]))
    (tmp_path / "deep.png").write_bytes(content)
    with pytest.raises(DataError, match="16 bits per channel"):
        read_image(tmp_path / "deep.png")


# folders


def fill(folder: Path, part: str = "", colours: bool = False) -> dict[str, list[np.ndarray]]:
    images = {}
    for name, count in (("cat", 3), ("a dog", 2), ("ünder", 1)):
        shape = (5, 4, 3) if colours else (5, 4)
        images[name] = [RNG.integers(0, 256, shape, np.uint8) for _ in range(count)]
        for i, pixels in enumerate(images[name]):
            save(folder / part / name / f"{i}.png", pixels)
    return images


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("parts", [("",), ("train",), ("train", "test"), ("Train", "TEST")])
def test_folders_by_class(tmp_path: Path, parts: tuple[str, ...], colours: bool) -> None:
    folder = tmp_path / "pets"
    written = [fill(folder, part, colours) for part in parts]
    (folder / parts[0] / "cat" / ".DS_Store").write_bytes(b"x")
    (folder / "README.md").write_text("about")
    dataset = data.load(folder)
    assert (dataset.name, dataset.classes) == ("pets", ("a dog", "cat", "ünder"))
    found = [(dataset.x_train, dataset.y_train)]
    if len(parts) == 2:
        assert dataset.x_test is not None
        assert dataset.y_test is not None
        found.append((dataset.x_test, dataset.y_test))
    else:
        assert dataset.x_test is None
    for (x, y), images in zip(found, written, strict=True):
        assert y.tolist() == [0, 0, 1, 1, 1, 2]
        expected = np.stack([pixels for name in dataset.classes for pixels in images[name]])
        np.testing.assert_array_equal(x, (expected / 255).astype(np.float32))
    assert data.fetch(folder) == [folder]


def test_classes_that_are_numbers_are_sorted_by_value(tmp_path: Path) -> None:
    for name in ("10", "9", "2"):
        save(tmp_path / name / "a.png")
    assert data.load(tmp_path).classes == ("2", "9", "10")


def test_grey_images_beside_colours_become_colours(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", GREY)
    save(tmp_path / "b" / "2.png", RGB)
    x = data.load(tmp_path).x_train
    assert x.shape == (2, 5, 4, 3)
    np.testing.assert_array_equal(x[0] * 255, np.repeat(GREY[:, :, None], 3, 2))


def test_other_parts_are_reported(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        fill(tmp_path, part)
    messages: list[str] = []
    assert len(data.load(tmp_path, on_event=messages.append).x_train) == 6
    assert messages == [f"{tmp_path}: not used: val; only train and test are read"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a/1.png", "a/notes.txt"], r"notes\.txt is not a PNG or JPEG file"),
        (["a/1.png", "a/b/1.png"], r"b is not a PNG or JPEG file"),
        (["a/1.png", "2.png"], r"2\.png is in no class"),
        (["a/1.png", "b/"], "b is a class without images"),
        (["test/a/1.png"], "has a folder test, but no train"),
        (["train/1.png"], r"1\.png is in no class"),
        (["train/", "test/a/1.png"], "train has no folder for a class"),
        (["train/a/1.png", "test/a/large.png"], r"large\.png 6 x 3\. Remedy: resize"),
        (["a/1.png", "b/large.png"], r"1\.png has 4 x 5 pixels, and .*large\.png 6 x 3\. Remedy"),
        ([], "is a folder of no known kind"),
        (["notes.txt"], "is a folder of no known kind"),
    ],
)
def test_invalid_folders(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        path = tmp_path / name
        if name.endswith("/"):
            path.mkdir()
        elif name.endswith(".png"):
            save(path, np.zeros((3, 6), np.uint8) if "large" in name else GREY)
        else:
            path.write_text("text")
    with pytest.raises(DataError, match=message):
        data.load(tmp_path)


def test_images_that_are_too_large_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    monkeypatch.setattr(image_files, "MAX_VALUES", 100)
    with pytest.raises(DataError, match="6 images of 4 x 5 pixels are too large together"):
        data.load(tmp_path)


# conversion to the samples of a network


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (1, 5, 4), (5, 4, 3), (3, 5, 4)])
def test_conversions_that_lose_nothing(shape: tuple[int, ...]) -> None:
    grey = np.repeat(GREY[:, :, None], 3, 2)
    for pixels in (GREY, grey, RGB) if 3 in shape else (GREY, grey):
        found = fit_image(Path("a.png"), pixels, shape)
        assert found.shape == shape
        for row, column, channel in ((0, 0, 0), (4, 3, 2), (1, 2, 1)):
            at = {2: (row, column)}.get(len(shape), (row, column, channel))
            if len(shape) == 3 and shape[0] in (1, 3):
                at = (channel, row, column)
            at = tuple(min(i, n - 1) for i, n in zip(at, shape, strict=True))
            value = pixels[row, column] if pixels.ndim == 2 else pixels[row, column, channel]
            assert found[at] == value


@pytest.mark.parametrize(
    ("pixels", "shape", "message"),
    [
        (RGB, (5, 4), "is in colour"),
        (RGB, (1, 5, 4), "is in colour"),
        (GREY, (4, 5), r"has 4 x 5 pixels; the network was trained on 5 x 4.*resize\(\(5, 4\)\)"),
        (GREY, (3, 6, 6), r"has 4 x 5 pixels; the network was trained on 6 x 6"),
        (GREY, (20,), r"trained on samples of shape \(20,\)"),
        (GREY, (2, 5, 4), r"trained on samples of shape \(2, 5, 4\)"),
    ],
)
def test_conversions_that_would_lose(
    pixels: np.ndarray, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(DataError, match=rf"a\.png .*{message}"):
        fit_image(Path("a.png"), pixels, shape)
