"""Training from Python, and the runs on disk as objects."""

import csv
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import nn

from lra.axis import unknown
from lra.display import as_html, printable
from lra.errors import OptionError
from lra.lab import data
from lra.lab.cli.terminal import Terminal
from lra.lab.data import Dataset
from lra.lab.data.arrays import convert_samples
from lra.lab.data.samples import read_samples
from lra.lab.runs import diagnoses, files, trained_network
from lra.lab.runs.display import ConsoleReporter, Reporter
from lra.lab.runs.trained_network import Evaluation, Trained
from lra.lab.runs.verdict import verdict
from lra.lab.settings import code
from lra.lab.settings.config import TrainConfig
from lra.lab.training import loop
from lra.methods import Method
from lra.rules import Rule

Data = str | Path | Dataset | tuple[Any, ...]
"""A dataset: its name or path, a `Dataset`, or arrays (x, y) or (x, y, x_test, y_test)."""


def train(
    dataset: Data,
    *,
    rule: str | Rule | Method | Callable[..., Rule | Method] = "lra-e",
    model: str | Callable[..., nn.Module] = "mlp",
    folder: Path | str | None = None,
    overwrite: bool = False,
    data_folder: Path | str | None = None,
    progress: bool = False,
    log: str = "tensorboard",
    **settings: Any,
) -> "Run":
    """Train a network, and save the run to a folder.

    Training happens in this process, with the settings and files of `lra train`. With the setting
    `devices` above 1, Lightning Fabric starts this script again in further processes.

    Args:
        dataset: a name such as "mnist", a path, a `lra.lab.data.Dataset`, or arrays: samples
            (n, ...) and class indices or names (n,), with or without a test set.
        rule: the rule or method: "lra-e:beta=0.2", an object, or a function that returns one.
        model: the network: "mlp:width=64,depth=3", "my_nets.py:Net", or a function or class that is
            called with the shape of a sample and the number of classes.
        folder: the run's folder; by default a new one under runs/.
        overwrite: whether to replace an earlier run in that folder.
        data_folder: the folder with the files of a named dataset; by default they are fetched.
        progress: whether to print the progress.
        log: a tracker that receives the metrics beside TensorBoard's log: "wandb" or "mlflow".
        **settings: other fields of `TrainConfig`, such as epochs=5, lr=1e-3, seed=1.

    Returns:
        The run, with its network, metrics and results.

    Raises:
        OptionError: a setting is unknown, invalid, or does not fit the data.
        DataError: the data cannot be loaded.
        Diverged: the loss or a weight is no longer finite.
        RunError: the folder is in use or not empty, or a file cannot be written.
        Interrupted: the run was stopped by Ctrl-C; `Run.open(folder).resume()` continues it.

    >>> import lra.lab
    >>> run = lra.lab.train("digits", rule="mirrored-lra", folder="runs/digits", epochs=1)
    >>> len(run.metrics)
    1
    """
    known = {f.name for f in dataclasses.fields(TrainConfig)} - {"sources", "source_folder"}
    for name in settings.keys() - known:
        raise unknown("setting", name, known)
    if isinstance(model, nn.Module) or not (isinstance(model, str) or callable(model)):
        raise OptionError(
            f"model must be a text, or the function or class that builds the network; got "
            f"{type(model).__name__}"
        )
    if not (isinstance(rule, (str, Rule, Method)) or callable(rule)):
        raise OptionError(f"rule must be a text, a rule, or a function; got {rule!r:.80}")
    arrays = _in_memory(dataset)
    config = TrainConfig(
        arrays.name if arrays else str(dataset),
        rule=rule if isinstance(rule, (str, Rule, Method)) else code.reference_to(rule),
        model=model if isinstance(model, str) else code.reference_to(model),
        **settings,
    )
    target = Path(folder) if folder else new_folder(config)
    loop.train(
        config,
        target,
        overwrite=overwrite,
        data_folder=Path(data_folder) if data_folder else None,
        reporter=_reporter(progress),
        dataset=arrays,
        log=log,
    )
    return Run(target, arrays)


