"""Plain linear layers across networks, whose updates come out as their weights lie."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from lra.feedback import Transpose
from lra.torch.layers.linear import LinearMap
from lra.torch.ops.autograd import apply_ops
from lra.torch.ops.ops import WeightOp


class Linears(TorchFunctionMode):
    """Runs `F.linear` as a place with E = W, which is backprop.

    Autograd's own way back through a batched linear layer gives dW transposed in memory, and
    copies it: half a step's time for a wide first layer.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, as a place where it is linear."""
        if func is F.linear and torch.is_grad_enabled() and not kwargs and args[1].dim() == 2:
            x, W, *b = args
            op = WeightOp(LinearMap(), Transpose())
            return apply_ops((op,), x, W, b[0] if b else None, W.detach())
        return func(*args, **(kwargs or {}))
