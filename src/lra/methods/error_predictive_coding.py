"""Options of predictive coding in error form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from lra.axis import count, finite
from lra.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class ErrorPredictiveCoding(Method):
    """Predictive coding in error form: the errors between the layers descend its energy.

        s_l = f_l(s_(l-1)) + eps_l
        F = sum_l |eps_l|^2 / 2 + N loss / p
        eps <- eps - step dF/deps
        dW = -p eps_l^T df_l/dW / N

    The errors eps start at 0 and take `steps` steps. p is the precision. dW is the update of a
    weight in f_l, at the moved states; the output layer learns from the loss there.

    The settled errors are those of `PredictiveCoding`, whose loss is divided by p. As all errors
    move at once, two steps reach every layer of a network of any depth. In return dF/deps is a
    total derivative: errors cross the network by backprop's reverse pass, so this is not a local
    rule. f_l and the supported models are those of `PredictiveCoding`.

    As p grows, updates tend to 1 - (1 - step)^steps times backprop's below the output layer.

    Args:
        steps: the number of steps of the errors. The cost is that of a backward pass to the errors
            each, and of one more pass.
        step: the step size of the errors. Too large a step diverges, with a warning or an error.
        precision: p, the weight of the errors relative to the loss; by default the number of
            states, with which deep networks stay stable.

    Raises:
        OptionError: for a value out of range.

    Source: Goemaere et al., Error optimization: overcoming exponential signal decay in deep
    predictive coding networks, 2025 (arXiv 2505.20137).

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> x, t = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    >>> method = lra.methods.ErrorPredictiveCoding()
    >>> loss = method(net, lambda output: F.cross_entropy(output, t), x)
    >>> net[0].weight.grad.shape
    torch.Size([8, 4])
    """

    name = "error-predictive-coding"
    _module = "error_predictive_coding"

    steps: int = 2
    step: float = 0.7
    precision: float | None = None

    def __post_init__(self) -> None:
        count(self, "steps")
        finite(self, "step", above=0.0)
        if self.precision is not None:
            finite(self, "precision", above=0.0)

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Check that predictive coding supports the model. Nothing is added."""
        self._implementation().find_weight_layers(self, model)
        return model

    def settled(self) -> Self:
        """Return the method with 100 steps of 0.5."""
        return replace(self, steps=100, step=0.5)
