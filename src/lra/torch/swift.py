"""Functions as targets are taken of them, where what the plain unit does would take longer.

What counts is a difference of two values: for it, any function will do of which phi is a multiple,
but for a constant. And what a target is taken at is there to be written over, which spares new
memory.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Over = Callable[[Tensor], Tensor]
"""A function that writes over its argument, and gives it."""

Swift = tuple[Callable[[Tensor], Tensor], Over, float]
"""A function, the same written over its argument, and what differences of it are taken times."""


def _sigmoid(h: Tensor) -> Tensor:
    """Give sigmoid(2 h), of which tanh(h) is twice, less 1."""
    return (h + h).sigmoid_()


def _sigmoid_(h: Tensor) -> Tensor:
    return h.add_(h).sigmoid_()


SWIFT: dict[Any, Swift] = dict.fromkeys(
    (nn.Tanh, torch.tanh, torch.tanh_, nn.functional.tanh, Tensor.tanh, Tensor.tanh_),
    (_sigmoid, _sigmoid_, 2.0),
)
"""By module or function. `benchmarks/tanh.py` measures what it gains, and what rounding it adds."""

_OVER: dict[Any, Over] = {
    **dict.fromkeys((nn.ReLU, F.relu, torch.relu, Tensor.relu), torch.relu_),
    **dict.fromkeys((nn.SiLU, F.silu), functools.partial(F.silu, inplace=True)),
    **dict.fromkeys((nn.Sigmoid, F.sigmoid, torch.sigmoid, Tensor.sigmoid), torch.sigmoid_),
}


def quick(kind: Any, module: Any = None) -> tuple[Over | None, Swift | None]:
    """Give phi written over its argument, and what is swifter, of a class or a function."""
    over = _OVER.get(kind)
    if kind is nn.GELU:
        over = functools.partial(torch.ops.aten.gelu_, approximate=module.approximate)
    return over, SWIFT.get(kind)
