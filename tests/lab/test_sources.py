"""Sources: wrong files are detected, whichever source they come from."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from lra.errors import DataError
from lra.lab import data
from lra.lab.data import mirrors, sources
from lra.lab.data.mirrors import EventHandler, Source, SourceError

IDX = TRAIN_X, TRAIN_Y, TEST_X, TEST_Y = tuple(sources.CHECKSUMS["mnist"])
CIFAR = tuple(sources.CHECKSUMS["cifar-10"])
Content = dict[str, bytes]


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def make_content(seed: int) -> Content:
    rng = np.random.default_rng(seed)
    return {
        TRAIN_X: idx(rng.integers(0, 256, (7, 4, 3))),
        TRAIN_Y: idx(rng.integers(0, 10, 7)),
        TEST_X: idx(rng.integers(0, 256, (5, 4, 3))),
        TEST_Y: idx(rng.integers(0, 10, 5)),
    }


def make_cifar(seed: int) -> Content:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (6, 2, 3073), np.uint8)
    images[:, :, 0] %= 10
    return {file: image.tobytes() for file, image in zip(CIFAR, images, strict=True)}


def tar(content: Content) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, body in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return stream.getvalue()


def source(label: str, content: Content, calls: list[Sequence[str]]) -> Source:
    """Return a source that delivers the given content, and fails at a missing file."""

    def read(files: Sequence[str], report: EventHandler) -> Iterator[tuple[str, bytes]]:
        calls.append(list(files))
        for file in files:
            if file not in content:
                raise SourceError(f"has no {file}")
            report(f"fetching {file}")
            yield file, content[file]

    return Source(label, read)


class DataHome:
    """Small copies of the datasets, a cache, and one source that records its calls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / "cache" / "mnist"
        self.content = make_content(0)
        self.fashion = make_content(1)
        self.cifar = make_cifar(2)
        self.calls: list[Sequence[str]] = []

    def folder(self, content: Content, name: str = "mine", gz: bool = False) -> Path:
        folder = self.root / name
        folder.mkdir(parents=True)
        for file, body in content.items():
            if gz:
                (folder / f"{file}.gz").write_bytes(gzip.compress(body))
            else:
                (folder / file).write_bytes(body)
        return folder


@pytest.fixture
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataHome:
    data_home = DataHome(tmp_path)
    datasets = {
        "mnist": data_home.content,
        "fashion-mnist": data_home.fashion,
        "cifar-10": data_home.cifar,
    }
    sums = {
        name: {file: hashlib.sha256(body).hexdigest() for file, body in content.items()}
        for name, content in datasets.items()
    }
    monkeypatch.setattr(sources, "CHECKSUMS", sums)
    remote = {
        name: (source("good source", content, data_home.calls),)
        for name, content in datasets.items()
    }
    monkeypatch.setattr(sources, "SOURCES", remote)
    monkeypatch.setenv("LRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LRA_DATA", raising=False)
    return data_home


def check_mnist(dataset: data.Dataset, content: Content) -> None:
    pixels = np.frombuffer(content[TRAIN_X], np.uint8, offset=16).reshape(7, 4, 3)
    np.testing.assert_array_equal(dataset.x_train, (pixels / 255).astype(np.float32))
    np.testing.assert_array_equal(dataset.y_train, list(content[TRAIN_Y][8:]))
    assert dataset.x_test is not None
    assert dataset.x_test.shape == (5, 4, 3)
    np.testing.assert_array_equal(dataset.y_test, list(content[TEST_Y][8:]))
    assert dataset.x_train.dtype == dataset.x_test.dtype == np.float32
    assert dataset.y_train.dtype == np.int64
    assert dataset.num_classes == 10
    assert dataset.sample_shape == (4, 3)


