"""Closed form: differences of JAX graphs against the same graphs in mpmath at 50 digits."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from jax import lax, nn
from jax.extend.core import Literal

from lra.jax.differences import RULES, Triple, difference_of

mp.mp.dps = 50


def walk(jaxpr, consts, args, apply):
    """Evaluate a jaxpr with nested calls opened: apply(primitive, params, operands) -> value."""
    known = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= dict(zip(jaxpr.invars, args, strict=True))

    def read(v):
        return v.val if isinstance(v, Literal) else known[v]

    for eqn in jaxpr.eqns:
        operands = [read(v) for v in eqn.invars]
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        if inner is not None:
            found = walk(inner.jaxpr, inner.consts, operands, apply)
        else:
            found = [apply(eqn.primitive, eqn.params, operands)]
        known.update(zip(eqn.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]


def difference(f, h, delta):
    """Return f(h) - f(h - delta), primitive by primitive."""

    def apply(primitive, params, operands):
        def side(i):
            picked = [x[i] if isinstance(x, Triple) else x for x in operands]
            return primitive.bind(*picked, **params)

        if not any(isinstance(x, Triple) for x in operands):
            return side(0)
        a, b = side(0), side(1)
        return Triple(a, b, difference_of(primitive.name, params, operands, (a, b)))

    h, delta = jnp.asarray(h), jnp.asarray(delta)
    closed = jax.make_jaxpr(f)(h)
    (out,) = walk(closed.jaxpr, closed.consts, [Triple(h, h - delta, delta)], apply)
    return out.D


def _power(x, p):
    return mp.mpf(0) if x == 0 else x**p


MPMATH = {
    **dict.fromkeys(("copy", "copy_p", "stop_gradient"), lambda x: x),
    **dict.fromkeys(("broadcast_in_dim", "reduce_precision"), lambda x: x),
    **dict.fromkeys(("add", "add_any"), lambda x, y: x + y),
    "neg": lambda x: -x,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": _power,
    "square": lambda x: x * x,
    "sqrt": mp.sqrt,
    "rsqrt": lambda x: 1 / mp.sqrt(x),
    "cbrt": lambda x: mp.sign(x) * mp.cbrt(abs(x)),
    "exp": mp.exp,
    "exp2": lambda x: mp.mpf(2) ** x,
    "expm1": mp.expm1,
    "log": mp.log,
    "log1p": mp.log1p,
    "logistic": lambda x: 1 / (1 + mp.exp(-x)),
    "erf": mp.erf,
    "erfc": mp.erfc,
    "max": max,
    "min": min,
    "clamp": lambda low, x, high: min(max(x, low), high),
    "select_n": lambda which, *cases: cases[int(which)],
    "abs": abs,
    "sign": mp.sign,
    "floor": mp.floor,
    **{name: getattr(mp, name) for name in ("tanh", "sinh", "cosh", "sin", "cos", "tan")},
    **{name: getattr(mp, name) for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh")},
    "atan2": mp.atan2,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "and": lambda x, y: x and y,
}


def exactly(closed, x):
    """Evaluate a jaxpr at a number with mpmath."""

    def number(x):
        return x if isinstance(x, (mp.mpf, bool, int)) else mp.mpf(np.asarray(x).item())

    def apply(primitive, params, operands):
        operands = [number(x) for x in operands]
        if primitive.name == "integer_pow":
            return operands[0] ** params["y"]
        if primitive.name == "convert_element_type":
            return int(operands[0]) if params["new_dtype"] == np.int32 else mp.mpf(operands[0])
        return MPMATH[primitive.name](*operands)

    return walk(closed.jaxpr, closed.consts, [x], apply)[0]


def apart(x):
    """Return a step of two comparisons, so that the sigmoid's whole slope is between them."""
    return jnp.where((x > -1) & (x < 2), nn.sigmoid(x), 0.0)


def pieces(x):
    """Return x clipped to [-1, 1], by a choice among three cases."""
    which = (x > -1).astype(jnp.int32) + (x > 1).astype(jnp.int32)
    return lax.select_n(which, -jnp.ones_like(x), x, jnp.ones_like(x))


