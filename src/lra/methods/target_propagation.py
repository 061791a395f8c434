"""Options of difference target propagation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lra.axis import finite, flag
from lra.errors import OptionError
from lra.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class DTP(Method):
    """Difference target propagation: targets go down through learned inverses of the layers.

        y_(L-1) = z_(L-1) - eta N dloss/dz_(L-1)
        y_(l-1) = z_(l-1) - (g_l(z_l) - g_l(y_l))
        loss_l = |z_l - y_l|^2 / (2 eta N)

    Layer l learns from loss_l alone, and the output layer from the loss. Each layer has an inverse
    g_l, which learns from inverse_l alone to undo f_l near its input:

        u = z_(l-1) + sigma noise
        g_l(z) = phi(V z + c)
        inverse_l = |g_l(f_l(u)) - u|^2 / (2 N)

    or, with `difference_loss`, from the local difference reconstruction loss

        difference_l = (|g_l(z_l + v) - g_l(z_l)|^2 / 2 - (u - z_(l-1)) (g_l(f_l(u)) - g_l(z_l)))
                       / (sigma^2 N),    v = sigma noise

    For small sigma it is least where the derivative of g_l is the transpose of that of f_l. Targets
    then carry backprop's errors.

    z_l is the input of a weight layer. Supported models are chains (nn.Sequential) of linear layers
    and convolutions with activations, pools and reshaping between. `attach` gives each weight layer
    but the first and the last an inverse: a module `inverse`, whose parameters are in the model's
    parameters and state dict.

    The local loss is Lee et al.'s over 2 eta, so that updates have the scale of backprop's. With
    two weight layers they are backprop's.

    Args:
        eta: the distance of the last hidden layer's target along the gradient of the loss.
        sigma: the standard deviation of the noise with which inverses learn; above 0 with
            `difference_loss`.
        difference_loss: whether inverses learn from the local difference reconstruction loss.

    Raises:
        OptionError: for a value out of range.

    Source: Lee et al., Difference target propagation, ECML 2015; Ernoult et al., Towards scaling
    difference target propagation by learning backprop targets, ICML 2022, for `difference_loss`.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    >>> x, t = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    >>> method = lra.methods.DTP()
    >>> net = method.attach(net, x)
    >>> [tuple(p.shape) for p in method.feedback_parameters(net)]
    [(8, 6), (8,)]
    >>> loss = method(net, lambda output: F.cross_entropy(output, t), x)
    """

    name = "dtp"
    _module = "target_propagation"

    eta: float = 0.1
    sigma: float = 0.1
    difference_loss: bool = False

    def __post_init__(self) -> None:
        finite(self, "eta", above=0.0)
        flag(self, "difference_loss")
        finite(self, "sigma", above=0.0 if self.difference_loss else -math.inf)
        if self.sigma < 0:
            raise OptionError(f"DTP: sigma must be 0 or more, got {self.sigma!r}")

    def attach(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Add an inverse to each inner weight layer, drawn as torch initialises layers."""
        attached: nn.Module = self._implementation().attach(self, model, example)
        return attached

    def feedback_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """List the parameters of the inverses."""
        found: list[nn.Parameter] = self._implementation().feedback_parameters(model)
        return found

    def detach(self, model: nn.Module) -> nn.Module:
        """Remove the inverses."""
        plain: nn.Module = self._implementation().detach(model)
        return plain
