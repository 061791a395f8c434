"""Run models that cast to a lower precision entirely in double precision."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

HIGHEST = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
}
"""The dtypes that are replaced, with those that replace them."""

aten: Any = torch.ops.aten


class Float64(TorchDispatchMode):
    """Replaces every lower dtype that an operator of torch is asked for.

    Many models compute norms, rotary embeddings or state-space recurrences in float32, whatever
    their own dtype. A difference at beta = 1e-4 then has a relative error of about 1e-3 or more,
    which hides the effect of beta. Operators are replaced below autograd, so that casts inside
    autograd Functions count too. `replaced` counts them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.replaced = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not aten.view.dtype:
            args = tuple(self.higher(a) for a in args)
            kwargs = {name: self.higher(a) for name, a in kwargs.items()}
        out = func(*args, **kwargs)
        if func is aten.lift_fresh.default:  # a tensor of data, which no operator has made
            return out.to(self.higher(out.dtype))
        return out

    def higher(self, argument: Any) -> Any:
        """Return the double-precision dtype in place of a lower one, and anything else as it is."""
        if isinstance(argument, torch.dtype) and argument in HIGHEST:
            self.replaced += 1
            return HIGHEST[argument]
        return argument
