"""A run on disk: its folder, and what can be asked of it later."""

import csv
import dataclasses
import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lra.errors import DataError, OptionError, RunError
from lra.lab import checkpoint, data
from lra.lab.atomic import write_atomically
from lra.lab.config import TrainConfig
from lra.lab.data import Dataset
from lra.lab.learning import answering
from lra.lab.measure import Answer, logits_of, measure
from lra.lab.models import build_network
from lra.lab.networks import NETWORKS

CONFIG, METRICS, RESULT = "config.json", "metrics.csv", "result.json"
WEIGHTS, CURVES = "model.safetensors", "curves.png"
DIAGNOSES = "diagnose.csv"
HEAT_MAP, DIAGNOSE_CURVES = "diagnose.png", "diagnose-curves.png"
EVENTS = "events.out.tfevents.*"
COLUMNS = (
    *("epoch", "loss", "train_accuracy"),
    *("validation_loss", "validation_accuracy", "seconds"),
)


def create(folder: Path, config: TrainConfig, overwrite: bool) -> None:
    """Make a run's folder and write its configuration.

    Raises:
        RunError: where something is there already, unless asked to overwrite an earlier run.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise RunError(
                f"{folder} exists already; choose another --out, resume it with "
                f"lra train --resume {folder}, or replace it with --overwrite"
            )
        if not (folder / CONFIG).is_file():
            raise RunError(f"{folder} is no run's folder; --overwrite replaces earlier runs only")
        # The configuration last: without it the folder would be no run's.
        for path in sorted(_files(folder), key=lambda path: path.name == CONFIG):
            path.unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror}") from error
    write_json(folder / CONFIG, config.to_config())


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a run that are there, and no others."""
    names = (
        *(CONFIG, METRICS, RESULT, WEIGHTS, CURVES, checkpoint.NAME, checkpoint.PREVIOUS),
        *(DIAGNOSES, HEAT_MAP, DIAGNOSE_CURVES),
    )
    yield from (folder / name for name in names if (folder / name).exists())
    yield from folder.glob(EVENTS)
    for name in names:
        yield from folder.glob(f"{name}.*.tmp")
    yield from folder.glob(f"{checkpoint.NAME}*.new")
    yield from folder.glob(f"{checkpoint.NAME}*.refused")


def read_config(folder: Path) -> TrainConfig:
    """Read a run's configuration.

    Raises:
        RunError: where the folder is no run's, or its configuration cannot be understood.
    """
    path = folder / CONFIG
    try:
        plain = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RunError(f"{folder} is no run's folder: {CONFIG} cannot be read") from error
    except ValueError as error:
        raise RunError(f"{path}: no valid JSON ({error})") from error
    try:
        return TrainConfig.from_config(plain)
    except (OptionError, TypeError) as error:
        raise RunError(f"{path}: {error}") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write plain data as JSON."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the epochs' figures as CSV."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / METRICS, text.getvalue().encode())


