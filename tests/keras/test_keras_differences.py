"""Oracle: mpmath with 50 digits. Differences of activations, and the updates of a deep network."""

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import keras
import mpmath as mp
import numpy as np
import pytest
from keras import activations, layers, ops
from keras_nets import by_layer, numpy, updates

import lra
import lra.keras
from lra.crossing import Crossing
from lra.differences import Phi
from lra.errors import ConversionError
from lra.keras.closed_forms import phi_of
from lra.keras.gradients import ActivationOp
from lra.keras.layers import LocalActivation, crosses_by_rule
from lra.keras.layers.activation import _prelu_phi

BACKEND = keras.backend.backend()
mp.mp.dps = 50
set_to = functools.partial


# ------------------------------------------------------------------ the functions, as documented


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def softplus(x):
    return mp.log1p(mp.exp(x)) if x < 0 else x + mp.log1p(mp.exp(-x))


def gelu(x):
    return x * mp.erfc(-x / mp.sqrt(2)) / 2


def gelu_tanh(x):
    return x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)))


def clip(x, low, high):
    return min(max(x, mp.mpf(low)), mp.mpf(high))


def leaky(slope):
    return lambda x: x if x > 0 else slope * x


def elu(alpha, scale=1.0, inside=1.0):
    return lambda x: scale * (x if x > 0 else alpha * mp.expm1(x * inside))


def relu(slope=0.0, most=mp.inf, threshold=0.0):
    return lambda x: min(x, most) if x > threshold else slope * (x - threshold)


def shrink(lambd):
    return lambda x: mp.sign(x) * max(abs(x) - lambd, 0)


def hard_shrink(lambd):
    return lambda x: x if abs(x) > lambd else mp.mpf(0)


def sparse_plus(x):
    return (clip(x, -1, 1) + 1) ** 2 / 4 + max(x - 1, 0)


def squareplus(b):
    return lambda x: (x + mp.sqrt(x**2 + b)) / 2


def unknown_tanh(h):
    return ops.tanh(h)


