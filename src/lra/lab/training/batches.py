"""A run's data on its device, and batches that depend on seed, epoch and step alone."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lra.errors import OptionError
from lra.lab import data
from lra.lab.data import Dataset
from lra.lab.settings.config import TrainConfig
from lra.lab.training.augment import augment

Pair = tuple[Tensor, Tensor]
"""Samples (n, ...) and class indices (n,), or (n, T) for text."""


@dataclass(frozen=True)
class Batch:
    """The part of a batch that one process trains on.

    Attributes:
        x: the samples.
        y: their class indices.
        size: the number of samples in the whole batch.
        predictions: the number of predictions for the whole batch.
        counts: False if no sample was left for this process. The part then holds a sample of
            another process, which must not contribute.
    """

    x: Tensor
    y: Tensor
    size: int
    predictions: int
    counts: bool


class Batches:
    """Batches of training samples, split over processes.

    Args:
        pair: all samples.
        config: the run's configuration.
        world: the number of processes.
        rank: the rank of this process.
    """

    def __init__(self, pair: Pair, config: TrainConfig, world: int, rank: int) -> None:
        self.x, self.y = pair
        self.config, self.world, self.rank = config, world, rank
        self.steps = math.ceil(len(self.y) / config.batch_size)

    def epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, starting at step `first`."""
        size, seed = self.config.batch_size, self.config.seed
        order = draw_order(len(self.y), seed, epoch).to(self.y.device)
        for step in range(first, self.steps):
            chosen = order[step * size : (step + 1) * size]
            counts = self.rank < len(chosen)
            own = slice(self.rank, None, self.world) if counts else slice(0, 1)
            if self.config.augment:  # the whole batch, so that draws do not depend on `world`
                generator = _generator(f"{seed}/{epoch}/{step}")
                x = augment(self.x[chosen], self.config.augment, generator)[own]
            else:
                x = self.x[chosen[own]]
            y = self.y[chosen[own]]
            yield Batch(x, y, len(chosen), len(chosen) * y[0].numel(), counts)


def draw_order(n: int, seed: int, epoch: int) -> Tensor:
    """Draw the order of the samples in an epoch."""
    return torch.randperm(n, generator=_generator(f"{seed}/{epoch}"))


def _generator(key: str) -> torch.Generator:
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def place(
    arrays: Dataset, config: TrainConfig, device: torch.device
) -> tuple[Pair, Pair | None, Pair | None]:
    """Move training, validation and test samples to a device, split as configured.

    Raises:
        OptionError: a batch or the validation set would be larger than the data.
    """
    n = len(arrays.y_train)
    count = min(2000, n // 10) if config.validation is None else config.validation
    train, validation = data.split(arrays, count, config.seed)
    if config.batch_size > len(train):
        raise OptionError(
            f"batch_size {config.batch_size} is more than the {len(train)} training samples; "
            "choose a smaller one"
        )
    dtype = torch.float64 if config.precision == "64" else torch.float32

    def to_device(x: Any, y: Any) -> Pair:
        samples = torch.from_numpy(x)
        return samples.to(device, dtype if samples.is_floating_point() else None), (
            torch.from_numpy(y).to(device)
        )

    has_test = config.test and arrays.x_test is not None and arrays.y_test is not None
    return (
        to_device(arrays.x_train[train], arrays.y_train[train]),
        to_device(arrays.x_train[validation], arrays.y_train[validation]) if count else None,
        to_device(arrays.x_test, arrays.y_test) if has_test else None,
    )
