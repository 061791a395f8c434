"""Options of PEPITA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lra.axis import finite
from lra.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class PEPITA(Method):
    """Error-driven input modulation: the error at the output changes the input of a second pass.

        e = N dloss/dh_K
        x' = x + e F
        dW_k = (z_k - z'_k)^T z'_(k-1) / N
        dW_K = e^T z'_(K-1) / N

    z'_k is the output of hidden layer k in the second pass, with z'_0 = x'. No error goes down
    through the layers. F is a fixed random matrix: each number is uniform between plus and minus
    scale sqrt(6 / inputs).

    Supported models are chains (nn.Sequential) of linear layers with elementwise activations and
    dropout between. The loss reads the last linear layer. Dropout has the same masks in both
    passes. `attach` adds F, of shape (outputs, inputs), to the first linear layer as the buffer
    `projection`.

    Args:
        scale: the size of F relative to He's initialisation.

    Raises:
        OptionError: for a value out of range.

    Source: Dellaferrera and Kreiman, Error-driven input modulation: solving the credit assignment
    problem without a backward pass, ICML 2022.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x, t = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    >>> method = lra.methods.PEPITA()
    >>> method.attach(net, x)[0].projection.shape
    torch.Size([3, 4])
    >>> loss = method(net, lambda output: F.cross_entropy(output, t), x)
    """

    estimates = True
    name = "pepita"
    _module = "pepita"

    scale: float = 0.05

    def __post_init__(self) -> None:
        finite(self, "scale", above=0.0)

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Add the fixed random matrix F to the first linear layer."""
        attached: nn.Module = self._implementation().attach(self, model)
        return attached

    def detach(self, model: nn.Module) -> nn.Module:
        """Remove F."""
        plain: nn.Module = self._implementation().remove_projections(model)
        return plain
