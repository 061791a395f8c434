"""Oracle: statistics and learning. How feedback weights are drawn, mirrored, saved and loaded."""

import keras
import numpy as np
import pytest
from keras import layers
from keras_nets import numpy

import lra
import lra.keras
from lra.errors import ConversionError, OptionError

BACKEND = keras.backend.backend()


def spread(std):
    return keras.initializers.RandomNormal(0.0, std)


def dense(std=3.0):
    return keras.Sequential(
        [keras.Input((40,)), layers.Dense(30, "tanh", kernel_initializer=spread(std)),
         layers.Dense(50, "tanh", kernel_initializer=spread(std)), layers.Dense(3)]
    )  # fmt: skip


def conv(std=3.0):
    how = {"kernel_initializer": spread(std), "activation": "tanh"}
    depthwise = {"depthwise_initializer": spread(std), "activation": "relu"}
    return keras.Sequential(
        [keras.Input((9, 9, 6)), layers.Conv2D(12, 3, **how), layers.Conv2D(12, 3, groups=2, **how),
         layers.DepthwiseConv2D(3, depth_multiplier=2, **depthwise), layers.Flatten(),
         layers.Dense(3)]
    )  # fmt: skip


def with_feedback(model):
    return [x for x in model.layers if getattr(x, "feedback", None) is not None]


@pytest.mark.parametrize("build", [dense, conv])
@pytest.mark.parametrize("std", [0.01, 3.0])
def test_feedback_like_the_weights_is_as_large_as_they_are(build, std):
    model = lra.keras.convert(build(std), lra.LRAE())
    for layer in with_feedback(model)[:-1]:
        E = numpy(layer.feedback)
        assert E.std() == pytest.approx(std, rel=0.15)
        assert np.abs(E).max() == pytest.approx(np.sqrt(3) * numpy(layer.kernel).std(), rel=0.05)


def late(rule):
    """A model that is built while `fit` traces its first step."""
    depthwise = layers.DepthwiseConv1D(5, depth_multiplier=2, depthwise_initializer=spread(3.0))
    model = keras.Sequential(
        [layers.Dense(30, "tanh"), layers.Dense(50, "tanh", kernel_initializer=spread(3.0)),
         depthwise, layers.Flatten(), layers.Dense(3)]
    )  # fmt: skip
    model = lra.keras.convert(model, rule)
    model.compile(keras.optimizers.SGD(1e-9), "mse")
    model.fit(np.ones((4, 9, 40)), np.ones((4, 3)), verbose=0)
    return model.layers[1:3]


def test_feedback_like_the_weights_follows_layers_built_by_hand_or_late():
    local = lra.keras.layers.LocalDense(50, kernel_initializer=spread(3.0), rule=lra.LRAE())
    local.build((None, 30))
    for layer in (*late(lra.LRAE()), local):
        assert numpy(layer.feedback).std() == pytest.approx(3.0, rel=0.15)


def angle(E, W):
    E, W = numpy(E).ravel().astype("float64"), numpy(W).ravel().astype("float64")
    return np.degrees(np.arccos(E @ W / np.linalg.norm(E) / np.linalg.norm(W)))


@pytest.mark.parametrize("build", [dense, conv])
def test_mirrored_feedback_is_an_unbiased_estimate_of_the_kernel(build):
    """Of 4,000 samples, the angle is atan(sqrt(fan_in / 4000)) and the scale is that of W."""
    model = lra.keras.convert(build(), lra.LRAE(init=lra.inits.Mirror(4000)))
    assert len(with_feedback(model)) == len([x for x in model.layers if hasattr(x, "kernel")]) - 1
    for layer in with_feedback(model):
        W, E = numpy(layer.kernel), numpy(layer.feedback)
        fan_in = np.prod(W.shape[:-2] if "Depthwise" in type(layer).__name__ else W.shape[:-1])
        assert angle(E, W) < 1.3 * np.degrees(np.arctan(np.sqrt(fan_in / 4000)))
        assert (E * W).sum() / (W * W).sum() == pytest.approx(1.0, abs=0.05)


def test_layers_built_late_mirror_their_kernels():
    for layer in late(lra.MirroredLRA()):
        assert angle(layer.feedback, layer.kernel) < 5