def derivative(x):
    """Return the derivative of x sin(x) as JAX's reverse mode computes it."""
    return jax.vjp(lambda x: x * jnp.sin(x), x)[1](jnp.ones_like(x))[0]


EXACT = {
    **{
        f.__name__: f
        for f in (
            *(nn.relu, nn.relu6, nn.sigmoid, nn.softplus, nn.soft_sign, nn.log_sigmoid),
            *(nn.leaky_relu, nn.hard_sigmoid, nn.hard_tanh, nn.elu, nn.celu, nn.selu, nn.identity),
            *(nn.sparse_plus, nn.sparse_sigmoid, jnp.cbrt, jnp.arcsinh, jnp.arctan),
            *(jnp.sin, jnp.cos, jnp.sinh, jnp.abs, jnp.cosh, apart, pieces, jnp.exp2),
        )
    },
    "relu squared": lambda x: nn.relu(x) ** 2,
    "leaky": lambda x: jnp.where(x >= 0, x, 0.1 * x),
    "leaky by max": lambda x: jnp.maximum(x, 0.2 * x),
    "smooth leaky": lambda x: jnp.where(x > 0, x, 0.1 * jnp.expm1(x)),
    "elu by max": lambda x: jnp.maximum(x, jnp.expm1(x)),
    "clip": lambda x: jnp.clip(x, -1.0, 2.0),
    "clamp": lambda x: lax.clamp(jnp.full_like(x, -1), x, jnp.full_like(x, 2)),
    "mask": lambda x: x * (x > 0),
    "sigmoid by exp": lambda x: 1 / (1 + jnp.exp(-x)),
    "symlog": lambda x: jnp.sign(x) * jnp.log1p(jnp.abs(x)),
    "logaddexp": lambda x: jnp.logaddexp(x, 1.0),
    "steps": lambda x: jnp.floor(x).astype(jnp.int32).astype(x.dtype) + jnp.sign(x - 0.3),
    "cube": lambda x: x**3,
    "power 0": lambda x: lax.integer_pow(x, 0),
    "power 11": lambda x: x**11,
    "power -3": lambda x: (x * x + 1) ** -3,
    "power 2.0": lambda x: x**2.0,
    "power 2.5": lambda x: jnp.abs(x) ** 2.5,
    "power x": lambda x: 1.5**x,
    "square": jnp.square,
    "smooth kink": lambda x: (jnp.sqrt(x * x + 1) - 1) / 2 + x,
    "rsqrt": lambda x: lax.rsqrt(x * x + 1),
    "angle": lambda x: jnp.arctan2(x, 2.0),
    "angle of both": lambda x: jnp.arctan2(nn.softplus(x), x - 3),
    "straight through": lambda x: lax.stop_gradient(jnp.exp(x)) + jnp.copy(x),
    "inverse cosh": lambda x: jnp.arccosh(1.1 + nn.softplus(x)),
    "log": lambda x: jnp.log(1 + jnp.exp(x / 2)),
    "tan": lambda x: jnp.tan(nn.sigmoid(x)),
}
"""Graphs whose difference is exact relative to the slope, except where the slope is zero."""

CANCELLING = {
    **{f.__name__: f for f in (nn.silu, nn.hard_silu, nn.squareplus)},
    **{f.__name__: f for f in (lax.erf, lax.erfc)},
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu by erf": lambda x: 0.5 * x * (1 + lax.erf(x / 2**0.5)),
    "quick gelu": lambda x: x * nn.sigmoid(1.7 * x),
    "gauss": lambda x: jnp.exp(-(x**2)),
    "softmax of two": lambda x: jnp.exp(x) / (jnp.exp(x) + jnp.exp(-x)),
    "algebraic": lambda x: x / jnp.sqrt(1 + x * x),
    "snake": lambda x: x + jnp.sin(x) ** 2,
    "derivative": derivative,
}
"""Graphs with zeros of the slope or tails where the graph itself cancels."""

