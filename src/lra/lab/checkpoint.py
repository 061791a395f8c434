"""Checkpoints: written aside, flushed and renamed; read only when whole and free of code."""

import contextlib
import errno
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from lra.errors import RunError

NAME = "checkpoint"
PREVIOUS = "checkpoint.previous"
_MAGIC = b"lra-checkpoint-1\n"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment either the old or the new content is there, whole.

    Raises:
        RunError: where the disk is full or refuses.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        why = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise RunError(f"cannot write {path}: {why}") from error


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system lets folders be flushed."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(folder: Path, state: dict[str, Any]) -> None:
    """Save a run's state as the folder's checkpoint; the one before stays as the previous one.

    Args:
        folder: the run's folder.
        state: tensors, numbers, strings and None, in dicts, lists and tuples.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    current = folder / NAME
    aside = folder / f"{NAME}.new"
    write_atomically(aside, _MAGIC + hashlib.sha256(payload).digest() + payload)
    if current.exists():
        current.replace(folder / PREVIOUS)
    aside.replace(current)
    _flush_folder(folder)


def load(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint of a run with this configuration.

    Raises:
        RunError: for a file that is missing, torn, of another configuration, or that holds
            anything but plain data.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    start = len(_MAGIC) + 32
    digest, payload = content[len(_MAGIC) : start], content[start:]
    if not content.startswith(_MAGIC):
        raise RunError(f"{path}: not a checkpoint of this program")
    if hashlib.sha256(payload).digest() != digest:
        raise RunError(f"{path}: torn or altered; its checksum does not fit its content")
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, for code in the file above all
        raise RunError(
            f"{path}: refused, since it holds more than plain data and might run code"
        ) from error
    saved = state.get("config") if isinstance(state, dict) else None
    if not isinstance(saved, dict):
        raise RunError(f"{path}: not a checkpoint of this program")
    other = sorted(k for k in saved.keys() | config.keys() if saved.get(k) != config.get(k))
    if other:
        differences = "; ".join(
            f"{k}: {saved.get(k)!r} there, {config.get(k)!r} here" for k in other
        )
        raise RunError(f"{path}: from another configuration ({differences})")
    return dict(state)


def latest(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Read a run's newest good checkpoint.

    Returns:
        The state, and what was wrong with newer ones; those are renamed to end in `.refused`, so
        that the good one is the newest again.

    Raises:
        RunError: where none is good, saying why for each.
    """
    troubles: list[str] = []
    newest = (f"{NAME}.new", NAME, PREVIOUS)
    for name in newest:
        if not (folder / name).exists():
            continue
        try:
            state = load(folder / name, config)
        except RunError as error:
            troubles.append(str(error))
            continue
        for newer in newest[: newest.index(name)]:
            if (folder / newer).exists():
                (folder / newer).replace(folder / f"{newer}.refused")
        return state, troubles
    listing = "".join(f"\n  - {trouble}" for trouble in troubles) or " it has none"
    raise RunError(
        f"{folder}: no checkpoint to resume from:{listing}\n"
        "Start the run anew: lra train ... --out in another folder"
    )
