"""Which functions are elementwise, nonlinear or flat, found by evaluating them."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import activations, ops

from lra.crossing import Crossing, Derivative
from lra.differences import Phi
from lra.errors import ConversionError, one_line
from lra.keras.backend import outside_graph
from lra.keras.closed_forms import LAYERS, is_known, own_difference
from lra.rules import Rule

_PROBE = np.array([-200.0, -2.5, -1.0, -0.4, 0.3, 0.8, 1.7, 200.0], "float32")
_STEPS = np.linspace(-3.1, 4.3, 48, dtype="float32")

Shape = Sequence[int | None]


def crosses_by_rule(phi: Any, rule: Rule, shape: Shape = (None, 8)) -> bool:
    """Return whether errors cross phi by the rule: phi is elementwise and nonlinear.

    Args:
        phi: a function, or a layer without weights.
        rule: the rule; if its crossing is the derivative, the answer is no.
        shape: the shape of phi's input.

    Raises:
        ConversionError: phi cannot be evaluated on an array of this shape.
    """
    if isinstance(rule.crossing, Derivative) or phi in (None, activations.linear):
        return False
    if own_difference(phi) or is_known(phi):
        return True
    if isinstance(phi, keras.layers.Activation):
        return crosses_by_rule(phi.activation, rule, shape)
    if isinstance(phi, keras.layers.Layer):
        return type(phi) in LAYERS
    try:
        return is_nonlinear(phi, shape)
    except Exception as error:
        raise ConversionError(
            f"its activation {getattr(phi, '__name__', phi)!r} cannot be evaluated on an array of "
            f"shape {tuple(shape)}, so it is unknown whether it is elementwise: {one_line(error)}"
        ) from error


def crossing_of(phi: Phi, rule: Rule, shape: Shape) -> Crossing:
    """Return the rule's crossing at phi, which may differ at step functions such as sign.

    Args:
        phi: an elementwise function.
        rule: the rule.
        shape: the shape of phi's input.
    """
    at_steps = rule.crossing.at_steps()
    if at_steps == rule.crossing or is_known(phi.f):
        return rule.crossing
    x = _rows(_STEPS, shape)
    z, beside = _values(phi, x), _values(phi, x + np.float32(1e-4))
    flat = np.mean(z == beside) > 0.95 and np.any(z != z[0])
    return at_steps if flat else rule.crossing


def is_nonlinear(phi: Callable[[Any], Any], shape: Shape = (None, 8)) -> bool:
    """Return whether a function treats every element by itself, and is nonlinear in it.

    Args:
        phi: a function of one array. Errors that it raises are passed on.
        shape: the shape of its input.
    """
    x = _rows(_PROBE, shape)
    z = _values(phi, x)
    if z.shape != x.shape or z.dtype.kind != "f":  # integers carry no error
        return False
    order = np.random.default_rng(0).integers(len(x), size=x.shape)
    mixed, expected = _values(phi, _PROBE[order]), np.take_along_axis(z, order, 0)
    if not np.allclose(mixed, expected, 1e-5, 1e-5, equal_nan=True):
        return False
    with np.errstate(all="ignore"):
        line = z[0] + (z[-1] - z[0]) * ((x - x[0]) / (x[-1] - x[0]))
        return not np.all(np.abs(z - line) <= 1e-5 * np.abs(z).max(0))


def _rows(points: Any, shape: Shape) -> Any:
    """Return an array of a shape, of one sample for each point, which it is filled with."""
    units = tuple(2 if size is None else int(size) for size in tuple(shape)[1:])
    return np.broadcast_to(points.reshape(-1, *[1] * len(units)), (len(points), *units))


def _values(phi: Callable[[Any], Any], x: Any) -> Any:
    with outside_graph():
        return ops.convert_to_numpy(phi(ops.convert_to_tensor(x)))
