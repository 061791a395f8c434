"""Oracle: the NumPy pseudo-code. Updates of whole networks by `fit`, on drawn problems."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_nets import (
    Record,
    assert_close,
    assert_equal_updates,
    by_layer,
    dense_net,
    take_feedback,
    updates,
)

import lra
import lra.keras
from lra.pseudocode import MLP, SGD

pytestmark = pytest.mark.usefixtures("precise")

SIZES = st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(2, 9)).map(
    lambda drawn: (*drawn[0], drawn[1])
)
ACTIVATION_CASES = ["tanh", "sigmoid", "relu", "softplus"]


def problem(sizes, batch, activation="tanh", bias=True, output="softmax", seed=0):
    net = MLP(
        sizes, activation=activation, bias=bias, output=output, weight_std=0.6, feedback_std=0.6,
        seed=seed,
    )  # fmt: skip
    for arrays in (net.W, net.E):  # rounded to float32
        arrays[:] = [None if a is None else a.astype("float32").astype("float64") for a in arrays]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, sizes[0])).astype("float32").astype("float64")
    t = np.eye(sizes[-1])[rng.integers(0, sizes[-1], batch)]
    return net, x, t


def converted(net, rule, activation="tanh", bias=True, **options):
    model = lra.keras.convert(dense_net(net, activation, bias), rule, **options)
    if any(layer.feedback is not None for layer in model.layers):
        take_feedback(model, net)
    return model


@given(
    sizes=SIZES,
    batch=st.integers(1, 12),
    beta=st.floats(0.05, 2),
    gamma=st.floats(-2, 2),
    gain=st.floats(0.1, 10),
    activation=st.sampled_from(ACTIVATION_CASES),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_fit_descends_along_the_pseudocodes_updates(
    sizes, batch, beta, gamma, gain, activation, bias, seed
):
    net, x, t = problem(sizes, batch, activation, bias, seed=seed)
    model = converted(net, lra.LRAE(beta=beta, gamma=gamma, gain=gain), activation, bias)
    expected = net.compute_lra_updates(x, t, beta=beta, gamma=gamma, gain=gain)
    # p - t at the output is rounded like p, in float32
    size = max(np.abs(z).max() for z in net.compute_output(x)[1])
    rounding = 1e-7 * max(1.0, abs(gamma)) * size
    assert_equal_updates(model, updates(model, x, t), expected, rounding)


@settings(max_examples=4)
@given(
    sizes=SIZES,
    batch=st.integers(1, 12),
    activation=st.sampled_from(ACTIVATION_CASES),
)
def test_backprop_is_backprop(sizes, batch, activation):
    net, x, t = problem(sizes, batch, activation)
    expected = net.gradients(x, t)
    for rule in (lra.Backprop(), None):
        model = dense_net(net, activation)
        if rule is not None:
            model = lra.keras.convert(model, rule)
        assert_equal_updates(model, updates(model, x, t), expected)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_the_update_is_the_same_compiled_or_not(jit_compile):
    net, x, t = problem((5, 6, 4, 3), 8)
    model = converted(net, lra.LRAE(beta=0.4, gamma=0.7))
    found = updates(model, x, t, jit_compile=jit_compile)
    assert_equal_updates(model, found, net.compute_lra_updates(x, t, beta=0.4, gamma=0.7))


def test_the_update_is_the_same_eagerly():
    net, x, t = problem((5, 6, 4, 3), 8)
    model = converted(net, lra.LRAE(beta=0.4, gamma=0.7))
    found = updates(model, x, t, run_eagerly=True)
    assert_equal_updates(model, found, net.compute_lra_updates(x, t, beta=0.4, gamma=0.7))


def test_float32_is_within_a_millionth():
    keras.config.set_floatx("float32")
    net, x, t = problem((20, 30, 30, 10), 50)
    model = converted(net, lra.LRAE(beta=1.0))
    expected = net.compute_lra_updates(x, t, beta=1.0)
    for own, W, E in zip(
        by_layer(model, updates(model, x, t)), expected.W, expected.E, strict=True
    ):
        assert_close(own["kernel"].T, W, 1e-6)
        if E is not None:
            assert_close(own["feedback"].T, E, 1e-6)


def test_loss_terms_are_what_the_loss_divides_by():
    net, x, t = problem((5, 6, 4, 3), 8)
    expected = net.compute_lra_updates(x, t, beta=0.4, loss_terms=1)  # the sum over the batch
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, reduction="sum")
    model = converted(net, lra.LRAE(beta=0.4), loss_terms=1)
    assert_equal_updates(model, updates(model, x, t, loss), expected)
    wrong = converted(net, lra.LRAE(beta=0.4))
    with pytest.raises(lra.errors.OptionError, match="the loss is a sum"):
        updates(wrong, x, t, loss)
    assert_equal_updates(wrong, updates(wrong, x, t), net.compute_lra_updates(x, t, beta=0.4))
    lra.keras.set_loss_terms(wrong, 1)
    assert_equal_updates(wrong, updates(wrong, x, t, loss), expected)


def test_sample_weights_count_where_the_loss_divides_by_their_sum():
    net, x, t = problem((5, 6, 4, 3), 6)
    # LRA is not linear in its error, so a sample of weight 2 is not a sample seen twice. Only
    # weights 1 and 0 are those of another batch.
    once = np.array([1.0, 1, 1, 1, 0, 0])
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    model = converted(net, lra.LRAE(beta=0.4), loss_terms=once.sum())
    expected = net.compute_lra_updates(x[:4], t[:4], beta=0.4)
    assert_equal_updates(model, updates(model, x, t, loss, sample_weight=once), expected)
    # The default reduction divides by the batch, for any weights.
    model = converted(net, lra.LRAE(beta=0.4))
    with pytest.warns(lra.LraWarning, match="weights of samples"):
        found = updates(model, x, t, sample_weight=once)
    assert_close(found[model.layers[0].kernel.path], expected.W[0].T * 4 / 6)


def test_tokens_count_all_but_the_last_dimension():
    net, x, t = problem((5, 6, 4, 3), 8)
    layers = [keras.Input((4, 5)), *dense_net(net).layers]
    model = lra.keras.convert(keras.Sequential(layers), lra.LRAE(beta=0.4), loss_terms="tokens")
    take_feedback(model, net)
    found = updates(model, x.reshape(2, 4, 5), t.reshape(2, 4, 3))
    assert_equal_updates(model, found, net.compute_lra_updates(x, t, beta=0.4))


def test_the_last_short_batch_counts_its_own_terms():
    net, x, t = problem((5, 6, 4, 3), 11)
    model = converted(net, lra.LRAE(beta=0.4))
    start = [W.copy() for W in net.W]
    found = updates(model, x, t, optimizer=keras.optimizers.SGD(1.0), batch_size=8)
    net.compute_lra_updates(x[:8], t[:8], SGD(1.0), beta=0.4)
    net.compute_lra_updates(x[8:], t[8:], SGD(1.0), beta=0.4)
    for i, layer in enumerate(model.layers):
        assert np.abs(start[i] - net.W[i]).max() > 1e-3
        assert_close(found[layer.kernel.path].T, net.W[i])


def test_gradient_accumulation_averages_updates():
    net, x, t = problem((5, 6, 4, 3), 8)
    model = converted(net, lra.LRAE(beta=0.4))
    one, two = (net.compute_lra_updates(x[s], t[s], beta=0.4) for s in (slice(4), slice(4, 8)))
    optimizer = Record(gradient_accumulation_steps=2)
    found = updates(model, x, t, optimizer=optimizer, batch_size=4)
    for i, layer in enumerate(model.layers):
        assert_close(found[layer.kernel.path].T, (one.W[i] + two.W[i]) / 2)


@pytest.mark.parametrize(
    "clip", [{"clipnorm": 1e-3}, {"global_clipnorm": 1e-3}, {"clipvalue": 1e-4}]
)
def test_clipping_clips_the_updates(clip):
    net, x, t = problem((5, 6, 4, 3), 8)
    model = converted(net, lra.LRAE(beta=0.4))
    expected = net.compute_lra_updates(x, t, beta=0.4)
    flat = [u for group in expected for u in group if u is not None]
    name, size = next(iter(clip.items()))
    whole = np.sqrt(sum((u**2).sum() for u in flat))

    def clipped(u):
        if name == "clipvalue":
            return np.clip(u, -size, size)
        return u * min(1.0, size / (whole if name == "global_clipnorm" else np.linalg.norm(u)))

    found = updates(model, x, t, optimizer=Record(**clip))
    for i, layer in enumerate(model.layers):
        assert_close(found[layer.kernel.path].T, clipped(expected.W[i]), 1e-5, rounding=1e-7)
