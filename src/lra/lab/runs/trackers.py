"""Trackers that receive a run's metrics: Weights & Biases and MLflow, by Lightning's loggers."""

import contextlib
import importlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lra.axis import unknown
from lra.errors import OptionError, RunError, one_line
from lra.lab.runs.atomic import write_atomically
from lra.lab.runs.display import Reporter
from lra.lab.runs.state import COLUMNS
from lra.lab.settings.config import TrainConfig
from lra.torch.diagnose import Diagnosis, scalars_of

FILE = "tracker.json"
PROJECT = "lra"
"""The project, or the experiment, that a run belongs to in a tracker."""

_LOGGERS = {"wandb": "WandbLogger", "mlflow": "MLFlowLogger"}

TRACKERS = ("tensorboard", *_LOGGERS)
"""The names of the trackers. Every run writes a TensorBoard log."""


def check(name: str) -> None:
    """Check that a tracker is known and installed.

    Raises:
        OptionError: it is not; the message says what to install.
    """
    if name not in TRACKERS:
        raise unknown("log", name, TRACKERS)
    needed = (name, "lightning") if name in _LOGGERS else ()
    if missing := [package for package in needed if importlib.util.find_spec(package) is None]:
        raise OptionError(
            f"log {name} needs packages that are not installed; install them with: pip install "
            f"{' '.join(missing)}"
        )


def choose(folder: Path, name: str) -> None:
    """Record the tracker of a new run in its folder, if it has one beside TensorBoard's log."""
    if name in _LOGGERS:
        _write(folder, name, None)


def chosen(folder: Path) -> str:
    """Return the name of a run's tracker."""
    return _read(folder)[0]


def reporters(folder: Path, config: TrainConfig, rows: Sequence[dict[str, Any]]) -> list[Reporter]:
    """Return the reporter to a run's tracker, if it has one beside TensorBoard's log."""
    name, run = _read(folder)
    return [TrackerReporter(folder, config, rows, name, run)] if name in _LOGGERS else []


def _write(folder: Path, name: str, run: str | None) -> None:
    write_atomically(folder / FILE, json.dumps({"log": name, "run": run}).encode())


def _read(folder: Path) -> tuple[str, str | None]:
    try:
        plain = json.loads((folder / FILE).read_text("utf-8"))
        name, run = plain["log"], plain["run"]
        if name in _LOGGERS and isinstance(run, str | None):
            return name, run
    except FileNotFoundError:
        return "tensorboard", None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{folder / FILE}: cannot be read ({one_line(error)})") from error
    raise RunError(f"{folder / FILE}: not a tracker of a run")


class TrackerReporter(Reporter):
    """Sends metrics and diagnoses to a tracker. A resumed run continues its tracker's run.

    Args:
        folder: the run's folder, which keeps the tracker's name for the run.
        config: the run's configuration.
        rows: the metrics of earlier epochs.
        name: the name of the tracker.
        run: the tracker's name for the run, if it has begun.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        rows: Sequence[dict[str, Any]],
        name: str,
        run: str | None,
    ) -> None:
        self.folder, self.config, self.rows = folder, config, rows
        self.name, self.run = name, run
        self.logger: Any = None

    def start(self, description: str, epochs: int, steps: int, text: bool) -> None:
        """Begin or continue the tracker's run."""
        with self._errors():
            logger = getattr(
                importlib.import_module("lightning.pytorch.loggers"), _LOGGERS[self.name]
            )
            name = self.folder.resolve().name
            if self.name == "wandb":
                self.logger = logger(project=PROJECT, name=name, id=self.run, resume="allow")
            else:
                uri = importlib.import_module("mlflow").get_tracking_uri()
                self.logger = logger(PROJECT, run_name=name, tracking_uri=uri, run_id=self.run)
            _ = self.logger.experiment  # begins the run, which gives it a name
            if self.run is None:
                self.logger.log_hyperparams(self.config.to_config())
                _write(self.folder, self.name, str(self.logger.version))
            elif self.rows:  # a killed run may not have sent it
                self._send_row(self.rows[-1])

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Send the metrics of an epoch."""
        with self._errors():
            self._send_row(row)

    def diagnosis(self, epoch: int, step: int, diagnosis: Diagnosis) -> None:
        """Send the numbers of each layer."""
        found = [scalars_of(row | {"step": step}) for row in diagnosis.rows()]
        with self._errors():
            self.logger.log_metrics(
                {f"diagnose/{name}": v for row in found for name, v in row.items()}, step=step
            )

    def end(self, result: dict[str, Any], folder: Path) -> None:
        """Send the results on the test set, and end the tracker's run."""
        names = ("test_accuracy", "test_loss", "test_accuracy_last", "test_loss_last")
        with self._errors():
            metrics = {name: result[name] for name in names if result[name] is not None}
            if metrics:
                self.logger.log_metrics(metrics, step=result["epochs"])
            self._finish("success")

    def close(self) -> None:
        """End the tracker's run, if it has not ended."""
        if self.logger is not None:
            with contextlib.suppress(Exception):  # an error of the tracker has been raised before
                self._finish("failed")

    def _send_row(self, row: dict[str, Any]) -> None:
        metrics = {name: row[name] for name in COLUMNS[1:] if row[name] is not None}
        self.logger.log_metrics(metrics, step=row["epoch"])

    def _finish(self, status: str) -> None:
        logger, self.logger = self.logger, None
        logger.finalize(status)
        if self.name == "wandb":
            logger.experiment.finish(exit_code=int(status != "success"))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a tracker's client can raise many types
            raise RunError(
                f"{self.name} failed: {one_line(error)}; once it works, continue with: lra train "
                f"--resume {self.folder}"
            ) from error
