"""Oracles: the formula, autograd and learning. Step functions under rules with targets."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras_nets import numpy, updates

import lra
import lra.keras
from lra.errors import OptionError
from lra.keras.activations import Heaviside, Quantized, Sign

STEPS = {
    "sign": (Sign, np.sign),
    "heaviside": (Heaviside, lambda h: (h > 0).astype(h.dtype)),
    "quantized": (
        functools.partial(Quantized, 5),
        lambda h: np.round((np.tanh(h) + 1) * 2) / 2 - 1,
    ),
}
H = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")


@pytest.mark.parametrize(("build", "expected"), STEPS.values(), ids=STEPS)
def test_they_compute_what_they_say(build, expected):
    np.testing.assert_allclose(numpy(build()(H)), expected(H), atol=1e-6)
    with pytest.raises(OptionError, match="straight_through must be a Surrogate"):
        build(straight_through="tanh")
    for wrong in (1, 2.5, True):
        with pytest.raises(OptionError, match="k must be"):
            Quantized(wrong)


def net(activation, as_layer=False):
    hidden = [layers.Dense(6, None if as_layer else activation, name="one")]
    hidden += [activation] if as_layer else []
    return keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(3, name="last")])


def crossed(model, rule):
    """The update of the first layer's bias, its pre-activations, and the error at its output."""
    local = lra.keras.convert(model, rule)
    t = np.eye(3)[np.arange(40) % 3]
    found = updates(local, H, t)[local.get_layer("one").bias.path]
    one = local.get_layer("one")
    h = H @ numpy(one.kernel) + numpy(one.bias)
    logits = numpy(local(H))
    p = np.exp(logits - logits.max(1, keepdims=True))
    d = (p / p.sum(1, keepdims=True) - t) @ numpy(local.get_layer("last").feedback).T / 40
    return found, h, d


@pytest.mark.parametrize("as_layer", [False, True])
@pytest.mark.parametrize(("build", "phi"), STEPS.values(), ids=STEPS)
def test_each_unit_takes_a_step_of_its_own(build, phi, as_layer):
    """At steps `relative_if_flat` is "unit": m = sign(d), e = |d| (phi(h + m) - phi(h - m)) / 2."""
    found, h, d = crossed(net(build(), as_layer), lra.MirroredLRA())
    e = np.abs(d) / 2 * (phi(h + np.sign(d)) - phi(h - np.sign(d)))
    assert np.abs(e.sum(0)).max() > 1e-3
    np.testing.assert_allclose(found, e.sum(0), atol=1e-6)


@pytest.mark.parametrize(
    "f",
    [ops.sign, lambda h: ops.cast(h > 0.2, h.dtype), lambda h: ops.round(2.0 * h)],
    ids=["sign", "threshold", "round"],
)
def test_functions_that_are_flat_between_steps_are_step_functions(f):
    found, h, d = crossed(net(f), lra.MirroredLRA())

    def phi(h):
        return numpy(f(ops.convert_to_tensor(h.astype("float32"))))

    e = np.abs(d) / 2 * (phi(h + np.sign(d)) - phi(h - np.sign(d)))
    np.testing.assert_allclose(found, e.sum(0), atol=1e-5)


@pytest.mark.parametrize("f", ["tanh", "hard_tanh", lambda h: ops.tanh(h) ** 3])
def test_others_are_relative_to_the_batch(f):
    found, h, d = crossed(net(f), lra.MirroredLRA())
    phi = keras.activations.get(f)
    s = np.abs(d).max()
    ends = [ops.convert_to_tensor((h + m).astype("float32")) for m in (d / s, -d / s)]
    up, down = (numpy(phi(end)) for end in ends)
    np.testing.assert_allclose(found, (s / 2 * (up - down)).sum(0), atol=1e-5)


def test_a_surrogate_replaces_the_crossing_at_steps():
    rule = lra.MirroredLRA(surrogate=lra.crossing.TanhSurrogate())
    found, h, d = crossed(net(Sign()), rule)
    s = np.abs(d).max()
    e = s / 2 * (np.tanh(h + d / s) - np.tanh(h - d / s))
    np.testing.assert_allclose(found, e.sum(0), atol=1e-6)


@pytest.mark.parametrize(("build", "phi"), STEPS.values(), ids=STEPS)
def test_backprop_takes_the_derivative_of_the_surrogate(build, phi):
    model = net(build(lra.crossing.TanhSurrogate()))
    t = np.eye(3)[np.arange(40) % 3]
    found = updates(model, H, t)[model.get_layer("one").bias.path]
    one, last = model.get_layer("one"), model.get_layer("last")
    h = H @ numpy(one.kernel)
    np.testing.assert_allclose(numpy(one(H)), phi(h), atol=1e-6)
    logits = phi(h) @ numpy(last.kernel)
    p = np.exp(logits - logits.max(1, keepdims=True))
    d = (p / p.sum(1, keepdims=True) - t) @ numpy(last.kernel).T / 40
    np.testing.assert_allclose(found, (d * (1 - np.tanh(h) ** 2)).sum(0), atol=1e-6)


@pytest.mark.parametrize("as_layer", [False, True])
def test_they_are_saved_with_their_settings(tmp_path, as_layer):
    surrogate = lra.crossing.HardTanhSurrogate()
    model = lra.keras.convert(net(Quantized(7, surrogate), as_layer), lra.MirroredLRA())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(H)), numpy(model(H)))
    step = loaded.layers[1 if as_layer else 0].activation
    assert (step.k, step.straight_through) == (7, surrogate)
    restored = lra.keras.restore(loaded)
    np.testing.assert_array_equal(numpy(restored(H)), numpy(model(H)))
    assert type(restored.layers[1]) is (Quantized if as_layer else layers.Dense)


def test_a_network_of_steps_learns_without_a_surrogate():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 10)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype(int)

    def accuracy(rule):
        keras.utils.set_random_seed(0)
        hidden = [layers.Dense(64, Sign()) for _ in range(3)]
        model = keras.Sequential([keras.Input((10,)), *hidden, layers.Dense(2)])
        model = lra.keras.convert(model, rule)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
        return model.fit(x, y, batch_size=50, epochs=20, verbose=0).history["accuracy"][-1]

    found, backprop = accuracy(lra.MirroredLRA()), accuracy(lra.Backprop())
    print(found, backprop)
    assert found > 0.85
    assert backprop < 0.7
