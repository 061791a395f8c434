"""Loss functions in JAX that tests/jax/test_jax_conformance.py runs under every rule.

Each has two weight layers or more, with an activation between them, in float64. Its activations
stay away from their kinks. `top` names the leaves that no error reaches across a weight layer.
"""

import itertools
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import lax

F64 = jnp.float64
REORDERED = 1e-13
"""The rounding where a nested jit reads a value twice, as jnp.var and jnp.linalg.norm do.

JAX then adds three errors as (a + b) + c, and as a + (b + c) where the jit is opened.
"""


@dataclass(frozen=True)
class Case:
    """Hold a loss function, and what is known of it without a rule.

    Args:
        name: of the test.
        build: returns (loss, params, args).
        top: paths of the leaves in or above the last weight layer, or of what contains them. Their
            updates equal backprop's under every rule. All other leaves are below a weight layer.
        straight: paths of leaves below a weight layer, whose errors no activation changes. With
            E = W, their updates equal backprop's.
        loss_terms: the option of `lra.jax.value_and_grad`; None for its default.
        has_aux: whether the loss returns (value, aux).
        rounding: the relative error to allow for.
    """

    name: str
    build: Callable[[], tuple[Callable[..., Any], Any, tuple[Any, ...]]]
    top: tuple[str, ...]
    straight: tuple[str, ...] = ()
    loss_terms: float | str | None = None
    has_aux: bool = False
    rounding: float = 0.0


def path_name(path: Any) -> str:
    """Return a leaf's path as words: layers.0.weight."""
    return ".".join(
        re.findall(r"\w+", path if isinstance(path, str) else jax.tree_util.keystr(path))
    )


