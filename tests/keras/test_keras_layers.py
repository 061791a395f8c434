"""Oracles: Keras's own gradient, with the kernel as feedback; and the formula of each axis."""

import functools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras_nets import Record, assert_close, exact, numpy, updates

import lra
import lra.keras
from lra.errors import ConversionError
from lra.keras.layers import ACTIVATIONS, WEIGHT_LAYERS, crosses_by_rule
from lra.rules import Rule

CONVOLUTIONS = [  # (layer, size of the input's dimensions)
    (layers.Conv1D, 7, {}),
    (layers.Conv1D, 8, {"strides": 2, "padding": "same"}),
    (layers.Conv1D, 8, {"dilation_rate": 2, "padding": "causal"}),
    (layers.Conv2D, 6, {}),
    (layers.Conv2D, 6, {"strides": 2, "padding": "same"}),
    (layers.Conv2D, 7, {"strides": 2}),
    (layers.Conv2D, 7, {"dilation_rate": 2, "padding": "same"}),
    (layers.Conv2D, 6, {"groups": 2, "padding": "same"}),
    (layers.Conv2D, 6, {"use_bias": False}),
    (layers.Conv3D, 4, {"padding": "same"}),
    (layers.Conv3D, 4, {"strides": 2, "padding": "same", "kernel_size": 2}),
    (layers.DepthwiseConv1D, 8, {"strides": 2, "padding": "same"}),
    (layers.DepthwiseConv2D, 6, {"depth_multiplier": 2}),
    (layers.DepthwiseConv2D, 7, {"strides": 2, "padding": "same", "use_bias": False}),
    (layers.DepthwiseConv2D, 7, {"dilation_rate": 2, "padding": "same"}),
]
FIRST = {  # the convolution below, and how many dimensions it has
    layers.Conv1D: (layers.Conv1D, 1),
    layers.Conv2D: (layers.Conv2D, 2),
    layers.Conv3D: (layers.Conv3D, 3),
    layers.DepthwiseConv1D: (layers.Conv1D, 1),
    layers.DepthwiseConv2D: (layers.Conv2D, 2),
}


def conv_net(kind, size, options, activation="tanh", middle=None):
    """Two convolutions, the second of which sends an error down, and a dense layer."""
    first, dimensions = FIRST[kind]
    filters = () if kind is not first else (4,)
    options = {"kernel_size": 3} | options
    found = [
        keras.Input((size,) * dimensions + (2,)),
        first(4, 3, padding="same", activation=activation, name="first"),
        middle or kind(*filters, activation=activation, name="second", **options),
        layers.Flatten(),
        layers.Dense(3, name="last"),
    ]
    return keras.Sequential(found)


def batch(model, count=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, *model.input_shape[1:])).astype("float32")
    return x, np.eye(model.output_shape[-1])[rng.integers(0, model.output_shape[-1], count)]


def copy_kernels(model):
    for layer in model.layers:
        if getattr(layer, "feedback", None) is not None:
            layer.feedback.assign(numpy(layer.kernel))


@pytest.mark.parametrize(("kind", "size", "options"), CONVOLUTIONS)
def test_with_the_kernel_as_feedback_a_convolution_has_its_own_gradient(kind, size, options):
    model = conv_net(kind, size, options)
    x, y = batch(model)
    local = lra.keras.convert(model, lra.KolenPollack(gamma=0.5))
    copy_kernels(local)
    expected, found = updates(model, x, y), updates(local, x, y)
    for path, update in expected.items():
        assert_close(found[path], update, None if exact() else 1e-5)
    for name in ("second", "last"):
        path = model.get_layer(name).kernel.path
        feedback = local.get_layer(name).feedback.path
        assert_close(found[feedback], 0.5 * expected[path], None if exact() else 1e-5)


@pytest.mark.parametrize(("kind", "size", "options"), CONVOLUTIONS[4:5])
def test_other_feedback_sends_another_error(kind, size, options):
    model = conv_net(kind, size, options)
    x, y = batch(model)
    local = lra.keras.convert(model, lra.KolenPollack())
    expected, found = updates(model, x, y), updates(local, x, y)
    first = model.get_layer("first").kernel.path
    assert np.abs(found[first] - expected[first]).max() > 0.1 * np.abs(expected[first]).max()