@pytest.mark.parametrize("rule", [lra.LRAE(), lra.FeedbackAlignment(), lra.MirroredLRA()])
def test_mirror_turns_feedback_towards_new_weights(rule):
    model = lra.keras.convert(dense(), rule)
    layer = model.layers[1]
    layer.kernel.assign(np.random.default_rng(0).normal(size=(30, 50)))
    assert angle(layer.feedback, layer.kernel) > 80
    before = numpy(layer.feedback)
    assert lra.keras.mirror(model) is model
    assert angle(layer.feedback, layer.kernel) < 5
    target = numpy(layer.feedback)
    layer.feedback.assign(before)
    lra.keras.mirror(model, step=0.25)
    np.testing.assert_allclose(numpy(layer.feedback), before + 0.25 * (target - before), atol=0.1)


def test_mirrors_without_decay_add_up():
    model = lra.keras.convert(dense(), lra.LRAE())
    layer = model.layers[1]
    before, W = numpy(layer.feedback), numpy(layer.kernel)
    for _ in range(4):
        lra.keras.mirror(model, 2000, step=0.5, decay=0.0)
    change = numpy(layer.feedback) - before
    assert (change * W).sum() / (W * W).sum() == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: keras.layers.Dense(50), (30,)),
        (lambda: keras.layers.Conv2D(20, (3, 2)), (6, 6, 15)),
    ],
    ids=["dense", "convolution"],
)
def test_xavier_has_the_bound_of_glorots_initializer(layer, shape):
    model = keras.Sequential(
        [keras.Input(shape), layer(), keras.layers.Activation("tanh"), layer()]
    )
    rule = lra.LRAE(init=lra.inits.Xavier(2.0))
    first = lra.keras.convert(model, rule).layers[2]
    kernel = first.kernel.shape
    bound = abs(numpy(keras.initializers.GlorotUniform(0)(kernel))).max()
    assert abs(numpy(first.feedback)).max() == pytest.approx(2 * bound, rel=5e-3)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: keras.layers.Dense(50), (30,)),
        (lambda: keras.layers.Conv2D(20, (3, 2)), (6, 6, 15)),
    ],
    ids=["dense", "convolution"],
)
def test_low_rank_has_the_rank_and_the_size_of_the_kernel(layer, shape):
    model = keras.Sequential(
        [keras.Input(shape), layer(), keras.layers.Activation("tanh"), layer()]
    )
    second = lra.keras.convert(model, lra.LRAE(init=lra.inits.LowRank(6))).layers[2]
    E, W = numpy(second.feedback), numpy(second.kernel)
    values = np.linalg.svd(E.reshape(-1, E.shape[-1]), compute_uv=False)
    assert values[5] > 0.3 * values[0]
    assert values[6] < 1e-5 * values[0]
    assert np.sqrt(np.mean(E**2) / np.mean(W**2)) == pytest.approx(1, rel=0.25)


