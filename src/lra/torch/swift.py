"""Functions as targets are taken of them, where what the plain unit does would take longer.

What counts is a difference of two values: for it, any function will do of which phi is a multiple,
but for a constant. And what a target is taken at is there to be written over, which spares memory
that is new, and takes several times as long to write.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
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

_relu, _silu = torch.relu_, functools.partial(F.silu, inplace=True)
_OVER: dict[Any, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys((nn.ReLU, F.relu, torch.relu, Tensor.relu), _relu),
    **dict.fromkeys((nn.SiLU, F.silu), _silu),
    **dict.fromkeys((nn.Sigmoid, F.sigmoid, torch.sigmoid, Tensor.sigmoid), torch.sigmoid_),
}


def writes_over(kind: Any, module: Any = None) -> Callable[[Tensor], Tensor] | None:
    """Give phi written over its argument, for a plain class, with its module, or a function."""
    if kind is nn.GELU:
        return functools.partial(torch.ops.aten.gelu_, approximate=module.approximate)
    return _OVER.get(kind)
