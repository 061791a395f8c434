"""The files of a run's folder: their names, creating and replacing them."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from lra.errors import RunError, one_line
from lra.lab.runs import atomic, checkpoint, lock, trackers
from lra.lab.runs.atomic import write_atomically
from lra.lab.runs.state import COLUMNS
from lra.lab.settings.config import TrainConfig

CONFIG, METRICS, RESULT = "config.json", "metrics.csv", "result.json"
WEIGHTS, CURVES = "model.safetensors", "curves.png"
DIAGNOSES = "diagnose.csv"
HEAT_MAP, DIAGNOSE_CURVES = "diagnose.png", "diagnose-curves.png"
EVENTS = "events.out.tfevents.*"


def make_folder(folder: Path, overwrite: bool) -> None:
    """Create the folder of a new run if there is none.

    Raises:
        RunError: the folder is not empty, and `overwrite` is false or it is not a run's folder.
    """
    try:
        if folder.exists() and (not folder.is_dir() or _has_content(folder)):
            if not overwrite:
                if not _find_foreign(folder):
                    with lock.hold(folder):  # a run in use cannot be resumed or replaced
                        pass
                raise RunError(
                    f"{folder} exists already; choose another --out, resume it with "
                    f"lra train --resume {folder}, or replace it with --overwrite"
                )
            check_files(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create the folder {folder}: {error.strerror}") from error


def check_files(folder: Path) -> None:
    """Check that all files that a new run would replace in a folder are those of a run.

    Raises:
        RunError: one is not.
    """
    if foreign := _find_foreign(folder):
        raise RunError(
            f"{folder} is not a run's folder; --overwrite replaces only earlier runs, and its "
            f"{foreign} is not one of a run. Choose another --out, or move it away"
        )


def _find_foreign(folder: Path) -> str | None:
    """Return the name of a file that is not a run's but would be replaced; None if there is none.

    A file is a run's if its name and its content are.
    """
    paths = [folder / CONFIG, *(path for path in _files(folder) if path.name != CONFIG)]
    return next((path.name for path in paths if not _is_of_run(path)), None)


def _is_of_run(path: Path) -> bool:
    try:
        if path.name.endswith(".refused"):  # what a checkpoint was refused for
            return path.is_file()
        with path.open("rb") as file:
            head = file.read(200)
        if path.name in _JSON_KEYS:
            plain = json.loads(path.read_text("utf-8"))
            return isinstance(plain, dict) and plain.keys() >= _JSON_KEYS[path.name]
        if not head:  # a killed process left it
            return True
        if path.name == WEIGHTS:
            with safetensors.safe_open(path, framework="pt") as weights:
                return "network" in (weights.metadata() or {})
        return any(mark in head for mark in (*_MARKS, checkpoint.MAGIC))
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError):
        return False


_JSON_KEYS = {
    CONFIG: {"type", *(field.name for field in dataclasses.fields(TrainConfig))},
    RESULT: {"dataset", "rule", "model", "best_epoch", "test_accuracy_last", "versions"},
    trackers.FILE: {"log", "run"},
}
"""The names that a run's JSON files hold at least."""

_MARKS = (
    ",".join(COLUMNS).encode(),  # metrics.csv
    b"epoch,step,",  # diagnose.csv
    b"Matplotlib",
    b"brain.Event:2",
)
"""What a run's other files begin with."""


def _has_content(folder: Path) -> bool:
    """Return whether a folder holds more than a command leaves that has just started."""
    return any(
        path.name != lock.NAME and not path.match(f"{CONFIG}.*.tmp") for path in folder.iterdir()
    )


def create(folder: Path, config: TrainConfig) -> None:
    """Write a new run's configuration to its folder, and remove the files of an earlier run.

    Raises:
        RunError: the operating system refuses.
    """
    # The configuration goes last: without it, this would no longer be a run's folder.
    for path in sorted(_files(folder), key=lambda path: path.name == CONFIG):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot replace the run in {folder}: {error}") from error
    write_json(folder / CONFIG, config.to_config())


def change(folder: Path, config: TrainConfig) -> None:
    """Write a run's configuration if it has changed, and then remove the result."""
    if config != read_config(folder):
        try:
            (folder / RESULT).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot change the run in {folder}: {error}") from error
        write_json(folder / CONFIG, config.to_config())


_NAMES = (
    *(CONFIG, METRICS, RESULT, WEIGHTS, CURVES, trackers.FILE, *checkpoint.NAMES),
    *(DIAGNOSES, HEAT_MAP, DIAGNOSE_CURVES),
)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes. The caller must hold the run's lock."""
    for name in _NAMES:
        atomic.remove_leftovers(folder / name)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the existing files of a run, and no others."""
    yield from (folder / name for name in _NAMES if (folder / name).exists())
    yield from folder.glob(EVENTS)
    yield from folder.glob(f"{checkpoint.NAME}*.refused")


def read_config(folder: Path) -> TrainConfig:
    """Read a run's configuration.

    Raises:
        RunError: the folder is not a run's folder, or its configuration is invalid.
    """
    path = folder / CONFIG
    try:
        plain = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RunError(f"{folder} is not a run's folder: {CONFIG} cannot be read") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: not valid JSON ({one_line(error)})") from error
    try:
        return TrainConfig.from_config(plain)
    except Exception as error:  # an untrusted file can raise many types
        raise RunError(f"{path}: {one_line(error)}") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write plain data as JSON."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the metrics of the epochs as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / METRICS, text.getvalue().encode())


def write_weights(folder: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write the plain network's weights. The file's header holds what rebuilding it needs."""
    header = {"network": json.dumps(about)}
    content = safetensors.torch.save(weights, metadata=header)
    write_atomically(folder / WEIGHTS, content)
