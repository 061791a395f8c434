"""Locating and fetching the files of a dataset: from a user's folder, the cache or the network.

The SHA-256 of a file's unpacked bytes is verified before they are used, so any source is safe. No
file is read twice: the verified bytes are the ones returned.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import pooch  # type: ignore[import-untyped]

from lra.errors import DataError
from lra.lab.data.archives import SourceError, read_members, unpack
from lra.lab.data.origins import ARCHIVES, CHECKSUMS, REMOTE, SUBFOLDERS, SYSTEM
from lra.lab.data.remote import EventHandler
from lra.lab.runs.atomic import replace_file

Files = dict[str, tuple[Path, bytes]]
"""The path and the unpacked, verified bytes of each file."""


def cache_folder() -> Path:
    """Return the folder for fetched files: `LRA_CACHE`, else the system's cache folder of lra-e."""
    if path := os.environ.get("LRA_CACHE"):
        return Path(path).expanduser()
    return Path(pooch.os_cache("lra-e"))


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
    if chosen := _user_folder(folder):
        return _read_user_folder(name, *chosen)
    report = on_event or _ignore
    cache = cache_folder() / name
    contents = _read_cache(name, cache)
    files = list(CHECKSUMS[name])
    if len(contents) == len(files):
        return contents
    missing = ", ".join(file for file in files if file not in contents)
    failures = ["named folder: none given", f"cache {cache}: lacks {missing}"]
    if name in SYSTEM:
        try:
            return _read_folder(name, SYSTEM[name])
        except SourceError as failure:
            failures.append(f"system package in {SYSTEM[name]}: {failure}")
    for source in REMOTE[name]:
        wanted = [file for file in files if file not in contents]
        try:
            for file, content in source.read(wanted, report):
                content = _verify(name, file, content)
                contents[file] = (_write_to_cache(cache / file, content), content)
        except SourceError as failure:
            failures.append(f"{source.label}: {failure}")
            report(f"{source.label} failed: {failure}")
        if len(contents) == len(files):
            return {file: contents[file] for file in files}
    raise DataError(
        f"dataset {name!r} is not on this machine and no source delivered it. Tried:\n"
        + "".join(f"  - {line}\n" for line in failures)
        + f"Remedy: put {_required_files(name)} into a folder, and pass it as `folder` or set the "
        "environment variable LRA_DATA to it."
    )


def locate(name: str, folder: Path | None = None) -> Path | None:
    """Return the folder on this machine with all files of a dataset, verified, or None.

    Args:
        name: as in `obtain`.
        folder: as in `obtain`.
    """
    chosen = _user_folder(folder)
    candidates = [chosen[0]] if chosen else [cache_folder() / name, SYSTEM.get(name)]
    for candidate in candidates:
        try:
            if candidate is not None:
                candidate = _subfolder(name, candidate) if chosen else candidate
                _read_folder(name, candidate)
                return candidate
        except SourceError:
            continue
    return None


def _ignore(event: str) -> None:
    """Ignore an event."""


def _required_files(name: str) -> str:
    """Return the files that a folder must hold, as text."""
    files = f"{', '.join(CHECKSUMS[name])} (plain or .gz)"
    return f"{ARCHIVES[name]}, or {files}," if name in ARCHIVES else files


def _user_folder(folder: Path | None) -> tuple[Path, str] | None:
    """Return the folder that the user chose, and how, for messages."""
    if folder is not None:
        return Path(folder).expanduser(), "the folder given"
    if path := os.environ.get("LRA_DATA"):
        return Path(path).expanduser(), "the folder in LRA_DATA"
    return None


def _subfolder(name: str, folder: Path) -> Path:
    """Return the subfolder of a user's folder that holds the files, or the folder itself."""
    own, others = folder / name, SUBFOLDERS[name]
    for candidate in (own, folder / others, own / others):
        files = CHECKSUMS[name]
        if _find_archive(name, candidate) or any(_find_file(candidate, file) for file in files):
            return candidate
    return folder


def _find_file(folder: Path, file: str) -> Path | None:
    """Return the path of a file or of its .gz; None if there is neither."""
    try:
        return next((p for p in (folder / file, folder / f"{file}.gz") if p.is_file()), None)
    except OSError as error:
        raise SourceError(f"{folder} cannot be read ({error.strerror})") from error


