"""Runs on disk: the files of a run's folder, evaluation and prediction."""

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
from lra.lab.learning import make_predictor
from lra.lab.measure import Predictor, compute_logits, measure
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
    """Create the folder of a new run if there is none.

    Raises:
        RunError: the folder is not empty, and `overwrite` is false or it is not a run's folder.
    """
    try:
        if folder.exists() and (not folder.is_dir() or _has_content(folder)):
            found = is_run(folder)
            if not overwrite:
                if found:
                    with lock.hold(folder):  # a run in use cannot be resumed or replaced
                        pass
                raise RunError(
                    f"{folder} exists already; choose another --out, resume it with "
                    f"lra train --resume {folder}, or replace it with --overwrite"
                )
            if not found:
                raise RunError(
                    f"{folder} is not a run's folder; --overwrite replaces only earlier runs"
                )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create the folder {folder}: {error.strerror}") from error


def is_run(folder: Path) -> bool:
    """Return whether a folder has the configuration of a run, of any version of lra."""
    try:
        plain = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(plain, dict) and plain.get("type") == TrainConfig.__name__


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


_NAMES = (
    *(CONFIG, METRICS, RESULT, WEIGHTS, CURVES, *checkpoint.NAMES),
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


@dataclass(frozen=True)
class Trained:
    """The best network of a run.

    Attributes:
        config: the run's configuration.
        network: the plain network, in evaluation mode.
        sample_shape: the shape of one sample.
        classes: the names of the classes.
    """

    config: TrainConfig
    network: nn.Module
    sample_shape: tuple[int, ...]
    classes: tuple[str, ...]

    @property
    def predictor(self) -> Predictor:
        """The function from samples to logits."""
        return make_predictor(self.config.rule, self.network)


def load(folder: Path) -> Trained:
    """Load the weights of a run's best epoch.

    Raises:
        RunError: the run has no weights yet, or they do not fit its configuration.
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
            raise ValueError("class names that are not strings")
        dtype = next(iter(weights.values())).dtype
        with torch.device("meta"):  # takes no memory, whatever sizes the file declares
            expected = build_network(config, shape, len(classes)).to(dtype).state_dict()
        fits.check_structure(weights, expected, "weights")
        network = build_network(config, shape, len(classes)).to(dtype)
        network.load_state_dict(weights)
    except Exception as error:  # an untrusted file can raise many types
        raise RunError(f"{path}: damaged, or of another network ({one_line(error)})") from error
    return Trained(config, network.eval(), shape, classes)


@dataclass(frozen=True)
class Evaluation:
    """The results of a run's best network on a dataset's test set.

    Attributes:
        dataset: the name of the dataset.
        samples: the number of samples.
        predictions: the number of predictions: one per sample, or one per character of text.
        accuracy: the share of correct predictions, in percent.
        loss: the mean cross-entropy, in nats.
        per_class: the accuracy for each class with test samples; empty for text.
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
    """Evaluate a run's best network on the test set of its dataset, or of another one.

    Raises:
        RunError: there is no test set, or the samples do not fit the network.
    """
    trained = load(folder)
    config = trained.config
    arrays = data.load(dataset or config.dataset, data_folder, **config.data_options)
    if arrays.reads != _reads(trained):
        raise RunError(f"{arrays.name} holds {arrays.reads}; the network reads {_reads(trained)}")
    _check_shape(trained, arrays.sample_shape, arrays.name)
    if arrays.reads == "text":
        arrays = _translate(arrays, trained.classes)
    if arrays.x_test is None or arrays.y_test is None:
        raise RunError(f"{arrays.name} has no test set (arrays x_test and y_test)")
    if arrays.num_classes > len(trained.classes):
        raise RunError(
            f"{arrays.name} has {arrays.num_classes} classes; the network has "
            f"{len(trained.classes)}"
        )
    y = torch.from_numpy(arrays.y_test)
    samples = _samples(trained, arrays.x_test)
    metrics = measure(trained.predictor, samples, y)
    return Evaluation(
        *(arrays.name, len(y), y.numel(), metrics.accuracy, metrics.loss),
        _per_class(trained, samples, y) if arrays.reads == "values" else {},
    )


def _translate(arrays: Dataset, classes: tuple[str, ...]) -> Dataset:
    """Map a text to another vocabulary, whose last entry stands for unknown characters."""
    index = {character: i for i, character in enumerate(classes)}
    table = np.array([index.get(character, len(classes) - 1) for character in arrays.classes])
    fields = ("x_train", "y_train", "x_test", "y_test")
    translated = {name: table[getattr(arrays, name)] for name in fields}
    return dataclasses.replace(arrays, classes=classes, **translated)


def _per_class(trained: Trained, samples: Tensor, y: Tensor) -> dict[str, float]:
    correct = compute_logits(trained.predictor, samples).argmax(1) == y
    return {
        name: 100.0 * correct[y == label].double().mean().item()
        for label, name in enumerate(trained.classes)
        if bool((y == label).any())
    }


def predict(folder: Path, file: Path) -> list[tuple[str, float]]:
    """Predict classes for a file of samples.

    Args:
        folder: the run's folder.
        file: an `.npy` array, or an `.npz` with an array x, of shape (n, ...) or one sample. uint8
            is divided by 255, as in training.

    Returns:
        The name of the predicted class and its probability, for each sample.

    Raises:
        DataError: the file cannot be read or holds no such array.
        RunError: the samples do not fit the network.
    """
    trained = load(folder)
    if _reads(trained) == "text":
        raise RunError(f"{folder}: its network reads text; use lra write to continue a text")
    x = read_samples(file)
    if x.shape == trained.sample_shape:
        x = x[None]
    _check_shape(trained, x.shape[1:], str(file))
    probabilities = compute_logits(trained.predictor, _samples(trained, x)).softmax(1)
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
