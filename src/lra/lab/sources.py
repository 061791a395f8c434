"""Where a dataset's files come from: a named folder, the cache, the network.

Nothing is used before the SHA-256 of its unpacked bytes has been checked, so any source will do.
The bytes that were checked are the bytes that are handed on: no file is read twice.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import pooch  # type: ignore[import-untyped]

from lra.errors import DataError
from lra.lab.archives import Failure, members, unpacked
from lra.lab.atomic import put
from lra.lab.origins import ARCHIVES, CHECKSUMS, REMOTE, SUBFOLDERS, SYSTEM
from lra.lab.remote import Event

Files = dict[str, tuple[Path, bytes]]
"""For each file its path and its unpacked, checked bytes."""


def cache_folder() -> Path:
    """Folder that keeps fetched files: `LRA_CACHE`, else the system's cache folder for lra-e."""
    if named := os.environ.get("LRA_CACHE"):
        return Path(named).expanduser()
    return Path(pooch.os_cache("lra-e"))


def obtain(name: str, folder: Path | None = None, on_event: Event | None = None) -> Files:
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
        except Failure as failure:
            failures.append(f"system package in {SYSTEM[name]}: {failure}")
    for source in REMOTE[name]:
        missing = [file for file in files if file not in found]
        try:
            for file, content in source.read(missing, tell):
                content = _checked(name, file, content)
                found[file] = (_store(cache / file, content), content)
        except Failure as failure:
            failures.append(f"{source.label}: {failure}")
            tell(f"{source.label} failed: {failure}")
        if len(found) == len(files):
            return {file: found[file] for file in files}
    raise DataError(
        f"dataset {name!r} is not on this machine and no source gave it. Tried:\n"
        + "".join(f"  - {line}\n" for line in failures)
        + f"Remedy: put {_wanted(name)} into a folder and pass it as `folder`, or name it in the "
        "environment variable LRA_DATA."
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
        except Failure:
            continue
    return None


def _ignore(event: str) -> None:
    """Hear nothing."""


def _wanted(name: str) -> str:
    """What a folder must hold, in words."""
    files = f"{', '.join(CHECKSUMS[name])} (plain or .gz)"
    return f"{ARCHIVES[name]}, or {files}," if name in ARCHIVES else files


def _named_folder(folder: Path | None) -> tuple[Path, str] | None:
    """The folder that the user names, and the words for how it was named."""
    if folder is not None:
        return Path(folder).expanduser(), "the folder given"
    if named := os.environ.get("LRA_DATA"):
        return Path(named).expanduser(), "the folder in LRA_DATA"
    return None


def _subfolder(name: str, folder: Path) -> Path:
    """Where in a named folder the files are: in a subfolder, or there."""
    own, others = folder / name, SUBFOLDERS[name]
    for place in (own, folder / others, own / others):
        if _archive_in(name, place) or any(_path_of(place, file) for file in CHECKSUMS[name]):
            return place
    return folder


def _path_of(folder: Path, file: str) -> Path | None:
    """Path of a file or of its .gz; None where neither is there."""
    try:
        return next((p for p in (folder / file, folder / f"{file}.gz") if p.is_file()), None)
    except OSError as error:
        raise Failure(f"{folder} cannot be read ({error.strerror})") from error


def _archive_in(name: str, folder: Path) -> Path | None:
    """Path of a dataset's archive in a folder; None where there is none."""
    return _path_of(folder, ARCHIVES[name]) if name in ARCHIVES else None


def _from_named(name: str, folder: Path, how: str) -> Files:
    """Read the files from a folder that the user named; anything wrong there is an error."""
    try:
        if not folder.is_dir():
            raise Failure("there is no such folder")
        return _from_folder(name, _subfolder(name, folder))
    except Failure as failure:
        raise DataError(
            f"dataset {name!r} cannot be read from {how}, {folder}: {failure}. Remedy: put good "
            f"copies of {_wanted(name)} there or in its subfolder {name}, or name no folder, and "
            "they are fetched."
        ) from failure


def _from_folder(name: str, folder: Path) -> Files:
    """Read all files of a dataset from one folder, or say what is missing or wrong."""
    paths = {file: _path_of(folder, file) for file in CHECKSUMS[name]}
    lacking = [file for file, path in paths.items() if path is None]
    if lacking and (packed := _archive_in(name, folder)):
        return _from_archive(name, packed)
    if lacking:
        raise Failure(f"lacks {', '.join(lacking)}")
    found: Files = {}
    for file, path in paths.items():
        assert path is not None
        try:
            found[file] = (path, _checked(name, file, path.read_bytes()))
        except OSError as error:
            raise Failure(f"{path} cannot be read ({error.strerror})") from error
        except Failure as failure:
            raise Failure(f"{path} {failure}") from failure
    return found


def _from_archive(name: str, path: Path) -> Files:
    """Read all files of a dataset from its archive."""
    inside = {f"{SUBFOLDERS[name]}/{file}": file for file in CHECKSUMS[name]}
    try:
        with path.open("rb") as stream:
            contents = dict(members(stream, inside))
        return {file: (path, _checked(name, file, contents[file])) for file in CHECKSUMS[name]}
    except OSError as error:
        raise Failure(f"{path} cannot be read ({error.strerror})") from error
    except Failure as failure:
        raise Failure(f"{path}: {failure}") from failure


def _from_cache(name: str, cache: Path) -> Files:
    """Read what the cache has; a file that fails its check is removed with a warning."""
    found: Files = {}
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
        except Failure as failure:
            warnings.warn(
                f"cached file {path} {failure}; it is removed and fetched again", stacklevel=4
            )
            # Another process may have put a good file there since: remove only what was read.
            if path.exists() and os.path.samestat(path.stat(), seen):
                path.unlink(missing_ok=True)
    return found


def _checked(name: str, file: str, content: bytes) -> bytes:
    """Unpacked bytes, if their SHA-256 is the expected one."""
    expected = CHECKSUMS[name][file]
    try:
        content = unpacked(content)
    except Failure as failure:
        raise Failure(f"{failure}; expected unpacked SHA-256 {expected}, found none") from failure
    checksum = hashlib.sha256(content).hexdigest()
    if checksum == expected:
        return content
    twins = [
        f"; this is {file_} of {name_}"
        for name_, table in CHECKSUMS.items()
        for file_, known in table.items()
        if known == checksum
    ]
    raise Failure(
        f"is not {file} of {name}: expected unpacked SHA-256 {expected}, found {checksum} over "
        f"{len(content):,} bytes{''.join(twins)}"
    )


def _store(path: Path, content: bytes) -> Path:
    """Write a file into the cache."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, content)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror or error}). Remedy: make room or name a "
            "cache folder that can be written in the environment variable LRA_CACHE."
        ) from error
    return path
