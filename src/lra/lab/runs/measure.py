"""Quality of predictions: cross-entropy in nats, and accuracy."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Predictor = Callable[[Tensor], Tensor]
"""Maps samples (n, ...) to logits (n, ..., classes); mostly a network."""

CHUNK_SIZE = 2000
"""The number of predictions that are computed at once."""


@dataclass(frozen=True)
class Metrics:
    """The quality of a network's predictions.

    Attributes:
        loss: the mean cross-entropy over all predictions, in nats.
        accuracy: the share of correct predictions, in percent.
    """

    loss: float
    accuracy: float


def cross_entropy(logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    """Compute the loss of logits (n, ..., classes) for class indices (n, ...)."""
    return F.cross_entropy(logits.flatten(0, -2), y.flatten(), reduction=reduction)


def count_correct(logits: Tensor, y: Tensor) -> Tensor:
    """Count the predictions whose largest logit is that of the right class."""
    return (logits.argmax(-1) == y).sum()


@torch.no_grad()
def compute_logits(predictor: Predictor, x: Tensor, chunk_size: int = CHUNK_SIZE) -> Tensor:
    """Compute logits (n, ..., classes) for samples (n, ...) in chunks."""
    return torch.cat([predictor(part) for part in torch.split(x, chunk_size)])


@torch.no_grad()
def measure(predictor: Predictor, x: Tensor, y: Tensor) -> Metrics:
    """Compute loss and accuracy on samples x and class indices y in chunks."""
    chunk_size = max(1, CHUNK_SIZE * len(y) // y.numel())
    loss, correct = 0.0, 0
    for samples, target in zip(torch.split(x, chunk_size), torch.split(y, chunk_size), strict=True):
        logits = predictor(samples)
        loss += cross_entropy(logits, target, "sum").item()
        correct += int(count_correct(logits, target))
    return Metrics(loss / y.numel(), 100.0 * correct / y.numel())
