"""Unpack what sources deliver, in memory, with a limit on how much that may become."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Mapping
from typing import BinaryIO

MAX_BYTES = 64 * 2**20  # no file of ours unpacks to more, so nothing bigger is unpacked


class Failure(Exception):  # noqa: N818 - it becomes a line of a DataError
    """Why a source gave nothing usable."""


def unpacked(content: bytes) -> bytes:
    """Unpack gzip, which is known by its first bytes; anything else is handed back as it is.

    Raises:
        Failure: it is truncated or corrupt.
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Failure(f"does not unpack, it is truncated or corrupt ({error})") from error


def members(archive: BinaryIO, wanted: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """Read the wanted regular files of a tar archive; nothing is written to disk.

    Args:
        archive: open for reading, packed or not.
        wanted: for the path of each member the name of its file.

    Returns:
        Each file's name and bytes, in the order of the archive.

    Raises:
        Failure: the archive cannot be read, or lacks one.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=archive) as tar:
            for member in tar:
                file = wanted.get(member.name.removeprefix("./"))
                if file and member.isreg() and member.size <= MAX_BYTES:
                    stream = tar.extractfile(member)
                    assert stream is not None
                    found[file] = stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise Failure(f"its archive cannot be read ({' '.join(str(error).split())})") from error
    if lacking := set(wanted.values()) - found.keys():
        raise Failure(f"its archive lacks {', '.join(sorted(lacking))}")
    return list(found.items())
