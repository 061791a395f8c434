"""Options of Forward-Forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lra.axis import finite
from lra.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class ForwardForward(Method):
    """Forward-Forward: each hidden layer learns to tell samples with their label from wrong ones.

        n(z) = z / sqrt(mean(z^2))
        z_k = phi(n(z_(k-1)) W_k^T + b_k)
        g_k = sum(z_k^2) - threshold units_k
        local_k = (softplus(-g_k) for the label + softplus(g_k) for a wrong label) / (2 N)

    The first entries of the input, one for each class, are replaced by the label in one-hot form.
    The wrong label is drawn at random. Layer k learns from local_k alone, with n(z_(k-1)) as a
    constant.

    The answer is the last linear layer's output for the neutral label, 1 / classes in each entry
    (`output`). The last layer learns from the loss.

    The loss has to be the cross-entropy of the output with labels, a mean or a sum. The method
    computes the labels from its gradient, which is (softmax(output) - label) / N.

    Supported models are chains (nn.Sequential) of linear layers with elementwise activations and
    dropout between. Activations are nn.ReLU in the paper, and its code has a threshold of 1. A
    bounded activation needs a threshold below its largest square.

    Args:
        threshold: the mean square of a layer's units at which a sample's label is a toss-up.

    Raises:
        OptionError: for a value out of range.

    Source: Hinton, The forward-forward algorithm: some preliminary investigations, 2022, section
    3.3, without peer normalisation and with a readout of the last hidden layer alone.

    >>> net = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x, t = torch.randn(5, 9), torch.tensor([0, 1, 2, 0, 1])
    >>> method = lra.methods.ForwardForward()
    >>> loss = method(net, lambda output: F.cross_entropy(output, t), x)
    >>> method.output(net, x).shape
    torch.Size([5, 3])
    """

    estimates = True
    name = "forward-forward"
    _module = "forward_forward"

    threshold: float = 0.5

    def __post_init__(self) -> None:
        finite(self, "threshold", above=0.0)

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Check that Forward-Forward supports the model. Nothing is added."""
        self._implementation().split_model(self, model)
        return model

    def output(self, model: nn.Module, x: Tensor) -> Tensor:
        """Compute the model's answer without gradients: the output for the neutral label."""
        answer: Tensor = self._implementation().output(self, model, x)
        return answer
