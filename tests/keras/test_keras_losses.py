"""Oracle: refusals. What `fit` says about the scale of a loss, before its first step."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import lra
import lra.keras
from lra.errors import OptionError

RULE = lra.LRAE(beta=0.3)


def net(rule=RULE, outputs=3, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(4, "tanh"), layers.Dense(4, "tanh"), layers.Dense(outputs)]
    )
    return model if rule is None else lra.keras.convert(model, rule, **options)


def sequence(rule=RULE, **options):
    """A network with an output for each of six steps."""
    model = keras.Sequential(
        [keras.Input((6, 5)), layers.Dense(4, "tanh"), layers.Conv1D(4, 3, padding="same"),
         layers.Activation("tanh"), layers.Dense(3)]
    )  # fmt: skip
    return lra.keras.convert(model, rule, **options)


X, Y = np.ones((8, 5), "float32"), np.arange(8) % 3
SPARSE = keras.losses.SparseCategoricalCrossentropy


def fit(model, loss, y=Y, x=X, optimizer=None, how=None, **options):
    model.compile(optimizer or keras.optimizers.SGD(0.01), loss, **(how or {}))
    return model.fit(x, y, batch_size=4, verbose=0, **options)


def one_hot(y):
    return ops.one_hot(ops.cast(y, "int32"), 3)


class OwnSum(keras.losses.Loss):
    def call(self, y, p):
        return ops.sum(ops.square(one_hot(y) - p))


class OwnMean(keras.losses.Loss):
    def call(self, y, p):
        return ops.mean(ops.square(one_hot(y) - p), axis=-1)


SUMMED = {
    "reduction": SPARSE(from_logits=True, reduction="sum"),
    "function": lambda y, p: ops.sum(ops.square(one_hot(y) - p)),
    "class": OwnSum(),
    "root": lambda y, p: ops.sqrt(ops.sum(ops.square(one_hot(y) - p))),
}
MEANS = {
    "string": "sparse_categorical_crossentropy",
    "crossentropy": "crossentropy",
    "object": SPARSE(from_logits=True),
    "function": lambda y, p: ops.mean(ops.square(one_hot(y) - p)),
    "of each sample": lambda y, p: ops.sum(ops.square(one_hot(y) - p), axis=-1),
    "class": OwnMean(),
}


@pytest.mark.parametrize("loss", SUMMED.values(), ids=SUMMED)
def test_a_loss_that_is_no_mean_is_refused(loss):
    model = net()
    before = [np.array(w) for w in model.get_weights()]
    with pytest.raises(OptionError, match=r"loss: the loss is .* for a batch that is doubled"):
        fit(model, loss)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    with pytest.raises(OptionError):  # and again, until it is changed
        model.fit(X, Y, verbose=0)
    lra.keras.set_loss_terms(model, 1)
    model.fit(X, Y, verbose=0)
    with pytest.raises(OptionError):
        lra.keras.set_loss_terms(model, "batch")


@pytest.mark.parametrize("loss", MEANS.values(), ids=MEANS)
def test_a_mean_is_not(loss):
    fit(net(), loss)


@pytest.mark.parametrize("loss", SUMMED.values(), ids=SUMMED)
def test_rules_that_do_not_depend_on_the_scale_take_any_loss(loss):
    for rule in (None, lra.FeedbackAlignment(), lra.MirroredLRA()):
        fit(net(rule), loss)


@pytest.mark.parametrize("how", ["loaded", "built late", "subclassed", "one step", "eager", "jit"])
def test_every_model_is_checked(tmp_path, how):
    summed = SUMMED["reduction"]
    local = lra.keras.layers.LocalDense
    if how == "built late":
        late = keras.Sequential([layers.Dense(4, "tanh"), layers.Dense(3)])
        model = lra.keras.convert(late, RULE)
    elif how == "subclassed":

        class Net(keras.Model):
            def __init__(self):
                super().__init__()
                self.one, self.two = local(4, "tanh", rule=RULE), local(3, rule=RULE)

            def call(self, x):
                return self.two(self.one(x))

        model = Net()
    else:
        model = net()
    model.compile("sgd", summed, run_eagerly=how == "eager", jit_compile=how == "jit")
    if how == "loaded":
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    train = model.train_on_batch if how == "one step" else model.fit
    with pytest.raises(OptionError, match="the loss is a sum"):
        train(X, Y)


SCALED = {
    "by a factor": (
        lambda: keras.optimizers.SGD(0.5, loss_scale_factor=128.0), r"model, N / 128",
    ),
    "dynamically": (
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5)),
        "LossScaleOptimizer",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("optimizer", "said"), SCALED.values(), ids=SCALED)
def test_an_optimizer_that_scales_the_loss_is_refused(optimizer, said):
    with pytest.raises(OptionError, match=said):
        fit(net(), "mse", np.ones((8, 3)), optimizer=optimizer())
    fit(net(lra.FeedbackAlignment()), "mse", np.ones((8, 3)), optimizer=optimizer())
    if "LossScale" not in said:
        fit(net(loss_terms=1), "mse", np.ones((8, 3)), optimizer=optimizer())


WEIGHTED = {
    "samples": {"sample_weight": np.full(8, 50.0)},
    "classes": {"class_weight": {0: 1.0, 1: 2.0, 2: 3.0}},
    "losses": {"how": {"loss_weights": [50.0]}},
}


@pytest.mark.parametrize("options", WEIGHTED.values(), ids=WEIGHTED)
def test_weights_are_noticed(options):
    with pytest.warns(lra.LraWarning, match="weights of samples, classes or losses scale"):
        fit(net(), MEANS["object"], **options)
    fit(net(lra.MirroredLRA()), MEANS["object"], **options)
    fit(net(loss_terms=4 / 50), MEANS["object"], **options)


def test_weights_are_noticed_in_a_later_fit():
    model = net()
    fit(model, MEANS["object"])
    with pytest.warns(lra.LraWarning, match="weights of samples"):
        model.fit(X, Y, sample_weight=np.ones(8), verbose=0)
    model.fit(X, Y, sample_weight=np.ones(8), verbose=0)  # once


def test_relative_targets_do_not_depend_on_weights():
    """The remedy that the warning names: 50 times the loss, and a fiftieth of the step."""

    def trained(scale):
        model = net(lra.MirroredLRA())
        fit(model, MEANS["object"], optimizer=keras.optimizers.SGD(1 / scale),
            sample_weight=np.full(8, scale))  # fmt: skip
        return model.get_weights()

    for one, many in zip(trained(1.0), trained(50.0), strict=True):
        np.testing.assert_allclose(one, many, atol=1e-5)


STEPS = np.tile(Y[:, None], (1, 6))


@pytest.mark.parametrize(
    "loss",
    ["mse", keras.losses.CategoricalCrossentropy(from_logits=True), SPARSE(from_logits=True)],
    ids=["mse", "categorical", "sparse"],
)
def test_a_mean_over_steps_is_noticed(loss):
    y = STEPS if isinstance(loss, SPARSE) else np.eye(3)[STEPS]
    x = np.ones((8, 6, 5), "float32")
    model = sequence()
    with pytest.warns(lra.LraWarning, match=r"N is counted as 'batch'; .*\(model, 'tokens'\)"):
        fit(model, loss, y, x)
    fit(sequence(loss_terms="tokens"), loss, y, x)
    fit(sequence(lra.MirroredLRA()), loss, y, x)


def test_a_sum_over_steps_is_noticed_where_they_are_counted():
    def summed(y, p):
        return ops.sum(ops.square(y - p), axis=(1, 2))

    y, x = np.eye(3)[STEPS], np.ones((8, 6, 5), "float32")
    fit(sequence(), summed, y, x)
    with pytest.warns(lra.LraWarning, match=r"N is counted as 'tokens'; .*\(model, 'batch'\)"):
        fit(sequence(loss_terms="tokens"), summed, y, x)


def test_a_loss_that_cannot_be_evaluated_is_noticed():
    def needs_the_right_labels(y, p):
        return ops.mean(ops.reshape(p, (4, 3)) - ops.cast(y, "float32")[:, None] / 0)

    with pytest.warns(lra.LraWarning, match=r"could not be evaluated .*set_loss_terms"):
        fit(net(), needs_the_right_labels)


@pytest.mark.parametrize("kind", ["dict", "list", "names"])
def test_several_outputs_are_checked(kind):
    def build(scale=None):
        x = keras.Input((5,))
        h = layers.Dense(4, "tanh")(layers.Dense(4, "tanh")(x))
        heads = {"a": layers.Dense(3, name="a")(h), "b": layers.Dense(1, name="b")(h)}
        model = keras.Model(x, heads if kind == "dict" else list(heads.values()))
        losses = {"a": SPARSE(from_logits=True), "b": scale or keras.losses.MeanSquaredError()}
        y = {"a": Y, "b": np.ones((8, 1))}
        model = lra.keras.convert(model, RULE)
        return model, list(losses.values()) if kind == "list" else losses, y

    for summed in (False, True):
        model, loss, y = build(keras.losses.MeanSquaredError(reduction="sum") if summed else None)
        y = y if kind == "dict" else list(y.values())
        if summed:
            with pytest.raises(OptionError, match="the loss is not a mean"):
                fit(model, loss, y)
        else:
            fit(model, loss, y)


def test_models_without_a_rule_and_added_losses_are_left_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("error", lra.LraWarning)
        fit(net(None), SUMMED["reduction"], sample_weight=np.ones(8))
        x = keras.Input((5,))
        hidden = layers.Dense(4, "tanh", kernel_regularizer="l2")(x)
        fit(lra.keras.convert(keras.Model(x, layers.Dense(3)(hidden)), RULE), MEANS["object"])