def test_channels_first_is_channels_last_turned():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow has no convolution of channels first on a CPU")
    rule = lra.LRAE(beta=0.5)

    def net(order):
        shape = (2, 6, 6) if order == "channels_first" else (6, 6, 2)
        options = {"padding": "same", "data_format": order, "activation": "tanh"}
        turn = [layers.Permute((2, 3, 1))] if order == "channels_first" else []
        return keras.Sequential(
            [
                keras.Input(shape),
                layers.Conv2D(4, 3, strides=2, **options),
                layers.Conv2D(4, 3, **options),
                *turn,
                layers.Flatten(),
                layers.Dense(3),
            ]
        )

    last = lra.keras.convert(net("channels_last"), rule)
    first = lra.keras.convert(net("channels_first"), rule)
    for old, new in zip(last.trainable_variables, first.trainable_variables, strict=True):
        new.assign(numpy(old))
    x, y = batch(last)
    expected = list(updates(last, x, y).values())
    found = list(updates(first, x.transpose(0, 3, 1, 2), y).values())
    for one, other in zip(expected, found, strict=True):
        assert_close(other, one, 1e-4)


@pytest.mark.usefixtures("precise")
@pytest.mark.parametrize("kind", ["conv", "dense"])
@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_normalised_lra_with_the_kernels_as_feedback_tends_to_backprop(kind, activation):
    options = {"padding": "same", "strides": 2}
    dense = (
        [layers.Flatten(), layers.Dense(7, activation, name="second")] if kind == "dense" else []
    )
    model = conv_net(layers.Conv2D, 6, options, activation)
    if dense:
        model = keras.Sequential([keras.Input((6,)), *(layers.Dense(7, activation) for _ in "ab"),
                                  layers.Dense(3)])  # fmt: skip
    x, y = batch(model)
    expected = updates(model, x, y)

    def error(beta):
        local = lra.keras.convert(model, lra.LRAE(beta=beta, gain=1 / beta))
        copy_kernels(local)
        found = updates(local, x, y)
        return max(np.abs(found[path] - update).max() for path, update in expected.items())

    coarse, fine = error(1e-2), error(1e-3)
    assert 1e-5 < coarse < 1e-2
    assert 9.8 < coarse / fine < 10.2


FUNCTIONS = [
    *("relu", "leaky_relu", "relu6", "celu", "elu", "selu", "softplus", "softsign", "squareplus"),
    *("soft_shrink", "sparse_plus", "silu", "gelu", "tanh", "tanh_shrink", "sigmoid", "mish"),
    *("sparse_sigmoid", "exponential", "hard_sigmoid", "hard_silu", "hard_tanh", "hard_shrink"),
    "log_sigmoid",
]


class Shift(layers.Layer):
    """Adds a learned shift, whose update is the error below the next layer."""

    def build(self, shape):
        self.shift = self.add_weight(shape=shape[1:], initializer="zeros")

    def call(self, x):
        return x + self.shift


def crossed_error(layer, h, d, terms=1.0):
    """The error below a layer for the loss sum(d z): the update of a shift of h."""
    x = keras.Input(h.shape[1:])
    below = Shift()
    model = keras.Model(x, layer(below(x)))
    model.compile(Record(), loss=lambda y, z: ops.sum(y * z))
    model.fit(h, d, batch_size=len(h), verbose=0)
    return numpy(below.shift)


H = np.array([[-3.0, -1.2, -0.4, -0.1, 0.2, 0.7, 1.5, 4.0]], "float32")
D = np.array([[1.0, -0.5, 0.8, 2.0, -1.0, 0.3, 0.6, -2.0]], "float32")


