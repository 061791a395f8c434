"""The tables of layers: what each Keras class becomes, and which classes are refused."""

from typing import Any

from keras import layers

from lra.keras.layers.activation import (
    LocalActivation,
    LocalElementwise,
    LocalELU,
    LocalLeakyReLU,
    LocalPReLU,
    LocalReLU,
)
from lra.keras.layers.base import Local, LocalWeights
from lra.keras.layers.conv import (
    LocalConv1D,
    LocalConv2D,
    LocalConv3D,
    LocalDepthwiseConv1D,
    LocalDepthwiseConv2D,
)
from lra.keras.layers.dense import LocalDense
from lra.keras.layers.elementwise import crosses_by_rule, is_nonlinear

WEIGHT_LAYERS: dict[type[Any], type[LocalWeights]] = {
    local.plain: local
    for local in (
        LocalDense,
        *(LocalConv1D, LocalConv2D, LocalConv3D),
        *(LocalDepthwiseConv1D, LocalDepthwiseConv2D),
    )
}
"""Weight layers: errors go down through the rule's feedback."""

ACTIVATIONS: dict[type[Any], type[LocalElementwise]] = {
    local.plain: local
    for local in (LocalActivation, LocalReLU, LocalLeakyReLU, LocalELU, LocalPReLU)
}
"""Activation layers: errors cross them by the rule's crossing axis."""

DIFFERENTIATED: tuple[type[Any], ...] = (
    layers.BatchNormalization,
    layers.Embedding,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.Normalization,
    *(getattr(layers, name) for name in ("RMSNormalization",) if hasattr(layers, name)),
)
"""Layers with weights that keep their own derivative under every rule."""


def _table(why: str, *names: str) -> dict[type[Any], str]:
    return {getattr(layers, name): why for name in names if hasattr(layers, name)}


REFUSED: dict[type[Any], str] = {
    **_table("its steps through time are inside one layer", "RNN", "Bidirectional"),
    **_table(
        "its projections are inside one layer; write it with Dense and keras.ops",
        *("MultiHeadAttention", "GroupQueryAttention", "AdditiveAttention"),
    ),
    **_table(
        "transposed convolutions are not supported; use UpSampling and Conv",
        *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
    ),
    **_table(
        "its two kernels are inside one layer; use a DepthwiseConv, then a Conv of size 1",
        *("SeparableConv1D", "SeparableConv2D"),
    ),
    **_table("use Dense and Reshape", "EinsumDense"),
    **_table("use the inner layer: Dense works on the last axis in any case", "TimeDistributed"),
    **_table("it is a wrapper; use the inner layer", "Wrapper"),
    **_table("its function cannot be inspected; write it with layers", "Lambda"),
}
"""Layers that would silently stay on backprop, and why each cannot be converted."""

__all__ = [
    "ACTIVATIONS",
    "DIFFERENTIATED",
    "REFUSED",
    "WEIGHT_LAYERS",
    "Local",
    "LocalActivation",
    "LocalConv1D",
    "LocalConv2D",
    "LocalConv3D",
    "LocalDense",
    "LocalDepthwiseConv1D",
    "LocalDepthwiseConv2D",
    "LocalELU",
    "LocalElementwise",
    "LocalLeakyReLU",
    "LocalPReLU",
    "LocalReLU",
    "LocalWeights",
    "crosses_by_rule",
    "is_nonlinear",
]
