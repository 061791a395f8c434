"""Exact differences of elementwise JAX primitives, for the activations of `lra.jax`.

An activation phi is a small graph of primitives. To compute phi(h) - phi(h - delta) without
cancellation, `difference_of` takes each primitive's operands as triples and returns its own
difference, as a JVP takes tangents and returns one. `lra.differences` has the closed forms.

A graph can cancel where none of its primitives does: `0.5 * x * (1 + erf(x))` rounds 1 + erf(x)
in its left tail, in its value as in its difference.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from lra.differences import FORMS, _gap


class Triple(NamedTuple):
    """A value that depends on h.

    Attributes:
        a: the value at h.
        b: the value at h - delta.
        D: their exact difference a - b.
    """

    a: Any
    b: Any
    D: Any


class _Numpy:
    """`jax.numpy`, with the three functions that it lacks."""

    erf = staticmethod(lax.erf)
    erfc = staticmethod(lax.erfc)
    sigmoid = staticmethod(lax.logistic)

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)


NUMPY = _Numpy()
"""The array namespace of the rule axes and of `lra.differences`."""

Rule = Callable[..., Any]
"""A function (operands, outs, **params) -> the difference of a primitive."""


def difference_of(name: str, params: dict[str, Any], operands: list[Any], outs: Any) -> Any:
    """Compute a primitive's value at h minus its value at h - delta.

    Args:
        name: the primitive's name.
        params: the primitive's parameters.
        operands: a `Triple` for each operand that depends on h, an array for each other one.
        outs: the primitive's values at h and at h - delta.

    Returns:
        The difference, finite wherever both values are. By subtraction for primitives that are
        not in `RULES`; for booleans, whether the values differ.
    """
    if name not in RULES:
        return _subtract(outs)
    D = RULES[name](operands, outs, **params)
    return jnp.where(jnp.isfinite(D), D, _subtract(outs)) if _is_float(D) else D


# ------------------------------------------------------------------ building blocks


def _is_float(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _subtract(outs: Any) -> Any:
    a, b = outs
    return a != b if a.dtype == bool else a - b


def _triple(x: Any) -> Triple:
    return x if isinstance(x, Triple) else Triple(x, x, jnp.zeros_like(x))


def _times(x: Any, y: Any) -> Any:
    """Multiply: D = b_x D_y + a_y D_x."""
    if not isinstance(y, Triple):
        return Triple(x.a * y, x.b * y, x.D * y)
    if not isinstance(x, Triple):
        return _times(y, x)
    return Triple(x.a * y.a, x.b * y.b, x.b * y.D + y.a * x.D)


def _log(a: Any, b: Any, D: Any) -> Any:
    return jnp.sign(D) * jnp.log1p(abs(D) / jnp.minimum(a, b))


def _pick(which: Any, cases: Any) -> Any:
    """Select a case. Unlike `lax.select_n`, broadcast and promote where there are two."""
    if len(cases) == 2:
        return jnp.where(which, cases[1], cases[0])
    return lax.select_n(which, *cases)


def _choose(here: Any, there: Any, cases: Any, outs: Any) -> Any:
    """Compute the difference of a choice: case `here` at h, case `there` at h - delta.

    Where they differ, take the difference of the case `there`, plus the step between the cases
    at h. Near the point where they meet this is exact: it reads no rounded value at h - delta.
    """
    cases = [_triple(case) for case in cases]
    D = _pick(there, [case.D for case in cases])
    step = outs[0] - _pick(there, [case.a for case in cases])
    near = abs(D) <= 2 * (abs(outs[0]) + abs(outs[1]))
    return jnp.where(here == there, D, jnp.where(near, D + step, outs[0] - outs[1]))


def _extremum(x: Any, y: Any, outs: Any, largest: bool) -> Any:
    x, y = _triple(x), _triple(y)
    gap, D = x.a - y.a, x.D - y.D
    return _choose(gap > 0, gap > D, (y, x) if largest else (x, y), outs)


# ------------------------------------------------------------------ rules


def _form(name: str, scale: float = 1.0, factor: float = 1.0) -> Rule:
    """Return the rule of factor f(scale x), with f's closed form from `lra.differences`."""

    def rule(operands: Any, outs: Any, **_: Any) -> Any:
        (x,) = operands
        return factor * FORMS[name](scale * x.a, scale * x.D, NUMPY)

    return rule


