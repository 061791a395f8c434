"""Checkpoints: written aside, flushed and renamed; read only when whole and free of code."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from lra.errors import RunError
from lra.lab.atomic import flush_folder, refused, write_atomically

NAME = "checkpoint"
PREVIOUS = "checkpoint.previous"
_NEW = "checkpoint.new"
_NEWEST_FIRST = (_NEW, NAME, PREVIOUS)
_MAGIC = b"lra-checkpoint-1\n"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Save a run's state as the folder's checkpoint; the one before stays as the previous one.

    Args:
        folder: the run's folder.
        state: tensors, numbers, strings and None, in dicts, lists and tuples.

    Raises:
        RunError: where the disk is full or refuses.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    write_atomically(folder / _NEW, _MAGIC + hashlib.sha256(payload).digest() + payload)
    _put_in_place(folder)


def _put_in_place(folder: Path) -> None:
    """Make the new checkpoint the current one, and the current one the previous one."""
    current = folder / NAME
    try:
        if current.exists():
            current.replace(folder / PREVIOUS)
        (folder / _NEW).replace(current)
        flush_folder(folder)
    except OSError as error:
        raise refused(current, error) from error


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


def exists(folder: Path) -> bool:
    """Tell whether a folder holds a checkpoint, good or not."""
    return any((folder / name).exists() for name in _NEWEST_FIRST)


def latest(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Read a run's newest good checkpoint.

    Returns:
        The state, and what was wrong with newer ones; those are renamed to end in `.refused`, so
        that the good one is the newest again.

    Raises:
        RunError: where none is good, saying why for each.
    """
    troubles: list[str] = []
    for name in _NEWEST_FIRST:
        if not (folder / name).exists():
            continue
        try:
            state = load(folder / name, config)
        except RunError as error:
            troubles.append(str(error))
            continue
        for newer in _NEWEST_FIRST[: _NEWEST_FIRST.index(name)]:
            if (folder / newer).exists():
                (folder / newer).replace(folder / f"{newer}.refused")
        if name == _NEW:
            _put_in_place(folder)  # what the end of the run kept `save` from doing
        return state, troubles
    listing = "".join(f"\n  - {trouble}" for trouble in troubles) or " it has none"
    raise RunError(
        f"{folder}: no checkpoint to resume from:{listing}\n"
        "Start the run anew: lra train ... --out in another folder"
    )