EVERYWHERE = (-4.0, 4.0)
POSITIVE = (0.05, 8.0)
INSIDE_ONE = (-0.9, 0.9)
CASES = {  # name: Keras's activation, the function that it computes, the range of h
    "celu": (activations.celu, elu(1), EVERYWHERE),
    "celu, alpha": (set_to(activations.celu, alpha=0.5), elu(0.5, inside=2), EVERYWHERE),
    "elu": (activations.elu, elu(1), EVERYWHERE),
    "elu, alpha": (set_to(activations.elu, alpha=0.7), elu(0.7), EVERYWHERE),
    "exponential": (activations.exponential, mp.exp, EVERYWHERE),
    "gelu": (activations.gelu, gelu, EVERYWHERE),
    "gelu, approximate": (set_to(activations.gelu, approximate=True), gelu_tanh, EVERYWHERE),
    "gelu of ops": (ops.gelu, gelu_tanh, EVERYWHERE),
    "hard_shrink": (activations.hard_shrink, hard_shrink(0.5), EVERYWHERE),
    "hard_shrink, threshold": (
        set_to(activations.hard_shrink, threshold=1.5), hard_shrink(1.5), EVERYWHERE,
    ),
    "hard_sigmoid": (activations.hard_sigmoid, lambda x: clip(x / 6 + 0.5, 0, 1), EVERYWHERE),
    "hard_silu": (activations.hard_silu, lambda x: x * clip(x / 6 + 0.5, 0, 1), EVERYWHERE),
    "hard_tanh": (activations.hard_tanh, lambda x: clip(x, -1, 1), EVERYWHERE),
    "leaky_relu": (activations.leaky_relu, leaky(0.2), EVERYWHERE),
    "leaky_relu, slope": (
        set_to(activations.leaky_relu, negative_slope=0.4), leaky(0.4), EVERYWHERE,
    ),
    "log_sigmoid": (activations.log_sigmoid, lambda x: -softplus(-x), EVERYWHERE),
    "mish": (activations.mish, lambda x: x * mp.tanh(softplus(x)), EVERYWHERE),
    "relu": (activations.relu, relu(), EVERYWHERE),
    "relu, slope": (set_to(activations.relu, negative_slope=0.3), relu(0.3), EVERYWHERE),
    "relu, most": (set_to(activations.relu, max_value=2.0), relu(0, 2), EVERYWHERE),
    "relu, most 6": (set_to(activations.relu, max_value=6), relu(0, 6), (-4.0, 8.0)),
    "relu, slope, most": (
        set_to(activations.relu, negative_slope=0.3, max_value=2), relu(0.3, 2), EVERYWHERE,
    ),
    "relu, threshold": (set_to(activations.relu, threshold=0.5), relu(0, mp.inf, 0.5), EVERYWHERE),
    "relu, threshold, most": (
        set_to(activations.relu, threshold=0.5, max_value=2), relu(0, 2, 0.5), EVERYWHERE,
    ),
    "relu, all": (
        set_to(activations.relu, threshold=0.5, negative_slope=0.25, max_value=2.0),
        relu(0.25, 2, 0.5), EVERYWHERE,
    ),
    "relu6": (activations.relu6, relu(0, 6), (-4.0, 8.0)),
    "selu": (activations.selu, elu(1.6732632423543772, 1.0507009873554805), EVERYWHERE),
    "sigmoid": (activations.sigmoid, sigmoid, EVERYWHERE),
    "silu": (activations.silu, lambda x: x * sigmoid(x), EVERYWHERE),
    "soft_shrink": (activations.soft_shrink, shrink(0.5), EVERYWHERE),
    "soft_shrink, threshold": (
        set_to(activations.soft_shrink, threshold=1.5), shrink(1.5), EVERYWHERE,
    ),
    "softplus": (activations.softplus, softplus, EVERYWHERE),
    "softsign": (activations.softsign, lambda x: x / (1 + abs(x)), EVERYWHERE),
    "sparse_plus": (activations.sparse_plus, sparse_plus, EVERYWHERE),
    "sparse_sigmoid": (activations.sparse_sigmoid, lambda x: clip((x + 1) / 2, 0, 1), EVERYWHERE),
    "squareplus": (activations.squareplus, squareplus(4), EVERYWHERE),
    "squareplus, b": (set_to(activations.squareplus, b=0.5), squareplus(0.5), EVERYWHERE),
    "tanh": (activations.tanh, mp.tanh, EVERYWHERE),
    "tanh_shrink": (activations.tanh_shrink, lambda x: x - mp.tanh(x), EVERYWHERE),
    "threshold": (
        set_to(activations.threshold, threshold=0.5, default_value=-1.0),
        lambda x: x if x > 0.5 else mp.mpf(-1), EVERYWHERE,
    ),
    "ReLU": (layers.ReLU(2.0, 0.25, 0.5), relu(0.25, 2, 0.5), EVERYWHERE),
    "LeakyReLU": (layers.LeakyReLU(), leaky(0.3), EVERYWHERE),
    "ELU": (layers.ELU(alpha=0.5), elu(0.5), EVERYWHERE),
    "Activation": (layers.Activation("leaky_relu"), leaky(0.2), EVERYWHERE),
    "LocalReLU": (
        lra.keras.layers.LocalReLU(2.0, 0.25, 0.5, rule=lra.LRAE()).phi,
        relu(0.25, 2, 0.5), EVERYWHERE,
    ),
    "LocalLeakyReLU": (
        lra.keras.layers.LocalLeakyReLU(rule=lra.LRAE()).phi, leaky(0.3), EVERYWHERE,
    ),
    "LocalELU": (
        lra.keras.layers.LocalELU(alpha=0.5, rule=lra.LRAE()).phi, elu(0.5), EVERYWHERE,
    ),
    "LocalActivation": (
        LocalActivation(set_to(activations.gelu, approximate=True), rule=lra.LRAE()).phi,
        gelu_tanh, EVERYWHERE,
    ),
    "PReLU": (_prelu_phi(ops.convert_to_tensor(np.float32(0.3))), leaky(0.3), EVERYWHERE),
    **{
        f"{name} of ops": (getattr(ops, name), getattr(mp, name), EVERYWHERE)
        for name in ("sin", "cos", "sinh", "cosh", "expm1")
    },
    "erf of ops": (ops.erf, mp.erf, (-1.5, 1.5)),
    "tan of ops": (ops.tan, mp.tan, (-1.2, 1.2)),
    "exp2 of ops": (ops.exp2, lambda x: mp.mpf(2) ** x, EVERYWHERE),
    "absolute of ops": (ops.absolute, abs, EVERYWHERE),
    "square of ops": (ops.square, lambda x: x * x, EVERYWHERE),
    "arctan of ops": (ops.arctan, mp.atan, EVERYWHERE),
    "arcsinh of ops": (ops.arcsinh, mp.asinh, EVERYWHERE),
    "arcsin of ops": (ops.arcsin, mp.asin, INSIDE_ONE),
    "arccos of ops": (ops.arccos, mp.acos, INSIDE_ONE),
    "arctanh of ops": (ops.arctanh, mp.atanh, INSIDE_ONE),
    "arccosh of ops": (ops.arccosh, mp.acosh, (1.2, 8.0)),
    "log of ops": (ops.log, mp.log, POSITIVE),
    "log2 of ops": (ops.log2, lambda x: mp.log(x) / mp.log(2), POSITIVE),
    "log10 of ops": (ops.log10, mp.log10, POSITIVE),
    "log1p of ops": (ops.log1p, mp.log1p, (-0.9, 8.0)),
    "sqrt of ops": (ops.sqrt, mp.sqrt, POSITIVE),
    "rsqrt of ops": (ops.rsqrt, lambda x: 1 / mp.sqrt(x), POSITIVE),
    "reciprocal of ops": (ops.reciprocal, lambda x: 1 / x, POSITIVE),
}  # fmt: skip
COUNT = 100