def test_mirror_says_what_it_cannot_do():
    with pytest.raises(ConversionError, match="mirror: no layer of this Sequential is converted"):
        lra.keras.mirror(dense())
    for rule in (lra.Backprop(), lra.SignSymmetry("fixed")):
        with pytest.raises(ConversionError, match="no feedback weights that could mirror"):
            lra.keras.mirror(lra.keras.convert(dense(), rule))
    for wrong in ({"samples": 0}, {"step": 0.0}, {"step": 1.5}, {"step": True}, {"decay": 2.0}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            lra.keras.mirror(lra.keras.convert(dense(), lra.LRAE()), **wrong)


@pytest.mark.parametrize("init", [lra.inits.LikeWeights(), lra.inits.Mirror()])
@pytest.mark.parametrize("magnitude", ["uniform", "batch"])
def test_magnitudes_that_need_the_weights_in_every_step_are_refused(init, magnitude):
    rule = lra.SignSymmetry(magnitude, init)
    with pytest.raises(ConversionError, match=r"in every step.*use FanIn\(\)"):
        lra.keras.convert(dense(), rule)
    with pytest.raises(ConversionError, match=r"in every step.*use FanIn\(\)"):
        lra.keras.layers.LocalDense(3, rule=rule)
    model = lra.keras.convert(dense(), lra.SignSymmetry("fixed", init))
    assert numpy(model.layers[1].feedback).std() > 1


@pytest.mark.parametrize("rule", [lra.DirectFeedbackAlignment(), lra.RecLRA()])
def test_wirings_are_refused_in_a_layer_built_by_hand_too(rule):
    with pytest.raises(ConversionError, match=r"is not supported in Keras; use Chain"):
        lra.keras.layers.LocalDense(3, rule=rule)


def images(count):
    """Ten classes of noisy sums of waves."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, count)
    centres = np.random.default_rng(1).normal(size=(10, 64))
    return (centres[y] + rng.normal(size=(count, 64))).astype("float32"), y


def test_a_deep_network_learns_by_mirrored_targets_and_not_by_the_published_rule():
    x, y = images(2000)

    def accuracy(rule):
        keras.utils.set_random_seed(0)
        hidden = [layers.Dense(64, "tanh") for _ in range(16)]
        model = keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10)])
        model = lra.keras.convert(model, rule)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
        history = model.fit(x, y, batch_size=50, epochs=2, verbose=0).history
        return history["accuracy"][-1]

    backprop, mirrored = accuracy(lra.Backprop()), accuracy(lra.MirroredLRA())
    print(backprop, mirrored)
    assert backprop > 0.9
    assert mirrored > backprop - 0.05
    assert accuracy(lra.LRAE()) < mirrored - 0.3


# ------------------------------------------------------------------ weights of plain models

RULES = {
    "lra-e": lra.LRAE(),
    "mirrored": lra.MirroredLRA(),
    "fa": lra.FeedbackAlignment(),
    "uniform": lra.SignSymmetry(),
    "fixed": lra.SignSymmetry("fixed"),
    "batch": lra.SignSymmetry("batch"),
    "backprop": lra.Backprop(),
}


def everything():
    """A nested model with every kind of layer, and layers of one class with and without rule."""
    inner = keras.Sequential(
        [keras.Input((9, 6)), layers.Conv1D(8, 3, activation="tanh"), layers.PReLU(),
         layers.BatchNormalization(), layers.DepthwiseConv1D(3), layers.Activation("relu")]
    )  # fmt: skip
    x = keras.Input((9, 6))
    h = layers.Flatten()(inner(x))
    h = layers.Dense(7, layers.LeakyReLU(), name="one")(h)
    h = layers.Dense(7, "tanh", use_bias=False, name="two")(h)
    return keras.Model(x, layers.Dense(3, name="three")(layers.ReLU()(h)))


@pytest.mark.parametrize("suffix", ["weights.h5", "keras"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_weights_load_from_plain_models_and_into_them(tmp_path, rule, suffix):
    x = np.random.default_rng(0).normal(size=(5, 9, 6)).astype("float32")
    plain, model, other = everything(), lra.keras.convert(everything(), rule), everything()
    save = "save_weights" if suffix == "weights.h5" else "save"
    getattr(plain, save)(tmp_path / f"plain.{suffix}")
    model.load_weights(tmp_path / f"plain.{suffix}")
    np.testing.assert_array_equal(numpy(model(x)), numpy(plain(x)))
    getattr(model, save)(tmp_path / f"converted.{suffix}")
    other.load_weights(tmp_path / f"converted.{suffix}")
    np.testing.assert_array_equal(numpy(other(x)), numpy(plain(x)))


def test_feedback_is_drawn_for_weights_loaded_from_a_plain_model_and_loaded_from_others(tmp_path):
    plain = dense(0.5)
    plain.save_weights(tmp_path / "plain.weights.h5")
    model = lra.keras.convert(dense(), lra.MirroredLRA())
    model.load_weights(tmp_path / "plain.weights.h5")
    layer = model.layers[1]
    assert angle(layer.feedback, layer.kernel) < 5
    np.testing.assert_array_equal(numpy(layer.kernel), numpy(plain.layers[1].kernel))
    layer.feedback.assign(np.ones((30, 50)))
    model.save_weights(tmp_path / "model.weights.h5")
    other = lra.keras.convert(dense(), lra.MirroredLRA())
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(numpy(other.layers[1].feedback), np.ones((30, 50)))