def lra_error(phi, beta, gain=1.0, n=1.0):
    def f(v):
        return numpy(phi(ops.convert_to_tensor(v)))

    return (gain / n * (f(H) - f(H - np.float32(beta * n) * D)))[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_cross_every_elementwise_activation_by_the_formula(name):
    rule = lra.LRAE(beta=0.3, gain=2.0)
    phi = getattr(keras.activations, name)
    assert crosses_by_rule(phi, rule)
    found = crossed_error(lra.keras.layers.LocalActivation(name, rule=rule, loss_terms=1), H, D)
    np.testing.assert_allclose(found, lra_error(phi, 0.3, 2.0), rtol=1e-6, atol=2e-6)


@keras.saving.register_keras_serializable(package="tests")
def own_square(h):
    return 0.1 * h**2


@pytest.mark.parametrize(
    ("layer", "phi"),
    [
        (layers.ReLU(max_value=2.0, negative_slope=0.3, threshold=0.1), None),
        (layers.LeakyReLU(negative_slope=0.2), None),
        (layers.ELU(alpha=0.5), None),
        (layers.Activation(own_square), None),
    ],
)
def test_errors_cross_every_activation_layer_by_the_formula(layer, phi):
    local = ACTIVATIONS[type(layer)].from_config(
        layer.get_config()
        | {"rule": lra.LRAE(beta=0.3), "loss_terms": 2.0}
        | ({"activation": layer.activation} if hasattr(layer, "activation") else {})
    )
    np.testing.assert_allclose(numpy(local(H)), numpy(layer(H)), atol=0)
    found = crossed_error(local, H, D)
    np.testing.assert_allclose(found, lra_error(phi or layer, 0.3, n=2.0), atol=2e-6)


def test_errors_cross_prelu_by_the_formula_and_its_slopes_learn_as_in_backprop():
    for shape, shared in (((8,), None), ((4, 2), [1]), ((4, 2), [1, 2])):
        plain = layers.PReLU(keras.initializers.Constant(0.3), shared_axes=shared)
        local = lra.keras.layers.LocalPReLU(
            keras.initializers.Constant(0.3), shared_axes=shared, rule=lra.LRAE(beta=0.3),
            loss_terms=1,
        )  # fmt: skip
        h, d = (np.concatenate([a, -a]).reshape(2, *shape) for a in (H, D))
        slopes = []
        for layer in (plain, local):
            model = keras.Sequential([keras.Input(shape), layer])
            model.compile(Record(), loss=lambda y, z: ops.sum(y * z))
            model.fit(h, d, batch_size=2, verbose=0)
            slopes.append(numpy(layer.alpha))
        np.testing.assert_allclose(slopes[1], slopes[0], atol=1e-6)
    local.alpha.assign(np.full(local.alpha.shape, 0.3))
    fresh = lra.keras.layers.LocalPReLU(
        keras.initializers.Constant(0.3), rule=lra.LRAE(beta=0.3), loss_terms=1
    )
    found = crossed_error(fresh, H, D)
    expected = lra_error(lambda v: ops.where(v < 0, 0.3 * v, v), 0.3)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_functions_that_mix_elements_keep_their_derivative():
    rule = lra.LRAE(beta=0.3)
    for name in ("softmax", "log_softmax", "sparsemax", "glu", "linear"):
        assert not crosses_by_rule(getattr(keras.activations, name), rule)
    assert not crosses_by_rule(keras.activations.tanh, lra.FeedbackAlignment())
    assert not crosses_by_rule(lambda x: ops.sum(x, axis=-1), rule)
    assert not crosses_by_rule(lambda x: x - ops.mean(x), rule)
    assert crosses_by_rule(lambda x: ops.tanh(x) ** 3, rule)
    assert crosses_by_rule(ops.sqrt, rule)  # although half of the probe has no root
    plain = crossed_error(layers.Activation("softmax"), H, D)
    local = crossed_error(
        lra.keras.layers.LocalActivation("softmax", rule=rule, loss_terms=1), H, D
    )
    np.testing.assert_array_equal(local, plain)


LINEAR = {
    "identity": (lambda h: h, 1.0),
    "scaled": (lambda h: 2.0 * h + 0.3, 2.0),
    "in parts": (lambda h: ops.where(h > 0, 3.0 * h, h + 2.0 * h), 3.0),
    "leaky": (functools.partial(keras.activations.leaky_relu, negative_slope=1.0), 1.0),
}


@pytest.mark.parametrize(("f", "slope"), LINEAR.values(), ids=LINEAR)
def test_linear_functions_keep_their_derivative(f, slope):
    rule = lra.LRAE(beta=0.3)
    local = lra.keras.layers.LocalActivation(f, rule=rule, loss_terms=1)
    np.testing.assert_allclose(crossed_error(local, H, D), slope * D[0], rtol=1e-6)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, f), layers.Dense(3)])
    assert not lra.keras.convert(model, rule).layers[0].crosses_activation


SLOPES = np.linspace(0.1, 0.5, 5, dtype="float32")


@pytest.mark.parametrize("built", [True, False])
def test_functions_with_a_constant_for_each_unit_are_crossed_by_the_rule(built):
    def leaky(h):
        return ops.maximum(h, ops.multiply(h, SLOPES))

    for hidden in ([layers.Dense(5, leaky)], [layers.Dense(5), layers.Activation(leaky)]):
        given = [keras.Input((6,))] if built else []
        local = lra.keras.convert(
            keras.Sequential([*given, *hidden, layers.Dense(3)]), lra.LRAE(beta=0.3)
        )
        local(np.ones((2, 6), "float32"))
        assert local.layers[len(hidden) - 1].crosses_activation


