"""Exact differences phi(h) - phi(h - delta) of activations, in closed form, for any array library.

Subtracting phi(h - delta) from phi(h) cancels the digits that matter when delta is small. The
functions here compute the difference itself, with an error of a few units in the last place.

Each one takes (h, delta, xp) and then the settings of torch's function of its name. `xp` is the
array namespace: numpy, torch, keras.ops or jax.numpy. In the code, D is delta and v is h - D.
Formulas avoid `expm1`, `sinh` and `atanh`, which compilers may replace by forms that cancel.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Difference = Callable[..., Any]
"""A function (h, delta, xp) -> phi(h) - phi(h - delta)."""

Room = Callable[[Any, Any], Any]
"""A function (h, xp) -> the distance from h to where phi is no longer defined."""


@dataclass(frozen=True)
class Phi:
    """An activation, with its exact difference where one is known.

    Attributes:
        f: the activation, z = f(h).
        form: the closed form of its difference, or None to subtract.
        room: the distance from h to the end of f's domain; None where f is defined everywhere.
        cheap: whether the closed form costs no more than evaluating f twice.
    """

    f: Callable[[Any], Any]
    form: Difference | None = None
    room: Room | None = None
    cheap: bool = False

    def __call__(self, h: Any) -> Any:
        """Compute f(h)."""
        return self.f(h)

    @staticmethod
    def of(f: Any) -> "Phi":
        """Return f if it is a `Phi` already, and otherwise a `Phi` that subtracts."""
        return f if isinstance(f, Phi) else Phi(f)

    def inside(self, h: Any, delta: Any, xp: Any) -> Any:
        """Limit |delta| to half the distance from h to the end of f's domain."""
        if self.room is None:
            return delta
        limit = xp.clip(self.room(h, xp) / 2, 0.0, math.inf)
        return xp.minimum(xp.maximum(delta, -limit), limit)

    def difference(self, h: Any, delta: Any, xp: Any, z: Any = None) -> Any:
        """Compute f(h) - f(h - delta).

        Args:
            h: any shape.
            delta: h's shape. It may be overwritten.
            xp: the array namespace.
            z: f(h), where it is known.
        """
        if self.form is not None:
            return self.form(h, delta, xp)
        return (self.f(h) if z is None else z) - self.f(h - delta)

    def centred(self, h: Any, m: Any, xp: Any, z: Any = None, far: bool = False) -> Any:
        """Compute (f(h + m) - f(h - m)) / 2.

        Args:
            h: any shape.
            m: h's shape. It may be overwritten.
            xp: the array namespace.
            z: f(h), where it is known.
            far: whether the largest m are far above rounding, so that subtraction is exact enough
                and is used wherever it is cheaper.
        """
        if self.form is None or (far and not self.cheap):
            return (self.f(h + m) - self.f(h - m)) / 2
        return self.form(h + m, 2 * m, xp) / 2


# ------------------------------------------------------------------ building blocks


def _sigmoid(x: Any, xp: Any) -> Any:
    if hasattr(xp, "sigmoid"):
        return xp.sigmoid(x)
    low = xp.exp(-abs(x))
    return xp.where(x < 0, low, 1.0) / (1 + low)


def _erfc(x: Any, xp: Any) -> Any:
    if hasattr(xp, "erfc"):
        return xp.erfc(x)
    if hasattr(xp, "erf"):
        return 1 - xp.erf(x)
    return xp.vectorize(math.erfc, otypes=[x.dtype])(x)


def _gap(D: Any, xp: Any) -> Any:
    """Compute sign(D) (1 - exp(-|D|)), which is bounded and exact near zero."""
    return xp.tanh(D / 2) * (1 + xp.exp(-abs(D)))


def _sinh(x: Any, xp: Any) -> Any:
    return xp.exp(abs(x)) * _gap(2 * x, xp) / 2


def _parts(h: Any, D: Any, xp: Any) -> tuple[Any, Any, Any]:
    """Compute min(h, 0), and the differences of max(h, 0) and of min(h, 0)."""
    low, v = xp.clip(h, -math.inf, 0.0), h - D
    up = xp.minimum(D - low, h - low)
    down = xp.where(h <= 0, xp.where(v <= 0, D, low), xp.where(v <= 0, -v, 0 * h))
    return low, up, down


# ------------------------------------------------------------------ exponentials


def exp(h: Any, delta: Any, xp: Any) -> Any:
    """Compute e^max(h, v) gap(D)."""
    return xp.exp(xp.maximum(h, h - delta)) * _gap(delta, xp)