# a folder given by the user


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("sub", ["", "mnist", "MNIST/raw", "mnist/MNIST/raw"])
@pytest.mark.parametrize("by_variable", [False, True])
def test_named_folder(
    data_home: DataHome, monkeypatch: pytest.MonkeyPatch, gz: bool, sub: str, by_variable: bool
) -> None:
    data_home.folder(data_home.content, f"mine/{sub}", gz)
    folder = data_home.root / "mine"
    if by_variable:
        monkeypatch.setenv("LRA_DATA", str(folder))
    argument = None if by_variable else folder
    check_mnist(data.load("mnist", argument), data_home.content)
    paths = data.fetch("mnist", argument)
    assert paths == [folder / sub / (f + ".gz" if gz else f) for f in IDX]
    assert data_home.calls == []
    assert not data_home.cache.exists()
    mnist = data.catalogue(argument)[1]
    assert mnist.where == folder / sub
    assert mnist.available


def damage(body: bytes, how: str, data_home: DataHome) -> bytes:
    match how:
        case "truncated":
            return body[:-1]
        case "longer":
            return body + b"\0"
        case "flipped":
            return body[:-2] + bytes([body[-2] ^ 1]) + body[-1:]
        case "empty":
            return b""
        case "swapped":
            return data_home.content[TEST_X]
        case "fashion":
            return data_home.fashion[TRAIN_X]
    raise AssertionError(how)


DAMAGES = ["truncated", "longer", "flipped", "empty", "swapped", "fashion"]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("gz", [False, True])
def test_damaged_file_in_named_folder(data_home: DataHome, how: str, gz: bool) -> None:
    bad = damage(data_home.content[TRAIN_X], how, data_home)
    folder = data_home.folder({**data_home.content, TRAIN_X: bad}, gz=gz)
    with pytest.raises(DataError) as caught:
        data.load("mnist", folder)
    text = str(caught.value)
    assert str(folder / TRAIN_X) in text
    assert hashlib.sha256(data_home.content[TRAIN_X]).hexdigest() in text
    assert hashlib.sha256(bad).hexdigest() in text
    assert "Remedy" in text
    assert ("this is t10k-images-idx3-ubyte of mnist" in text) == (how == "swapped")
    assert ("this is train-images-idx3-ubyte of fashion-mnist" in text) == (how == "fashion")
    assert data_home.calls == []
    assert data.catalogue(folder)[1].where is None
    assert (folder / (TRAIN_X + ".gz" if gz else TRAIN_X)).exists()  # a user's file is not removed


def test_damaged_gzip_in_named_folder(data_home: DataHome) -> None:
    good = gzip.compress(data_home.content[TEST_Y])
    for bad in (good[:-9], good[:-6] + b"\0" + good[-5:], good[:12]):
        folder = data_home.folder(data_home.content, f"mine{len(bad)}{bad[-6]}", gz=True)
        (folder / f"{TEST_Y}.gz").write_bytes(bad)
        with pytest.raises(DataError, match=rf"{TEST_Y}\.gz is truncated or corrupt"):
            data.load("mnist", folder)


def test_gzip_that_unpacks_to_too_much(
    data_home: DataHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "MAX_BYTES", 1000)
    folder = data_home.folder({**data_home.content, TEST_X: bytes(10**6)}, gz=True)
    with pytest.raises(DataError, match="over 1,001 bytes"):
        data.load("mnist", folder)


