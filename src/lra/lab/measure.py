"""How good predictions are: cross-entropy in nats, and the share that is right."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Answer = Callable[[Tensor], Tensor]
"""What gives logits (n, ..., classes) for samples (n, ...): a network, most often."""

AT_ONCE = 2000
"""How many predictions to make at once."""


@dataclass(frozen=True)
class Measured:
    """What a network does on samples.

    Attributes:
        loss: mean cross-entropy over all predictions, in nats.
        accuracy: the share of predictions whose largest output is right, in percent.
    """

    loss: float
    accuracy: float


def cross_entropy(logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    """Give the loss of logits (n, ..., classes) for class indices (n, ...)."""
    return F.cross_entropy(logits.flatten(0, -2), y.flatten(), reduction=reduction)


def count_right(logits: Tensor, y: Tensor) -> Tensor:
    """Count the predictions whose largest output is right."""
    return (logits.argmax(-1) == y).sum()


@torch.no_grad()
def logits_of(network: Answer, x: Tensor, at_once: int = AT_ONCE) -> Tensor:
    """Run a network over many samples, shape (n, ...), in parts; gives shape (n, ..., classes)."""
    return torch.cat([network(part) for part in torch.split(x, at_once)])


@torch.no_grad()
def measure(network: Answer, x: Tensor, y: Tensor) -> Measured:
    """Measure a network on samples x and class indices y, in parts."""
    at_once = max(1, AT_ONCE * len(y) // y.numel())
    loss, right = 0.0, 0
    for samples, target in zip(torch.split(x, at_once), torch.split(y, at_once), strict=True):
        logits = network(samples)
        loss += cross_entropy(logits, target, "sum").item()
        right += int(count_right(logits, target))
    return Measured(loss / y.numel(), 100.0 * right / y.numel())