def drawn(low, high):
    """h of a range, and delta from 1e-10 to 1 with either sign, in float32."""
    rng = np.random.default_rng(0)
    h = rng.uniform(low, high, COUNT).astype("float32")
    delta = 10 ** rng.uniform(-10, 0, COUNT) * rng.choice([-1, 1], COUNT)
    return h, delta.astype("float32")


def worst_error(found, h, delta, f, low, high):
    """The largest error of differences of f, relative to delta times the slope nearby."""
    worst, margin, tiny = mp.mpf(0), (high - low) / 32, mp.mpf(10) ** -20
    for d, a, D in zip(found.tolist(), h.tolist(), delta.tolist(), strict=True):
        a, D = mp.mpf(a), mp.mpf(D)
        nearby = [a - D * i / 4 for i in range(5)]
        if (low, high) == EVERYWHERE:  # a stationary point has no slope, but its surroundings do
            nearby += [a + margin, a - margin]
        slope = max(abs(f(p + tiny) - f(p - tiny)) / (2 * tiny) for p in nearby)
        error = abs(d - (f(a) - f(a - D)))
        worst = max(worst, error / (abs(D) * slope) if slope else error)
    return float(worst)


def compiled(function):
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    import torch

    torch.compiler.reset()
    return torch.compile(function)


def graph(function):
    import tensorflow as tf

    return tf.function(function, jit_compile=False)


def differences(phi, h, delta, how=lambda function: function):
    def run(h, delta):
        delta = phi.inside(h, delta, ops)
        return phi.difference(h, ops.copy(delta), ops), delta

    found = how(run)(ops.convert_to_tensor(h), ops.convert_to_tensor(delta))
    found, delta = (numpy(array) for array in found)
    assert found.dtype == "float32"
    return found, delta


