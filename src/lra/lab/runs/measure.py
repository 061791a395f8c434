"""Quality of predictions: the loss in nats, and accuracy."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[..., Tensor]
"""A function of logits, class indices, and optionally the reduction: "mean" or "sum"."""

Predictor = Callable[[Tensor], Tensor]
"""Maps samples (n, ...) to logits (n, ..., classes); mostly a network."""

CHUNK_SIZE = 2000
"""The number of predictions that are computed at once."""


@dataclass(frozen=True)
class Metrics:
    """The quality of a network's predictions.

    Attributes:
        loss: the mean loss over all predictions, in nats.
        accuracy: the share of correct predictions, in percent.
    """

    loss: float
    accuracy: float


def cross_entropy(logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    """Compute the cross-entropy of logits (n, ..., classes) for class indices (n, ...)."""
    return F.cross_entropy(logits.flatten(0, -2), y.flatten(), reduction=reduction)


def logistic(logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    """Compute the logistic loss, which asks of each class by itself whether it is the right one.

        -log sigmoid(logit of the right class) - sum_others log sigmoid(-logit)

    The arguments are those of `cross_entropy`. The mean is over predictions, not over classes.
    """
    logits, y = logits.flatten(0, -2), y.flatten()
    target = F.one_hot(y, logits.shape[-1]).to(logits.dtype)
    total = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return total if reduction == "sum" else total / len(y)


LOSSES: dict[str, Loss] = {"cross-entropy": cross_entropy, "logistic": logistic}
"""The losses by name."""


def class_probabilities(loss: str, logits: Tensor) -> Tensor:
    """Compute the probabilities that a network trained by a loss states for its classes.

    Those of "logistic" do not add up to 1.
    """
    return logits.sigmoid() if loss == "logistic" else logits.softmax(-1)


def count_correct(logits: Tensor, y: Tensor) -> Tensor:
    """Count the predictions whose largest logit is that of the right class."""
    return (logits.argmax(-1) == y).sum()


@torch.no_grad()
def compute_logits(predictor: Predictor, x: Tensor, chunk_size: int = CHUNK_SIZE) -> Tensor:
    """Compute logits (n, ..., classes) for samples (n, ...) in chunks."""
    return torch.cat([predictor(part) for part in torch.split(x, chunk_size)])


@torch.no_grad()
def measure(predictor: Predictor, x: Tensor, y: Tensor, loss: Loss = cross_entropy) -> Metrics:
    """Compute loss and accuracy on samples x and class indices y in chunks."""
    chunk_size = max(1, CHUNK_SIZE * len(y) // y.numel())
    total, correct = 0.0, 0
    for samples, target in zip(torch.split(x, chunk_size), torch.split(y, chunk_size), strict=True):
        logits = predictor(samples)
        total += loss(logits, target, "sum").item()
        correct += int(count_correct(logits, target))
    return Metrics(total / y.numel(), 100.0 * correct / y.numel())
