"""Which functions are elementwise and nonlinear, so that errors cross them by the rule."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import activations, ops

from lra.crossing import Derivative
from lra.keras.closed_forms import LAYERS, is_known, own_difference
from lra.rules import Rule

_MIXING = (activations.softmax, activations.log_softmax, activations.glu, activations.linear)
_PROBE = np.array([-200.0, -2.5, -1.0, -0.4, 0.3, 0.8, 1.7, 200.0], "float32")


def crosses_by_rule(phi: Any, rule: Rule) -> bool:
    """Return whether errors cross phi by the rule: phi is elementwise, and the rule not phi'."""
    if isinstance(rule.crossing, Derivative) or phi is None or phi in _MIXING:
        return False
    if own_difference(phi):
        return True
    if isinstance(phi, keras.layers.Activation):
        return crosses_by_rule(phi.activation, rule)
    if isinstance(phi, keras.layers.Layer):
        return type(phi) in LAYERS
    return is_known(phi) or is_elementwise(phi)


def is_elementwise(phi: Callable[[Any], Any]) -> bool:
    """Return whether a function treats every element by itself (tested on a few numbers)."""
    return _values(phi) is not None


def is_nonlinear(node: Any) -> bool:
    """Return whether one call of a Keras operation is an elementwise nonlinear function.

    Args:
        node: a node of a Keras graph; with several different inputs the answer is no.
    """
    given = {id(x) for x in node.input_tensors}
    if len(given) != 1:
        return False

    def phi(row: Any) -> Any:
        args, kwargs = node.arguments.fill_in(dict.fromkeys(given, row))
        return node.operation(*args, **kwargs)

    z = _values(phi)
    if z is None or z.dtype.kind != "f":  # integers and booleans carry no error
        return False
    with np.errstate(all="ignore"):
        line = z[0] + (z[-1] - z[0]) * (_PROBE - _PROBE[0]) / (_PROBE[-1] - _PROBE[0])
        return not np.allclose(z, line, rtol=0, atol=1e-5 * np.abs(z).max())


def _values(phi: Callable[[Any], Any]) -> Any:
    """Compute phi of the probe; None if the values differ from those of each number alone."""
    row = ops.convert_to_tensor(_PROBE[None])
    try:
        z = ops.convert_to_numpy(phi(row))
        alone = [ops.convert_to_numpy(phi(row[:, i : i + 1])) for i in range(len(_PROBE))]
    except Exception:
        return None  # an elementwise function takes any such array
    if z.shape != (1, len(_PROBE)) or any(one.shape != (1, 1) for one in alone):
        return None
    each = np.concatenate(alone, axis=1)
    return z[0] if np.allclose(z, each, rtol=1e-5, atol=1e-5, equal_nan=True) else None
