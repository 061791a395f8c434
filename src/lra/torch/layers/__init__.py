"""The tables of layers: what each torch.nn class becomes, and which classes are refused."""

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lra.torch.functions.interceptor import FunctionInterceptor
from lra.torch.functions.module import InterceptedModule, SkippedModule, Table
from lra.torch.layers.activation import (
    ACTIVATIONS,
    KNOWN,
    LocalActivation,
    is_activation,
    is_step_function,
    unit,
)
from lra.torch.layers.base import Local, LocalWeights, local_class
from lra.torch.layers.conv import LocalConv1d, LocalConv2d, LocalConv3d
from lra.torch.layers.linear import LocalLinear
from lra.torch.layers.sequential import LocalSequential
from lra.torch.layers.state import RuleState

WEIGHT_LAYERS: dict[type[nn.Module], type[LocalWeights]] = {
    local.plain: local for local in (LocalLinear, LocalConv1d, LocalConv2d, LocalConv3d)
}
"""Weight layers: errors go down through the rule's feedback."""

FOLLOWED: tuple[type[nn.Module], ...] = (
    *(nn.Linear, _ConvNd, _ConvTransposeNd, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.GLU),
    *(nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
)
"""Layers, and all below them, whose forward is followed function by function."""

__all__ = [
    "FOLLOWED",
    "KNOWN",
    "NONLINEARITIES",
    "WEIGHTS",
    "Follow",
    "InterceptedModule",
    "Local",
    "LocalActivation",
    "LocalSequential",
    "LocalWeights",
    "Record",
    "SkippedModule",
    "Table",
    "is_flat",
    "is_unit",
    "local_class",
    "unit",
]
