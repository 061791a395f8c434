"""Which functions are elementwise nonlinearities, so that errors can cross them by a rule."""

from collections.abc import Callable
from typing import Any

import keras
from keras import activations, ops

from lra.crossing import Derivative
from lra.rules import Rule

_NAMES = (
    *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu"),
    *("hard_tanh", "leaky_relu", "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid"),
    *("silu", "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid"),
    *("squareplus", "tanh", "tanh_shrink", "threshold"),
)
KNOWN: frozenset[Callable[..., Any]] = frozenset(
    getattr(activations, name) for name in _NAMES if hasattr(activations, name)
)
"""The elementwise functions of keras.activations; the rest mix elements, or are linear."""

LAYERS: tuple[type[Any], ...] = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
)
"""Layers that may stand as the `activation` inside another layer."""

_MIXING = (activations.softmax, activations.log_softmax, activations.glu, activations.linear)
_PROBE = (-2.5, -1.0, -0.4, 0.3, 0.8, 1.7)


def crossable(phi: Any, rule: Rule) -> bool:
    """Tell whether errors cross phi by the rule: an elementwise nonlinearity, and not by phi'."""
    if isinstance(rule.crossing, Derivative) or phi is None or phi in _MIXING:
        return False
    if isinstance(phi, keras.layers.Activation):
        return crossable(phi.activation, rule)
    if isinstance(phi, keras.layers.Layer):
        return type(phi) in LAYERS
    return phi in KNOWN or elementwise(phi)


def elementwise(phi: Callable[[Any], Any]) -> bool:
    """Tell whether a function treats every element alike, by trying it on a few numbers."""
    row = ops.convert_to_tensor([_PROBE], dtype="float32")
    try:
        z = ops.convert_to_numpy(phi(row))
        alone = [ops.convert_to_numpy(phi(row[:, i : i + 1])) for i in range(len(_PROBE))]
    except Exception:
        return False  # what cannot take such an array is no elementwise function
    if z.shape != (1, len(_PROBE)) or any(one.shape != (1, 1) for one in alone):
        return False
    return all(abs(z[0, i] - one[0, 0]) < 1e-5 for i, one in enumerate(alone))