def _same(operands: Any, outs: Any, **_: Any) -> Any:
    return operands[0].D


def _convert(operands: Any, outs: Any, **_: Any) -> Any:
    D = operands[0].D
    return D.astype(outs[0].dtype) if _is_float(D) and _is_float(outs[0]) else _subtract(outs)


def _add(operands: Any, outs: Any, **_: Any) -> Any:
    return sum(x.D for x in operands if isinstance(x, Triple))


def _sub(operands: Any, outs: Any, **_: Any) -> Any:
    x, y = operands
    if not isinstance(y, Triple):
        return x.D
    return x.D - y.D if isinstance(x, Triple) else -y.D


def _mul(operands: Any, outs: Any, **_: Any) -> Any:
    return _times(*operands).D


def _div(operands: Any, outs: Any, **_: Any) -> Any:
    """Compute (D_x - q D_y) / y, with y of the side where |y| is larger, and q of the other."""
    x, y = operands
    if not isinstance(y, Triple):
        return x.D / y
    here = abs(y.a) > abs(y.b)
    moved = jnp.where(here, outs[1], outs[0]) * y.D
    return (x.D - moved if isinstance(x, Triple) else -moved) / jnp.where(here, y.a, y.b)


def _integer_pow(operands: Any, outs: Any, *, y: int, **_: Any) -> Any:
    """Multiply by repeated squaring; for negative powers, -D / (a b) of the positive one's."""
    (x,) = operands
    total, n = None, abs(y)
    while n:
        if n % 2:
            total = x if total is None else _times(total, x)
        x, n = _times(x, x), n // 2
    if total is None:
        return outs[0] - outs[1]
    return total.D if y > 0 else -total.D / total.a / total.b


def _pow(operands: Any, outs: Any, **_: Any) -> Any:
    """Compute the larger value times gap(L), with L the difference of y log|x|."""
    x, y = operands
    if isinstance(x, Triple):
        size, other = abs(x.a), abs(x.b)
        moved = _log(size, other, FORMS["absolute"](x.a, x.D, NUMPY))
        L = _times(Triple(jnp.log(size), jnp.log(other), moved), y).D
    else:
        L = y.D * jnp.log(x)
    a, b = outs
    D = jnp.where(abs(a) > abs(b), a, b) * _gap(L, NUMPY)
    return jnp.where(jnp.sign(a) == jnp.sign(b), D, a - b)


def _tanh(operands: Any, outs: Any, **_: Any) -> Any:
    """Compute t (1 - a^2) / (1 - a t) with t = tanh(D) for small D, else a - b.

    It costs one more tanh, and is as exact as the derivative 1 - a^2.
    """
    a, b = outs
    D = operands[0].D
    t = jnp.tanh(D)
    return jnp.where(abs(D) < 1, t * ((1 - a) * (1 + a)) / (1 - a * t), a - b)


def _square(operands: Any, outs: Any, **_: Any) -> Any:
    (x,) = operands
    return x.D * (x.a + x.b)


def _sqrt(operands: Any, outs: Any, **_: Any) -> Any:
    return operands[0].D / (outs[0] + outs[1])


def _cbrt(operands: Any, outs: Any, **_: Any) -> Any:
    a, b = outs
    return operands[0].D / (a * a + a * b + b * b)


def _rsqrt(operands: Any, outs: Any, **_: Any) -> Any:
    a, b = outs
    return -operands[0].D * a * b * (a * b / (a + b))


def _exp(operands: Any, outs: Any, *, base: float = math.e, **_: Any) -> Any:
    return jnp.maximum(*outs) * _gap(math.log(base) * operands[0].D, NUMPY)


