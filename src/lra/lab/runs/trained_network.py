"""The trained network of a run: loading, evaluation and prediction."""

import contextlib
import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lra.errors import RunError, one_line
from lra.lab import data
from lra.lab.data import Dataset
from lra.lab.data.npz import read_samples
from lra.lab.networks.build import build_network
from lra.lab.runs import files, fits
from lra.lab.runs.measure import Predictor, compute_logits, measure
from lra.lab.settings.config import TrainConfig
from lra.lab.training.learning import make_predictor


@dataclass(frozen=True)
class Trained:
    """The best network of a run.

    Attributes:
        config: the run's configuration.
        network: the plain network, in evaluation mode.
        sample_shape: the shape of one sample.
        classes: the names of the classes; for text, the characters.
        reads: the kind of samples, "values" or "text".
    """

    config: TrainConfig
    network: nn.Module
    sample_shape: tuple[int, ...]
    classes: tuple[str, ...]
    reads: str

    @property
    def predictor(self) -> Predictor:
        """The function from samples to logits."""
        return make_predictor(self.config.built_rule, self.network)


def load(folder: Path) -> Trained:
    """Load the weights of a run's best epoch.

    Raises:
        RunError: the run has no weights yet, or they do not fit its configuration.
    """
    config = files.read_config(folder)
    path = folder / files.WEIGHTS
    if not path.is_file():
        raise RunError(f"{folder} has no {files.WEIGHTS} yet: its first epoch has not ended")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["network"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        shape, classes = tuple(about["sample_shape"]), tuple(about["classes"])
        if not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"samples of shape {shape}")
        if not all(isinstance(name, str) for name in classes):
            raise ValueError("class names that are not strings")
        if (reads := about["reads"]) not in ("values", "text"):
            raise ValueError(f"samples that are {reads!r:.80}")
        dtype = next(w.dtype for w in weights.values() if w.is_floating_point())
        # On the meta device a network takes no memory, whatever sizes the file declares.
        with torch.device("meta") if config.network.entry else contextlib.nullcontext():
            expected = build_network(config, shape, len(classes)).to(dtype).state_dict()
        fits.check_structure(weights, expected, "weights")
        network = build_network(config, shape, len(classes)).to(dtype)
        network.load_state_dict(weights)
    except Exception as error:  # an untrusted file can raise many types
        raise RunError(f"{path}: damaged, or of another network ({one_line(error)})") from error
    return Trained(config, network.eval(), shape, classes, reads)


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
    if arrays.reads != trained.reads:
        raise RunError(f"{arrays.name} holds {arrays.reads}; the network reads {trained.reads}")
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
    if trained.reads == "text":
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