OF_TANH = {
    **{f.__name__: f for f in (nn.tanh, nn.mish)},
    "gelu by tanh": functools.partial(nn.gelu, approximate=True),
    "1 - tanh^2": lambda x: 1 - jnp.tanh(x) ** 2,
    "tanhshrink": lambda x: x - jnp.tanh(x),
    "rounded": lambda x: lax.reduce_precision(nn.tanh(x), 11, 52),
    "inverse": lambda x: jnp.arcsin(0.9 * jnp.tanh(x)) - jnp.arccos(0.5 * jnp.tanh(x)),
    "inverse tanh": lambda x: jnp.arctanh(0.9 * jnp.tanh(x / 10)),
    "power both": lambda x: (nn.softplus(x) + 1) ** nn.tanh(x),
}
"""Graphs as exact as the derivative 1 - tanh^2 that automatic differentiation uses."""

ALL = {**EXACT, **CANCELLING, **OF_TANH}


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", request.param == "float64")
    yield np.dtype(request.param)
    jax.config.update("jax_enable_x64", before)


def compiled(f):
    return jax.jit(functools.partial(difference, f))


def points(dtype):
    random = np.random.default_rng(0)
    steps = np.repeat([1e-12, 1e-9, 1e-6, 1e-4, 1e-2, 0.1, 0.4, 0.6, 1, 2, 5, 10], 8)
    near, far = random.normal(0, 3, len(steps)), random.uniform(-30, 30, len(steps))
    h = np.where(np.arange(len(steps)) % 2, near, far)
    return h.astype(dtype), (steps * random.choice([-1, 1], len(steps))).astype(dtype)


def slope_of(closed, x):
    tiny = mp.mpf(10) ** -22
    return abs(exactly(closed, x + tiny) - exactly(closed, x - tiny)) / (2 * tiny)


@pytest.mark.parametrize("name", ALL)
def test_differences_equal_mpmath(name, dtype):
    """Eager and compiled, for steps from 1e-12 to 10."""
    f, (h, delta) = ALL[name], points(dtype)
    both = [one(h, delta) for one in (functools.partial(difference, f), compiled(f))]
    closed, info = jax.make_jaxpr(f)(h[0]), np.finfo(dtype)
    for i, (x, D) in enumerate(
        zip(map(mp.mpf, h.tolist()), map(mp.mpf, delta.tolist()), strict=True)
    ):
        expected = exactly(closed, x) - exactly(closed, x - D)
        slope = max(abs(expected / D), slope_of(closed, x), slope_of(closed, x - D))
        if name in EXACT:
            bound = 24 * slope
        else:
            bound = 24 * max(slope, 1, abs(x)) if name in OF_TANH else 8 * max(slope, 1)
        for found in both:
            assert found.dtype == dtype
            error = abs(mp.mpf(found[i].item()) - expected)
            assert error <= info.eps * abs(D) * bound + info.tiny, (x, D, found[i], expected)


@pytest.mark.parametrize("name", ALL)
def test_differences_are_finite_where_the_values_are(name):
    """At zero steps, at both zeros, and where inner values overflow or underflow."""
    f = ALL[name]
    edges = [0.0, -0.0, 1e-40, 1e-30, 0.5, 1.0, 1.5, 3.0, 40.0, 100.0, 1e4, 1e10, 1e30]
    edges = np.array([*edges, *(-x for x in edges)], "float32")
    h, v = (x.ravel() for x in np.meshgrid(edges, edges))
    delta = h - v
    a, b = jax.jit(lambda h, v: (f(h), f(v)))(h, h - delta)
    finite = np.isfinite(a) & np.isfinite(b)
    assert finite.sum() > 100
    found = np.asarray(compiled(f)(h, delta))
    assert np.isfinite(found[finite]).all()
    assert (found[finite & (delta == 0)] == 0).all()


def test_every_rule_is_in_a_graph_above():
    seen = set()
    for f in ALL.values():
        closed = jax.make_jaxpr(f)(1.0)
        walk(closed.jaxpr, closed.consts, [1.0], lambda op, *_: seen.add(op.name))
    assert set(RULES) <= seen
