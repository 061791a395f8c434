"""Helpers of the Keras tests: networks from the pseudo-code, and the updates of one step."""

import keras
import numpy as np

from lra.pseudocode import MLP


def numpy(x):
    return np.array(keras.ops.convert_to_numpy(getattr(x, "value", x)))


def dense_net(net: MLP, activation="tanh", bias=True, **options) -> keras.Model:
    """A plain Keras model with the weights of a network in NumPy."""
    sizes = net.layer_sizes
    last = len(sizes) - 2
    model = keras.Sequential(
        [keras.Input((sizes[0],))]
        + [
            keras.layers.Dense(n, None if i == last else activation, use_bias=bias, **options)
            for i, n in enumerate(sizes[1:])
        ]
    )
    for layer, W, b in zip(model.layers, net.W, net.b, strict=True):
        layer.set_weights([W.T, b] if bias else [W.T])
    return model


def take_feedback(model, net: MLP) -> None:
    """Copy the feedback weights of a network in NumPy to a converted model."""
    for layer, E in zip(model.layers, net.E, strict=True):
        assert (layer.feedback is None) == (E is None)
        if E is not None:
            layer.feedback.assign(E.T)


class Record(keras.optimizers.Optimizer):
    """Assigns to every weight its update instead of stepping along it."""

    def __init__(self, learning_rate=1.0, **options):
        super().__init__(learning_rate=learning_rate, **options)

    def update_step(self, gradient, variable, learning_rate):
        self.assign(variable, gradient)


def updates(model, x, y, loss=None, optimizer=None, batch_size=None, sample_weight=None, **how):
    """The updates that one step of `fit` passes to the optimizer, by the path of the weight."""
    loss = loss or keras.losses.CategoricalCrossentropy(from_logits=True)
    before = [numpy(v) for v in model.trainable_variables]
    model.compile(optimizer or Record(), loss, **how)
    model.fit(
        x,
        y,
        batch_size=batch_size or len(y),
        sample_weight=sample_weight,
        verbose=0,
        shuffle=False,
    )
    found = {v.path: numpy(v) for v in model.trainable_variables}
    for v, value in zip(model.trainable_variables, before, strict=True):
        v.assign(value)
    return found


def by_layer(model, found):
    """Group the updates by layer: a dict of kernel, bias and feedback for each."""
    ordered = []
    for layer in model.layers:
        own = {v.name: found[v.path] for v in layer.trainable_variables}
        if own:
            ordered.append(own)
    return ordered


def exact():
    return keras.config.floatx() == "float64"


def assert_close(actual, expected, tolerance=None, rounding=0.0):
    """Compare relative to the largest expected number: to 1e-10 in float64, 2e-6 in float32.

    Args:
        rounding: the allowed rounding error in float32, in units of the update.
    """
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    assert actual.shape == expected.shape
    size = np.abs(expected).max() if expected.size else 0.0
    tolerance = tolerance or (1e-10 if exact() else 2e-6)
    allowed = tolerance * size + (1e-14 if exact() else rounding)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=allowed)


def assert_equal_updates(model, found, expected, rounding=1e-7):
    """Compare a model's updates with those of the pseudo-code."""
    layers = by_layer(model, found)
    assert len(layers) == len(expected.W)
    for own, W, b, E in zip(layers, expected.W, expected.b, expected.E, strict=True):
        assert_close(own["kernel"].T, W, rounding=rounding)
        assert ("bias" in own) == (b is not None)
        if b is not None:
            assert_close(own["bias"], b, rounding=rounding)
        assert ("feedback" in own) == (E is not None)
        if E is not None:
            assert_close(own["feedback"].T, E, rounding=rounding)
