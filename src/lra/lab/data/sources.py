"""The files of the named datasets: in a user's folder, in the cache, or fetched by pooch.

The SHA-256 of a file's unpacked bytes is verified at every load, so any source is safe.
"""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

import pooch  # type: ignore[import-untyped]

from lra.errors import DataError
from lra.lab.data.mirrors import SOURCES, EventHandler, SourceError, read_members, unpack

_IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_CIFAR = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")

_MNIST_SUMS = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
_FASHION_SUMS = (
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
_CIFAR_SUMS = (  # as listed by torchvision for Ruby, for the archive that the dataset's page offers
    "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
)
CHECKSUMS = {
    "mnist": dict(zip(_IDX, _MNIST_SUMS, strict=True)),
    "fashion-mnist": dict(zip(_IDX, _FASHION_SUMS, strict=True)),
    "cifar-10": dict(zip(_CIFAR, _CIFAR_SUMS, strict=True)),
}
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
                store.fetch(file, downloader=partial(_write, unpack(packed)))
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
    try:
        if not folder.is_dir():
            raise SourceError("there is no such folder")
        own, others = folder / name, SUBFOLDERS[name]
        for candidate in (own, folder / others, own / others, folder):
            names = {path.name for path in candidate.iterdir()} if candidate.is_dir() else set()
            paths = {
                file: candidate / (file if file in names else f"{file}.gz")
                for file in CHECKSUMS[name]
                if names & {file, f"{file}.gz"}
            }
            archive = candidate / ARCHIVES.get(name, "")
            if len(paths) < len(CHECKSUMS[name]) and archive.name in names:
                return _read_archive(name, archive)
            if paths:
                break
        if missing := ", ".join(file for file in CHECKSUMS[name] if file not in paths):
            raise SourceError(f"lacks {missing}")
        return {file: (path, _read(name, file, path)) for file, path in paths.items()}
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be read ({error.strerror})") from error


def _read(name: str, file: str, path: Path) -> bytes:
    try:
        return _verify(name, file, path.read_bytes())
    except SourceError as failure:
        raise SourceError(f"{path} {failure}") from failure


def _read_archive(name: str, path: Path) -> Files:
    """Read and verify all files of a dataset from its archive."""
    wanted = {f"{SUBFOLDERS[name]}/{file}": file for file in CHECKSUMS[name]}
    try:
        with path.open("rb") as stream:
            contents = read_members(stream, wanted)
        return {file: (path, _verify(name, file, contents[file])) for file in CHECKSUMS[name]}
    except SourceError as failure:
        raise SourceError(f"{path}: {failure}") from failure


def _verify(name: str, file: str, packed: bytes) -> bytes:
    """Return the unpacked bytes of a file.

    Raises:
        SourceError: they do not unpack, or do not have the expected SHA-256.
    """
    expected = CHECKSUMS[name][file]
    content = unpack(packed)
    checksum = hashlib.sha256(content).hexdigest()
    if checksum == expected:
        return content
    known = {
        CHECKSUMS[owner][f]: f"; this is {f} of {owner}"
        for owner in CHECKSUMS
        for f in CHECKSUMS[owner]
    }
    raise SourceError(
        f"is not {file} of {name}: expected unpacked SHA-256 {expected}, found {checksum} over "
        f"{len(content):,} bytes{known.get(checksum, '')}"
    )
