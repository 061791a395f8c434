"""Keras's activations as `Phi`s, with the closed forms of their differences."""

import functools
import inspect
from collections.abc import Callable, Hashable
from numbers import Real
from typing import Any

import keras

from lra import differences
from lra.differences import Difference, Phi, known

Settings = dict[str, Any]

# ------------------------------------------------------------------ forms that torch does not have


def relu(
    h: Any,
    delta: Any,
    xp: Any,
    negative_slope: float = 0.0,
    max_value: float | None = None,
    threshold: float = 0.0,
) -> Any:
    """Compute the difference of Keras's ReLU.

    It is h above the threshold and 0 below it, clipped to [0, max_value], minus
    negative_slope max(threshold - h, 0).
    """
    u, du = h, delta
    if threshold != 0:
        u = xp.where(h > threshold, h, 0 * h)
        du = differences.threshold(h, delta, xp, threshold, 0.0)
    if max_value is not None:
        found = differences.hardtanh(u, du, xp, 0.0, max_value)
    else:
        found = differences.relu(u, du, xp) if threshold == 0 else du
    if negative_slope == 0:
        return found
    return found - negative_slope * differences.relu(threshold - h, -delta, xp)


def sparse_sigmoid(h: Any, delta: Any, xp: Any) -> Any:
    """Compute half of hardtanh's difference."""
    return differences.hardtanh(h, delta, xp) / 2


def sparse_plus(h: Any, delta: Any, xp: Any) -> Any:
    """Compute the difference of clip(h + 1, 0, 2)^2 / 4 + max(h - 1, 0)."""
    u, du = xp.clip(h + 1, 0.0, 2.0), differences.hardtanh(h, delta, xp)
    return differences.square(u, du, xp) / 4 + differences.relu(h - 1, delta, xp)


def squareplus(h: Any, delta: Any, xp: Any, b: float = 4.0) -> Any:
    """Compute D / 2 (p(h) + p(v)) / (r(h) + r(v)) with r(h) = sqrt(h^2 + b), p(h) = h + r(h)."""
    v = h - delta
    r, s = xp.sqrt(h * h + b), xp.sqrt(v * v + b)
    p = xp.where(h < 0, b / (r + abs(h)), h + r)
    q = xp.where(v < 0, b / (s + abs(v)), v + s)
    return delta / 2 * ((p + q) / (r + s))


# ------------------------------------------------------------------ tables

_WITHOUT_SETTINGS: dict[str, str] = {  # Keras's name: the key in `differences.FORMS`
    **{name: name for name in ("tanh", "sigmoid", "softplus", "relu6", "selu", "silu", "mish")},
    **{name: name for name in ("softsign", "exp", "exp2", "sinh", "cosh", "erf", "square", "sqrt")},
    **{name: name for name in ("rsqrt", "reciprocal", "log", "log2", "log10", "log1p", "logit")},
    **{name: name for name in ("absolute", "sin", "cos", "tan")},
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "exponential": "exp",
    "expm1": "exp",
    "abs": "absolute",
    "log_sigmoid": "logsigmoid",
    "hard_sigmoid": "hardsigmoid",
    "hard_silu": "hardswish",
    "hard_tanh": "hardtanh",
    "tanh_shrink": "tanhshrink",
}