def _expm1(operands: Any, outs: Any, **_: Any) -> Any:
    (x,) = operands
    return jnp.exp(jnp.maximum(x.a, x.b)) * _gap(x.D, NUMPY)


def _log_rule(operands: Any, outs: Any, *, shift: float = 0.0, **_: Any) -> Any:
    (x,) = operands
    return _log(x.a + shift, x.b + shift, x.D)


def _max(operands: Any, outs: Any, **_: Any) -> Any:
    x, y = operands
    return _extremum(x, y, outs, True)


def _min(operands: Any, outs: Any, **_: Any) -> Any:
    x, y = operands
    return _extremum(x, y, outs, False)


def _clamp(operands: Any, outs: Any, **_: Any) -> Any:
    low, x, high = map(_triple, operands)
    a, b = jnp.maximum(x.a, low.a), jnp.maximum(x.b, low.b)
    return _extremum(Triple(a, b, _extremum(x, low, (a, b), True)), high, outs, False)


def _compare(compare: Any, operands: Any, outs: Any, **_: Any) -> Any:
    """Return whether x - y and 0 compare as x - y and D do, that is, without a rounded x or y."""
    x, y = map(_triple, operands)
    return outs[0] != compare(x.a - y.a, x.D - y.D)


def _select(operands: Any, outs: Any, **_: Any) -> Any:
    which, *cases = operands
    if not isinstance(which, Triple):
        return _pick(which, [_triple(case).D for case in cases])
    there = which.a != which.D if which.a.dtype == bool else which.b
    return _choose(which.a, there, cases, outs)


def _atan2(operands: Any, outs: Any, **_: Any) -> Any:
    """Compute the angle between the two points, with full turns from the subtraction."""
    y, x = map(_triple, operands)
    D = jnp.arctan2(y.D * x.b - x.D * y.b, x.a * x.b + y.a * y.b)
    turn = 2 * math.pi
    return D + turn * jnp.round((outs[0] - outs[1] - D) / turn)


_ROOT = math.sqrt(2)

RULES: dict[str, Rule] = {
    **dict.fromkeys(("copy", "stop_gradient", "reduce_precision"), _same),
    **dict.fromkeys(("add", "add_any"), _add),
    **{"neg": lambda operands, outs, **_: -operands[0].D, "convert_element_type": _convert},
    **{"sub": _sub, "mul": _mul, "div": _div, "integer_pow": _integer_pow, "pow": _pow},
    **{"square": _square, "sqrt": _sqrt, "cbrt": _cbrt, "rsqrt": _rsqrt},
    **{"exp": _exp, "exp2": functools.partial(_exp, base=2.0), "expm1": _expm1},
    **{"log": _log_rule, "log1p": functools.partial(_log_rule, shift=1.0)},
    **{"max": _max, "min": _min, "clamp": _clamp, "select_n": _select, "abs": _form("absolute")},
    **{"logistic": _form("sigmoid"), "erf": _form("erf"), "erfc": _form("normal", -_ROOT, 2.0)},
    **{name: _form(name) for name in ("sinh", "cosh", "sin", "cos", "tan", "asin")},
    **{name: _form(name) for name in ("acos", "atan", "asinh", "acosh", "atanh")},
    **{"tanh": _tanh, "atan2": _atan2},
    **{name: functools.partial(_compare, getattr(lax, name)) for name in ("gt", "ge", "lt", "le")},
}
"""The difference of each primitive by its name; every other one is subtracted."""

CHEAP = frozenset(
    {
        *("copy", "stop_gradient", "reduce_precision", "convert_element_type", "neg"),
        *("add", "add_any", "sub", "mul", "div", "integer_pow", "square", "sqrt", "rsqrt"),
        *("max", "min", "clamp", "select_n", "abs", "sin", "cos", "atan"),
        *("sign", "floor", "ceil", "round", "eq", "ne", "lt", "le", "gt", "ge"),
        *("and", "or", "not", "xor", "is_finite"),
    }
)
"""The primitives whose difference costs about as little as evaluating them twice."""
