"""Checkpoints: written aside, flushed and renamed; read only when whole and free of code."""

import hashlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lra.errors import RunError
from lra.lab.atomic import flush_folder, refused, write_atomically

NAME = "checkpoint"
PREVIOUS = "checkpoint.previous"
_NEW = "checkpoint.new"
NAMES = (_NEW, NAME, PREVIOUS)
"""Names of the files that may be there, the newest first."""
Check = Callable[[dict[str, Any]], None]
MAGIC = b"lra-checkpoint-1\n"


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
    write_atomically(folder / _NEW, seal(buffer.getvalue()))
    _put_in_place(folder)


def seal(payload: bytes) -> bytes:
    """Put a checkpoint's header before its content: what it is, and a checksum."""
    return MAGIC + hashlib.sha256(payload).digest() + payload


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


def _accept(state: dict[str, Any]) -> None:
    """Find nothing wrong."""


def load(path: Path, config: dict[str, Any], check: Check = _accept) -> dict[str, Any]:
    """Read a checkpoint of a run with this configuration.

    Args:
        path: of the file.
        config: the configuration, as plain data.
        check: raises `RunError` where the content does not fit the run.

    Raises:
        RunError: for a file that is missing, torn, of another configuration, that holds anything
            but plain data, or what `check` refuses.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    start = len(MAGIC) + 32
    digest, payload = content[len(MAGIC) : start], content[start:]
    if not content.startswith(MAGIC):
        raise RunError(f"{path}: not a checkpoint of this program")
    if hashlib.sha256(payload).digest() != digest:
        raise RunError(f"{path}: torn or altered; its checksum does not fit its content")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about what it then refuses
            state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, for code in the file above all
        raise RunError(
            f"{path}: refused, since it holds more than plain data and might run code"
        ) from error
    saved = state.get("config") if isinstance(state, dict) else None
    if not isinstance(saved, dict):
        raise RunError(f"{path}: not a checkpoint of this program")
    other = [k for k in {**saved, **config} if repr(saved.get(k)) != repr(config.get(k))]
    if other:
        differences = "; ".join(
            f"{k}: {_short(saved.get(k))} there, {_short(config.get(k))} here"
            for k in sorted(map(str, other))
        )
        raise RunError(f"{path}: from another configuration ({differences})")
    try:
        check(state)
    except RunError as error:
        raise RunError(f"{path}: does not fit the run; {error}") from error
    return dict(state)


def _short(value: object) -> str:
    return repr(value)[:200]


def exists(folder: Path) -> bool:
    """Tell whether a folder holds a checkpoint, good or not."""
    return any((folder / name).exists() for name in NAMES)


def latest(
    folder: Path, config: dict[str, Any], check: Check = _accept
) -> tuple[dict[str, Any], list[str]]:
    """Read a run's newest good checkpoint; arguments as `load`'s.

    Returns:
        The state, and what was wrong with newer ones; those are renamed to end in `.refused`, so
        that the good one is the newest again.

    Raises:
        RunError: where none is good, saying why for each.
    """
    troubles: list[str] = []
    for name in NAMES:
        if not (folder / name).exists():
            continue
        try:
            state = load(folder / name, config, check)
        except RunError as error:
            troubles.append(str(error))
            continue
        for newer in NAMES[: NAMES.index(name)]:
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
