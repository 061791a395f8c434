"""All that moves during a run, besides weights, optimizer and random generators."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lra.lab.measure import Measured

COLUMNS = (
    *("epoch", "loss", "train_accuracy"),
    *("validation_loss", "validation_accuracy", "seconds"),
)
"""The figures of an epoch."""


@dataclass
class State:
    """How far a run is, and what it found.

    Attributes:
        epoch: how many epochs are done.
        step: how many steps of the next one are done.
        loss_sum: of the losses of all predictions in these steps.
        correct: how many of these predictions were right.
        seconds: that training took.
        rows: the figures of each epoch.
        best_epoch: its number, from 1; 0 before there is one.
        best_weights: the plain network's, after that epoch.
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
        """Give a figure of the best epoch."""
        return self.rows[self.best_epoch - 1][column] if self.best_epoch else None

    def close_epoch(self, predictions: int, validation: Measured | None, text: bool) -> bool:
        """Write an epoch's figures down, and tell whether it is the best one so far.

        Accuracy is what counts; of text the loss, which says more. Without validation samples the
        last epoch is the best.

        Args:
            predictions: how many were made in the epoch.
            validation: how good those on validation samples are.
            text: whether the data are text.
        """
        self.epoch, self.step = self.epoch + 1, 0
        self.rows.append(
            {
                "epoch": self.epoch,
                "loss": self.loss_sum / predictions,
                "train_accuracy": 100.0 * self.correct / predictions,
                "validation_loss": validation and validation.loss,
                "validation_accuracy": validation and validation.accuracy,
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
