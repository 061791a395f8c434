"""Plain linear layers of an ensemble as ops, so that dW has the memory layout of W."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from lra.feedback import Transpose
from lra.torch.layers.linear import LinearMap
from lra.torch.ops.autograd import apply_ops
from lra.torch.ops.ops import WeightOp


class LinearAsOp(TorchFunctionMode):
    """Runs `F.linear` as an op with E = W, which is backprop.

    The backward pass of a batched linear layer in autograd returns dW transposed in memory and
    copies it. This takes half of a step's time for a wide first layer.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, `F.linear` as an op."""
        if func is F.linear and torch.is_grad_enabled() and not kwargs and args[1].dim() == 2:
            x, W, *b = args
            op = WeightOp(LinearMap(), Transpose())
            return apply_ops((op,), x, W, b[0] if b else None, W.detach())
        return func(*args, **(kwargs or {}))
