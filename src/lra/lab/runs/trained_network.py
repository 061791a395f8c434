"""The trained network of a run: loading, evaluation and prediction."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lra.errors import RunError, one_line
from lra.lab import data
from lra.lab.data import Dataset
from lra.lab.data.dataset import Floats
from lra.lab.data.samples import read_samples
from lra.lab.networks.build import build_network
from lra.lab.runs import files, fits
from lra.lab.runs.measure import LOSSES, Predictor, class_probabilities, compute_logits, measure
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
    """Report the results of a run's best network on a dataset's test set.

    Attributes:
        dataset: the name of the dataset.
        samples: the number of samples.
        predictions: the number of predictions: one per sample, or one per character of text.
        accuracy: the share of correct predictions, in percent.
        loss: the mean loss, in nats.
        per_class: the accuracy for each class with test samples; empty for text.
    """

    dataset: str
    samples: int
    predictions: int
    accuracy: float
    loss: float
    per_class: dict[str, float]


def evaluate(
    folder: Path, dataset: str | Dataset | None = None, data_folder: Path | None = None
) -> Evaluation:
    """Evaluate a run's best network on the test set of its dataset, or of another one.

    Classes are matched by their names.

    Raises:
        RunError: there is no test set, or its samples or classes do not fit the network.
    """
    trained = load(folder)
    config = trained.config
    if isinstance(dataset, Dataset):
        arrays = dataset
    else:
        name = dataset or config.dataset
        if (entry := data.ENTRIES.get(name)) and entry.reads == trained.reads == "values":
            _check_fit(trained, name, entry.sample_shape, entry.classes)  # before it is fetched
        arrays = data.load(name, data_folder, **config.data_options)
    if arrays.reads != trained.reads:
        raise RunError(f"{arrays.name} holds {arrays.reads}; the network reads {trained.reads}")
    if arrays.x_test is None or arrays.y_test is None:
        raise RunError(f"{arrays.name} has no test set (docs/guides/data.md shows how to add one)")
    if arrays.reads == "text":
        _check_shape(trained, arrays.sample_shape, arrays.name)
        arrays = _translate(arrays, trained.classes)
    else:
        _check_fit(trained, arrays.name, arrays.sample_shape, arrays.classes)
        order = np.array([trained.classes.index(c) for c in arrays.classes])
        arrays = dataclasses.replace(arrays, y_test=order[arrays.y_test])
    assert arrays.x_test is not None
    y = torch.from_numpy(arrays.y_test)
    samples = _samples(trained, arrays.x_test)
    metrics = measure(trained.predictor, samples, y, LOSSES[config.loss])
    return Evaluation(
        *(arrays.name, len(y), y.numel(), metrics.accuracy, metrics.loss),
        _per_class(trained, samples, y) if arrays.reads == "values" else {},
    )


def _check_fit(
    trained: Trained, name: str, shape: tuple[int, ...], classes: tuple[str, ...]
) -> None:
    """Raise `RunError` unless the network has the shape and all classes of a dataset."""
    _check_shape(trained, shape, name)
    known = {*trained.classes}
    if other := [c for c in classes if c not in known]:
        raise RunError(
            f"{name} has classes that the network was not trained on: {_join(other)}. Its own are "
            f"{_join(trained.classes)}; give the classes the same names"
        )


def _join(names: Sequence[str]) -> str:
    return f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"


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


class Prediction(NamedTuple):
    """The prediction for one sample.

    Attributes:
        sample: the index of the sample, or the path of the image.
        name: the name of the most probable class.
        probability: its probability.
    """

    sample: str
    name: str
    probability: float


def predict(folder: Path, *files: Path) -> list[Prediction]:
    """Predict classes for samples in files.

    Args:
        folder: the run's folder.
        files: PNG or JPEG files, folders of them, .npy, .npz or .csv files, as in
            `lra.lab.data.samples.read_samples`. Of several files, an index follows the file's path.

    Returns:
        A prediction for each sample.

    Raises:
        DataError: a file cannot be read or holds no samples.
        RunError: the samples do not fit the network.
    """
    trained = load(folder)
    names: list[str] = []
    parts = [np.empty((0, *trained.sample_shape), np.float32)]
    for file in (file.expanduser() for file in files):
        own, x = read_samples(file, trained.sample_shape, trained.config.dataset)
        _check_shape(trained, x.shape[1:], str(file))
        if len(files) > 1:
            own = [n if n.startswith(str(file)) else f"{file}:{n}" for n in own]
        names += own
        parts.append(x)
    probabilities = compute_probabilities(trained, np.concatenate(parts))
    best = zip(names, probabilities.argmax(1), probabilities.max(1, initial=0), strict=True)
    return [Prediction(name, trained.classes[i], float(p)) for name, i, p in best]


def compute_probabilities(trained: Trained, x: Floats) -> Floats:
    """Compute the probability of each class, (n, classes), for samples.

    Args:
        trained: the network.
        x: samples, float32, shape (n, ...), scaled as in training.

    Raises:
        RunError: the samples do not fit the network, or it reads text.
    """
    if trained.reads == "text":
        raise RunError("the network reads text; use lra write to continue a text")
    _check_shape(trained, x.shape[1:], "x")
    logits = compute_logits(trained.predictor, _samples(trained, x))
    probabilities: Floats = class_probabilities(trained.config.loss, logits).numpy()
    return probabilities


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
