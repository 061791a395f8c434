"""A run's data on its device, and batches that seed, epoch and step alone decide."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lra.errors import OptionError
from lra.lab import data
from lra.lab.augment import augment
from lra.lab.config import TrainConfig
from lra.lab.data import Dataset

Pair = tuple[Tensor, Tensor]
"""Samples (n, ...) and class indices (n,), or (n, T) for text."""


@dataclass(frozen=True)
class Batch:
    """One process's part of a batch.

    Attributes:
        x: its samples.
        y: their class indices.
        size: how many samples the whole batch has.
        predictions: how many predictions are made for the whole batch.
        counts: False where there was no sample left, and one of another process stands in.
    """

    x: Tensor
    y: Tensor
    size: int
    predictions: int
    counts: bool


class Batches:
    """Training samples, dealt out to processes.

    Args:
        pair: all samples.
        config: the run's configuration.
        world: how many processes there are.
        rank: which of them this is.
    """

    def __init__(self, pair: Pair, config: TrainConfig, world: int, rank: int) -> None:
        self.x, self.y = pair
        self.config, self.world, self.rank = config, world, rank
        self.steps = math.ceil(len(self.y) / config.batch_size)

    def epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        """Deal out an epoch's batches, from a step on."""
        size, seed = self.config.batch_size, self.config.seed
        order = draw_order(len(self.y), seed, epoch).to(self.y.device)
        for step in range(first, self.steps):
            chosen = order[step * size : (step + 1) * size]
            counts = self.rank < len(chosen)
            own = slice(self.rank, None, self.world) if counts else slice(0, 1)
            if self.config.augment:  # the whole batch, that its samples be one process's or two's
                generator = _generator(f"{seed}/{epoch}/{step}")
                x = augment(self.x[chosen], self.config.augment, generator)[own]
            else:
                x = self.x[chosen[own]]
            y = self.y[chosen[own]]
            yield Batch(x, y, len(chosen), len(chosen) * y[0].numel(), counts)


def draw_order(n: int, seed: int, epoch: int) -> Tensor:
    """Draw an epoch's order of samples."""
    return torch.randperm(n, generator=_generator(f"{seed}/{epoch}"))


def _generator(of: str) -> torch.Generator:
    digest = hashlib.sha256(of.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def place(
    arrays: Dataset, config: TrainConfig, device: torch.device
) -> tuple[Pair, Pair | None, Pair | None]:
    """Put training, validation and test samples on a device, split as configured.

    Raises:
        OptionError: for a batch, or a validation part, larger than the data.
    """
    n = len(arrays.y_train)
    count = min(2000, n // 10) if config.validation is None else config.validation
    train, validation = data.split(arrays, count, config.seed)
    if config.batch_size > len(train):
        raise OptionError(
            f"batch_size {config.batch_size} is more than the {len(train)} training samples"
        )
    dtype = torch.float64 if config.precision == "64" else torch.float32

    def put(x: Any, y: Any) -> Pair:
        samples = torch.from_numpy(x)
        return samples.to(device, dtype if samples.is_floating_point() else None), (
            torch.from_numpy(y).to(device)
        )

    has_test = config.test and arrays.x_test is not None and arrays.y_test is not None
    return (
        put(arrays.x_train[train], arrays.y_train[train]),
        put(arrays.x_train[validation], arrays.y_train[validation]) if count else None,
        put(arrays.x_test, arrays.y_test) if has_test else None,
    )