def _find_archive(name: str, folder: Path) -> Path | None:
    """Return the path of a dataset's archive in a folder; None if there is none."""
    return _find_file(folder, ARCHIVES[name]) if name in ARCHIVES else None


def _read_user_folder(name: str, folder: Path, how: str) -> Files:
    """Read the files from the user's folder; any missing or wrong file is an error."""
    try:
        if not folder.is_dir():
            raise SourceError("there is no such folder")
        return _read_folder(name, _subfolder(name, folder))
    except SourceError as failure:
        raise DataError(
            f"dataset {name!r} cannot be read from {how}, {folder}: {failure}. Remedy: put good "
            f"copies of {_required_files(name)} there or in its subfolder {name}, or give no "
            "folder to fetch them."
        ) from failure


def _read_folder(name: str, folder: Path) -> Files:
    """Read and verify all files of a dataset from one folder.

    Raises:
        SourceError: a file is missing or wrong.
    """
    paths = {file: _find_file(folder, file) for file in CHECKSUMS[name]}
    missing = [file for file, path in paths.items() if path is None]
    if missing and (archive := _find_archive(name, folder)):
        return _read_archive_file(name, archive)
    if missing:
        raise SourceError(f"lacks {', '.join(missing)}")
    contents: Files = {}
    for file, path in paths.items():
        assert path is not None
        try:
            contents[file] = (path, _verify(name, file, path.read_bytes()))
        except OSError as error:
            raise SourceError(f"{path} cannot be read ({error.strerror})") from error
        except SourceError as failure:
            raise SourceError(f"{path} {failure}") from failure
    return contents


def _read_archive_file(name: str, path: Path) -> Files:
    """Read and verify all files of a dataset from its archive."""
    wanted = {f"{SUBFOLDERS[name]}/{file}": file for file in CHECKSUMS[name]}
    try:
        with path.open("rb") as stream:
            contents = dict(read_members(stream, wanted))
        return {file: (path, _verify(name, file, contents[file])) for file in CHECKSUMS[name]}
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror})") from error
    except SourceError as failure:
        raise SourceError(f"{path}: {failure}") from failure


def _read_cache(name: str, cache: Path) -> Files:
    """Read the files in the cache; remove a wrong one with a warning."""
    contents: Files = {}
    for file in CHECKSUMS[name]:
        path = cache / file
        try:
            with path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                content = stream.read()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(
                f"cached file {path} cannot be read ({error.strerror}). Remedy: make it readable, "
                "or set LRA_CACHE to another folder."
            ) from error
        try:
            contents[file] = (path, _verify(name, file, content))
        except SourceError as failure:
            warnings.warn(
                f"cached file {path} {failure}; it is removed and fetched again", stacklevel=4
            )
            # Another process may have replaced it with a good file: remove only the file just read.
            if path.exists() and os.path.samestat(path.stat(), status):
                path.unlink(missing_ok=True)
    return contents


def _verify(name: str, file: str, content: bytes) -> bytes:
    """Return the unpacked bytes of a file.

    Raises:
        SourceError: they do not unpack, or do not have the expected SHA-256.
    """
    expected = CHECKSUMS[name][file]
    try:
        content = unpack(content)
    except SourceError as failure:
        raise SourceError(
            f"{failure}; expected unpacked SHA-256 {expected}, found none"
        ) from failure
    checksum = hashlib.sha256(content).hexdigest()
    if checksum == expected:
        return content
    matches = [
        f"; this is {file_} of {name_}"
        for name_, table in CHECKSUMS.items()
        for file_, known in table.items()
        if known == checksum
    ]
    raise SourceError(
        f"is not {file} of {name}: expected unpacked SHA-256 {expected}, found {checksum} over "
        f"{len(content):,} bytes{''.join(matches)}"
    )


def _write_to_cache(path: Path, content: bytes) -> Path:
    """Write a file to the cache and return its path."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror or error}). Remedy: free some space, or "
            "set the environment variable LRA_CACHE to a writable folder."
        ) from error
    return path