def write_weights(folder: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write the plain network's weights, with how to rebuild it in the file's own header."""
    header = {"network": json.dumps(about)}
    content = safetensors.torch.save(weights, metadata=header)
    write_atomically(folder / WEIGHTS, content)


@dataclass(frozen=True)
class Trained:
    """A run's best network, ready to use.

    Attributes:
        config: the run's configuration.
        network: the plain network, in evaluation mode.
        sample_shape: shape of one sample.
        classes: the classes' names.
    """

    config: TrainConfig
    network: nn.Module
    sample_shape: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def answer(self) -> Answer:
        """The network as what predicts."""
        return answering(self.config.rule, self.network)


def load(folder: Path) -> Trained:
    """Load the best-validation weights of a run.

    Raises:
        RunError: where the folder has none yet, or they do not fit its configuration.
    """
    config = read_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise RunError(f"{folder} has no {WEIGHTS} yet: its first epoch has not ended")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["network"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network = build_network(config, about["sample_shape"], len(about["classes"]))
        dtype = next(iter(weights.values())).dtype
        network.to(dtype).load_state_dict(weights)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"{path}: damaged, or of another network ({error})") from error
    return Trained(config, network.eval(), tuple(about["sample_shape"]), tuple(about["classes"]))


@dataclass(frozen=True)
class Evaluation:
    """How a run's best network does on a dataset's test pair.

    Attributes:
        dataset: its name.
        samples: how many there are.
        predictions: how many were made: one for each sample, or for each character of text.
        accuracy: the share that is right, in percent.
        loss: mean cross-entropy, in nats.
        per_class: the share that is right for each class that is there; empty for text.
    """

    dataset: str
    samples: int
    predictions: int
    accuracy: float
    loss: float
    per_class: dict[str, float]


def evaluate(
    folder: Path, dataset: str | None = None, data_folder: Path | None = None
) -> Evaluation:
    """Measure a run's best network on its dataset's test pair, or on another dataset's.

    Raises:
        RunError: where there is no test pair, or the samples do not fit the network.
    """
    trained = load(folder)
    config = trained.config
    arrays = data.load(dataset or config.dataset, data_folder, **config.data_options)
    if arrays.reads != _reads(trained):
        raise RunError(f"{arrays.name} holds {arrays.reads}; the network reads {_reads(trained)}")
    _check_shape(trained, arrays.sample_shape, arrays.name)
    if arrays.reads == "text":
        arrays = _renumbered(arrays, trained.classes)
    if arrays.x_test is None or arrays.y_test is None:
        raise RunError(f"{arrays.name} has no test pair (arrays x_test and y_test)")
    if arrays.num_classes > len(trained.classes):
        raise RunError(
            f"{arrays.name} has {arrays.num_classes} classes; the network knows "
            f"{len(trained.classes)}"
        )
    y = torch.from_numpy(arrays.y_test)
    samples = _samples(trained, arrays.x_test)
    found = measure(trained.answer, samples, y)
    return Evaluation(
        *(arrays.name, len(y), y.numel(), found.accuracy, found.loss),
        _per_class(trained, samples, y) if arrays.reads == "values" else {},
    )


def _renumbered(arrays: Dataset, classes: tuple[str, ...]) -> Dataset:
    """Give a text with the numbers of another vocabulary, its last one for what is not in it."""
    index = {character: i for i, character in enumerate(classes)}
    table = np.array([index.get(character, len(classes) - 1) for character in arrays.classes])
    fields = ("x_train", "y_train", "x_test", "y_test")
    renumbered = {name: table[getattr(arrays, name)] for name in fields}
    return dataclasses.replace(arrays, classes=classes, **renumbered)


def _per_class(trained: Trained, samples: Tensor, y: Tensor) -> dict[str, float]:
    right = logits_of(trained.answer, samples).argmax(1) == y
    return {
        name: 100.0 * right[y == label].double().mean().item()
        for label, name in enumerate(trained.classes)
        if bool((y == label).any())
    }


def predict(folder: Path, file: Path) -> list[tuple[str, float]]:
    """Predict classes for a file of samples.

    Args:
        folder: the run's folder.
        file: an `.npy` array, or an `.npz` with an array x; shape (n, ...) or one sample. Values
            of uint8 are divided by 255, as in training.

    Returns:
        For each sample the class's name and its probability.

    Raises:
        DataError: for a file that cannot be read or holds no such array.
        RunError: for samples that do not fit the network.
    """
    trained = load(folder)
    if _reads(trained) == "text":
        raise RunError(f"{folder}: its network reads text; lra write continues one")
    x = _read_samples(file)
    if x.shape == trained.sample_shape:
        x = x[None]
    _check_shape(trained, x.shape[1:], str(file))
    probabilities = logits_of(trained.answer, _samples(trained, x)).softmax(1)
    best = probabilities.max(1)
    return [
        (trained.classes[label], probability)
        for label, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _read_samples(file: Path) -> np.ndarray[Any, Any]:
    try:
        with file.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            x = content["x"] if isinstance(content, np.lib.npyio.NpzFile) else content
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{file}: expected an .npy array, or an .npz with an array x ({error})"
        ) from error
    if x.dtype == np.uint8:
        return x.astype(np.float32) / np.float32(255)
    if not np.issubdtype(x.dtype, np.floating):
        raise DataError(f"{file}: expected uint8 or floating-point values, got {x.dtype}")
    with np.errstate(over="ignore"):
        samples: np.ndarray[Any, Any] = x.astype(np.float32)
    if not np.isfinite(samples).all():
        raise DataError(f"{file}: some values are not finite in float32")
    return samples


def _reads(trained: Trained) -> str:
    return "text" if NETWORKS[trained.config.model].text else "values"


def _samples(trained: Trained, x: np.ndarray[Any, Any]) -> Tensor:
    samples = torch.from_numpy(x)
    dtype = next(trained.network.parameters()).dtype
    return samples.to(dtype) if samples.is_floating_point() else samples


def _check_shape(trained: Trained, shape: tuple[int, ...], where: str) -> None:
    if tuple(shape) != trained.sample_shape:
        raise RunError(
            f"{where}: samples of shape {tuple(shape)}; the network was trained on "
            f"{trained.sample_shape} ({math.prod(trained.sample_shape)} values each)"
        )
