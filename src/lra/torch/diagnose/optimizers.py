"""What an optimizer's eps does to small updates."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lra.errors import OptionError

Optimizers = Optimizer | Iterable[Optimizer] | None

ADAM_EPS = 1e-8
"""The default eps of Adam and AdamW in torch."""

_NOT_PER_NUMBER = tuple(filter(None, [getattr(torch.optim, "Muon", None)]))
"""Optimizers whose eps is not added to the size of each number of an update."""


class Epsilons:
    """The eps that each parameter's optimizer adds to the size of its update.

    Adam and its relatives divide an update of typical size u by u + eps, so that the step is
    u / (u + eps) of a full one. Adadelta adds eps to the square of u, so its root counts here.

    Args:
        optimizers: an optimizer, or several. Without one, eps is Adam's default everywhere.

    Raises:
        OptionError: for anything else.
    """

    def __init__(self, optimizers: Optimizers) -> None:
        several = isinstance(optimizers, Iterable) and not isinstance(optimizers, Optimizer)
        given: list[Any] = list(optimizers) if several else [optimizers]  # type: ignore[arg-type]
        given = [] if optimizers is None else given
        for optimizer in given:
            if not isinstance(optimizer, Optimizer):
                raise OptionError(
                    "diagnose: optimizer must be a torch.optim.Optimizer, or several; got a "
                    f"{type(optimizer).__name__}"
                )
        self.names = " and ".join(dict.fromkeys(type(optimizer).__name__ for optimizer in given))
        self._assumed = ADAM_EPS if optimizers is None else None
        self._by_id = {
            id(p): eps
            for optimizer in given
            for group in optimizer.param_groups
            if (eps := _eps_of(optimizer, group)) is not None
            for p in group["params"]
        }

    def of(self, parameter: nn.Parameter) -> float | None:
        """Return the eps for a parameter; None if its optimizer has none."""
        return self._by_id.get(id(parameter), self._assumed)


def _eps_of(optimizer: Optimizer, group: dict[str, Any]) -> float | None:
    eps = group.get("eps")
    if not isinstance(eps, (int, float)) or isinstance(optimizer, _NOT_PER_NUMBER):
        return None
    return math.sqrt(eps) if isinstance(optimizer, torch.optim.Adadelta) else float(eps)