def exp2(h: Any, delta: Any, xp: Any) -> Any:
    """Compute exp's difference at (h log 2, D log 2)."""
    return exp(math.log(2) * h, math.log(2) * delta, xp)


def sigmoid(h: Any, delta: Any, xp: Any) -> Any:
    """Compute s(max(h, v)) s(-min(h, v)) gap(D)."""
    v = h - delta
    return _sigmoid(xp.maximum(h, v), xp) * _sigmoid(-xp.minimum(h, v), xp) * _gap(delta, xp)


def tanh(h: Any, delta: Any, xp: Any) -> Any:
    """Compute twice sigmoid's difference at (2 h, 2 D)."""
    return 2 * sigmoid(2 * h, 2 * delta, xp)


def sinh(h: Any, delta: Any, xp: Any) -> Any:
    """Compute twice cosh at the midpoint M times sinh of D / 2."""
    return 2 * xp.cosh(h - delta / 2) * _sinh(delta / 2, xp)


def cosh(h: Any, delta: Any, xp: Any) -> Any:
    """Compute 2 sinh(M) sinh(D / 2) at the midpoint M."""
    return 2 * _sinh(h - delta / 2, xp) * _sinh(delta / 2, xp)


def softplus(h: Any, delta: Any, xp: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Compute -log(1 - s(max) gap(|D|)) for small D, else ReLU's difference and two tails."""
    h, D = beta * h, beta * delta
    v = h - D
    part = _sigmoid(xp.maximum(h, v), xp) * _gap(D, xp)
    near = -xp.sign(D) * xp.log1p(-abs(part))
    far = relu(h, D, xp) + (xp.log1p(xp.exp(-abs(h))) - xp.log1p(xp.exp(-abs(v))))
    return xp.where(abs(D) < 1, near, far) / beta


def logsigmoid(h: Any, delta: Any, xp: Any) -> Any:
    """Compute minus softplus's difference at (-h, -D)."""
    return -softplus(-h, -delta, xp)


# ------------------------------------------------------------------ piecewise linear


def identity(h: Any, delta: Any, xp: Any) -> Any:
    """Return D."""
    return delta


def relu(h: Any, delta: Any, xp: Any) -> Any:
    """Compute min(D, h) where h > 0, else min(D - h, 0)."""
    low = xp.clip(h, -math.inf, 0.0)
    return xp.minimum(delta - low, h - low)


def leaky_relu(h: Any, delta: Any, xp: Any, negative_slope: Any = 0.01) -> Any:
    """Compute the difference of max(h, 0) + negative_slope min(h, 0)."""
    _, up, down = _parts(h, delta, xp)
    return up + negative_slope * down


def absolute(h: Any, delta: Any, xp: Any) -> Any:
    """Compute the difference of max(h, 0) - min(h, 0)."""
    return leaky_relu(h, delta, xp, -1.0)


def hardtanh(h: Any, delta: Any, xp: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """Compute the difference of two ReLUs, at h - min_val and at h - max_val."""
    found = delta if min_val == -math.inf else relu(h - min_val, delta, xp)
    return found if max_val == math.inf else found - relu(h - max_val, delta, xp)


def relu6(h: Any, delta: Any, xp: Any) -> Any:
    """Compute hardtanh's difference between 0 and 6."""
    return hardtanh(h, delta, xp, 0.0, 6.0)


def hardsigmoid(h: Any, delta: Any, xp: Any) -> Any:
    """Compute a sixth of hardtanh's difference between -3 and 3."""
    return hardtanh(h, delta, xp, -3.0, 3.0) / 6


def hardswish(h: Any, delta: Any, xp: Any) -> Any:
    """Compute the product rule's v db + b D with b = hardsigmoid(h)."""
    return (h - delta) * hardsigmoid(h, delta, xp) + xp.clip(h + 3, 0.0, 6.0) / 6 * delta


def threshold(h: Any, delta: Any, xp: Any, threshold: float = 0.0, value: float = 0.0) -> Any:
    """Compute D where both sides are above the threshold, and the jump where one is."""
    v = h - delta
    here, there = h > threshold, v > threshold
    return xp.where(here, xp.where(there, delta, h - value), xp.where(there, value - v, 0 * h))


def hardshrink(h: Any, delta: Any, xp: Any, lambd: float = 0.5) -> Any:
    """Compute D where both |h| and |v| are above lambd, and the jump where one is."""
    v = h - delta
    here, there = abs(h) > lambd, abs(v) > lambd
    return xp.where(here, xp.where(there, delta, h), xp.where(there, -v, 0 * h))


def softshrink(h: Any, delta: Any, xp: Any, lambd: float = 0.5) -> Any:
    """Compute the difference of two ReLUs, at h - lambd and, mirrored, at -h - lambd."""
    return relu(h - lambd, delta, xp) - relu(-h - lambd, -delta, xp)


# ------------------------------------------------------------------ from these


def elu(
    h: Any, delta: Any, xp: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0
) -> Any:
    """Compute ReLU's difference plus alpha times exp's over the part of the way below 0."""
    low, up, down = _parts(h, delta, xp)
    return scale * (up + alpha * exp(low * input_scale, down * input_scale, xp))


def celu(h: Any, delta: Any, xp: Any, alpha: float = 1.0) -> Any:
    """Compute elu's difference, with h / alpha in the exponential."""
    return elu(h, delta, xp, alpha, 1.0, 1 / alpha)


def selu(h: Any, delta: Any, xp: Any) -> Any:
    """Compute elu's difference with SELU's two constants."""
    return elu(h, delta, xp, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def silu(h: Any, delta: Any, xp: Any) -> Any:
    """Compute v db + b D with b = sigmoid(h)."""
    return (h - delta) * sigmoid(h, delta, xp) + _sigmoid(h, xp) * delta


def mish(h: Any, delta: Any, xp: Any) -> Any:
    """Compute v db + b D with b = tanh(softplus(h))."""
    s = xp.log1p(xp.exp(-abs(h))) + xp.clip(h, 0.0, math.inf)
    return (h - delta) * tanh(s, softplus(h, delta, xp), xp) + xp.tanh(s) * delta


def _density(M: Any, D: Any, xp: Any, terms: int) -> Any:
    """Integrate the normal density over D around M: its value there times an even series in D.

    The series is sum_k He_2k(M) (D / 2)^2k / (2k + 1)!, with Hermite polynomials by recurrence.
    """
    a, u = M * M, D * D / 4
    even, odd = 1.0, 1.0  # He_2k, and He_(2k+1) / M
    total, factor = 1.0, 1.0
    for k in range(1, terms):
        n = 2 * k
        even = a * odd - (n - 1) * even
        odd = even - n * odd
        factor = factor * u / (n * (n + 1))
        total = total + even * factor
    return xp.exp(-a / 2) * (D / math.sqrt(2 * math.pi)) * total


def normal(h: Any, delta: Any, xp: Any) -> Any:
    """Compute the difference of the normal distribution function.

    For small D by a series at the midpoint, else by erfc on the side where both values are small.
    """
    v, M = h - delta, h - delta / 2
    flip = M < 0
    a, b = xp.where(flip, -v, v), xp.where(flip, -h, h)
    far = _erfc(a / math.sqrt(2), xp) / 2 - _erfc(b / math.sqrt(2), xp) / 2
    small = abs(delta) * (1 + abs(M)) < 0.5
    terms = 4 if "32" in str(h.dtype) else 8
    near = _density(xp.clip(M, -39.0, 39.0), xp.where(small, delta, 0 * delta), xp, terms)
    return xp.where(small, near, xp.where(flip, -far, far))


def erf(h: Any, delta: Any, xp: Any) -> Any:
    """Compute twice the normal distribution's difference at (sqrt(2) h, sqrt(2) D)."""
    return 2 * normal(math.sqrt(2) * h, math.sqrt(2) * delta, xp)


def gelu(h: Any, delta: Any, xp: Any, approximate: str = "none") -> Any:
    """Compute v db + b D with b the normal distribution function, or its form by tanh."""
    v = h - delta
    if approximate == "none":
        return v * normal(h, delta, xp) + _erfc(-h / math.sqrt(2), xp) / 2 * delta
    k, c = math.sqrt(2 / math.pi), 0.044715
    u = k * (h + c * h * h * h)
    du = k * delta * (1 + c * (h * h + h * v + v * v))
    return v * (tanh(u, du, xp) / 2) + _sigmoid(2 * u, xp) * delta


def softsign(h: Any, delta: Any, xp: Any) -> Any:
    """Compute (D + h |v| - v |h|) / ((1 + |h|) (1 + |v|)); the cross terms cancel on one side."""
    v = h - delta
    cross = xp.where((h > 0) == (v > 0), 0 * h, h * abs(v) - v * abs(h))
    return (delta + cross) / ((1 + abs(h)) * (1 + abs(v)))


def _tanh_series(terms: int) -> list[float]:
    """Compute the Taylor coefficients of tanh(x) / x in x^2, from tanh' = 1 - tanh^2."""
    a = [1.0]
    for k in range(1, terms):
        a.append(-sum(a[i] * a[k - 1 - i] for i in range(k)) / (2 * k + 1))
    return a


_TANHSHRINK = [-coefficient for coefficient in _tanh_series(18)[1:]]
"""The Taylor coefficients of (x - tanh x) / x^3 in x^2."""


def tanhshrink(h: Any, delta: Any, xp: Any) -> Any:
    """Compute D - tanh(D) + tanh(D) tanh(h) tanh(v), the first two by a series near 0."""
    u = xp.clip(delta * delta, 0.0, 0.25)
    series = 0 * u
    for coefficient in reversed(_TANHSHRINK):
        series = series * u + coefficient
    t = xp.tanh(delta)
    alone = xp.where(abs(delta) < 0.5, delta * u * series, delta - t)
    return alone + t * xp.tanh(h) * xp.tanh(h - delta)


# ------------------------------------------------------------------ logarithms, powers


def log(h: Any, delta: Any, xp: Any) -> Any:
    """Compute the logarithm of 1 + |D| / min(h, v), with D's sign."""
    return xp.sign(delta) * xp.log1p(abs(delta) / xp.minimum(h, h - delta))


def log2(h: Any, delta: Any, xp: Any) -> Any:
    """Compute log's difference over log 2."""
    return log(h, delta, xp) / math.log(2)


def log10(h: Any, delta: Any, xp: Any) -> Any:
    """Compute log's difference over log 10."""
    return log(h, delta, xp) / math.log(10)


def log1p(h: Any, delta: Any, xp: Any) -> Any:
    """Compute log's difference at 1 + h."""
    return log(1 + h, delta, xp)


def logit(h: Any, delta: Any, xp: Any) -> Any:
    """Compute log's differences at h and, mirrored, at 1 - h."""
    return log(h, delta, xp) - log(1 - h, -delta, xp)


def square(h: Any, delta: Any, xp: Any) -> Any:
    """Compute D (h + v)."""
    return delta * (h + (h - delta))


def sqrt(h: Any, delta: Any, xp: Any) -> Any:
    """Compute D over the sum of the two roots."""
    return delta / _positive(xp.sqrt(h) + xp.sqrt(h - delta), xp)


def rsqrt(h: Any, delta: Any, xp: Any) -> Any:
    """Compute -D / ((sqrt(h) + sqrt(v)) sqrt(h) sqrt(v))."""
    a, b = xp.sqrt(h), xp.sqrt(h - delta)
    return -delta / _positive((a + b) * (a * b), xp)


def reciprocal(h: Any, delta: Any, xp: Any) -> Any:
    """Compute -D / (h v)."""
    return -delta / (h * (h - delta))


def pow(h: Any, delta: Any, xp: Any, exponent: float = 2.0) -> Any:
    """Compute D (h^(p-1) + h^(p-2) v + ...) for whole p, else max^p gap(p log(h / v))."""
    p, v = exponent, h - delta
    if float(p).is_integer() and 0 <= p <= 8:
        total = 0 * h
        for k in range(int(p)):
            total = total * h + v**k
        return delta * total
    if float(p).is_integer() and -8 <= p < 0:
        return -pow(h, delta, xp, -p) / (h ** int(-p) * v ** int(-p))
    up = xp.maximum(h, v) if p > 0 else xp.minimum(h, v)
    return up**p * _gap(p * log(h, delta, xp), xp)


def _positive(x: Any, xp: Any) -> Any:
    """Replace zeros by ones, in the denominator of something that is zero there."""
    return xp.where(x == 0, 1.0, x)


# ------------------------------------------------------------------ trigonometric


def sin(h: Any, delta: Any, xp: Any) -> Any:
    """Compute by the addition theorem, with 1 - cos D as 2 sin^2(D / 2)."""
    half = xp.sin(delta / 2)
    return xp.cos(h) * xp.sin(delta) + 2 * xp.sin(h) * (half * half)


def cos(h: Any, delta: Any, xp: Any) -> Any:
    """Compute by the addition theorem, with 1 - cos D as 2 sin^2(D / 2)."""
    half = xp.sin(delta / 2)
    return 2 * xp.cos(h) * (half * half) - xp.sin(h) * xp.sin(delta)


def tan(h: Any, delta: Any, xp: Any) -> Any:
    """Compute sin(D) / (cos(h) cos(v))."""
    return xp.sin(delta) / (xp.cos(h) * xp.cos(h - delta))


def atan(h: Any, delta: Any, xp: Any) -> Any:
    """Compute the angle of (1 + h v, D)."""
    return xp.arctan2(delta, 1 + h * (h - delta))


def asin(h: Any, delta: Any, xp: Any) -> Any:
    """Compute 2 atan(D / (sqrt(1 - h^2) + sqrt(1 - v^2)))."""
    v = h - delta
    both = xp.sqrt((1 - h) * (1 + h)) + xp.sqrt((1 - v) * (1 + v))
    return 2 * xp.arctan2(delta, _positive(both, xp))


def acos(h: Any, delta: Any, xp: Any) -> Any:
    """Compute minus asin's difference."""
    return -asin(h, delta, xp)


def asinh(h: Any, delta: Any, xp: Any) -> Any:
    """Compute 2 atanh(D / (sqrt(1 + h^2) + sqrt(1 + v^2))) by log1p, or subtract for large D."""
    v = h - delta
    r = delta / (xp.sqrt(1 + h * h) + xp.sqrt(1 + v * v))
    near = xp.clip(r, -0.5, 0.5)
    near = xp.sign(near) * xp.log1p(2 * abs(near) / (1 - abs(near)))
    return xp.where(abs(r) < 0.5, near, xp.arcsinh(h) - xp.arcsinh(v))


def acosh(h: Any, delta: Any, xp: Any) -> Any:
    """Compute sign(D) log(1 + (|D| + R) / (w + sqrt(w^2 - 1))) with w = min(h, v).

    R is the difference of the two square roots.
    """
    v = h - delta
    w, D = xp.minimum(h, v), abs(delta)
    a, b = xp.sqrt((h - 1) * (h + 1)), xp.sqrt((v - 1) * (v + 1))
    R = D * (h + v) / _positive(a + b, xp)
    return xp.sign(delta) * xp.log1p((D + R) / (w + xp.minimum(a, b)))


def atanh(h: Any, delta: Any, xp: Any) -> Any:
    """Compute half of log's differences at 1 + h and, mirrored, at 1 - h."""
    return (log(1 + h, delta, xp) - log(1 - h, -delta, xp)) / 2


# ------------------------------------------------------------------ tables

FORMS: dict[str, Difference] = {
    form.__name__: form
    for form in (
        *(exp, exp2, sigmoid, tanh, sinh, cosh, softplus, logsigmoid),
        *(identity, relu, leaky_relu, absolute, hardtanh, relu6, hardsigmoid, hardswish, threshold),
        *(hardshrink, softshrink, elu, celu, selu, silu, mish, normal, erf, gelu, softsign),
        *(tanhshrink, log, log2, log10, log1p, logit, square, sqrt, rsqrt, reciprocal, pow),
        *(sin, cos, tan, atan, asin, acos, asinh, acosh, atanh),
    )
}
"""The closed forms by the names of torch's functions."""

ROOMS: dict[str, Room] = {
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt"), lambda h, xp: h),
    **dict.fromkeys(("asin", "acos", "atanh"), lambda h, xp: 1 - abs(h)),
    "log1p": lambda h, xp: h + 1,
    "logit": lambda h, xp: xp.minimum(h, 1 - h),
    "acosh": lambda h, xp: h - 1,
    "reciprocal": lambda h, xp: abs(h),
}
"""How far it is to the end of the domain, for the functions that have one."""

CHEAP = frozenset(
    {
        *(
            "identity",
            "relu",
            "leaky_relu",
            "absolute",
            "hardtanh",
            "relu6",
            "hardsigmoid",
            "hardswish",
        ),
        *("threshold", "hardshrink", "softshrink", "softsign", "square", "sqrt", "rsqrt"),
        *("reciprocal", "pow", "sin", "cos", "atan"),
    }
)
"""The closed forms that cost no more than evaluating the function twice."""


def known(name: str, f: Callable[[Any], Any], **settings: Any) -> Phi:
    """Build the `Phi` of one of `FORMS`.

    Args:
        name: the key.
        f: the activation itself.
        **settings: arguments of the closed form after (h, delta, xp).
    """
    room = ROOMS.get(name)
    if name == "softplus" and settings.get("threshold", 20.0) < 15:
        return Phi(f)  # at a low threshold torch's softplus has a step
    if name == "pow":
        p = settings["exponent"]
        whole = isinstance(p, (int, float)) and float(p).is_integer()
        if not isinstance(p, (int, float)) or (whole and abs(p) > 8):
            return Phi(f)
        if p < 0 or not whole:
            room = ROOMS["reciprocal" if whole else "log"]
    form = functools.partial(FORMS[name], **settings) if settings else FORMS[name]
    return Phi(f, form, room, name in CHEAP)