def test_missing_file_in_named_folder(data_home: DataHome, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = data_home.folder({k: v for k, v in data_home.content.items() if k != TEST_Y})
    with pytest.raises(DataError, match=f"the folder given, .*lacks {TEST_Y}. Remedy"):
        data.load("mnist", folder)
    monkeypatch.setenv("LRA_DATA", str(folder))
    with pytest.raises(DataError, match=f"the folder in LRA_DATA, .*lacks {TEST_Y}. Remedy"):
        data.fetch("mnist")
    assert data_home.calls == []


def test_missing_named_folder(data_home: DataHome) -> None:
    with pytest.raises(DataError, match=r"nowhere: there is no such folder\. Remedy"):
        data.load("mnist", data_home.root / "nowhere")
    assert data.catalogue(data_home.root / "nowhere")[1].where is None


def test_unreadable_folder(data_home: DataHome, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = data_home.folder(data_home.content)

    for method in ("read_bytes", "is_file"):
        real = getattr(Path, method)

        def refuse(path: Path, real: Callable[[Path], object] = real) -> object:
            if path.is_relative_to(folder):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        with monkeypatch.context() as patch:
            patch.setattr(Path, method, refuse)
            with pytest.raises(DataError, match=r"Permission denied.*Remedy"):
                data.load("mnist", folder)
            assert data.catalogue(folder)[1].where is None


# CIFAR-10: six files or an archive


def check_cifar(dataset: data.Dataset, content: Content) -> None:
    pairs = [
        (label[0], pixels)
        for file in CIFAR
        for label, pixels in (
            (content[file][:1], content[file][1:3073]),
            (content[file][3073:3074], content[file][3074:]),
        )
    ]
    assert dataset.x_test is not None
    assert dataset.y_test is not None
    x = np.concatenate([dataset.x_train, dataset.x_test])
    assert x.shape == (12, 3, 32, 32)
    assert len(dataset.x_test) == 2
    assert x.dtype == np.float32
    assert [*dataset.y_train, *dataset.y_test] == [label for label, _ in pairs]
    for image, (_, pixels) in zip(x, pairs, strict=True):
        for channel, row, column in ((0, 0, 0), (0, 0, 31), (0, 1, 0), (1, 0, 2), (2, 31, 31)):
            byte = pixels[1024 * channel + 32 * row + column]
            assert image[channel, row, column] == np.float32(byte) / np.float32(255)
    assert dataset.classes[:2] == ("airplane", "automobile")
    assert dataset.num_classes == 10
    assert dataset.reads == "values"


def cifar_archive(content: Content) -> bytes:
    return tar({f"cifar-10-batches-bin/{file}": body for file, body in content.items()})


@pytest.mark.parametrize(
    "sub", ["", "cifar-10", "cifar-10-batches-bin", "cifar-10/cifar-10-batches-bin"]
)
def test_cifar_unpacked_in_named_folder(data_home: DataHome, sub: str) -> None:
    data_home.folder(data_home.cifar, f"mine/{sub}")
    folder = data_home.root / "mine"
    check_cifar(data.load("cifar-10", folder), data_home.cifar)
    assert data.fetch("cifar-10", folder) == [folder / sub / file for file in CIFAR]
    assert data.catalogue(folder)[3].where == folder / sub
    assert data_home.calls == []


@pytest.mark.parametrize("sub", ["", "cifar-10"])
def test_cifar_as_archive_in_named_folder(data_home: DataHome, sub: str) -> None:
    folder = data_home.root / "mine"
    path = folder / sub / "cifar-10-binary.tar.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(cifar_archive(data_home.cifar))
    check_cifar(data.load("cifar-10", folder), data_home.cifar)
    assert data.fetch("cifar-10", folder) == [path]
    assert data.catalogue(folder)[3].where == path.parent
    assert list(path.parent.iterdir()) == [path]  # nothing is unpacked to disk


def test_wrong_cifar_archive(data_home: DataHome) -> None:
    folder = data_home.root / "mine"
    folder.mkdir()
    path = folder / "cifar-10-binary.tar.gz"
    good = cifar_archive(data_home.cifar)
    incomplete = cifar_archive({k: v for k, v in data_home.cifar.items() if k != CIFAR[2]})
    other = cifar_archive({**data_home.cifar, CIFAR[0]: data_home.cifar[CIFAR[1]]})
    for content, message in (
        (good[: len(good) // 2], "cannot be read"),
        (b"", "cannot be read"),
        (incomplete, r"lacks data_batch_3\.bin"),
        (other, r"is not data_batch_1\.bin .* this is data_batch_2\.bin of cifar-10"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"cifar-10-binary\.tar\.gz {message}.*Remedy"):
            data.load("cifar-10", folder)
        assert data.catalogue(folder)[3].where is None


def test_cifar_is_cached_unpacked(data_home: DataHome) -> None:
    check_cifar(data.load("cifar-10"), data_home.cifar)
    cache = data_home.root / "cache" / "cifar-10"
    assert {p.name: p.read_bytes() for p in cache.iterdir()} == data_home.cifar
    assert data.fetch("cifar-10") == [cache / file for file in CIFAR]
    assert data_home.calls == [list(CIFAR)]


def test_missing_cifar(data_home: DataHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SOURCES", {"cifar-10": ()})
    with pytest.raises(DataError, match=r"Remedy: put cifar-10-binary\.tar\.gz, or data_batch_1"):
        data.load("cifar-10")


# the cache and the sources


def test_fetch_fills_the_cache_once(data_home: DataHome) -> None:
    assert data.catalogue()[1].where is None
    messages: list[str] = []
    paths = data.fetch("mnist", on_event=messages.append)
    assert paths == [data_home.cache / file for file in IDX]
    assert {p.name: p.read_bytes() for p in paths} == data_home.content
    assert sorted(p.name for p in data_home.cache.iterdir()) == sorted(IDX)
    assert messages == [f"fetching {file}" for file in IDX]
    check_mnist(data.load("mnist"), data_home.content)
    assert data_home.calls == [list(IDX)]
    assert data.catalogue()[1].where == data_home.cache


def test_default_cache_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRA_CACHE", raising=False)
    assert sources.cache_folder().name == "lra-e"


def test_empty_variables_count_as_unset(
    data_home: DataHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRA_DATA", "")
    check_mnist(data.load("mnist"), data_home.content)
    monkeypatch.setenv("LRA_CACHE", "")
    assert sources.cache_folder().name == "lra-e"


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_cache_is_fetched_again(data_home: DataHome, how: str) -> None:
    data.fetch("mnist")
    path = data_home.cache / TRAIN_X
    path.write_bytes(damage(data_home.content[TRAIN_X], how, data_home))
    assert data.catalogue()[1].where is None  # the catalogue does not remove it
    assert path.exists()
    messages: list[str] = []
    check_mnist(data.load("mnist", on_event=messages.append), data_home.content)
    assert re.match(rf"cache .*{TRAIN_X} is not .*; fetching it", messages[0])
    assert path.read_bytes() == data_home.content[TRAIN_X]
    assert data_home.calls == [list(IDX), [TRAIN_X]]  # the other three were good


def test_paths_stay_in_order_if_some_were_cached(data_home: DataHome) -> None:
    data.fetch("mnist")
    (data_home.cache / TRAIN_X).unlink()
    assert [path.name for path in data.fetch("mnist")] == list(IDX)


def test_damaged_cache_is_never_used_offline(
    data_home: DataHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.fetch("mnist")
    (data_home.cache / TRAIN_Y).write_bytes(data_home.content[TEST_Y])
    monkeypatch.setattr(sources, "SOURCES", {"mnist": (source("empty source", {}, []),)})
    with pytest.raises(DataError, match=rf"cache .*{TRAIN_Y} is not"):
        data.load("mnist")


def test_sources_fail_over_and_good_files_are_reused(
    data_home: DataHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Sequence[str]] = []
    wrong = {**data_home.content, TRAIN_Y: data_home.content[TEST_Y]}
    half = {TRAIN_Y: gzip.compress(data_home.content[TRAIN_Y])}
    chain = (source("a", {}, calls), source("b", wrong, calls), source("c", half, calls))
    rest = source("d", data_home.content, calls)
    monkeypatch.setattr(sources, "SOURCES", {"mnist": (*chain, rest, source("e", {}, calls))})
    messages: list[str] = []
    paths = data.fetch("mnist", on_event=messages.append)
    assert {p.name: p.read_bytes() for p in paths} == data_home.content
    assert [p.name for p in paths] == list(IDX)
    after = list(IDX[1:])
    assert calls == [list(IDX), list(IDX), after, [TEST_X, TEST_Y]]
    assert [line[:8] for line in messages if "failed" in line] == [
        "a failed",
        "b failed",
        "c failed",
    ]


def test_message_when_every_source_fails(
    data_home: DataHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {**data_home.fashion, TRAIN_X: b"nonsense"}
    chain = (source("mirror one", {}, []), source("mirror two", wrong, []))
    monkeypatch.setattr(sources, "SOURCES", {"fashion-mnist": chain})
    with pytest.raises(DataError) as caught:
        data.load("fashion-mnist")
    text = str(caught.value)
    lines = text.splitlines()
    assert "'fashion-mnist'" in lines[0]
    cache = data_home.root / "cache" / "fashion-mnist"
    assert lines[1] == f"  - cache {cache}: there is no such folder"
    assert lines[2] == f"  - mirror one: has no {TRAIN_X}"
    assert re.match(rf"  - mirror two: .*{TRAIN_X}.* does not match the known hash", lines[3])
    assert lines[4].startswith("Remedy: ")
    assert all(word in lines[4] for word in (*IDX, "folder", "LRA_DATA"))
    assert len(lines) == 5


@pytest.mark.parametrize("moment", [(Path, "write_bytes"), (shutil, "move")])
def test_an_error_while_writing_leaves_nothing(
    data_home: DataHome, monkeypatch: pytest.MonkeyPatch, moment: tuple[object, str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*moment, fail)
        with pytest.raises(DataError, match=r"No space.*LRA_CACHE"):
            data.fetch("mnist")
    assert list(data_home.cache.iterdir()) == []
    check_mnist(data.load("mnist"), data_home.content)


def test_a_kill_while_writing_leaves_no_file_under_the_final_name(tmp_path: Path) -> None:
    script = """
import os, pathlib
from lra.lab.data import mirrors, sources
def write_half(content, url, path, store):
    pathlib.Path(path).write_bytes(content[:1000])
    os._exit(9)
read = lambda files, report: [(file, bytes(2000)) for file in files]
sources.SOURCES = {"mnist": (mirrors.Source("a", read),)}
sources._write = write_half
sources.obtain("mnist")
"""
    environment = {**os.environ, "LRA_CACHE": str(tmp_path), "LRA_DATA": ""}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == 9
    (left,) = (tmp_path / "mnist").iterdir()
    assert left.name not in sources.CHECKSUMS["mnist"]


def test_concurrent_fetches(data_home: DataHome, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(2, timeout=20)

    def read(files: Sequence[str], report: EventHandler) -> Iterator[tuple[str, bytes]]:
        for file in files:
            barrier.wait()
            yield file, data_home.content[file]

    monkeypatch.setattr(sources, "SOURCES", {"mnist": (Source("slow", read),)})
    ended: list[list[Path]] = []
    threads = [threading.Thread(target=lambda: ended.append(data.fetch("mnist"))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ended) == 2
    assert sorted(p.name for p in data_home.cache.iterdir()) == sorted(IDX)
    assert {p.name: p.read_bytes() for p in ended[0]} == data_home.content


def test_unusable_cache(data_home: DataHome, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = data_home.root / "blocker"
    blocker.write_bytes(b"")
    monkeypatch.setenv("LRA_CACHE", str(blocker))
    with pytest.raises(DataError, match=r"blocker.*LRA_CACHE"):
        data.load("mnist")


def test_the_tables_are_consistent() -> None:
    assert set(sources.CHECKSUMS) == set(mirrors.SOURCES) == set(sources.SUBFOLDERS)
    sums = [s for table in sources.CHECKSUMS.values() for s in table.values()]
    assert len(set(sums)) == 14
    assert all(len(s) == 64 and int(s, 16) for s in sums)
