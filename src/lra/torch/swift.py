"""Functions as targets are taken of them on a CPU, where torch's own way to evaluate them is slow.

What counts is a difference of two values: for it, any function will do of which phi is a multiple,
but for a constant.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Swift = tuple[Callable[[Tensor], Tensor], float]
"""A function, and what its differences are to be taken times."""


def _sigmoid(h: Tensor) -> Tensor:
    """Give sigmoid(2 h), of which tanh(h) is twice, less 1."""
    return (h + h).sigmoid_()


SWIFT: dict[Any, Swift] = dict.fromkeys(
    (nn.Tanh, torch.tanh, torch.tanh_, nn.functional.tanh, Tensor.tanh, Tensor.tanh_),
    (_sigmoid, 2.0),
)
"""By module or function. `benchmarks/tanh.py` measures what it gains, and what rounding it adds."""
