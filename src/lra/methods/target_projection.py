"""Options of direct random target projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lra.axis import finite
from lra.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class DRTP(Method):
    """Direct random target projection: hidden layers learn from the label itself.

        e_k = phi'(h_k) (t B_k) / N
        dW_k = e_k^T z_(k-1)

    t is the label in one-hot form, in place of the error at the output. The last layer learns from
    the loss. B_k is a fixed random matrix: each number is uniform between plus and minus
    scale sqrt(6 / units).

    The loss has to be the cross-entropy of the output with labels, a mean or a sum. The method
    computes the labels from its gradient, which is (softmax(output) - t) / N.

    Supported models are chains (nn.Sequential) of linear layers with elementwise activations and
    dropout between. `attach` adds B_k, of shape (outputs, units), to each hidden layer as the
    buffer `projection`.

    Args:
        scale: the size of B_k relative to He's initialisation.

    Raises:
        OptionError: for a value out of range.

    Source: Frenkel et al., Learning without feedback: fixed random learning signals allow for
    feedforward training of deep neural networks, Frontiers in Neuroscience 2021.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> x, t = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    >>> method = lra.methods.DRTP()
    >>> method.attach(net, x)[0].projection.shape
    torch.Size([3, 8])
    >>> loss = method(net, lambda output: F.cross_entropy(output, t), x)
    """

    name = "drtp"
    _module = "target_projection"

    scale: float = 1.0

    def __post_init__(self) -> None:
        finite(self, "scale", above=0.0)

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Add a fixed random matrix to each hidden layer."""
        attached: nn.Module = self._implementation().attach(self, model)
        return attached

    def detach(self, model: nn.Module) -> nn.Module:
        """Remove the matrices."""
        plain: nn.Module = self._implementation().remove_projections(model)
        return plain