def new_folder(config: TrainConfig) -> Path:
    """Return a folder under runs/ that does not exist, named by dataset, rule and time."""
    rule = "".join(c if c.isalnum() or c in "-_." else "-" for c in config.rule_name)
    stem = f"{Path(config.dataset).stem}-{rule}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = Path("runs") / stem, 2
    while folder.exists():
        folder, number = Path("runs") / f"{stem}-{number}", number + 1
    return folder


def _reporter(progress: bool) -> Reporter:
    return ConsoleReporter(Terminal()) if progress else Reporter()


def _in_memory(dataset: Data | None) -> Dataset | None:
    """Return a dataset that is already in memory, or None for a name or path."""
    if isinstance(dataset, Dataset) or dataset is None:
        return dataset
    return data.from_arrays(*dataset) if isinstance(dataset, tuple) else None


@dataclass(frozen=True)
class Predictions:
    """Hold the predictions for n samples.

    Attributes:
        classes: the name of each predicted class, (n,).
        probabilities: the probability of each class, (n, classes).
    """

    classes: npt.NDArray[np.str_]
    probabilities: npt.NDArray[np.float32]


class Run:
    """Open, evaluate and continue a training run in a folder.

    `lra.lab.train` returns one, and `Run.open` opens an earlier one.

    Args:
        folder: the folder.
        dataset: the data of a run that was trained on data in memory.

    >>> import lra.lab
    >>> run = lra.lab.train("digits", folder="runs/digits", epochs=1)
    >>> run = lra.lab.Run.open("runs/digits")
    >>> run.evaluate().samples
    360
    >>> run.predict(np.zeros((2, 8, 8), np.float32)).probabilities.shape
    (2, 10)
    """

    def __init__(self, folder: Path, dataset: Dataset | None = None) -> None:
        self.folder, self._dataset = folder, dataset

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        code: Sequence[Path | str] = (),
        dataset: Data | None = None,
    ) -> Self:
        """Open the folder of a run.

        Args:
            folder: the run's folder.
            code: files or modules of the user's own rule and network, if they moved or were not
                named on this machine before. Opening the run executes them.
            dataset: the data of a run that was trained on data in memory.

        Returns:
            The run.

        Raises:
            RunError: the folder is not a run's folder, or its configuration is invalid.
        """
        _allow(code)
        run = cls(Path(folder), _in_memory(dataset))
        run.config  # noqa: B018 - raises errors here
        return run

    @cached_property
    def config(self) -> TrainConfig:
        """The run's configuration."""
        return files.read_config(self.folder)

    @cached_property
    def _trained(self) -> Trained:
        return trained_network.load(self.folder)

    @property
    def network(self) -> nn.Module:
        """The plain network with the weights of the best epoch, in evaluation mode."""
        return self._trained.network

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._trained.classes

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The metrics of each finished epoch, by name; without validation data some are absent."""
        path = self.folder / files.METRICS
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of result.json; None if the run has not ended."""
        path = self.folder / files.RESULT
        if not path.exists():
            return None
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return content

    def evaluate(
        self, dataset: Data | None = None, *, data_folder: Path | str | None = None
    ) -> Evaluation:
        """Evaluate the best weights on a test set.

        Args:
            dataset: the dataset, or the arrays (x, y) of a test set; by default the dataset that
                the run was trained on.
            data_folder: the folder with the files of a named dataset; by default they are fetched.

        Returns:
            The accuracy, the loss and the accuracy of each class.

        Raises:
            RunError: there is no test set, or the samples do not fit the network.
            DataError: the data cannot be loaded.
        """
        if isinstance(dataset, tuple) and len(dataset) == 2:  # the test set alone
            dataset = (*dataset, *dataset)
        arrays = _in_memory(dataset) if dataset is not None else self._dataset
        name = str(dataset) if dataset is not None and arrays is None else None
        folder = Path(data_folder) if data_folder else None
        return trained_network.evaluate(self.folder, arrays or name, folder)

    def predict(self, x: Any) -> Predictions:
        """Predict the classes of samples.

        Args:
            x: samples (n, ...), or one sample: an array or tensor; uint8 is divided by 255, as in
                training. Or the path of a file or folder that `lra predict` reads.

        Returns:
            The classes (n,) and their probabilities (n, classes).

        Raises:
            DataError: the file cannot be read, or values are not finite.
            RunError: the samples do not fit the network.
        """
        if isinstance(x, (str, Path)):
            _, samples = read_samples(Path(x), self._trained.sample_shape, self.config.dataset)
        else:
            samples = convert_samples("x", np.asarray(x))
        if samples.shape == self._trained.sample_shape:
            samples = samples[None]
        probabilities = trained_network.compute_probabilities(self._trained, samples)
        return Predictions(np.array(self.classes)[probabilities.argmax(1)], probabilities)

    def diagnose(self) -> "Diagnoses":
        """Return the diagnoses that the run has written, every `diagnose` steps.

        Raises:
            RunError: the run has none.
        """
        return Diagnoses(self.folder, diagnoses.read_any(self.folder), self.config)

    def resume(
        self,
        *,
        epochs: int | None = None,
        progress: bool = False,
        data_folder: Path | str | None = None,
    ) -> "Run":
        """Continue the run from its newest checkpoint, to the bits of an uninterrupted run.

        Args:
            epochs: another number of epochs in all, for a run whose learning rate is constant.
            progress: whether to print the progress.
            data_folder: the folder with the files of a named dataset; by default they are fetched.

        Returns:
            The run in the same folder.

        Raises:
            OptionError: the run cannot have this number of epochs.
            RunError: no checkpoint is valid, or the user's own code has changed.
            DataError: the data differ from those that the run was trained on.
        """
        loop.resume(
            self.folder,
            epochs=epochs,
            data_folder=Path(data_folder) if data_folder else None,
            reporter=_reporter(progress),
            dataset=self._dataset,
        )
        return Run(self.folder, self._dataset)

    def __repr__(self) -> str:
        return f"Run({printable(self._headline())}; {str(self.folder)!r})"

    def _headline(self) -> str:
        """Return dataset, network, rule and the best figure so far in one line."""
        config = self.config
        text = f"{Path(config.dataset).name}, {config.model}, {config.rule_name}"
        result = self.result
        if result and result["test_accuracy"] is not None:
            return f"{text}: test accuracy {result['test_accuracy']:.2f} %"
        rows = self.metrics
        return f"{text}: {len(rows)} epochs" + ("" if result else ", not finished")

    def _repr_html_(self) -> str:
        rows = [(name, str(value)) for name, value in (self.result or {}).items()]
        notes = (str(self.config), f"folder {self.folder}")
        return as_html(self._headline(), ("result", ""), rows, notes, left=2)


@dataclass(frozen=True)
class Diagnoses:
    """Hold the diagnoses of a run.

    Attributes:
        folder: the run's folder.
        rows: one row for each layer at each diagnosed step, by column.
        config: the run's configuration.
    """

    folder: Path
    rows: list[diagnoses.Row]
    config: TrainConfig

    @property
    def verdict(self) -> str | None:
        """A sentence about layers whose updates were useless, with a remedy; None without any."""
        return verdict(self.rows, self.config.built_rule)

    def table(self, step: int | None = None) -> str:
        """Return the diagnosis at a step as text, by default the last one.

        Args:
            step: a step at which the run wrote a diagnosis.

        Raises:
            OptionError: there is no diagnosis at that step.
        """
        return diagnoses.table(self.rows, step)

    def __str__(self) -> str:
        return "\n".join(filter(None, (self.table(), self.verdict)))


def _allow(places: Sequence[Path | str]) -> None:
    code.allow(places)
