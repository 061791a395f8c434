"""Modules converted by class: the class of each becomes one of these."""

from torch import nn

from lra.torch.layers.activation import LocalActivation, local_activation
from lra.torch.layers.base import Local, LocalUnchanged, LocalWeights
from lra.torch.layers.classes import class_name, local_class
from lra.torch.layers.conv import LocalConv1d, LocalConv2d, LocalConv3d
from lra.torch.layers.custom import LocalBlackBox, LocalCustom
from lra.torch.layers.linear import LocalLinear
from lra.torch.layers.sequential import LocalSequential
from lra.torch.layers.trials import is_activation, is_random, is_step_function
from lra.torch.registry import WEIGHT_LAYERS

_BUILT_IN: dict[type[nn.Module], type[LocalWeights]] = {
    local.plain: local for local in (LocalLinear, LocalConv1d, LocalConv2d, LocalConv3d)
}


def local_weights(cls: type[nn.Module]) -> type[LocalWeights]:
    """Return the class that a weight layer of `WEIGHT_LAYERS` becomes."""
    if cls in _BUILT_IN:
        return _BUILT_IN[cls]
    mixin = LocalBlackBox if WEIGHT_LAYERS[cls].black_box else LocalCustom
    return local_class(mixin, cls)


__all__ = [
    "Local",
    "LocalActivation",
    "LocalSequential",
    "LocalUnchanged",
    "LocalWeights",
    "class_name",
    "is_activation",
    "is_random",
    "is_step_function",
    "local_activation",
    "local_class",
    "local_weights",
]
