"""Closed form: each exact difference against mpmath at 50 digits, and the domains of functions."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch

from lra import differences
from lra.differences import FORMS, ROOMS, Phi, known

mp.mp.dps = 50


def softplus(x):
    return mp.log1p(mp.exp(x)) if x < 60 else x + mp.log1p(mp.exp(-x))


def clamp(x, low, high):
    return min(max(x, mp.mpf(low)), mp.mpf(high))


FUNCTIONS = {
    "identity": lambda x: x,
    "exp": mp.exp,
    "exp2": lambda x: mp.mpf(2) ** x,
    "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "tanh": mp.tanh,
    "sinh": mp.sinh,
    "cosh": mp.cosh,
    "softplus": softplus,
    "logsigmoid": lambda x: -softplus(-x),
    "relu": lambda x: max(x, mp.mpf(0)),
    "leaky_relu": lambda x: x if x > 0 else x * mp.mpf(0.01),
    "absolute": abs,
    "hardtanh": lambda x: clamp(x, -1, 1),
    "relu6": lambda x: clamp(x, 0, 6),
    "hardsigmoid": lambda x: clamp(x + 3, 0, 6) / 6,
    "hardswish": lambda x: x * clamp(x + 3, 0, 6) / 6,
    "threshold": lambda x: x if x > 0 else mp.mpf(0),
    "hardshrink": lambda x: x if abs(x) > 0.5 else mp.mpf(0),
    "softshrink": lambda x: mp.sign(x) * max(abs(x) - mp.mpf(0.5), mp.mpf(0)),
    "elu": lambda x: x if x > 0 else mp.expm1(x),
    "celu": lambda x: x if x > 0 else mp.expm1(x),
    "selu": lambda x: (
        mp.mpf("1.0507009873554804934193349852946")
        * (x if x > 0 else mp.mpf("1.6732632423543772848170429916717") * mp.expm1(x))
    ),
    "silu": lambda x: x / (1 + mp.exp(-x)),
    "mish": lambda x: x * mp.tanh(softplus(x)),
    "normal": lambda x: mp.erfc(-x / mp.sqrt(2)) / 2,
    "erf": lambda x: mp.erfc(-x),  # one more than erf, which no difference sees
    "gelu": lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
    "softsign": lambda x: x / (1 + abs(x)),
    "tanhshrink": lambda x: x - mp.tanh(x),
    "log": mp.log,
    "log2": lambda x: mp.log(x) / mp.log(2),
    "log10": mp.log10,
    "log1p": mp.log1p,
    "logit": lambda x: mp.log(x / (1 - x)),
    "square": lambda x: x * x,
    "sqrt": mp.sqrt,
    "rsqrt": lambda x: 1 / mp.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "pow": lambda x: x**3,
    "sin": mp.sin,
    "cos": mp.cos,
    "tan": mp.tan,
    "atan": mp.atan,
    "asin": mp.asin,
    "acos": mp.acos,
    "asinh": mp.asinh,
    "acosh": mp.acosh,
    "atanh": mp.atanh,
}
"""Every closed form's function, at torch's default settings; a missing one is an error."""

SETTINGS = {
    "pow": [({"exponent": p}, lambda x, p=p: x**p) for p in (3, 2, 8, -1, -2, 0.5, 1.7, -0.3)],
    "gelu": [
        (
            {"approximate": "tanh"},
            lambda x: x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf(0.044715) * x**3))),
        )
    ],
    "softplus": [({"beta": 2.5}, lambda x: softplus(x * mp.mpf(2.5)) / mp.mpf(2.5))],
    "elu": [({"alpha": 1.6}, lambda x: x if x > 0 else mp.mpf(1.6) * mp.expm1(x))],
    "celu": [({"alpha": 0.7}, lambda x: x if x > 0 else mp.mpf(0.7) * mp.expm1(x / mp.mpf(0.7)))],
    "leaky_relu": [({"negative_slope": 0.2}, lambda x: x if x > 0 else x * mp.mpf(0.2))],
    "hardtanh": [
        ({"min_val": -0.4, "max_val": 0.6}, lambda x: clamp(x, -0.4, 0.6)),
        ({"min_val": -math.inf, "max_val": 0.6}, lambda x: min(x, mp.mpf(0.6))),
    ],
    "threshold": [
        ({"threshold": 0.1, "value": -0.5}, lambda x: x if x > 0.1 else mp.mpf(-0.5)),
    ],
    "hardshrink": [({"lambd": 0.3}, lambda x: x if abs(x) > 0.3 else mp.mpf(0))],
    "softshrink": [({"lambd": 0.2}, lambda x: mp.sign(x) * max(abs(x) - mp.mpf(0.2), mp.mpf(0)))],
}
"""Other settings of those that have some."""

RANGES = {
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt"), (1e-4, 30.0)),
    **dict.fromkeys(("asin", "acos", "atanh"), (-0.999, 0.999)),
    "log1p": (-0.999, 30.0),
    "logit": (1e-3, 0.999),
    "reciprocal": (1e-2, 30.0),
    "acosh": (1.001, 30.0),
}
"""Where functions are tried that are not defined from -30 to 30."""

STATIONARY = {
    *("silu", "mish", "gelu", "hardswish", "sin", "cos", "cosh", "square", "tanhshrink", "pow"),
}
"""Functions whose slope is zero somewhere inside: there the error is relative to 1."""

CASES = [
    *((name, {}, f) for name, f in FUNCTIONS.items() if name != "pow"),
    *((name, settings, f) for name, each in SETTINGS.items() for settings, f in each),
]


def sample(name, settings, dtype, n=160):
    """Draw points and differences of both signs, from 1e-12 to 10."""
    rng = np.random.default_rng(0)
    low, high = RANGES.get(name, (-30.0, 30.0))
    p = settings.get("exponent")
    if p is not None and (p < 0 or not float(p).is_integer()):
        low = 1e-2
    h = np.concatenate([rng.uniform(low, high, n // 2), 1.5 * rng.normal(size=n // 2)])
    h = np.clip(h, low, high).astype(dtype)
    delta = 10 ** rng.uniform(-12, 1, n) * rng.choice([-1, 1], n)
    return torch.from_numpy(h), torch.from_numpy(delta.astype(dtype))


@pytest.mark.parametrize(
    ("dtype", "allowed"), [(np.float32, 1e-6), (np.float64, 1e-14)], ids=["float32", "float64"]
)
@pytest.mark.parametrize(
    ("name", "settings", "f"), CASES, ids=[f"{name}-{settings}" for name, settings, _ in CASES]
)
def test_a_closed_form_is_exact(name, settings, f, dtype, allowed):
    """The error is at most `allowed` of |delta| times the slope between h and h - delta.

    On top of that, h itself may be rounded by one unit in the last place: no form can do better
    where the slope changes over that distance, as in the tails of exp.
    """
    phi = known(name, None, **settings)
    h, delta = sample(name, settings, dtype)
    delta = phi.inside(h, delta, torch)
    found = phi.form(h, delta, torch)
    assert found.dtype == h.dtype
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)

    def difference(x, d):
        if name in ("normal", "erf") and x > d / 2:  # on the side where both values are small
            return f(d - x) - f(-x)
        return f(x) - f(x - d)

    step = mp.mpf(10) ** -20

    def slope(x):
        return abs(difference(x + step, 2 * step)) / (2 * step)

    for a, b, e in zip(h.tolist(), delta.tolist(), found.tolist(), strict=True):
        x, d = mp.mpf(a), mp.mpf(b)
        exact = difference(x, d)
        ulp = abs(x) * eps * (3 if name in ("normal", "erf") else 1)  # which scale h too
        rounded = [difference(x + u, d) for u in (-ulp, ulp)]
        margin = max(abs(other - exact) for other in rounded)
        steepest = max(slope(x - d * k / 8) for k in range(9))
        if name in STATIONARY:
            steepest = max(steepest, mp.mpf(1))
        bound = allowed * abs(d) * steepest + margin + 8 * tiny
        assert abs(mp.mpf(e) - exact) <= bound, (a, b, e, float(exact))


def test_every_closed_form_is_tested():
    assert FUNCTIONS.keys() == FORMS.keys()
    assert ROOMS.keys() == RANGES.keys()


@pytest.mark.parametrize("name", sorted(FORMS))
def test_large_numbers_give_no_nan(name):
    settings = {"exponent": 3} if name == "pow" else {}
    h = torch.tensor([-1e4, -100.0, -1.0, 0.0, 1.0, 100.0, 1e4])
    low, high = RANGES.get(name, (-1e4, 1e4))
    h = h.clamp(low, 1e4 if high == 30 else high)
    phi = known(name, None, **settings)
    for delta in (1e4, 10.0, 1e-12, -1e-12, -10.0, -1e4):
        d = phi.inside(h, torch.full_like(h, delta), torch)
        if name in ("exp", "exp2", "sinh", "cosh"):
            h, d = h.clamp(-80, 80), d.clamp(-5, 5)  # beyond that they overflow themselves
        assert not phi.form(h, d, torch).isnan().any()


@pytest.mark.parametrize("name", sorted(set(FORMS) - {"pow"}))
def test_numpy_and_torch_agree(name):
    h, delta = sample(name, {}, np.float64)
    phi = known(name, None)
    delta = phi.inside(h, delta, torch)
    ours = phi.form(h.numpy(), delta.numpy(), np)
    torch.testing.assert_close(
        torch.from_numpy(ours), phi.form(h, delta, torch), rtol=1e-12, atol=1e-300
    )


@pytest.mark.parametrize("name", sorted(ROOMS))
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
def test_targets_stay_inside_the_domain(name, size):
    low, high = RANGES[name]
    h = torch.linspace(low, high, 101, dtype=torch.float64)
    phi = known(name, None)
    for sign in (-1, 1):
        delta = phi.inside(h, torch.full_like(h, sign * size), torch)
        for there in (h - delta, h + delta):
            assert (phi.room(there, torch) > 0).all()
        moved = (delta == sign * size) | (delta.abs() == phi.room(h, torch) / 2)
        assert moved.all()


def test_a_low_threshold_of_softplus_has_no_closed_form():
    assert known("softplus", None, threshold=1.2).form is None


@pytest.mark.parametrize("exponent", [9, 2 + 0j, "2", -9])
def test_powers_without_a_closed_form_subtract(exponent):
    assert known("pow", None, exponent=exponent).form is None


def test_phi_without_a_closed_form_subtracts():
    calls = []

    def f(v):
        calls.append(v)
        return v**3

    phi, h, delta = Phi.of(f), np.array([1.0, 2.0]), np.array([0.5, -1.0])
    np.testing.assert_array_equal(phi.difference(h, delta, np), h**3 - (h - delta) ** 3)
    assert len(calls) == 2
    np.testing.assert_array_equal(phi.difference(h, delta, np, z=h**3), h**3 - (h - delta) ** 3)
    assert len(calls) == 3  # z was given
    np.testing.assert_array_equal(
        phi.centred(h, delta, np), ((h + delta) ** 3 - (h - delta) ** 3) / 2
    )
    assert Phi.of(phi) is phi


def test_far_targets_subtract_where_that_is_cheaper():
    h, m = np.array([0.3]), np.array([0.5])
    counted = []

    def count(name, f):
        def form(h, delta, xp):
            counted.append(name)
            return FORMS[name](h, delta, xp)

        phi = known(name, f)
        return Phi(phi.f, form, phi.room, phi.cheap)

    for name, f in (("tanh", np.tanh), ("square", np.square)):
        phi = count(name, f)
        for far in (False, True):
            np.testing.assert_allclose(phi.centred(h, m, np, far=far), (f(h + m) - f(h - m)) / 2)
    assert counted == ["tanh", "square", "square"]
    assert "tanh" not in differences.CHEAP
