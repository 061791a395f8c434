"""Checkpoints: written atomically, and read only if they are intact and contain no code."""

import hashlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lra.errors import RunError
from lra.lab.runs.atomic import flush_folder, write_atomically, write_error

NAME = "checkpoint"
PREVIOUS = "checkpoint.previous"
_NEW = "checkpoint.new"
NAMES = (_NEW, NAME, PREVIOUS)
"""The possible file names, newest first."""
Check = Callable[[dict[str, Any]], None]
"""Raises `RunError` if a checkpoint does not belong to the run."""
MAGIC = b"lra-checkpoint-1\n"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Save a run's state as the current checkpoint, and keep the last one as the previous one.

    Args:
        folder: the run's folder.
        state: tensors, numbers, strings and None, in dicts, lists and tuples.

    Raises:
        RunError: the disk is full or refuses the write.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / _NEW, seal(buffer.getvalue()))
    _promote(folder)


def seal(payload: bytes) -> bytes:
    """Return a checkpoint's content with its header: the format's name and a checksum."""
    return MAGIC + hashlib.sha256(payload).digest() + payload


def _promote(folder: Path) -> None:
    """Rename the current checkpoint to the previous one, and the new one to the current one."""
    current = folder / NAME
    try:
        if current.exists():
            current.replace(folder / PREVIOUS)
        (folder / _NEW).replace(current)
        flush_folder(folder)
    except OSError as error:
        raise write_error(current, error) from error


def _accept(state: dict[str, Any]) -> None:
    """Accept any state."""


def load(path: Path, config: dict[str, Any], check: Check = _accept) -> dict[str, Any]:
    """Read a checkpoint of a run with this configuration.

    Args:
        path: the file.
        config: the configuration, as plain data; without epochs if any number of them is right.
        check: a function that raises `RunError` if the content does not fit the run.

    Raises:
        RunError: the file is missing, damaged, of another configuration, holds more than plain
            data, or is refused by `check`.
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
        raise RunError(f"{path}: truncated or altered; its checksum does not match its content")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about what it then refuses
            state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types, mostly for code in the file
        raise RunError(
            f"{path}: refused, since it holds more than plain data and might run code"
        ) from error
    saved = state.get("config") if isinstance(state, dict) else None
    if not isinstance(saved, dict):
        raise RunError(f"{path}: not a checkpoint of this program")
    names = {**saved, **config}.keys() - ({"epochs"} - config.keys())
    other = [k for k in names if repr(saved.get(k)) != repr(config.get(k))]
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
    """Return whether a folder holds a checkpoint, valid or not."""
    return any((folder / name).exists() for name in NAMES)


def latest(
    folder: Path, config: dict[str, Any], check: Check = _accept
) -> tuple[dict[str, Any], list[str]]:
    """Read a run's newest valid checkpoint.

    Newer files that are invalid get the suffix `.refused`, so that the valid one is the newest.

    Args:
        folder: the run's folder.
        config: as in `load`.
        check: as in `load`.

    Returns:
        The state, and a message for each invalid newer file.

    Raises:
        RunError: no checkpoint is valid; the message has the reason for each.
    """
    problems: list[str] = []
    for name in NAMES:
        if not (folder / name).exists():
            continue
        try:
            state = load(folder / name, config, check)
        except RunError as error:
            problems.append(str(error))
            continue
        for newer in NAMES[: NAMES.index(name)]:
            if (folder / newer).exists():
                (folder / newer).replace(folder / f"{newer}.refused")
        if name == _NEW:
            _promote(folder)  # the process ended before `save` did this
        return state, problems
    listing = "".join(f"\n  - {problem}" for problem in problems) or " it has none"
    raise RunError(
        f"{folder}: no checkpoint to resume from:{listing}\n"
        "Start a new run in another folder: lra train ... --out FOLDER"
    )