class Draw:
    """Draw float64 arrays, the same on every platform and version of JAX."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> jax.Array:
        """Draw an array from N(0, 0.6^2)."""
        return jnp.asarray(0.6 * self.rng.normal(size=shape))

    def labels(self, classes: int, *shape: int) -> jax.Array:
        """Draw labels below `classes`."""
        return jnp.asarray(self.rng.integers(0, classes, shape))

    def fill(self, tree: Any) -> Any:
        """Replace the float arrays of a pytree by drawn ones."""

        def one(leaf: Any) -> Any:
            known = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
            return self(*leaf.shape) if known else leaf

        return jax.tree.map(one, tree)


CASES: list[Case] = []


def case(top: str, **options: Any) -> Callable[[Any], Any]:
    """Register a function of a `Draw` that builds a case; spaces separate the paths in `top`."""

    def register(function: Any) -> Any:
        add(function.__name__, function, top, **options)
        return function

    return register


def add(
    name: str, function: Callable[[Draw], Any], top: str, straight: str = "", **options: Any
) -> None:
    """Register a case by name."""

    def build() -> Any:
        return function(Draw(zlib.crc32(name.encode())))

    CASES.append(Case(name, build, tuple(top.split()), tuple(straight.split()), **options))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1))


def squares(out: jax.Array, y: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum((out - y) ** 2) / len(y)


# Activations, each twice in a network of three layers ------------------------------------------


def three_layers(phi: Callable[..., Any], wide: int, draw: Draw) -> Any:
    params = {
        "w1": draw(5, 6 * wide),
        "b1": draw(6 * wide),
        "w2": draw(6, 6 * wide),
        "b2": draw(6 * wide),
        "w3": draw(6, 3),
        "b3": draw(3),
    }

    def loss(p, x, y):
        z = phi(x @ p["w1"] + p["b1"])
        z = phi(z @ p["w2"] + p["b2"])
        return cross_entropy(z @ p["w3"] + p["b3"], y)

    return loss, params, (draw(4, 5), draw.labels(3, 4))


@jax.custom_jvp
def softplus_by_custom_jvp(h):
    return jnp.log1p(jnp.exp(h))


@softplus_by_custom_jvp.defjvp
def _(primals, tangents):
    (h,), (t,) = primals, tangents
    return softplus_by_custom_jvp(h), t / (1 + jnp.exp(-h))


@jax.custom_vjp
def cube_by_custom_vjp(h):
    return h**3 / 6 + h


cube_by_custom_vjp.defvjp(
    lambda h: (cube_by_custom_vjp(h), h), lambda h, d: (d * (0.5 * h * h + 1),)
)


ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "identity": jax.nn.identity,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "sparse_plus": jax.nn.sparse_plus,
    "sparse_sigmoid": jax.nn.sparse_sigmoid,
    "soft_sign": jax.nn.soft_sign,
    "silu": jax.nn.silu,
    "swish": jax.nn.swish,
    "log_sigmoid": jax.nn.log_sigmoid,
    "leaky_relu": jax.nn.leaky_relu,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_silu": jax.nn.hard_silu,
    "hard_swish": jax.nn.hard_swish,
    "hard_tanh": jax.nn.hard_tanh,
    "elu": jax.nn.elu,
    "elu_half": partial(jax.nn.elu, alpha=0.5),
    "celu": jax.nn.celu,
    "selu": jax.nn.selu,
    "gelu_tanh": jax.nn.gelu,
    "gelu_erf": partial(jax.nn.gelu, approximate=False),
    "squareplus": jax.nn.squareplus,
    "mish": jax.nn.mish,
    "tanh": jax.nn.tanh,
    "jnp_tanh": jnp.tanh,
    "sin": jnp.sin,
    "arctan": jnp.arctan,
    "arcsinh": jnp.arcsinh,
    "cosh": lambda h: jnp.cosh(0.5 * h),
    "expm1": jnp.expm1,
    "erf": jax.scipy.special.erf,
    "log1p_exp": lambda h: jnp.log1p(jnp.exp(h)),
    "logaddexp": lambda h: jnp.logaddexp(h, 0.0),
    "cube": lambda h: 0.3 * h**3,
    "square": jnp.square,
    "hypotenuse": lambda h: jnp.sqrt(h**2 + 1),
    "rsqrt": lambda h: h * lax.rsqrt(1 + h * h),
    "gauss": lambda h: jnp.exp(-h * h),
    "snake": lambda h: h + jnp.sin(h) ** 2,
    "log_abs": lambda h: jnp.sign(h) * jnp.log1p(jnp.abs(h)),
    "swish_by_hand": lambda h: h * jax.nn.sigmoid(1.7 * h),
    "sigmoid_by_hand": lambda h: 1 / (1 + jnp.exp(-h)),
    "tanh_by_hand": lambda h: (jnp.exp(h) - jnp.exp(-h)) / (jnp.exp(h) + jnp.exp(-h)),
    "gelu_by_hand": lambda h: 0.5 * h * (1 + lax.erf(h / np.sqrt(2.0))),
    "relu_by_where": lambda h: jnp.where(h > 0, h, 0.0),
    "relu_by_maximum": lambda h: jnp.maximum(h, 0),
    "relu_by_clip": lambda h: jnp.clip(h, 0),
    "relu_by_product": lambda h: h * (h > 0),
    "elu_by_where": lambda h: jnp.where(h > 0, h, jnp.exp(jnp.minimum(h, 0)) - 1),
    "relu_squared": lambda h: jax.nn.relu(h) ** 2,
    "abs": jnp.abs,
    "piecewise": lambda h: jnp.where(
        h < -0.5, 0.1 * h - 0.2, jnp.where(h < 0.5, 0.5 * h, 0.1 * h + 0.2)
    ),
    "select": lambda h: jnp.select([h < -0.5, h < 0.5], [0.1 * h, 0.5 * h], 0.1 * h + 0.2),
    "scaled_tanh": lambda h: 1.7159 * jnp.tanh(2 / 3 * h),
    "custom_jvp": softplus_by_custom_jvp,
    "custom_vjp": cube_by_custom_vjp,
    "jitted": jax.jit(lambda h: jnp.tanh(h) + 0.1 * h),
    "vmapped": jax.vmap(jax.vmap(lambda h: h * jnp.tanh(h))),
    "rematerialised": jax.checkpoint(lambda h: jnp.tanh(h) * 0.9),
}
for _name, _phi in ACTIVATIONS.items():
    # Two-sided targets are exact at the first two; select takes its index from a reduction.
    _straight = "w1 b1 w2 b2" if _name in ("identity", "square", "select") else ""
    add(f"activation_{_name}", partial(three_layers, _phi, 1), "w3 b3", _straight)


def bilinear_halves(phi: Callable[..., Any], h: jax.Array) -> jax.Array:
    a, b = jnp.split(h, 2, axis=-1)
    return a * phi(b)


WIDE: dict[str, Callable[..., Any]] = {
    "glu": jax.nn.glu,
    "geglu": partial(bilinear_halves, jax.nn.gelu),
    "reglu": partial(bilinear_halves, jax.nn.relu),
    "maxout": lambda h: h.reshape(*h.shape[:-1], 6, 2).max(-1),
    "logsumexp": lambda h: jax.nn.logsumexp(h.reshape(*h.shape[:-1], 6, 2), -1),
}
for _name, _phi in WIDE.items():
    _straight = "w1 b1 w2 b2" if _name == "maxout" else ""  # not elementwise
    add(f"activation_{_name}", partial(three_layers, _phi, 2), "w3 b3", _straight)


def layer_norm(h, eps=1e-5):
    centred = h - h.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def unit_length(h):
    return h / jnp.linalg.norm(h, axis=-1, keepdims=True)


def softmax_by_hand(h):
    e = jnp.exp(h - jnp.max(h, -1, keepdims=True))
    return e / jnp.sum(e, -1, keepdims=True)


NORMS: dict[str, Callable[..., Any]] = {
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "standardize": jax.nn.standardize,
    "softmax_by_hand": softmax_by_hand,
    "logsumexp_by_hand": lambda h: h - jnp.log(jnp.sum(jnp.exp(h), -1, keepdims=True)),
    "layer_norm_by_hand": layer_norm,
    "rms_norm_by_hand": lambda h: h * lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-6),
    "unit_length": unit_length,
    "batch_norm_by_hand": lambda h: (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-3),
    "relu_of_softmax": lambda h: jax.nn.relu(jax.nn.softmax(h) - 0.02),
}


def norm_then_tanh(norm: Callable[..., Any], h: jax.Array) -> jax.Array:
    return jnp.tanh(2 * norm(h))


for _name, _norm in NORMS.items():
    _options = {"rounding": REORDERED} if _norm is unit_length else {}
    _function = partial(three_layers, partial(norm_then_tanh, _norm), 1)
    add(f"norm_{_name}", _function, "w3 b3", **_options)


@case("w3", straight="slope2")
def prelu_with_a_learned_slope(draw):
    def loss(p, x, y):
        h = x @ p["w1"]
        h = jnp.where(h > 0, h, p["slope1"] * h) @ p["w2"]
        return squares(jnp.where(h > 0, h, p["slope2"] * h) @ p["w3"], y)

    params = {
        "w1": draw(5, 6),
        "slope1": jnp.asarray(0.3),
        "w2": draw(6, 6),
        "slope2": draw(6),
        "w3": draw(6, 3),
    }
    return loss, params, (draw(4, 5), draw(4, 3))


@case("w3")
def swish_with_a_learned_factor(draw):
    def loss(p, x, y):
        h = x @ p["w1"]
        h = (h * jax.nn.sigmoid(p["factor"] * h)) @ p["w2"]
        return squares(jnp.tanh(h) @ p["w3"], y)

    params = {"w1": draw(5, 6), "factor": jnp.asarray(1.3), "w2": draw(6, 6), "w3": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("w3")
def layer_norm_with_scale_and_shift(draw):
    def loss(p, x, y):
        h = jnp.tanh(p["scale1"] * layer_norm(x @ p["w1"]) + p["shift1"])
        h = jax.nn.gelu(p["scale2"] * layer_norm(h @ p["w2"]) + p["shift2"])
        return squares(h @ p["w3"], y)

    params = {"w1": draw(5, 6), "w2": draw(6, 6), "w3": draw(6, 3)}
    params |= {name: 1 + draw(6) for name in ("scale1", "scale2", "shift1", "shift2")}
    return loss, params, (draw(4, 5), draw(4, 3))


# Networks of plain JAX -----------------------------------------------------------------------


@case("2")
def mlp_of_lists(draw):
    def loss(params, x, y):
        *hidden, (w, b) = params
        for v, c in hidden:
            x = jnp.tanh(x @ v + c)
        return cross_entropy(x @ w + b, y)

    sizes = (5, 7, 6, 3)
    params = [(draw(i, o), draw(o)) for i, o in itertools.pairwise(sizes)]
    return loss, params, (draw(4, 5), draw.labels(3, 4))


class Layer(NamedTuple):
    weight: jax.Array
    bias: jax.Array


class Net(NamedTuple):
    first: Layer
    hidden: tuple[Layer, ...]
    last: Layer


@case("last")
def mlp_of_named_tuples(draw):
    def loss(net, x, y):
        for weight, bias in (net.first, *net.hidden):
            x = jax.nn.sigmoid(x @ weight.T + bias)
        return squares(x @ net.last.weight.T + net.last.bias, y)

    layers = [Layer(draw(o, i), draw(o)) for i, o in ((5, 6), (6, 6), (6, 7), (7, 3))]
    return loss, Net(layers[0], tuple(layers[1:3]), layers[3]), (draw(4, 5), draw(4, 3))


@case("head")
def deep_mlp(draw):
    def loss(p, x, y):
        for w in p["hidden"]:
            x = jnp.tanh(x @ w)
        return cross_entropy(x @ p["head"], y)

    params = {"hidden": [draw(5, 5) for _ in range(8)], "head": draw(5, 3)}
    return loss, params, (draw(5, 5), draw.labels(3, 5))


@case("head", straight="blocks.2.1")
def residual_mlp(draw):
    def loss(p, x, y):
        x = x @ p["stem"]
        for a, b in p["blocks"]:
            x = x + jax.nn.gelu(layer_norm(x) @ a) @ b
        return cross_entropy(x @ p["head"], y)

    blocks = [(draw(6, 8), draw(8, 6)) for _ in range(3)]
    params = {"stem": draw(5, 6), "blocks": blocks, "head": draw(6, 3)}
    return loss, params, (draw(4, 5), draw.labels(3, 4))


@case("w3")
def highway(draw):
    def loss(p, x, y):
        x = jnp.tanh(x @ p["w1"])
        gate = jax.nn.sigmoid(x @ p["gate"])
        x = gate * jnp.tanh(x @ p["w2"]) + (1 - gate) * x
        return squares(x @ p["w3"], y)

    params = {"w1": draw(5, 6), "gate": draw(6, 6), "w2": draw(6, 6), "w3": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("down", straight="up")
def swiglu(draw):
    def loss(p, x, y):
        x = jnp.tanh(x @ p["stem"])
        return squares((jax.nn.silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"], y)

    params = {"stem": draw(5, 6), "gate": draw(6, 8), "up": draw(6, 8), "down": draw(8, 3)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("w")
def vector_readout(draw):
    def loss(p, x, y):
        x = jnp.tanh(jnp.tanh(x @ p["v1"]) @ p["v2"])
        return jnp.mean((x @ p["w"] - y) ** 2)

    return loss, {"v1": draw(5, 6), "v2": draw(6, 6), "w": draw(6)}, (draw(4, 5), draw(4))


@case("w3")
def bias_by_concatenation(draw):
    def loss(p, x, y):
        one = jnp.ones((len(x), 1))
        for w in (p["w1"], p["w2"]):
            x = jnp.tanh(jnp.concatenate([x, one], 1) @ w)
        return squares(jnp.concatenate([x, one], 1) @ p["w3"], y)

    return loss, {"w1": draw(6, 6), "w2": draw(7, 6), "w3": draw(7, 3)}, (draw(4, 5), draw(4, 3))


@case("w3")
def halves_in_two_signs(draw):
    def loss(p, x, y):
        for w in (p["w1"], p["w2"]):
            h = x @ w
            x = jnp.concatenate([jax.nn.relu(h), jax.nn.relu(-h)], 1)
        return squares(x @ p["w3"], y)

    return loss, {"w1": draw(5, 4), "w2": draw(8, 4), "w3": draw(8, 3)}, (draw(4, 5), draw(4, 3))


@case("w3", loss_terms=1.0)
def summed_loss(draw):
    def loss(p, x, y):
        x = jnp.tanh(jnp.tanh(x @ p["w1"]) @ p["w2"])
        return jnp.sum((x @ p["w3"] - y) ** 2)

    return loss, {"w1": draw(5, 6), "w2": draw(6, 6), "w3": draw(6, 3)}, (draw(4, 5), draw(4, 3))


@case("w3", has_aux=True)
def auxiliary_output(draw):
    def loss(p, x, y):
        z = jnp.tanh(jnp.tanh(x @ p["w1"]) @ p["w2"])
        logits = z @ p["w3"]
        return cross_entropy(logits, y), {
            "logits": logits,
            "hidden": z,
            "argmax": logits.argmax(-1),
        }

    params = {"w1": draw(5, 6), "w2": draw(6, 6), "w3": draw(6, 3)}
    return loss, params, (draw(4, 5), draw.labels(3, 4))


@case("value policy")
def two_heads(draw):
    def loss(p, x, value, action):
        x = jnp.tanh(jnp.tanh(x @ p["w1"]) @ p["w2"])
        logits = x @ p["policy"]
        probabilities = jax.nn.softmax(logits)
        entropy = -jnp.mean(jnp.sum(probabilities * jnp.log(probabilities), -1))
        return (
            cross_entropy(logits, action)
            + jnp.mean(((x @ p["value"])[:, 0] - value) ** 2)
            - 0.01 * entropy
        )

    params = {"w1": draw(5, 6), "w2": draw(6, 6), "value": draw(6, 1), "policy": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4), draw.labels(3, 4))


@case("w3")
def output_activation(draw):
    def loss(p, x, y):
        x = jnp.tanh(jnp.tanh(x @ p["w1"]) @ p["w2"])
        z = jax.nn.sigmoid(x @ p["w3"])
        return -jnp.mean(y * jnp.log(z) + (1 - y) * jnp.log(1 - z))

    params = {"w1": draw(5, 6), "w2": draw(6, 6), "w3": draw(6, 3)}
    return loss, params, (draw(4, 5), draw.labels(2, 4, 3).astype(F64))


@case("w3")
def huber_loss_with_weight_decay(draw):
    def loss(p, x, y):
        x = jnp.tanh(jnp.tanh(x @ p["w1"]) @ p["w2"])
        off = x @ p["w3"] - y
        huber = jnp.where(jnp.abs(off) < 1, 0.5 * off**2, jnp.abs(off) - 0.5)
        return jnp.mean(huber) + 0.01 * sum(jnp.sum(w**2) for w in p.values())

    return loss, {"w1": draw(5, 6), "w2": draw(6, 6), "w3": draw(6, 3)}, (draw(4, 5), draw(4, 3))


@case("w3")
def per_sample_loss_under_vmap(draw):
    def one(p, x, y):
        x = jnp.tanh(p["w2"] @ jnp.tanh(p["w1"] @ x))
        return -jax.nn.log_softmax(p["w3"] @ x)[y]

    def loss(p, x, y):
        return jnp.mean(jax.vmap(one, (None, 0, 0))(p, x, y))

    params = {"w1": draw(6, 5), "w2": draw(6, 6), "w3": draw(3, 6)}
    return loss, params, (draw(4, 5), draw.labels(3, 4))


@case("w3")
def vectorized(draw):
    def loss(p, x, y):
        def net(x):
            return jnp.dot(p["w3"], jax.nn.silu(jnp.dot(p["w2"], jnp.tanh(jnp.dot(p["w1"], x)))))

        return squares(jnp.vectorize(net, signature="(i)->(o)")(x), y)

    return loss, {"w1": draw(6, 5), "w2": draw(6, 6), "w3": draw(3, 6)}, (draw(4, 5), draw(4, 3))


@case("w3")
def jitted_inside(draw):
    layer = jax.jit(lambda w, x: jnp.tanh(x @ w))

    @jax.jit
    def net(p, x):
        return layer(p["w2"], layer(p["w1"], x)) @ p["w3"]

    params = {"w1": draw(5, 6), "w2": draw(6, 6), "w3": draw(6, 3)}
    return lambda p, x, y: squares(net(p, x), y), params, (draw(4, 5), draw(4, 3))


@case("w3")
def dropout_with_a_fixed_key(draw):
    def loss(p, x, y, key):
        for i, w in enumerate((p["w1"], p["w2"])):
            keep = jax.random.bernoulli(jax.random.fold_in(key, i), 0.7, (len(x), 6))
            x = jnp.where(keep, jax.nn.gelu(x @ w) / 0.7, 0.0)
        return squares(x @ p["w3"], y)

    params = {"w1": draw(5, 6), "w2": draw(6, 6), "w3": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3), jax.random.PRNGKey(3))


# Weights that are made from leaves -------------------------------------------------------------


@case("v3 g3")
def weight_norm_by_hand(draw):
    def weight(p, i):
        v = p[f"v{i}"]
        return p[f"g{i}"] * v / jnp.sqrt(jnp.sum(v**2, 0, keepdims=True))

    def loss(p, x, y):
        x = jnp.tanh(jnp.tanh(x @ weight(p, 1)) @ weight(p, 2))
        return squares(x @ weight(p, 3), y)

    params = {"v1": draw(5, 6), "v2": draw(6, 6), "v3": draw(6, 3)}
    params |= {"g1": 1 + draw(6), "g2": 1 + draw(6), "g3": 1 + draw(3)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("w3")
def standardised_weights(draw):
    def standard(w):
        return (w - w.mean(0)) / (w.std(0) + 1e-4)

    def loss(p, x, y):
        x = jnp.tanh(jnp.tanh(x @ standard(p["w1"])) @ standard(p["w2"]))
        return squares(x @ standard(p["w3"]), y)

    return loss, {"w1": draw(5, 6), "w2": draw(6, 6), "w3": draw(6, 3)}, (draw(4, 5), draw(4, 3))


@case("w3")
def positive_weights(draw):
    def loss(p, x, y):
        x = jnp.tanh(jnp.tanh(x @ jax.nn.softplus(p["w1"])) @ jnp.exp(p["w2"] - 1))
        return squares(x @ p["w3"] ** 3, y)

    return loss, {"w1": draw(5, 6), "w2": draw(6, 6), "w3": draw(6, 3)}, (draw(4, 5), draw(4, 3))


@case("w3 a3 c3")
def lora_by_hand(draw):
    def loss(p, x, y):
        for i in (1, 2, 3):
            x = x @ (p[f"w{i}"] + 0.5 * p[f"a{i}"] @ p[f"c{i}"])
            x = jnp.tanh(x) if i < 3 else x
        return squares(x, y)

    shapes = {1: (5, 6), 2: (6, 6), 3: (6, 3)}
    params = {f"w{i}": draw(*shape) for i, shape in shapes.items()}
    params |= {f"a{i}": draw(shape[0], 2) for i, shape in shapes.items()}
    params |= {f"c{i}": draw(2, shape[1]) for i, shape in shapes.items()}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("c3", straight="a3")
def lora_in_two_products(draw):
    def loss(p, x, y):
        for i in (1, 2):
            x = jnp.tanh(x @ p[f"w{i}"] + (x @ p[f"a{i}"]) @ p[f"c{i}"])
        return squares((x @ p["a3"]) @ p["c3"], y)

    params = {"w1": draw(5, 6), "w2": draw(6, 6), "a3": draw(6, 2), "c3": draw(2, 3)}
    params |= {"a1": draw(5, 2), "c1": draw(2, 6), "a2": draw(6, 2), "c2": draw(2, 6)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("w3")
def householder_weights(draw):
    def loss(p, x, y):
        mirror = jnp.eye(6) - 2 * jnp.outer(p["v"], p["v"]) / jnp.sum(p["v"] ** 2)
        return squares(jnp.tanh(jnp.tanh(x @ p["w1"]) @ mirror) @ p["w3"], y)

    return loss, {"w1": draw(5, 6), "v": draw(6), "w3": draw(6, 3)}, (draw(4, 5), draw(4, 3))


@case("w3")
def toeplitz_weights(draw):
    def loss(p, x, y):
        index = jnp.arange(6)[:, None] - jnp.arange(6)[None] + 5
        return squares(jnp.tanh(jnp.tanh(x @ p["w1"]) @ p["diagonals"][index]) @ p["w3"], y)

    params = {"w1": draw(5, 6), "diagonals": draw(11), "w3": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("flat")
def one_flat_vector(draw):
    def loss(p, x, y):
        w1, w2 = jnp.split(p["body"], [30])
        x = jnp.tanh(jnp.tanh(x @ w1.reshape(5, 6)) @ w2.reshape(6, 6))
        return squares(x @ p["flat"].reshape(6, 3), y)

    return loss, {"body": draw(66), "flat": draw(18)}, (draw(4, 5), draw(4, 3))


@case("w3")
def fused_and_stacked_weights(draw):
    def loss(p, x, y):
        w1 = jnp.concatenate([p["left"], p["right"]], 1)
        x = jnp.tanh(x @ w1)
        x = jnp.tanh(x @ jnp.stack([p["row1"], p["row2"]]).reshape(6, 4))
        return squares(x @ p["w3"], y)

    params = {"left": draw(5, 2), "right": draw(5, 4), "row1": draw(3, 4), "row2": draw(3, 4)}
    return loss, params | {"w3": draw(4, 3)}, (draw(4, 5), draw(4, 3))


@case("bias")
def tied_embeddings(draw):
    def loss(p, tokens, y):
        x = p["embedding"][tokens]
        x = jnp.tanh(x @ p["w1"])
        return cross_entropy(x @ p["embedding"].T + p["bias"], y)

    params = {"embedding": draw(7, 5), "w1": draw(5, 5), "bias": draw(7)}
    return loss, params, (draw.labels(7, 4, 3), draw.labels(7, 4, 3))


@case("w2")
def embedding_and_positions(draw):
    def loss(p, tokens, y):
        x = jnp.take(p["embedding"], tokens, axis=0) + p["positions"]
        return cross_entropy(jnp.tanh(x @ p["w1"]).mean(1) @ p["w2"], y)

    params = {"embedding": draw(7, 5), "positions": draw(3, 5), "w1": draw(5, 6), "w2": draw(6, 4)}
    return loss, params, (draw.labels(7, 4, 3), draw.labels(4, 4))


@case("c")
def autoencoder_with_tied_weights(draw):
    def loss(p, x):
        z = jnp.tanh(x @ p["w1"] + p["b1"])
        z = jnp.tanh(z @ p["w2"] + p["b2"])
        z = jnp.tanh(z @ p["w2"].T + p["c1"])
        return squares(z @ p["w1"].T + p["c"], x)

    params = {"w1": draw(5, 4), "w2": draw(4, 3), "b1": draw(4), "b2": draw(3)}
    return loss, params | {"c1": draw(4), "c": draw(5)}, (draw(4, 5),)


@case("v")
def siamese(draw):
    def embed(p, x):
        return jnp.tanh(jnp.tanh(x @ p["w1"]) @ p["w2"])

    def loss(p, left, right, y):
        return jnp.mean((((embed(p, left) - embed(p, right)) ** 2) @ p["v"] - y) ** 2)

    params = {"w1": draw(5, 6), "w2": draw(6, 6), "v": draw(6)}
    return loss, params, (draw(4, 5), draw(4, 5), draw(4))


@case("w3", rounding=REORDERED)
def contrastive(draw):
    def embed(p, x):
        return unit_length(jnp.tanh(jnp.tanh(x @ p["w1"]) @ p["w2"]) @ p["w3"])

    def loss(p, left, right):
        similar = embed(p, left) @ embed(p, right).T / 0.5
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(similar)))

    params = {"w1": draw(5, 6), "w2": draw(6, 6), "w3": draw(6, 4)}
    return loss, params, (draw(4, 5), draw(4, 5))


@case("w3")
def hypernetwork(draw):
    def loss(p, x, task, y):
        made = (jnp.tanh(task @ p["g1"]) @ p["g2"]).reshape(-1, 5, 6)
        x = jnp.tanh(jnp.einsum("ni,nio->no", x, made))
        return squares(jnp.tanh(x @ p["w2"]) @ p["w3"], y)

    params = {"g1": draw(3, 4), "g2": draw(4, 30), "w2": draw(6, 6), "w3": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3), draw(4, 3))


@case("out")
def bilinear_layer(draw):
    def loss(p, x, y):
        left, right = jnp.tanh(x @ p["left"]), jnp.tanh(x @ p["right"])
        return squares(jnp.tanh(jnp.einsum("ni,oij,nj->no", left, p["w"], right)) @ p["out"], y)

    params = {"left": draw(5, 4), "right": draw(5, 4), "w": draw(6, 4, 4), "out": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("up2")
def variational_autoencoder(draw):
    def loss(p, x, noise):
        h = jnp.tanh(x @ p["down"])
        mean, log_variance = h @ p["mean"], h @ p["log_variance"]
        z = mean + jnp.exp(0.5 * log_variance) * noise
        off = jnp.tanh(z @ p["up1"]) @ p["up2"] - x
        kl = 0.5 * jnp.sum(jnp.exp(log_variance) + mean**2 - 1 - log_variance, -1)
        return jnp.mean(jnp.sum(off**2, -1) + kl)

    params = {"down": draw(5, 6), "mean": draw(6, 2), "log_variance": draw(6, 2)}
    return loss, params | {"up1": draw(2, 6), "up2": draw(6, 5)}, (draw(4, 5), draw(4, 2))


@case("gate experts2")
def mixture_of_experts(draw):
    def loss(p, x, y):
        x = jnp.tanh(x @ p["stem"])
        gates = jax.nn.softmax(x @ p["gate"])
        h = jax.nn.gelu(jnp.einsum("ni,eio->neo", x, p["experts1"]))
        each = jnp.einsum("nei,eio->neo", h, p["experts2"])
        return squares(jnp.einsum("ne,neo->no", gates, each), y)

    params = {"stem": draw(5, 6), "gate": draw(6, 3), "experts1": draw(3, 6, 4)}
    return loss, params | {"experts2": draw(3, 4, 3)}, (draw(4, 5), draw(4, 3))


@case("head")
def film_conditioning(draw):
    def loss(p, x, condition, y):
        c = jnp.tanh(condition @ p["c"])
        x = jnp.tanh((c @ p["scale"]) * (x @ p["w1"]) + c @ p["shift"])
        return squares(jax.nn.relu(x @ p["w2"]) @ p["head"], y)

    params = {"c": draw(3, 4), "scale": draw(4, 6), "shift": draw(4, 6), "w1": draw(5, 6)}
    params |= {"w2": draw(6, 6), "head": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3), draw(4, 3))


@case("head")
def graph_convolution(draw):
    def loss(p, x, edges, y):
        edges = edges / jnp.sum(edges, 1, keepdims=True)
        x = jnp.tanh(edges @ x @ p["w1"])
        x = jax.nn.elu(edges @ (x @ p["w2"]))
        return squares(x @ p["head"], y)

    params = {"w1": draw(5, 6), "w2": draw(6, 6), "head": draw(6, 3)}
    return loss, params, (draw(4, 5), jnp.abs(draw(4, 4)), draw(4, 3))


@case("head")
def message_passing(draw):
    def loss(p, x, senders, receivers, y):
        message = jnp.tanh(jnp.concatenate([x[senders], x[receivers]], 1) @ p["edge"])
        got = jax.ops.segment_sum(message, receivers, num_segments=5)
        x = jnp.tanh(jnp.concatenate([x, got], 1) @ p["node"])
        return squares(x @ p["head"], y)

    params = {"edge": draw(8, 6), "node": draw(10, 6), "head": draw(6, 3)}
    return loss, params, (draw(5, 4), draw.labels(5, 9), draw.labels(5, 9), draw(5, 3))


@case("rho2")
def deep_set(draw):
    def loss(p, x, mask, y):
        h = jnp.tanh(jnp.tanh(x @ p["phi1"]) @ p["phi2"]) * mask[..., None]
        pooled = h.sum(1) / mask.sum(1, keepdims=True)
        return squares(jnp.tanh(pooled @ p["rho1"]) @ p["rho2"], y)

    params = {"phi1": draw(3, 6), "phi2": draw(6, 6), "rho1": draw(6, 5), "rho2": draw(5, 3)}
    mask = jnp.asarray(np.arange(4)[None] < np.array([[4], [2], [3]]), F64)
    return loss, params, (draw(3, 4, 3), mask, draw(3, 3))


@case("head")
def radial_basis_functions(draw):
    def loss(p, x, y):
        x = jnp.tanh(x @ p["w1"])
        distance = jnp.sum((x[:, None] - p["centres"][None]) ** 2, -1)
        return squares(jnp.exp(-distance) @ p["head"], y)

    params = {"w1": draw(5, 4), "centres": draw(6, 4), "head": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3))


# Control flow ----------------------------------------------------------------------------------


@case("out bias")
def lstm_by_scan(draw):
    def loss(p, x, y):
        def step(carry, x):
            h, c = carry
            i, f, g, o = jnp.split(x @ p["wx"] + h @ p["wh"] + p["b"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((len(x), 4))
        (h, _), _ = lax.scan(step, (zero, zero), jnp.swapaxes(x, 0, 1))
        return cross_entropy(h @ p["out"] + p["bias"], y)

    params = {"wx": draw(5, 16), "wh": draw(4, 16), "b": draw(16), "out": draw(4, 3)}
    return loss, params | {"bias": draw(3)}, (draw(4, 5, 5), draw.labels(3, 4))


@case("out")
def gru_by_scan_over_sequences(draw):
    def loss(p, x, y):
        def step(h, x):
            both = jnp.concatenate([x, h], -1)
            z, r = jax.nn.sigmoid(both @ p["wz"]), jax.nn.sigmoid(both @ p["wr"])
            new = jnp.tanh(jnp.concatenate([x, r * h], -1) @ p["wh"])
            h = (1 - z) * h + z * new
            return h, h @ p["out"]

        _, logits = lax.scan(step, jnp.zeros((len(x), 4)), jnp.swapaxes(x, 0, 1))
        return cross_entropy(jnp.swapaxes(logits, 0, 1), y)

    params = {name: draw(9, 4) for name in ("wz", "wr", "wh")}
    return loss, params | {"out": draw(4, 3)}, (draw(4, 6, 5), draw.labels(3, 4, 6))


@case("out")
def rnn_unrolled_in_reverse(draw):
    def loss(p, x, y):
        def step(h, x):
            return jnp.tanh(x @ p["wx"] + h @ p["wh"]), None

        h = jnp.zeros((len(x), 6))
        h, _ = lax.scan(step, h, jnp.swapaxes(x, 0, 1), reverse=True, unroll=2)
        return squares(h @ p["out"], y)

    params = {"wx": draw(5, 6), "wh": draw(6, 6), "out": draw(6, 3)}
    return loss, params, (draw(4, 4, 5), draw(4, 3))


@case("out")
def rnn_by_python_loop(draw):
    def loss(p, x, y):
        h = jnp.zeros((len(x), 6))
        for t in range(x.shape[1]):
            h = jnp.tanh(x[:, t] @ p["wx"] + h @ p["wh"])
        return squares(h @ p["out"], y)

    params = {"wx": draw(5, 6), "wh": draw(6, 6), "out": draw(6, 3)}
    return loss, params, (draw(4, 4, 5), draw(4, 3))


@case("out")
def rnn_per_sample_under_vmap(draw):
    def loss(p, x, y):
        def net(x):
            def step(h, x):
                return jnp.tanh(p["wx"] @ x + p["wh"] @ h), None

            return p["out"] @ lax.scan(step, jnp.zeros(6), x)[0]

        return squares(jax.vmap(net)(x), y)

    params = {"wx": draw(6, 5), "wh": draw(6, 6), "out": draw(3, 6)}
    return loss, params, (draw(4, 4, 5), draw(4, 3))


@case("out")
def scan_over_stacked_layers(draw):
    def loss(p, x, y):
        def layer(x, w):
            return x + jax.nn.gelu(layer_norm(x) @ w["up"] + w["b"]) @ w["down"], None

        x, _ = lax.scan(layer, x @ p["stem"], p["layers"])
        return squares(x @ p["out"], y)

    layers = {"up": draw(3, 6, 8), "b": draw(3, 8), "down": draw(3, 8, 6)}
    params = {"stem": draw(5, 6), "layers": layers, "out": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("out")
def nested_scan(draw):
    def loss(p, x, y):
        def step(h, x):
            def layer(below, w):
                old, wx, wh = w
                new = jnp.tanh(below @ wx + old @ wh)
                return new, new

            return lax.scan(layer, x, (h, p["wx"], p["wh"]))[1], None

        h, _ = lax.scan(step, jnp.zeros((2, len(x), 5)), jnp.swapaxes(x, 0, 1))
        return squares(h[-1] @ p["out"], y)

    params = {"wx": draw(2, 5, 5), "wh": draw(2, 5, 5), "out": draw(5, 3)}
    return loss, params, (draw(4, 4, 5), draw(4, 3))


@case("out")
def weights_in_the_carry(draw):
    def loss(p, x, y):
        def step(carry, _):
            h, w = carry
            return (jnp.tanh(h @ w), w), None

        (h, _), _ = lax.scan(step, (jnp.tanh(x @ p["in"]), p["w"]), None, length=3)
        return squares(h @ p["out"], y)

    params = {"in": draw(5, 6), "w": draw(6, 6), "out": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("out")
def ordinary_differential_equation(draw):
    def loss(p, x, y):
        def field(t, h):
            return jnp.tanh(h @ p["w1"] + t * p["b"]) @ p["w2"]

        def step(h, t):
            k = field(t, h)
            return h + 0.25 * field(t + 0.125, h + 0.125 * k), None

        h, _ = lax.scan(step, x @ p["in"], jnp.arange(4) * 0.25)
        return squares(h @ p["out"], y)

    params = {"in": draw(5, 4), "w1": draw(4, 6), "b": draw(6), "w2": draw(6, 4), "out": draw(4, 3)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("out")
def fori_loop(draw):
    def loss(p, x, y):
        def layer(i, x):
            return jnp.tanh(x @ p["w"][i] + p["b"][i])

        return squares(lax.fori_loop(0, 3, layer, jnp.tanh(x @ p["in"])) @ p["out"], y)

    params = {"in": draw(5, 6), "w": draw(3, 6, 6), "b": draw(3, 6), "out": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("out")
def rematerialised_blocks(draw):
    def loss(p, x, y):
        block = jax.checkpoint(lambda x, w: x + jnp.tanh(jnp.tanh(x @ w[0]) @ w[1]))
        x = x @ p["in"]
        for w in p["blocks"]:
            x = block(x, w)
        return squares(x @ p["out"], y)

    blocks = [(draw(6, 6), draw(6, 6)) for _ in range(2)]
    return loss, {"in": draw(5, 6), "blocks": blocks, "out": draw(6, 3)}, (draw(4, 5), draw(4, 3))


@case("out")
def rematerialised_with_a_policy(draw):
    def loss(p, x, y):
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable

        def layer(x, w):
            return jax.nn.gelu(x @ w), None

        x, _ = lax.scan(jax.checkpoint(layer, policy=policy), x @ p["in"], p["w"])
        return squares(x @ p["out"], y)

    params = {"in": draw(5, 6), "w": draw(3, 6, 6), "out": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("out")
def cond_on_data(draw):
    def loss(p, x, y):
        x = jnp.tanh(x @ p["in"])
        x = lax.cond(
            x[0, 0] > 0,
            lambda x: jnp.tanh(x @ p["w"]),
            lambda x: jax.nn.silu(x @ p["w"].T),
            x,
        )
        return squares(x @ p["out"], y)

    params = {"in": draw(5, 6), "w": draw(6, 6), "out": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("out")
def cond_in_scan(draw):
    def loss(p, x, y):
        def step(x, layer):
            w, skip = layer
            return lax.cond(skip, lambda x: jnp.sin(x), lambda x: jnp.tanh(x @ w), x), None

        skip = jnp.array([False, True, False])
        x, _ = lax.scan(step, x @ p["in"], (p["w"][jnp.array([0, 1, 1])], skip))
        return squares(x @ p["out"], y)

    params = {"in": draw(5, 6), "w": draw(2, 6, 6), "out": draw(6, 3)}
    return loss, params, (draw(4, 5), draw(4, 3))


@case("out")
def switch_between_activations(draw):
    def loss(p, x, which, y):
        x = x @ p["in"]
        x = lax.switch(which, [jnp.tanh, jax.nn.gelu, lambda h: jnp.sin(h) + h], x)
        x = lax.switch(which, [lambda x, w: x @ w, lambda x, w: x @ w.T], x, p["w"])
        return squares(jnp.tanh(x) @ p["out"], y)

    params = {"in": draw(5, 6), "w": draw(6, 6), "out": draw(6, 3)}
    return loss, params, (draw(4, 5), jnp.asarray(1), draw(4, 3))


@case("out")
def linear_recurrence_by_associative_scan(draw):
    def loss(p, x, y):
        h = x @ p["in"]
        decay = jnp.broadcast_to(jax.nn.sigmoid(p["decay"]), h.shape)

        def join(left, right):
            return left[0] * right[0], right[0] * left[1] + right[1]

        _, h = lax.associative_scan(join, (decay, h), axis=1)
        return squares(jnp.tanh(jnp.tanh(h) @ p["w"])[:, -1] @ p["out"], y)

    params = {"in": draw(5, 6), "decay": draw(6), "w": draw(6, 6), "out": draw(6, 3)}
    return loss, params, (draw(3, 4, 5), draw(3, 3))


# Attention -------------------------------------------------------------------------------------


def attend(q, k, v, mask=None):
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = jnp.where(mask, scores, -1e9)
    return jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v)


@case("out", straight="q k v o")
def attention_by_einsum(draw):
    def loss(p, x, y):
        x = jnp.tanh(x @ p["in"])
        q, k, v = (jnp.einsum("nti,ihd->nthd", x, p[name]) for name in "qkv")
        x = x + jnp.einsum("nthd,hdo->nto", attend(q, k, v), p["o"])
        return squares(x.mean(1) @ p["out"], y)

    params = {name: draw(6, 2, 3) for name in "qkv"}
    params |= {"in": draw(5, 6), "o": draw(2, 3, 6), "out": draw(6, 3)}
    return loss, params, (draw(3, 4, 5), draw(3, 3))


@case("out")
def multi_query_attention(draw):
    def loss(p, x, y):
        x = jnp.tanh(x @ p["in"])
        q = jnp.einsum("nti,ihd->nthd", x, p["q"])
        scores = jnp.einsum("nqhd,nkd->nhqk", q, x @ p["k"]) / np.sqrt(3)
        scores = jnp.where(jnp.tril(jnp.ones((4, 4), bool)), scores, -jnp.inf)
        mixed = jnp.einsum("nhqk,nkd->nqhd", softmax_by_hand(scores), x @ p["v"])
        x = mixed.reshape(3, 4, 6) @ p["o"]
        return cross_entropy(jnp.tanh(x) @ p["out"], y)

    params = {"in": draw(5, 6), "q": draw(6, 2, 3), "k": draw(6, 3), "v": draw(6, 3)}
    params |= {"o": draw(6, 6), "out": draw(6, 3)}
    return loss, params, (draw(3, 4, 5), draw.labels(3, 3, 4))


@case("out", rounding=1e-7)  # its softmax is in float32
def fused_dot_product_attention(draw):
    def loss(p, x, y):
        x = jnp.tanh(x @ p["in"])
        q, k, v = jnp.split((x @ p["qkv"]).reshape(3, 4, 2, 9), 3, -1)
        x = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(3, 4, 6)
        return cross_entropy(jnp.tanh(x @ p["o"]) @ p["out"], y)

    params = {"in": draw(5, 6), "qkv": draw(6, 18), "o": draw(6, 6), "out": draw(6, 3)}
    return loss, params, (draw(3, 4, 5), draw.labels(3, 3, 4))


@case("out", straight="v o")
def linear_attention(draw):
    def loss(p, x, y):
        x = jnp.tanh(x @ p["in"])
        q, k = jax.nn.elu(x @ p["q"]) + 1, jax.nn.elu(x @ p["k"]) + 1
        state = jnp.cumsum(jnp.einsum("nti,ntj->ntij", k, x @ p["v"]), 1)
        mixed = jnp.einsum("nti,ntij->ntj", q, state)
        mixed = mixed / jnp.einsum("nti,nti->nt", q, jnp.cumsum(k, 1))[..., None]
        return squares((mixed @ p["o"])[:, -1] @ p["out"], y)

    params = {name: draw(6, 4) for name in "qkv"}
    return (
        loss,
        params | {"in": draw(5, 6), "o": draw(4, 6), "out": draw(6, 3)},
        (draw(3, 4, 5), draw(3, 3)),
    )


@case("head", straight="down")
def vision_transformer_block(draw):
    def loss(p, images, y):
        n = len(images)
        patches = images.reshape(n, 2, 2, 2, 2).swapaxes(2, 3).reshape(n, 4, 4)
        x = jnp.concatenate([jnp.tile(p["class"], (n, 1, 1)), patches @ p["patch"]], 1)
        x = x + p["positions"]
        q, k, v = (jnp.einsum("nti,ihd->nthd", layer_norm(x), p[name]) for name in "qkv")
        x = x + attend(q, k, v).reshape(n, 5, 6) @ p["o"]
        x = x + jax.nn.gelu(layer_norm(x) @ p["up"]) @ p["down"]
        return cross_entropy(layer_norm(x[:, 0]) @ p["head"], y)

    params = {name: draw(6, 2, 3) for name in "qkv"}
    params |= {"class": draw(6), "patch": draw(4, 6), "positions": draw(5, 6), "o": draw(6, 6)}
    params |= {"up": draw(6, 8), "down": draw(8, 6), "head": draw(6, 3)}
    return loss, params, (draw(3, 4, 4), draw.labels(3, 3))


@case("head")
def rotary_language_model(draw):
    def rotate(x):
        angle = jnp.arange(4)[:, None, None] * jnp.array([1.0, 0.1])
        a, b = jnp.split(x, 2, -1)
        return jnp.concatenate(
            [a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1
        )

    def rms(x, scale):
        return scale * x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)

    def loss(p, tokens):
        x = p["embedding"][tokens[:, :-1]]

        def layer(x, w):
            h = rms(x, w["norm1"])
            q, k, v = ((h @ w[name]).reshape(3, 4, 2, 4) for name in "qkv")
            mask = jnp.tril(jnp.ones((4, 4), bool))
            x = x + attend(rotate(q), rotate(k), v, mask).reshape(3, 4, 8) @ w["o"]
            h = rms(x, w["norm2"])
            return x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"], None

        x, _ = lax.scan(layer, x, p["layers"])
        return cross_entropy(x @ p["head"], tokens[:, 1:])

    layers = {name: draw(2, 6, 8) for name in ("q", "k", "v", "gate", "up")}
    layers |= {"o": draw(2, 8, 6), "down": draw(2, 8, 6)}
    layers |= {"norm1": 1 + draw(2, 6), "norm2": 1 + draw(2, 6)}
    params = {"embedding": draw(7, 6), "layers": layers, "head": draw(6, 7)}
    return loss, params, (draw.labels(7, 3, 5),)


@case("head", straight="channels2")
def mlp_mixer(draw):
    def loss(p, x, y):
        x = x @ p["stem"]
        h = layer_norm(x).swapaxes(1, 2)
        x = x + (jax.nn.gelu(h @ p["tokens1"]) @ p["tokens2"]).swapaxes(1, 2)
        x = x + jax.nn.gelu(layer_norm(x) @ p["channels1"]) @ p["channels2"]
        return cross_entropy(x.mean(1) @ p["head"], y)

    params = {"stem": draw(5, 6), "tokens1": draw(4, 5), "tokens2": draw(5, 4)}
    params |= {"channels1": draw(6, 8), "channels2": draw(8, 6), "head": draw(6, 3)}
    return loss, params, (draw(3, 4, 5), draw.labels(3, 3))


@case("head", straight="down")
def mixing_by_fourier_transform(draw):
    def loss(p, x, y):
        x = x @ p["stem"]
        x = layer_norm(x + jnp.fft.fft2(x).real)
        x = x + jax.nn.gelu(x @ p["up"]) @ p["down"]
        return cross_entropy(x.mean(1) @ p["head"], y)

    params = {"stem": draw(5, 6), "up": draw(6, 8), "down": draw(8, 6), "head": draw(6, 3)}
    return loss, params, (draw(3, 4, 5), draw.labels(3, 3))


# Convolutions ----------------------------------------------------------------------------------

IMAGES = ("NHWC", "HWIO", "NHWC")


def conv(x, w, **options):
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": IMAGES} | options
    return lax.conv_general_dilated(x, w, **options)


@case("head")
def convolutions(draw):
    def loss(p, x, y):
        x = jnp.tanh(conv(x, p["w1"]) + p["b1"])
        x = jnp.tanh(conv(x, p["w2"], window_strides=(2, 2)) + p["b2"])
        return cross_entropy(x.reshape(len(x), -1) @ p["head"], y)

    params = {"w1": draw(3, 3, 2, 4), "b1": draw(4), "w2": draw(3, 3, 4, 4), "b2": draw(4)}
    return loss, params | {"head": draw(36, 3)}, (draw(3, 5, 5, 2), draw.labels(3, 3))


@case("head")
def dilated_and_grouped_convolutions(draw):
    def loss(p, x, y):
        x = jnp.tanh(conv(x, p["dilated"], rhs_dilation=(2, 2)))
        x = jax.nn.silu(conv(x, p["grouped"], feature_group_count=2))
        x = conv(x, p["depthwise"], feature_group_count=4)
        x = jnp.tanh(conv(x, p["pointwise"]))
        return cross_entropy(x.mean((1, 2)) @ p["head"], y)

    params = {"dilated": draw(3, 3, 2, 4), "grouped": draw(3, 3, 2, 4)}
    params |= {"depthwise": draw(3, 3, 1, 4), "pointwise": draw(1, 1, 4, 4), "head": draw(4, 3)}
    return loss, params, (draw(3, 5, 5, 2), draw.labels(3, 3))


@case("out")
def transposed_convolution(draw):
    def loss(p, x, y):
        x = jnp.tanh(x @ p["w1"]).reshape(-1, 2, 2, 3)
        x = lax.conv_transpose(x, p["up1"], (2, 2), "SAME", dimension_numbers=IMAGES)
        x = lax.conv_transpose(
            jnp.tanh(x), p["up2"], (1, 1), "SAME", dimension_numbers=IMAGES, transpose_kernel=True
        )
        return squares(conv(jnp.tanh(x), p["out"]), y)

    params = {"w1": draw(5, 12), "up1": draw(3, 3, 3, 4), "up2": draw(3, 3, 2, 4)}
    return loss, params | {"out": draw(1, 1, 2, 2)}, (draw(3, 5), draw(3, 4, 4, 2))


@case("head")
def convolution_with_channels_first(draw):
    def loss(p, x, y):
        x = jax.nn.gelu(lax.conv(x, p["w1"], (1, 1), "VALID"))
        x = lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID") / 4
        x = jnp.tanh(lax.conv(x, p["w2"], (1, 1), "SAME"))
        return cross_entropy(x.reshape(len(x), -1) @ p["head"], y)

    params = {"w1": draw(4, 2, 2, 2), "w2": draw(4, 4, 2, 2), "head": draw(16, 3)}
    return loss, params, (draw(3, 2, 5, 5), draw.labels(3, 3))


@case("head")
def residual_convolutions_with_max_pool(draw):
    def loss(p, x, y):
        x = conv(x, p["stem"])
        x = x + conv(jnp.tanh(conv(jnp.tanh(x), p["w1"])), p["w2"])
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return cross_entropy(jnp.tanh(x).mean((1, 2)) @ p["head"], y)

    params = {"stem": draw(3, 3, 2, 4), "w1": draw(3, 3, 4, 4), "w2": draw(3, 3, 4, 4)}
    return loss, params | {"head": draw(4, 3)}, (draw(3, 4, 4, 2), draw.labels(3, 3))


@case("head")
def squeeze_and_excite(draw):
    def loss(p, x, y):
        x = jax.nn.silu(conv(x, p["w1"]))
        s = jax.nn.sigmoid(jnp.tanh(x.mean((1, 2)) @ p["down"]) @ p["up"])
        x = jnp.tanh(conv(x * s[:, None, None], p["w2"]))
        return cross_entropy(x.mean((1, 2)) @ p["head"], y)

    params = {"w1": draw(3, 3, 2, 4), "down": draw(4, 2), "up": draw(2, 4)}
    params |= {"w2": draw(3, 3, 4, 4), "head": draw(4, 3)}
    return loss, params, (draw(3, 4, 4, 2), draw.labels(3, 3))


@case("out")
def u_net(draw):
    def loss(p, x, y):
        fine = jnp.tanh(conv(x, p["w1"]))
        coarse = jnp.tanh(conv(fine, p["down"], window_strides=(2, 2)))
        up = jax.image.resize(jnp.tanh(conv(coarse, p["w2"])), (3, 4, 4, 4), "nearest")
        x = jnp.tanh(conv(jnp.concatenate([fine, up], -1), p["w3"]))
        return squares(conv(x, p["out"]), y)

    params = {"w1": draw(3, 3, 2, 3), "down": draw(2, 2, 3, 4), "w2": draw(3, 3, 4, 4)}
    params |= {"w3": draw(3, 3, 7, 4), "out": draw(1, 1, 4, 1)}
    return loss, params, (draw(3, 4, 4, 2), draw(3, 4, 4, 1))


@case("out")
def causal_convolution_over_time(draw):
    def causal(x, w, dilation):
        padding = ((dilation * (w.shape[0] - 1), 0),)
        numbers = ("NTC", "TIO", "NTC")
        return lax.conv_general_dilated(
            x, w, (1,), padding, rhs_dilation=(dilation,), dimension_numbers=numbers
        )

    def loss(p, x, y):
        for i, w in enumerate(p["w"]):
            a, b = jnp.split(causal(x, w, 2**i), 2, -1)
            x = jnp.tanh(a) * jax.nn.sigmoid(b)
        return squares(x @ p["out"], y)

    params = {"w": [draw(2, 3, 8), draw(2, 4, 8)], "out": draw(4, 3)}
    return loss, params, (draw(3, 6, 3), draw(3, 6, 3))


# Flax NNX --------------------------------------------------------------------------------------


def of_nnx(make, draw, batch):
    """Return a loss over the nnx.Param leaves of make(rngs) by name, and these leaves."""

    def concrete(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return jnp.zeros(
            leaf.shape, F64 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
        )

    model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    rest = jax.tree.map(concrete, rest)
    paths, tree = jax.tree_util.tree_flatten_with_path(state)
    names = [path_name(path).removesuffix(".value") for path, _ in paths]
    params = draw.fill({name: leaf for name, (_, leaf) in zip(names, paths, strict=True)})

    def loss(p, x, y):
        leaves = jax.tree.unflatten(tree, [p[name] for name in names])
        out = nnx.merge(graph, leaves, jax.tree.map(lambda leaf: leaf, rest))(x)
        return cross_entropy(out, y) if jnp.issubdtype(y.dtype, jnp.integer) else squares(out, y)

    return loss, params, batch


def nnx_between(middle, draw, labels=False):
    """Return a network with the layers middle(rngs) between two linear layers."""

    def make(rngs):
        first, last = nnx.Linear(5, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)
        return nnx.Sequential(first, jnp.tanh, *middle(rngs), last)

    return of_nnx(make, draw, (draw(4, 5), draw.labels(3, 4) if labels else draw(4, 3)))


@case("layers.4")
def nnx_linear(draw):
    return nnx_between(lambda rngs: (nnx.Linear(6, 6, rngs=rngs), nnx.gelu), draw, labels=True)


@case("layers.5", straight="layers.4")
def nnx_linear_general_and_einsum(draw):
    def middle(rngs):
        general = nnx.LinearGeneral(6, (2, 3), rngs=rngs)
        return general, jnp.tanh, nnx.Einsum("nhd,hdo->no", (2, 3, 6), (6,), rngs=rngs)

    return nnx_between(middle, draw)


NNX_NORMS = {
    "batch_norm": partial(nnx.BatchNorm, 6, use_running_average=False),
    "layer_norm": partial(nnx.LayerNorm, 6),
    "rms_norm": partial(nnx.RMSNorm, 6),
    "group_norm": partial(nnx.GroupNorm, 6, num_groups=2),
}


def nnx_norm(norm, draw):
    return nnx_between(lambda rngs: (nnx.Linear(6, 6, rngs=rngs), norm(rngs=rngs), nnx.silu), draw)


for _name, _norm in NNX_NORMS.items():
    add(f"nnx_{_name}", partial(nnx_norm, _norm), "layers.5")


@case("layers.5")
def nnx_dropout_with_a_fixed_key(draw):
    def middle(rngs):
        return nnx.Linear(6, 6, rngs=rngs), nnx.gelu, nnx.Dropout(0.3, rngs=rngs)

    return nnx_between(middle, draw)


@case("layers.4")
def nnx_lora(draw):
    def middle(rngs):
        return nnx.LoRALinear(6, 6, lora_rank=2, rngs=rngs), nnx.tanh

    return nnx_between(middle, draw)


def mean_over_pixels(x):
    return x.mean((1, 2))


@case("layers.9")
def nnx_convolutions_with_batch_norm(draw):
    def make(rngs):
        return nnx.Sequential(
            nnx.Conv(2, 4, (3, 3), rngs=rngs),
            nnx.BatchNorm(4, use_running_average=False, rngs=rngs),
            nnx.relu,
            nnx.Conv(4, 4, (3, 3), feature_group_count=2, rngs=rngs),
            nnx.gelu,
            partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2)),
            nnx.ConvTranspose(4, 4, (2, 2), (2, 2), rngs=rngs),
            nnx.tanh,
            mean_over_pixels,
            nnx.Linear(4, 3, rngs=rngs),
        )

    return of_nnx(make, draw, (draw(3, 4, 4, 2), draw.labels(3, 3)))


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 6, rngs=rngs)
        self.norm1 = nnx.LayerNorm(6, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(6, rngs=rngs)
        self.up = nnx.Linear(6, 8, rngs=rngs)
        self.down = nnx.Linear(8, 6, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(7))

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = x + self.attention(self.norm1(x), mask=nnx.make_causal_mask(tokens))
        x = x + self.down(nnx.gelu(self.up(self.norm2(x))))
        return self.embed.attend(x) * self.scale


@case("scale", straight="down")
def nnx_transformer_with_tied_output(draw):
    return of_nnx(NNXBlock, draw, (draw.labels(7, 3, 4), draw.labels(7, 3, 4)))


class NNXRecurrent(nnx.Module):
    def __init__(self, cell, rngs):
        self.rnn = nnx.RNN(cell(5, 4, param_dtype=F64, rngs=rngs))
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.rnn(x)[:, -1])


NNX_CELLS = {
    "lstm": nnx.LSTMCell,
    "optimized_lstm": nnx.OptimizedLSTMCell,
    "gru": nnx.GRUCell,
    "simple_cell": partial(nnx.SimpleCell, dtype=F64),
}


def nnx_recurrent(cell, draw):
    return of_nnx(partial(NNXRecurrent, cell), draw, (draw(3, 4, 5), draw.labels(3, 3)))


for _name, _cell in NNX_CELLS.items():
    add(f"nnx_{_name}", partial(nnx_recurrent, _cell), "head")


# Flax Linen ------------------------------------------------------------------------------------


def of_linen(model, draw, x, y):
    """Return a loss over the parameters of a Linen module, and drawn parameters."""
    variables = jax.eval_shape(model.init, jax.random.PRNGKey(0), x)
    other = {k: draw.fill(v) for k, v in variables.items() if k != "params"}

    def loss(p, x, y):
        out = model.apply({"params": p, **other}, x, mutable=list(other))[0]
        return cross_entropy(out, y) if jnp.issubdtype(y.dtype, jnp.integer) else squares(out, y)

    return loss, draw.fill(variables["params"]), (x, y)


@case("layers_4")
def linen_dense(draw):
    net = linen.Sequential([linen.Dense(6), linen.tanh, linen.Dense(6), linen.gelu, linen.Dense(3)])
    return of_linen(net, draw, draw(4, 5), draw.labels(3, 4))


class LinenMany(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.DenseGeneral((2, 3))(x)
        x = linen.PReLU(param_dtype=F64)(x)
        x = linen.DenseGeneral(6, axis=(-2, -1))(x)
        x = linen.swish(linen.LayerNorm(param_dtype=F64)(x))
        x = linen.tanh(linen.Einsum((6, 5), "ni,io->no")(x))
        return linen.Dense(3, name="head")(x)


@case("head")
def linen_dense_general(draw):
    return of_linen(LinenMany(), draw, draw(3, 5), draw(3, 3))


class LinenConvolutions(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(4, (3, 3))(x)
        x = linen.relu(linen.GroupNorm(2, param_dtype=F64)(x))
        x = linen.tanh(linen.Conv(4, (3, 3), kernel_dilation=2, feature_group_count=2)(x))
        x = linen.elu(linen.ConvTranspose(3, (2, 2), (2, 2))(x))
        x = linen.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        return linen.Dense(3, name="head")(x)


@case("head")
def linen_convolutions(draw):
    return of_linen(LinenConvolutions(), draw, draw(3, 4, 4, 2), draw.labels(3, 3))


class LinenAttention(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Dense(6)(x)
        x = x + linen.MultiHeadDotProductAttention(2, qkv_features=6)(linen.RMSNorm()(x))
        x = x + linen.Dense(6)(linen.gelu(linen.Dense(8)(linen.LayerNorm()(x))))
        return linen.Dense(3, name="head")(x)


@case("head", straight="Dense_1")
def linen_attention(draw):
    return of_linen(LinenAttention(), draw, draw(3, 4, 5), draw.labels(3, 3, 4))


class LinenRecurrent(linen.Module):
    cell: Any

    @linen.compact
    def __call__(self, x):
        return linen.Dense(3, name="head")(linen.RNN(self.cell(4, param_dtype=F64))(x)[:, -1])


LINEN_CELLS = {
    "optimized_lstm": linen.OptimizedLSTMCell,
    "lstm": linen.LSTMCell,
    "gru": linen.GRUCell,
}
for _name, _cell in LINEN_CELLS.items():
    add(
        f"linen_{_name}",
        partial(
            lambda cell, draw: of_linen(
                LinenRecurrent(cell), draw, draw(3, 4, 5), draw.labels(3, 3)
            ),
            _cell,
        ),
        "head",
    )


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        return x + linen.Dense(6)(linen.gelu(linen.Dense(8)(x))), None


class LinenScanned(linen.Module):
    @linen.compact
    def __call__(self, x):
        axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "length": 3}
        x = linen.Dense(6)(x)
        x, _ = linen.scan(linen.remat(LinenBlock, prevent_cse=False), **axes)()(x, None)
        return linen.Dense(3, name="head")(x)


@case("head")
def linen_scan_over_rematerialised_layers(draw):
    return of_linen(LinenScanned(), draw, draw(4, 5), draw(4, 3))


class LinenWeightNorm(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.tanh(linen.WeightNorm(linen.Dense(6), param_dtype=F64)(x))
        x = linen.tanh(linen.SpectralNorm(linen.Dense(6))(x, update_stats=False))
        return linen.Dense(3, name="head")(x)


@case("head")
def linen_weight_norm_and_spectral_norm(draw):
    return of_linen(LinenWeightNorm(), draw, draw(4, 5), draw(4, 3))


# Equinox ---------------------------------------------------------------------------------------


def of_equinox(make, draw, shape, labels):
    """Return a loss over the whole module make(key), with its functions and numbers as leaves."""

    def loss(model, x, y):
        out = jax.vmap(model)(x)
        return cross_entropy(out, y) if labels else squares(out, y)

    model = eqx.filter_eval_shape(make, jax.random.PRNGKey(0))
    y = draw.labels(3, shape[0]) if labels else draw(shape[0], 3)
    return loss, draw.fill(model), (draw(*shape), y)


@case("layers.2")
def equinox_mlp(draw):
    def make(key):
        return eqx.nn.MLP(5, 3, 6, 2, activation=jax.nn.gelu, key=key)

    return of_equinox(make, draw, (4, 5), labels=True)


@case("layers.5", straight="layers.4", rounding=REORDERED)
def equinox_sequential(draw):
    def make(key):
        layers = [
            eqx.nn.Linear(5, 6, key=key),
            eqx.nn.LayerNorm(6),
            eqx.nn.Lambda(jax.nn.silu),
            eqx.nn.Linear(6, 6, key=key),
            eqx.nn.Lambda(eqx.nn.PReLU()),
            eqx.nn.Linear(6, 3, key=key),
        ]
        return eqx.nn.Sequential(layers)

    return of_equinox(make, draw, (4, 5), labels=False)


@case("layers.7", rounding=REORDERED)
def equinox_convolutions(draw):
    def make(key):
        layers = [
            eqx.nn.Conv2d(2, 4, 3, padding=1, key=key),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.GroupNorm(2, 4),
            eqx.nn.ConvTranspose2d(4, 4, 2, groups=2, key=key),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.AvgPool2d(2, 2),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(16, 3, key=key),
        ]
        return eqx.nn.Sequential(layers)

    return of_equinox(make, draw, (3, 2, 4, 4), labels=True)


class EquinoxAttention(eqx.Module):
    stem: eqx.nn.Linear
    norm: eqx.nn.RMSNorm
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key):
        self.stem = eqx.nn.Linear(5, 6, key=key)
        self.norm = eqx.nn.RMSNorm(6)
        self.attention = eqx.nn.MultiheadAttention(2, 6, key=key)
        self.mlp = eqx.nn.MLP(6, 6, 8, 1, key=key, activation=jnp.sin)
        self.head = eqx.nn.Linear(6, 3, key=key)

    def __call__(self, x):
        x = jax.vmap(self.stem)(x)
        h = jax.vmap(self.norm)(x)
        x = x + self.attention(h, h, h)
        x = x + jax.vmap(self.mlp)(x)
        return self.head(x.mean(0))


@case("head", straight="mlp.layers.1")
def equinox_attention(draw):
    return of_equinox(EquinoxAttention, draw, (3, 4, 5), labels=True)


class EquinoxRecurrent(eqx.Module):
    cell: Any
    head: eqx.nn.Linear

    def __init__(self, cell, key):
        self.cell = cell(5, 4, key=key)
        self.head = eqx.nn.Linear(4, 3, key=key)

    def __call__(self, x):
        def step(state, x):
            return self.cell(x, state), None

        lstm = isinstance(self.cell, eqx.nn.LSTMCell)
        state, _ = lax.scan(step, (jnp.zeros(4),) * 2 if lstm else jnp.zeros(4), x)
        return self.head(state[0] if lstm else state)


def equinox_recurrent(cell, draw):
    return of_equinox(partial(EquinoxRecurrent, cell), draw, (3, 4, 5), labels=True)


for _name, _cell in {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}.items():
    add(f"equinox_{_name}", partial(equinox_recurrent, _cell), "head")
