"""Options of equilibrium propagation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from lra.axis import count, finite, flag
from lra.errors import OptionError
from lra.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class EquilibriumPropagation(Method):
    """Equilibrium propagation: the difference of two equilibria estimates the gradient of the loss.

        Phi = sum_k <s_k, g_k(s_(k-1))>
        s <- s + step (phi(dPhi/ds) - s)
        dW = (dPhi/dW(s_-) - dPhi/dW(s_+)) / (2 beta N)

    States settle to the free equilibrium, and from there with Phi - beta N loss(s_K) to `s_+`; if
    symmetric, also with -beta to `s_-`. Otherwise `s_-` is the free equilibrium, and the update is
    divided by beta N.

    s_k is the output of an activation, and the last one is the model's output. g_k has one weight
    layer and may pool and reshape. A max pool after an activation is computed before it, which
    leaves the forward pass as it is. Supported models are chains (nn.Sequential) of linear layers
    and convolutions with non-decreasing activations between.

    The network's answer is its free equilibrium, in which signals also go down through the weights
    (`output`). A forward pass through the same weights is another function, and the update is not
    its gradient.

    Args:
        beta: the strength of the nudge by the loss. The symmetric estimate has an error of order
            beta^2.
        free_steps: the number of steps from the forward pass to the free equilibrium.
        nudged_steps: the number of steps to each nudged equilibrium.
        step: how far states move towards their targets in each step; at 1 they take their values.
        symmetric: whether to nudge in both directions.

    Raises:
        OptionError: for a value out of range.

    Source: Scellier and Bengio, Equilibrium propagation, Frontiers in Computational Neuroscience
    2017; Ernoult et al., NeurIPS 2019, for this form of the dynamics; Laborieux et al., Scaling
    equilibrium propagation to deep ConvNets, Frontiers in Neuroscience 2021, for convolutions and
    the symmetric estimate.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> x, t = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    >>> method = lra.methods.EquilibriumPropagation()
    >>> loss = method(net, lambda output: F.cross_entropy(output, t), x)
    >>> method.output(net, x).shape
    torch.Size([5, 3])
    """

    estimates = True
    name = "equilibrium-propagation"
    _module = "equilibrium"

    beta: float = 0.1
    free_steps: int = 30
    nudged_steps: int = 10
    step: float = 0.5
    symmetric: bool = True

    def __post_init__(self) -> None:
        for name in ("beta", "step"):
            finite(self, name, above=0.0)
        if self.step > 1:
            raise OptionError(f"EquilibriumPropagation: step must be at most 1, got {self.step!r}")
        for name in ("free_steps", "nudged_steps"):
            count(self, name)
        flag(self, "symmetric")

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Check that equilibrium propagation supports the model. Nothing is added."""
        self._implementation().locate_states(self, model)
        return model

    def output(self, model: nn.Module, x: Tensor) -> Tensor:
        """Compute the model's answer without gradients: the output at its free equilibrium."""
        answer: Tensor = self._implementation().output(self, model, x)
        return answer

    def settled(self) -> Self:
        """Return the method with 100 steps of 0.5 to each equilibrium."""
        return replace(self, free_steps=100, nudged_steps=100, step=0.5)
