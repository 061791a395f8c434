"""The tables of layers: what each torch.nn class becomes, and which classes are refused."""

from torch import nn

from lra.torch.layers.activation import ACTIVATIONS, LocalPReLU, LocalRReLU
from lra.torch.layers.base import Local, LocalNonlinearity, LocalWeights
from lra.torch.layers.conv import LocalConv1d, LocalConv2d, LocalConv3d
from lra.torch.layers.linear import LocalLinear
from lra.torch.layers.sequential import LocalSequential

WEIGHTS: dict[type[nn.Module], type[LocalWeights]] = {
    local.plain: local for local in (LocalLinear, LocalConv1d, LocalConv2d, LocalConv3d)
}
"""Weight layers: errors go down through the rule's feedback."""

NONLINEARITIES: dict[type[nn.Module], type[LocalNonlinearity]] = {
    **ACTIVATIONS,
    nn.PReLU: LocalPReLU,
    nn.RReLU: LocalRReLU,
}
"""Elementwise nonlinearities: errors cross them by the rule's crossing."""

REFUSED: dict[type[nn.Module], str] = {
    nn.RNNBase: "its steps through time are inside one kernel",
    nn.RNNCellBase: "its weights and nonlinearities are inside one kernel",
    nn.MultiheadAttention: "its projections are inside one kernel; write it with nn.Linear",
    nn.modules.conv._ConvTransposeNd: "transposed convolutions have no local form here",
    nn.Bilinear: "bilinear layers have no local form here",
}
"""Weight layers that would silently stay on backprop, and why each cannot be converted."""

__all__ = [
    "NONLINEARITIES",
    "REFUSED",
    "WEIGHTS",
    "Local",
    "LocalNonlinearity",
    "LocalSequential",
    "LocalWeights",
]
