"""Options of predictive coding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from lra.axis import count, finite, flag
from lra.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class PredictiveCoding(Method):
    """Predictive coding: free states between the layers descend an energy, then weights do.

        z_l = f_l(x_(l-1))
        F = sum_l |x_l - z_l|^2 / 2 + beta N loss
        x <- x - step dF/dx
        dW = dF/dW / (beta N)

    The states x start at the forward pass and take `steps` steps. dW is the update of W. If
    symmetric, which is centred nudging, the states also take as many steps with -beta, and dW is
    the mean of both updates.

    Each weight layer reads one state x_l; layers that read the same tensor share a state. f_l is
    everything in between, such as activations, normalisation, sums and attention. A model is
    supported if its weights are used by nn.Linear, convolutions and classes named by
    `lra.register_weight_layer`. Inside f_l errors cross by its derivatives and by the transpose of
    its weight.

    Args:
        steps: the number of steps of the states. The cost is that of 1 + steps passes. An error
            reaches one layer further in each step, so K weight layers in a row need at least K - 1
            steps; with fewer, the lowest layers learn nothing.
        step: the step size of the states. Too large a step diverges, with a warning or an error.
        beta: the weight of the loss. Settled states differ from the forward pass in proportion to
            it, and the update from backprop's.
        symmetric: whether to nudge in both directions, at twice the cost. The update then differs
            from backprop's in proportion to beta^2.

    Raises:
        OptionError: for a value out of range.

    Source: Rao and Ballard, Nature Neuroscience 1999; Whittington and Bogacz, An approximation of
    the error backpropagation algorithm in a predictive coding network, Neural Computation 2017;
    Pinchetti et al., Benchmarking predictive coding networks made simple, 2024 (arXiv 2407.01163),
    for nudging, there with one direction at a time.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> x, t = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    >>> method = lra.methods.PredictiveCoding(steps=10)
    >>> loss = method(net, lambda output: F.cross_entropy(output, t), x)
    >>> net[0].weight.grad.shape
    torch.Size([8, 4])
    """

    name = "predictive-coding"
    _module = "predictive_coding"

    steps: int = 20
    step: float = 0.1
    beta: float = 1.0
    symmetric: bool = False

    def __post_init__(self) -> None:
        count(self, "steps")
        for name in ("step", "beta"):
            finite(self, name, above=0.0)
        flag(self, "symmetric")

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Check that predictive coding supports the model. Nothing is added."""
        self._implementation().find_weight_layers(self, model)
        return model

    def settled(self) -> Self:
        """Return the method with 100 steps of 0.3."""
        return replace(self, steps=100, step=0.3)