@pytest.mark.parametrize("name", CASES)
def test_the_oracle_is_the_function_itself(name):
    f, expected, (low, high) = CASES[name]
    h, _ = drawn(low, high)
    z = numpy(f(ops.convert_to_tensor(h)))
    np.testing.assert_allclose(z, [float(expected(mp.mpf(float(a)))) for a in h], 3e-6, 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_differences_are_exact_and_subtraction_is_not(name):
    f, expected, (low, high) = CASES[name]
    h, delta = drawn(low, high)
    phi = phi_of(f)
    assert phi.form is not None
    found, delta = differences(phi, h, delta)
    assert worst_error(found, h, delta, expected, low, high) < 1e-6
    subtracted, delta = differences(Phi(f, room=phi.room), h, delta)
    assert worst_error(subtracted, h, delta, expected, low, high) > 1e-3


HOW = {"tensorflow": [graph, compiled], "jax": [compiled], "torch": [compiled]}[BACKEND]
FUSED = ["tanh", "softplus", "gelu", "gelu, approximate", "mish", "elu", "tanh_shrink", "relu, all"]


@pytest.mark.filterwarnings("ignore")  # of torch's compiler
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", FUSED if BACKEND == "torch" else CASES)
def test_differences_are_exact_in_a_compiled_graph(name, how):
    f, expected, (low, high) = CASES[name]
    h, delta = drawn(low, high)
    found, delta = differences(phi_of(f), h, delta, how)
    assert worst_error(found, h, delta, expected, low, high) < 1e-6


def test_every_elementwise_activation_of_keras_has_a_closed_form():
    rule, found = lra.LRAE(), []
    for name in dir(activations):
        f = getattr(activations, name)
        if name in ("deserialize", "get", "serialize", "threshold") or not callable(f):
            continue
        if crosses_by_rule(f, rule):
            found.append(name)
            assert phi_of(f).form is not None, name
    assert len(found) > 25


@pytest.mark.parametrize(
    "f",
    [
        unknown_tanh,
        set_to(activations.relu, max_value=-1.0),
        set_to(activations.soft_shrink, threshold=-1.0),
        set_to(activations.leaky_relu, negative_slope=ops.convert_to_tensor(0.3)),
        set_to(set_to, activations.tanh),
    ],
)
def test_other_functions_subtract(f):
    assert phi_of(f) == Phi(f)


# ------------------------------------------------------------------ deep networks


def deep_net(activation):
    keras.utils.set_random_seed(1)
    hidden = [
        layers.Dense(64, activation, kernel_initializer=keras.initializers.RandomNormal(0, 0.15))
        for _ in range(8)
    ]
    last = layers.Dense(10, kernel_initializer=keras.initializers.RandomNormal(0, 0.15))
    return lra.keras.convert(keras.Sequential([keras.Input((20,)), *hidden, last]), lra.LRAE(0.1))


def deep_updates(model, x, t, beta=0.1):
    """LRA-E in float64, with tanh(h) - tanh(v) = sinh(h - v) / (cosh(h) cosh(v))."""
    arrays = [
        [None if v is None else numpy(v).astype("float64") for v in (m.kernel, m.bias, m.feedback)]
        for m in model.layers
    ]
    z, h = [x.astype("float64")], []
    for W, b, _ in arrays:
        h.append(z[-1] @ W + b)
        z.append(np.tanh(h[-1]))
    p = np.exp(h[-1] - h[-1].max(1, keepdims=True))
    e, found = p / p.sum(1, keepdims=True) - t, []
    for i in reversed(range(len(arrays))):
        found.append((z[i].T @ e / len(x), e.sum(0) / len(x)))
        if i:
            D = beta * (e @ arrays[i][2].T)
            e = np.sinh(D) / (np.cosh(h[i - 1]) * np.cosh(h[i - 1] - D))
    return found[::-1]


def worst_layer(model, how):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 20)).astype("float32")
    t = np.eye(10, dtype="float32")[rng.integers(0, 10, 50)]
    found = by_layer(model, updates(model, x, t, **how))
    distances = []
    for own, (W, b) in zip(found, deep_updates(model, x, t), strict=True):
        for update, expected in ((own["kernel"], W), (own["bias"], b)):
            distances.append(np.linalg.norm(update - expected) / np.linalg.norm(expected))
        if "feedback" in own:
            np.testing.assert_array_equal(own["feedback"], own["kernel"])
    print(max(distances))
    return max(distances)


@pytest.mark.parametrize(
    "how", [{}, {"run_eagerly": True}, {"jit_compile": True}, {"jit_compile": False}], ids=str
)
def test_float32_updates_of_a_deep_network_agree_with_float64(how):
    assert worst_layer(deep_net("tanh"), how) < 1e-4


def test_they_would_not_agree_by_subtraction():
    assert worst_layer(deep_net(unknown_tanh), {}) > 0.1


# ------------------------------------------------------------------ differences of the user


class Marked:
    """An activation whose `difference` is not that of its values, to show which one is used."""

    def __call__(self, h):
        return ops.tanh(h)

    def difference(self, h, delta, xp):
        return 7.0 * delta


class MarkedLayer(layers.Layer):
    def call(self, h):
        return ops.tanh(h)

    def difference(self, h, delta, xp):
        return 7.0 * delta


def marked(h):
    return ops.tanh(h)


marked.difference = Marked().difference


