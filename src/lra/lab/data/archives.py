"""Unpacking of downloaded archives in memory, with a size limit."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Mapping
from typing import BinaryIO

MAX_BYTES = 64 * 2**20
"""The largest unpacked file that is accepted. All files of the datasets are smaller."""


class SourceError(Exception):
    """The reason why a source did not deliver a file. It becomes a line of a `DataError`."""


def unpack(content: bytes) -> bytes:
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
        raise SourceError(f"does not unpack, it is truncated or corrupt ({error})") from error


def read_members(archive: BinaryIO, wanted: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """Read regular files from a tar archive without writing to disk.

    Args:
        archive: the open archive, compressed or not.
        wanted: maps member paths to file names.

    Returns:
        The name and content of each file, in archive order.

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
        raise SourceError(f"its archive cannot be read ({' '.join(str(error).split())})") from error
    if missing := set(wanted.values()) - contents.keys():
        raise SourceError(f"its archive lacks {', '.join(sorted(missing))}")
    return list(contents.items())