def _relu(
    f: Any, negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> Phi:
    if max_value is not None and max_value < 0:
        return Phi(f)  # it clips to an empty interval
    if max_value is None and threshold == 0 and negative_slope == 0:
        return known("relu", f)
    settings = {"negative_slope": negative_slope, "max_value": max_value, "threshold": threshold}
    return Phi(f, functools.partial(relu, **settings), cheap=True)


def _soft_shrink(f: Any, threshold: float) -> Phi:
    return known("softshrink", f, lambd=threshold) if threshold >= 0 else Phi(f)


def _squareplus(f: Any, b: float) -> Phi:
    return Phi(f, functools.partial(squareplus, b=b), cheap=True) if b > 0 else Phi(f)


_WITH_SETTINGS: dict[str, Callable[..., Phi]] = {  # Keras's name: builds its Phi
    "celu": functools.partial(known, "celu"),
    "elu": functools.partial(known, "elu"),
    "gelu": lambda f, approximate: known("gelu", f, approximate="tanh" if approximate else "none"),
    "hard_shrink": lambda f, threshold: known("hardshrink", f, lambd=threshold),
    "leaky_relu": functools.partial(known, "leaky_relu"),
    "relu": _relu,
    "soft_shrink": _soft_shrink,
    "sparse_plus": lambda f: Phi(f, sparse_plus, cheap=True),
    "sparse_sigmoid": lambda f: Phi(f, sparse_sigmoid, cheap=True),
    "squareplus": _squareplus,
    "threshold": lambda f, threshold, default_value: known(
        "threshold", f, threshold=threshold, value=default_value
    ),
}


def _defaults(f: Callable[..., Any]) -> Settings:
    """Return the defaults of Keras's own settings: `keras.ops` and `keras.activations` differ."""
    settings = list(inspect.signature(f).parameters.values())[1:]
    return {p.name: p.default for p in settings if p.default is not inspect.Parameter.empty}


def _functions() -> dict[Callable[..., Any], tuple[Callable[..., Phi], Settings]]:
    """Map functions of Keras to what builds their `Phi`, and to the defaults of their settings."""
    found: dict[Callable[..., Any], tuple[Callable[..., Phi], Settings]] = {}
    for module in (keras.ops, keras.activations):
        for name, form in _WITHOUT_SETTINGS.items():
            if hasattr(module, name):
                found[getattr(module, name)] = functools.partial(known, form), {}
        for name, build in _WITH_SETTINGS.items():
            if hasattr(module, name):
                found[getattr(module, name)] = build, _defaults(getattr(module, name))
    return found


FUNCTIONS = _functions()
"""The functions of `keras.activations` and `keras.ops` whose differences have a closed form."""

LAYERS: dict[type[Any], tuple[str, tuple[str, ...]]] = {
    keras.layers.ReLU: ("relu", ("negative_slope", "max_value", "threshold")),
    keras.layers.LeakyReLU: ("leaky_relu", ("negative_slope",)),
    keras.layers.ELU: ("elu", ("alpha",)),
}
"""Keras's activation layers: the function that each computes, and its settings."""


# ------------------------------------------------------------------ lookup


def own_difference(f: Any) -> Difference | None:
    """Return the `difference` that a function or layer of the user defines, or None."""
    found = getattr(f, "difference", None)
    return found if callable(found) else None


def phi_of(f: Any) -> Phi:
    """Return an activation with the closed form of its difference, where one is known.

    Known are functions of `keras.activations` and `keras.ops`, `functools.partial` objects of
    these, Keras's activation layers, and objects with a method `difference(h, delta, xp)`. For all
    others the two values are subtracted.

    Args:
        f: a function, or a layer without weights.
    """
    if isinstance(f, Phi):
        return f
    if isinstance(f, keras.layers.Layer):
        return phi_of_layer(f, type(f), f)
    if own := own_difference(f):
        return Phi(f, own)
    given: Settings = {}
    base = f
    if isinstance(f, functools.partial) and not f.args:
        base, given = f.func, f.keywords
    return _build(f, base, given)


def phi_of_layer(layer: Any, cls: type[Any], f: Callable[[Any], Any]) -> Phi:
    """Return the `Phi` of an activation layer with its settings.

    Args:
        layer: where the settings are read from.
        cls: the Keras class that the layer is, or was before conversion.
        f: the function that the layer computes.
    """
    if own := own_difference(layer):
        return Phi(f, own)
    if cls is keras.layers.Activation:
        inner = phi_of(layer.activation)
        return Phi(f, inner.form, inner.room, inner.cheap)
    if cls not in LAYERS:
        return Phi(f)
    name, settings = LAYERS[cls]
    given = {setting: getattr(layer, setting) for setting in settings}
    return _build(f, getattr(keras.activations, name), given)


def _build(f: Any, base: Any, given: Settings) -> Phi:
    """Build the `Phi` of f, which is the function `base` of Keras with some settings given."""
    if not is_known(base):
        return Phi(f)
    build, defaults = FUNCTIONS[base]
    settings = defaults | given
    if not all(value is None or isinstance(value, Real) for value in settings.values()):
        return Phi(f)  # a setting is a tensor
    return build(f, **settings)


def is_known(f: Any) -> bool:
    """Return whether f is one of `FUNCTIONS`; an object of the user may have no hash."""
    return isinstance(f, Hashable) and f in FUNCTIONS