def bias_update(*between):
    """The update of the bias of a dense layer below an activation, and the error above."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6, name="one"), *between,
                              layers.Dense(3, name="last")])  # fmt: skip
    local = lra.keras.convert(model, lra.LRAE(beta=0.1))
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    t = np.eye(3, dtype="float32")[[0, 1, 2, 0, 1]]
    found = updates(local, x, t)
    logits = numpy(local(x))
    p = np.exp(logits - logits.max(1, keepdims=True))
    d = (p / p.sum(1, keepdims=True) - t) @ numpy(local.get_layer("last").feedback).T
    return local, found[local.get_layer("one").bias.path], d.mean(0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Activation(marked),
        lambda: layers.Activation(Marked()),
        lambda: layers.Activation(MarkedLayer()),
        lambda: MarkedLayer(name="mine"),
    ],
)
def test_the_users_difference_is_used(make):
    layer = make()
    local, found, d = bias_update(layer)
    np.testing.assert_allclose(found, 0.1 * 7.0 * d, rtol=1e-5)
    restored = lra.keras.restore(local)
    assert type(restored.layers[1]) is type(layer)
    assert restored.layers[1].name == layer.name
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(numpy(restored(x)), numpy(local(x)))


@pytest.mark.parametrize("activation", [marked, Marked(), MarkedLayer()])
def test_the_users_difference_is_used_inside_a_layer(activation):
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, activation), layers.Dense(3, "tanh")]
    )
    one = lra.keras.convert(model, lra.LRAE()).layers[0]
    assert one.crosses_activation
    assert phi_of(one.activation).form == activation.difference


def test_the_example_in_the_docs_has_the_right_difference():
    docs = (Path(__file__).parents[2] / "docs" / "guides" / "keras.md").read_text("utf-8")
    section = docs.partition("## Differences of activations")[2]
    names = {"keras": keras}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], names)
    cube, (h, delta) = names["layer"].activation, drawn(1.0, 2.0)
    found, delta = differences(phi_of(cube), h, delta)
    assert worst_error(found, h, delta, lambda x: x**3, 1.0, 2.0) < 1e-6


class MarkedReLU(lra.keras.layers.LocalElementwise, layers.ReLU):
    plain = layers.ReLU

    def difference(self, h, delta, xp):
        return 7.0 * delta


def test_a_class_of_the_user_may_define_the_difference():
    layer = MarkedReLU(rule=lra.LRAE(), loss_terms=1)
    assert phi_of(layer).form == layer.phi.form == layer.difference


class Plain(layers.Layer):
    def call(self, h):
        return ops.tanh(h)


class Weighted(MarkedLayer):
    def build(self, shape):
        self.scale = self.add_weight(shape=shape[1:])


def test_layers_of_the_user_without_a_difference_are_refused():
    for activation in (Plain(), layers.Lambda(ops.tanh)):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(6, activation, name="one"),
                                  layers.Dense(3)])  # fmt: skip
        with pytest.raises(
            ConversionError, match=r"one \(Dense\): its activation is a layer whose"
        ):
            lra.keras.convert(model, lra.LRAE())
        lra.keras.convert(model, lra.FeedbackAlignment())  # its crossing is the derivative
    for layer in (Plain(name="mine"), Weighted(name="mine")):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(6), layer, layers.Dense(3)])
        with pytest.raises(ConversionError, match=r"mine \(\w+\): a layer of test_keras_dif"):
            lra.keras.convert(model, lra.LRAE())


@dataclass(frozen=True)
class ReadsOutput(Crossing):
    def error(self, phi, h, z, d, n, xp):
        return d * (1 - z * z)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_crossing_of_the_user_gets_the_output(dtype):
    h, d = (ops.cast(np.array([[0.5, -1.0]], "float32"), dtype) for _ in "hd")
    op = ActivationOp(phi_of(activations.tanh), ReadsOutput(), 1.0)
    found = numpy(ops.cast(op.error(h, ops.tanh(h), d), "float32"))
    expected = np.array([[0.5, -1.0]]) * (1 - np.tanh([[0.5, -1.0]]) ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-6 if dtype == "float32" else 1e-2)


def test_sixteen_bits_cross_in_float32():
    """A target 1e-4 away is invisible in bfloat16, whose digits are 4e-3 apart."""
    h, d = (ops.cast(np.array([[0.5, -1.0]], "float32"), "bfloat16") for _ in "hd")
    for f in (activations.tanh, unknown_tanh):
        op = ActivationOp(phi_of(f), lra.LRAE(1e-4).crossing, 1.0)
        found = numpy(ops.cast(op.error(h, ops.tanh(h), d), "float32"))
        expected = 1e-4 * np.array([[0.5, -1.0]]) * (1 - np.tanh([[0.5, -1.0]]) ** 2)
        np.testing.assert_allclose(found, expected, rtol=1e-2)
