"""Which functions are elementwise nonlinearities, so that errors can cross them by a rule."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
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
_PROBE = np.array([-200.0, -2.5, -1.0, -0.4, 0.3, 0.8, 1.7, 200.0], "float32")


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
    return _values(phi) is not None


def bends(node: Any) -> bool:
    """Tell whether one call of an operation is an elementwise nonlinearity of one tensor."""
    given = {id(x) for x in node.input_tensors}
    if len(given) != 1:
        return False

    def phi(row: Any) -> Any:
        args, kwargs = node.arguments.fill_in(dict.fromkeys(given, row))
        return node.operation(*args, **kwargs)

    z = _values(phi)
    if z is None or z.dtype.kind != "f":  # what is not real sends no error down
        return False
    with np.errstate(all="ignore"):
        line = z[0] + (z[-1] - z[0]) * (_PROBE - _PROBE[0]) / (_PROBE[-1] - _PROBE[0])
        return not np.allclose(z, line, rtol=0, atol=1e-5 * np.abs(z).max())


def _values(phi: Callable[[Any], Any]) -> Any:
    """Give phi of the probe, or None where it is not the same for each number by itself."""
    row = ops.convert_to_tensor(_PROBE[None])
    try:
        z = ops.convert_to_numpy(phi(row))
        alone = [ops.convert_to_numpy(phi(row[:, i : i + 1])) for i in range(len(_PROBE))]
    except Exception:
        return None  # what cannot take such an array is no elementwise function
    if z.shape != (1, len(_PROBE)) or any(one.shape != (1, 1) for one in alone):
        return None
    each = np.concatenate(alone, axis=1)
    return z[0] if np.allclose(z, each, rtol=1e-5, atol=1e-5, equal_nan=True) else None
