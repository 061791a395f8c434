"""Run models that cast to a lower precision entirely in float64, so that rounding stays small."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

HIGHEST = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
}
"""The dtypes that are replaced, with those that replace them."""

CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)


class Float64(TorchFunctionMode):
    """Replaces every dtype of lower precision that is passed to a function of torch with float64.

    Many models compute norms, rotary embeddings or state-space recurrences in float32, whatever
    their own dtype. A difference at beta = 1e-4 then has an error of about 1e-3, which hides the
    effect of beta. `replaced` counts the replaced casts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.replaced = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in CASTS:
            self.replaced += 1
            return args[0].double()
        args = tuple(self.higher(a) for a in args)
        return func(*args, **{k: self.higher(a) for k, a in (kwargs or {}).items()})

    def higher(self, argument: Any) -> Any:
        """Return the double-precision dtype in place of a lower one."""
        if isinstance(argument, torch.dtype) and argument in HIGHEST:
            self.replaced += 1
            return HIGHEST[argument]
        return argument
