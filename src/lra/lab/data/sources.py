"""The files of the named datasets: in a user's folder, in the cache, or fetched by pooch.

The SHA-256 of a file's unpacked bytes is verified at every load, so any source is safe.
"""

from __future__ import annotations

import hashlib
import os
from functools import partial
from importlib import resources
from pathlib import Path

import pooch  # type: ignore[import-untyped]

from lra.errors import DataError
from lra.lab.data.mirrors import SOURCES, EventHandler, SourceError, read_members, unpack


def _read_registry() -> dict[str, dict[str, str]]:
    text = resources.files("lra.lab.data").joinpath("registry.txt").read_text("utf-8")
    table: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            path, checksum = line.split()
            name, _, file = path.partition("/")
            table.setdefault(name, {})[file] = checksum
    return table


CHECKSUMS = _read_registry()
"""SHA-256 of each file's unpacked bytes, by dataset and file; training files come first."""

SUBFOLDERS = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "cifar-10": "cifar-10-batches-bin",
}
"""Subfolders that torchvision and the CIFAR-10 archive put the files in."""

ARCHIVES = {"cifar-10": "cifar-10-binary.tar.gz"}
"""Archives that are accepted instead of the files, which are inside in the subfolder above."""

Files = dict[str, tuple[Path, bytes]]
"""The path and the unpacked, verified bytes of each file."""


def cache_folder() -> Path:
    """Return the folder for fetched files: `LRA_CACHE`, else the system's cache folder of lra-e."""
    return Path(os.environ.get("LRA_CACHE") or pooch.os_cache("lra-e")).expanduser()


def obtain(name: str, folder: Path | None = None, on_event: EventHandler | None = None) -> Files:
    """Find or fetch the files of a dataset.

    Args:
        name: a name from `CHECKSUMS`.
        folder: the user's folder with the files; by default the environment variable `LRA_DATA`, if
            set.
        on_event: called with a line of text for each download and each failed source.

    Returns:
        The path and the unpacked, verified bytes of each file.

    Raises:
        DataError: the user's folder lacks a file or holds a wrong one, or every source failed.
    """
    files = f"{', '.join(CHECKSUMS[name])} (plain or .gz)"
    files = f"{ARCHIVES[name]}, or {files}," if name in ARCHIVES else files
    if chosen := _user_folder(folder):
        try:
            return _read_folder(name, chosen)
        except SourceError as failure:
            how = "the folder given" if folder else "the folder in LRA_DATA"
            raise DataError(
                f"dataset {name!r} cannot be read from {how}, {chosen}: {failure}. Remedy: put "
                f"good copies of {files} there or in its subfolder {name}, or give no folder to "
                "fetch them."
            ) from failure
    report = on_event or (lambda event: None)
    pooch.get_logger().setLevel("WARNING")
    cache = cache_folder() / name
    store = pooch.create(cache, name, registry=CHECKSUMS[name])
    try:
        return _read_folder(name, cache)
    except SourceError as failure:
        failures = [f"cache {cache}: {failure}"]
        if cache.is_dir():
            report(f"cache {cache}: {failure}; fetching it")
    for source in SOURCES[name]:
        try:
            for file, packed in source.read(_missing(store), report):
                store.fetch(file, downloader=partial(_write, unpack(packed, file)))
            return _read_folder(name, cache)
        except (SourceError, ValueError) as failure:  # a ValueError: not the expected checksum
            failures.append(f"{source.label}: {failure}")
            report(f"{source.label} failed: {failure}")
        except OSError as error:
            raise DataError(
                f"{cache} cannot be used ({error.strerror or error}). Remedy: free some space, or "
                "set the environment variable LRA_CACHE to a writable folder."
            ) from error
    raise DataError(
        f"dataset {name!r} is not on this machine and no source delivered it. Tried:\n"
        + "".join(f"  - {line}\n" for line in failures)
        + f"Remedy: put {files} into a folder, and pass it as `folder` (--data) or set the "
        "environment variable LRA_DATA to it."
    )


def _missing(store: pooch.Pooch) -> list[str]:
    """List the files that are not in the cache, or damaged there."""
    paths = {file: Path(store.path) / file for file in store.registry}
    return [
        f for f, p in paths.items() if not p.exists() or pooch.file_hash(p) != store.registry[f]
    ]


def _write(content: bytes, url: str, path: str, store: pooch.Pooch) -> None:
    """Write a file, which pooch verifies and then moves into the cache."""
    Path(path).write_bytes(content)


def locate(name: str, folder: Path | None = None) -> Path | None:
    """Return the folder on this machine with all files of a dataset, verified, or None.

    Args:
        name: as in `obtain`.
        folder: as in `obtain`.
    """
    try:
        files = _read_folder(name, _user_folder(folder) or cache_folder() / name)
    except SourceError:
        return None
    return next(iter(files.values()))[0].parent


def _user_folder(folder: Path | None) -> Path | None:
    chosen = folder or os.environ.get("LRA_DATA")
    return Path(chosen).expanduser() if chosen else None


def _read_folder(name: str, folder: Path) -> Files:
    """Read and verify all files of a dataset from a folder or one of its known subfolders.

    Raises:
        SourceError: a file is missing or wrong.
    """
    own, others, sums = folder / name, SUBFOLDERS[name], CHECKSUMS[name]
    try:
        if not folder.is_dir():
            raise SourceError("there is no such folder")
        for candidate in (own, folder / others, own / others, folder):
            options = {f: (candidate / f, candidate / f"{f}.gz") for f in sums}
            paths = {f: p for f, both in options.items() for p in both[::-1] if p.is_file()}
            archive = candidate / ARCHIVES.get(name, "no archive")
            if paths or archive.is_file():
                break
        missing = ", ".join(file for file in sums if file not in paths)
        if missing and not archive.is_file():
            raise SourceError(f"lacks {missing}")
        packed = {file: (path, path.read_bytes()) for file, path in paths.items()}
        if missing:
            wanted = {f"{others}/{file}": file for file in sums}
            with archive.open("rb") as stream:
                members = read_members(stream, wanted, str(archive))
            packed = {file: (archive, members[file]) for file in sums}
        return {file: (path, _verify(name, file, path, c)) for file, (path, c) in packed.items()}
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be read ({error.strerror})") from error


def _verify(name: str, file: str, path: Path, packed: bytes) -> bytes:
    """Return the unpacked bytes of a file.

    Raises:
        SourceError: they do not unpack, or do not have the expected SHA-256.
    """
    expected = CHECKSUMS[name][file]
    content = unpack(packed, str(path))
    checksum = hashlib.sha256(content).hexdigest()
    if checksum == expected:
        return content
    known = {c: f"; this is {f} of {n}" for n, sums in CHECKSUMS.items() for f, c in sums.items()}
    raise SourceError(
        f"{path} is not {file} of {name}: expected unpacked SHA-256 {expected}, found {checksum} "
        f"over {len(content):,} bytes{known.get(checksum, '')}"
    )
