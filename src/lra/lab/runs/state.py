"""The progress of a run, apart from weights, optimizer and random generators."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lra.lab.runs.measure import Metrics

COLUMNS = (
    *("epoch", "loss", "train_accuracy"),
    *("validation_loss", "validation_accuracy", "test_loss", "test_accuracy", "seconds"),
)
"""The metrics of an epoch."""


@dataclass
class State:
    """The progress and the metrics of a run.

    Attributes:
        epoch: the number of finished epochs.
        step: the number of finished steps of the next epoch.
        loss_sum: the sum of the losses of all predictions in these steps.
        correct: the number of correct predictions in these steps.
        seconds: the duration of training.
        rows: the metrics of each epoch.
        best_epoch: the number of the best epoch, from 1; 0 before the first one ends.
        best_weights: the plain network's weights after that epoch.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def best(self, column: str) -> float | None:
        """Return a metric of the best epoch; None before the first one ends."""
        return self.rows[self.best_epoch - 1][column] if self.best_epoch else None

    def close_epoch(
        self, predictions: int, validation: Metrics | None, text: bool, test: Metrics | None = None
    ) -> bool:
        """Record the metrics of an epoch, and return whether it is the best one so far.

        Epochs are compared by validation accuracy, or by validation loss for text, where it is more
        informative. Without validation samples the last epoch is the best.

        Args:
            predictions: the number of predictions in the epoch.
            validation: the metrics on the validation samples, if any.
            text: whether the data are text.
            test: the metrics on the test samples, if they are wanted after each epoch.
        """
        self.epoch, self.step = self.epoch + 1, 0
        self.rows.append(
            {
                "epoch": self.epoch,
                "loss": self.loss_sum / predictions,
                "train_accuracy": 100.0 * self.correct / predictions,
                "validation_loss": validation and validation.loss,
                "validation_accuracy": validation and validation.accuracy,
                "test_loss": test and test.loss,
                "test_accuracy": test and test.accuracy,
                "seconds": round(self.seconds, 3),
            }
        )
        self.loss_sum, self.correct = 0.0, 0
        before = self.best("validation_loss" if text else "validation_accuracy")
        if validation is None or before is None:
            better = True
        else:
            better = validation.loss < before if text else validation.accuracy > before
        if better:
            self.best_epoch = self.epoch
        return better