def test_functions_that_take_no_array_of_their_shape_are_refused():
    def odd(h):
        raise TypeError("no such array")

    x = keras.Input((6,))
    dense = layers.Dense(5, name="odd")
    model = keras.Model(x, layers.Dense(3)(dense(x)))
    dense.activation = odd
    with pytest.raises(ConversionError, match=r"odd \(Dense\): its activation 'odd' cannot be ev"):
        lra.keras.convert(model, lra.LRAE())
    lra.keras.convert(model, lra.Backprop())


@pytest.mark.parametrize("local", WEIGHT_LAYERS.values())
def test_layers_built_by_hand_learn_by_the_rule(local):
    dimensions = 0 if local.plain is layers.Dense else FIRST[local.plain][1]
    units = () if "Depthwise" in local.__name__ else (3,)
    size, one = ((3,), (1,)) if dimensions else ((), ())
    shape = (4,) * dimensions + (2,)
    by_hand = keras.Sequential(
        [
            keras.Input(shape),
            local(*units, *size, activation="tanh", rule=lra.LRAE(), sees_input=True),
            local(*units, *one, activation="tanh", rule=lra.LRAE()),
            layers.Flatten(),
            lra.keras.layers.LocalDense(2, rule=lra.LRAE()),
        ]
    )
    assert len(lra.keras.feedback_parameters(by_hand)) == 2
    converted = lra.keras.convert(lra.keras.restore(by_hand), lra.LRAE())
    for old, new in zip(by_hand.variables, converted.variables, strict=True):
        new.assign(numpy(old))
    x, y = batch(by_hand)
    pairs = zip(updates(by_hand, x, y).values(), updates(converted, x, y).values(), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "rule",
    [
        lra.FeedbackAlignment(),
        lra.KolenPollack(gamma=0.5),
        lra.SignSymmetry(),
        lra.SignSymmetry("fixed"),
        lra.SignSymmetry("batch"),
        Rule(lra.feedback.SignSymmetric(), lra.crossing.TargetDifference()),
        lra.LRAE(local_loss=lra.crossing.Cauchy(), surrogate=lra.crossing.TanhSurrogate()),
        lra.LRAE(1.0, normalized=True, two_sided=True, relative="sample"),
        lra.LRAE(0.3, relative="batch"),
    ],
    ids=lambda rule: f"{rule.feedback}"[:30],
)
def test_every_rule_trains_by_its_formula(rule):
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(7, "tanh"), layers.Dense(5, "tanh"), layers.Dense(3)]
    )
    x, y = batch(model, 16)
    local = lra.keras.convert(model, rule)
    np.testing.assert_array_equal(local.predict(x, verbose=0), model.predict(x, verbose=0))
    one, two, three = local.layers
    assert one.feedback is None
    stored = {layer.feedback is not None for layer in (two, three)}
    assert stored == {rule.feedback.stored.value != "nothing"}
    found = updates(local, x, y)
    learned = {v.path for v in lra.keras.feedback_parameters(local)}
    for layer in (two, three):
        if rule.feedback.stored.value == "learned":
            gamma = rule.feedback.gamma
            np.testing.assert_allclose(
                found[layer.feedback.path], gamma * found[layer.kernel.path], rtol=1e-6
            )
        else:
            assert not learned
    if rule.feedback.stored.value == "fixed":
        before = numpy(two.feedback)
        updates(local, x, y)
        np.testing.assert_array_equal(numpy(two.feedback), before)
    # The error that the last layer sends down, by the formula
    W = numpy(three.kernel)
    stored = None if three.feedback is None else numpy(three.feedback)
    if str(getattr(rule.feedback, "magnitude", "")) == "batch":
        return
    E = rule.feedback.effective(W, stored, SimpleNamespace(fan_in=W.shape[0]), np)
    features = keras.Model(local.inputs, [two.output, three.output])
    z, logits = (numpy(a) for a in features([x]))
    p = np.exp(logits - logits.max(1, keepdims=True))
    d = (p / p.sum(1, keepdims=True) - y) @ E.T / len(x)
    if isinstance(rule.crossing, lra.crossing.Derivative):
        e = (1 - z**2) * d
    else:
        e = rule.crossing.error(np.tanh, np.arctanh(z.astype("float64")), z, d, len(x), np)
    np.testing.assert_allclose(found[two.bias.path], e.sum(0), atol=3e-6)


def test_magnitudes_of_a_batch_are_drawn_for_each_step():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(7, "tanh"), layers.Dense(5, "tanh"), layers.Dense(3)]
    )
    x, y = batch(model, 16)
    local = lra.keras.convert(model, lra.SignSymmetry("batch"))
    first = local.layers[0].kernel.path
    one, two = updates(local, x, y)[first], updates(local, x, y)[first]
    assert np.abs(one - two).max() > 1e-6
