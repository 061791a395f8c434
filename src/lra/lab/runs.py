"""A run on disk: its folder, and what can be asked of it later."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lra.errors import RunError, one_line
from lra.lab import atomic, checkpoint, data, fits, lock
from lra.lab.atomic import write_atomically
from lra.lab.config import TrainConfig
from lra.lab.data import Dataset
from lra.lab.learning import answering
from lra.lab.measure import Answer, logits_of, measure
from lra.lab.models import build_network
from lra.lab.networks import NETWORKS
from lra.lab.npz import read_samples
from lra.lab.state import COLUMNS

CONFIG, METRICS, RESULT = "config.json", "metrics.csv", "result.json"
WEIGHTS, CURVES = "model.safetensors", "curves.png"
DIAGNOSES = "diagnose.csv"
HEAT_MAP, DIAGNOSE_CURVES = "diagnose.png", "diagnose-curves.png"
EVENTS = "events.out.tfevents.*"


def make_folder(folder: Path, overwrite: bool) -> None:
    """Make the folder of a new run, unless there is one.

    Raises:
        RunError: where something is in it already, unless an earlier run is to be overwritten.
    """
    try:
        if folder.exists() and (not folder.is_dir() or _others(folder)):
            if not overwrite:
                if (folder / CONFIG).is_file():
                    with lock.held(folder):  # a run that is in use cannot be resumed or replaced
                        pass
                raise RunError(
                    f"{folder} exists already; choose another --out, resume it with "
                    f"lra train --resume {folder}, or replace it with --overwrite"
                )
            if not (folder / CONFIG).is_file():
                raise RunError(
                    f"{folder} is no run's folder; --overwrite replaces earlier runs only"
                )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror}") from error


def _others(folder: Path) -> bool:
    """Tell whether more is there than the lock of a command that has only begun."""
    return any(path.name != lock.NAME for path in folder.iterdir())


def create(folder: Path, config: TrainConfig) -> None:
    """Write a new run's configuration into its folder, and remove an earlier run's files.

    Raises:
        RunError: where the system refuses.
    """
    # The configuration last: without it the folder would be no run's.
    for path in sorted(_files(folder), key=lambda path: path.name == CONFIG):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot replace the run in {folder}: {error}") from error
    write_json(folder / CONFIG, config.to_config())


_NAMES = (
    *(CONFIG, METRICS, RESULT, WEIGHTS, CURVES, *checkpoint.NAMES),
    *(DIAGNOSES, HEAT_MAP, DIAGNOSE_CURVES),
)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes wrote aside of a run's files; only whoever holds it may."""
    for name in _NAMES:
        atomic.remove_leftovers(folder / name)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a run that are there, and no others."""
    yield from (folder / name for name in _NAMES if (folder / name).exists())
    yield from folder.glob(EVENTS)
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
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: no valid JSON ({one_line(error)})") from error
    try:
        return TrainConfig.from_config(plain)
    except Exception as error:  # a file that anyone may have written can be wrong in many ways
        raise RunError(f"{path}: {one_line(error)}") from error


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
        shape, classes = tuple(about["sample_shape"]), tuple(about["classes"])
        if not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"samples of shape {shape}")
        if not all(isinstance(name, str) for name in classes):
            raise ValueError("classes whose names are no text")
        dtype = next(iter(weights.values())).dtype
        with torch.device("meta"):  # takes no memory, whatever sizes are stated
            expected = build_network(config, shape, len(classes)).to(dtype).state_dict()
        fits.check_like(weights, expected, "weights")
        network = build_network(config, shape, len(classes)).to(dtype)
        network.load_state_dict(weights)
    except Exception as error:  # a file that anyone may have written can be wrong in many ways
        raise RunError(f"{path}: damaged, or of another network ({one_line(error)})") from error
    return Trained(config, network.eval(), shape, classes)


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
    x = read_samples(file)
    if x.shape == trained.sample_shape:
        x = x[None]
    _check_shape(trained, x.shape[1:], str(file))
    probabilities = logits_of(trained.answer, _samples(trained, x)).softmax(1)
    best = probabilities.max(1)
    return [
        (trained.classes[label], probability)
        for label, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


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
