"""Oracle: the identity. What convert accepts and refuses, and restore."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from keras_nets import Record, by_layer, numpy, updates

import lra
import lra.keras
from lra.errors import ConversionError, OptionError
from lra.keras.layers import LocalActivation, LocalDense, LocalReLU

RULE = lra.LRAE(beta=0.3)


def mlp(*between):
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "tanh", name="one"), *between,
         layers.Dense(7, "tanh", name="two"), layers.Dense(3, name="three")]
    )  # fmt: skip


def functional():
    """Two inputs and two outputs, a shared layer, a nested model called twice, and a skip."""
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    shared = layers.Dense(8, "relu", name="shared")
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, name="deep"), layers.LeakyReLU(name="leaky")],
        name="inner",
    )
    u, v = inner(shared(a)), inner(shared(b))
    both = layers.Add(name="add")([u, v, layers.Dropout(0.0)(u)])
    normal = layers.BatchNormalization(name="normal")(both)
    hidden = layers.Dense(5, "gelu", name="hidden")(normal)
    probability = layers.Dense(1, "sigmoid", name="probability")(hidden)
    classes = layers.Activation("softmax", name="softmax")(layers.Dense(3, name="classes")(hidden))
    return keras.Model([a, b], {"p": probability, "c": classes}, name="outer")


def data(model, count=8):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(count, *i.shape[1:])).astype("float32") for i in model.inputs]
    return x if len(x) > 1 else x[0]


def predictions(model, x):
    found = model.predict(x, verbose=0)
    return found if isinstance(found, dict) else {"": found}


def assert_same_predictions(one, other):
    x = data(one)
    expected, found = predictions(one, x), predictions(other, x)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_functional_model_is_converted_with_all_its_layers():
    model = functional()
    local = lra.keras.convert(model, RULE)
    assert_same_predictions(model, local)
    assert type(local) is type(model)
    assert [layer.name for layer in local.layers] == [layer.name for layer in model.layers]
    assert not lra.keras.is_converted(model)
    assert lra.keras.is_converted(local)

    shared, inner = local.get_layer("shared"), local.get_layer("inner")
    assert isinstance(shared, LocalDense)
    assert shared.sees_input
    assert shared.feedback is None
    assert shared.crosses_activation
    assert inner.get_layer("deep").feedback is not None
    assert isinstance(inner.get_layer("leaky"), lra.keras.layers.LocalLeakyReLU)
    assert local.get_layer("hidden").crosses_activation
    # The activations of the outputs belong to the loss.
    assert not local.get_layer("probability").crosses_activation
    assert local.get_layer("probability").feedback is not None
    assert type(local.get_layer("softmax")) is layers.Activation
    assert len(lra.keras.feedback_parameters(local)) == 4

    loss = {"p": "binary_crossentropy", "c": "sparse_categorical_crossentropy"}
    local.compile("sgd", loss)
    x = data(model)
    y = {"p": np.ones((8, 1)), "c": np.arange(8) % 3}
    before = [numpy(v) for v in local.trainable_variables]
    local.fit(x, y, verbose=0)
    moved = [
        np.abs(numpy(v) - b).max() for v, b in zip(local.trainable_variables, before, strict=True)
    ]
    assert min(moved) > 0

    plain = lra.keras.restore(local)
    assert_same_predictions(local, plain)
    assert not lra.keras.is_converted(plain)
    assert lra.keras.is_converted(local)
    assert [v.path for v in plain.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]
    assert [type(layer) for layer in plain.layers] == [type(layer) for layer in model.layers]


def test_a_published_network_is_converted_completely():
    """MobileNetV2: depthwise convolutions, batch norm, ReLU6 and skip connections."""
    model = keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=4)
    assert_same_predictions(model, assert_all_converted(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResNet50", "VGG16", "DenseNet121", "EfficientNetV2B0"])
def test_the_networks_that_the_docs_name_are_converted_completely(name):
    build = getattr(keras.applications, name)
    assert_all_converted(build(input_shape=(32, 32, 3), weights=None, classes=4))


def assert_all_converted(model):
    local = lra.keras.convert(model, RULE)
    weighted = [layer for layer in local.layers if hasattr(layer, "kernel")]
    assert len(lra.keras.feedback_parameters(local)) == len(weighted) - 1
    assert weighted[0].sees_input
    assert not any(type(layer) is layers.ReLU for layer in local.layers)
    return local


def test_a_shared_layers_update_is_the_sum_over_its_calls():
    """A layer called on two inputs gets the sum of the updates of two layers with its weights."""
    a, b = keras.Input((4,)), keras.Input((4,))
    shared, last = layers.Dense(5, "tanh"), layers.Dense(2)
    together = keras.Model([a, b], last(layers.Add()([shared(a), shared(b)])))
    one, two, other = layers.Dense(5, "tanh"), layers.Dense(5, "tanh"), layers.Dense(2)
    apart = keras.Model([a, b], other(layers.Add()([one(a), two(b)])))
    for layer in (one, two):
        layer.set_weights(shared.get_weights())
    other.set_weights(last.get_weights())
    together, apart = (lra.keras.convert(model, RULE) for model in (together, apart))
    names = [layer.name for layer in (shared, last, one, two, other)]
    shared, last, one, two, other = (
        model.get_layer(name)
        for model, name in zip([together] * 2 + [apart] * 3, names, strict=True)
    )
    other.feedback.assign(numpy(last.feedback))
    x, y = data(together), np.eye(2)[np.arange(8) % 2]
    found, expected = updates(together, x, y), updates(apart, x, y)
    total = expected[one.kernel.path] + expected[two.kernel.path]
    np.testing.assert_allclose(found[shared.kernel.path], total, atol=1e-6)


@pytest.mark.parametrize("build", ["input", "build", "unbuilt"])
def test_sequential_models_are_converted_built_or_not(build):
    found = [layers.Dense(8), layers.ReLU(), layers.Dense(7, "tanh"), layers.Dense(3)]
    model = keras.Sequential([*([keras.Input((6,))] if build == "input" else []), *found])
    if build == "build":
        model.build((None, 6))
    local = lra.keras.convert(model, RULE)
    assert isinstance(local.layers[1], LocalReLU)
    x, y = np.ones((4, 6), "float32"), np.eye(3)[[0, 1, 2, 0]]
    if build == "unbuilt":
        local.compile("sgd", "mse")
        local.fit(x, y, verbose=0)
    else:
        assert_same_predictions(model, local)
    assert [getattr(layer, "feedback", None) is not None for layer in local.layers] == [
        False, False, True, True,
    ]  # fmt: skip
    assert_same_predictions(local, lra.keras.restore(local))


def test_activation_layers_are_converted_but_not_those_at_the_output():
    model = mlp(layers.Activation("relu", name="inside"), layers.PReLU(name="slopes"))
    model.add(layers.Activation("sigmoid", name="outside"))
    local = lra.keras.convert(model, RULE)
    assert isinstance(local.get_layer("inside"), LocalActivation)
    assert isinstance(local.get_layer("slopes"), lra.keras.layers.LocalPReLU)
    assert type(local.get_layer("outside")) is layers.Activation
    # Before a reshape it still is the output; before a pooling, which mixes units, it is not.
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, "relu"), layers.Dense(4, "sigmoid"),
         layers.Reshape((2, 2))]
    )  # fmt: skip
    assert not lra.keras.convert(model, RULE).layers[1].crosses_activation
    model = keras.Sequential(
        [keras.Input((6, 1)), layers.Conv1D(4, 3, activation="relu"),
         layers.Conv1D(4, 3, activation="relu"), layers.GlobalAveragePooling1D()]
    )  # fmt: skip
    assert lra.keras.convert(model, RULE).layers[1].crosses_activation


def test_a_hidden_layer_that_is_an_output_too_is_hidden():
    x = keras.Input((6,))
    h = layers.Dense(5, "tanh", name="hidden")(x)
    local = lra.keras.convert(keras.Model(x, [h, layers.Dense(3)(h)]), RULE)
    assert local.get_layer("hidden").crosses_activation


def test_trainable_layers_below_get_an_error_and_so_feedback_above_them():
    x = keras.Input((6,))
    found = layers.Dense(3, name="last")(layers.BatchNormalization()(x))
    assert lra.keras.convert(keras.Model(x, found), RULE).get_layer("last").feedback is not None
    tokens = keras.Input((4,), dtype="int32")
    found = layers.Dense(3, name="last")(layers.Flatten()(layers.Embedding(9, 2)(tokens)))
    assert (
        lra.keras.convert(keras.Model(tokens, found), RULE).get_layer("last").feedback is not None
    )
    normal = layers.Normalization()
    normal.adapt(np.ones((4, 6)))
    model = keras.Sequential([keras.Input((6,)), normal, layers.Dense(3, name="last")])
    assert lra.keras.convert(model, RULE).get_layer("last").feedback is None
    assert lra.keras.convert(model, RULE, input_layers=()).get_layer("last").feedback is not None


def test_frozen_layers_and_models_stay_frozen():
    model = functional()
    model.get_layer("inner").trainable = False
    model.get_layer("hidden").trainable = False
    local = lra.keras.convert(model, RULE)
    assert len(local.trainable_variables) == len(model.trainable_variables) + 2
    assert not local.get_layer("inner").trainable
    assert local.get_layer("hidden").feedback is not None
    assert len(lra.keras.feedback_parameters(local)) == 2
    back = lra.keras.restore(local)
    assert len(back.trainable_variables) == len(model.trainable_variables)


def test_skip_leaves_layers_and_nested_models_on_backprop():
    local = lra.keras.convert(functional(), RULE, skip=("inner", "hidden"))
    assert type(local.get_layer("hidden")) is layers.Dense
    assert type(local.get_layer("inner").get_layer("deep")) is layers.Dense
    assert isinstance(local.get_layer("shared"), LocalDense)
    local = lra.keras.convert(functional(), RULE, skip="inner/leaky")
    assert type(local.get_layer("inner").get_layer("leaky")) is layers.LeakyReLU
    assert isinstance(local.get_layer("inner").get_layer("deep"), LocalDense)
    with pytest.raises(OptionError, match=r"unknown layer in skip 'inner/depe'.*Did you mean 'inn"):
        lra.keras.convert(functional(), RULE, skip=("inner/depe",))
    with pytest.raises(OptionError, match="unknown weight layer in input_layers 'leaky'"):
        lra.keras.convert(functional(), RULE, input_layers=("leaky",))


class Own(layers.Layer):
    def call(self, x):
        return keras.ops.tanh(x)


class OwnDense(layers.Dense):
    pass


@keras.saving.register_keras_serializable(package="tests")
class OwnModel(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


class OwnStep(keras.Model):
    def train_step(self, *args):
        return super().train_step(*args)


def test_everything_that_cannot_be_converted_is_refused_in_one_message():
    x = keras.Input((4, 6))
    h = layers.LSTM(5, return_sequences=True, name="memory")(x)
    h = layers.MultiHeadAttention(2, 3, name="attention")(h, h)
    h = keras.ops.relu(h)
    h = layers.TimeDistributed(layers.Dense(3), name="each")(h)
    h = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="ways")(h)
    h = layers.Lambda(lambda v: v * 2, name="anything")(h)
    h = Own(name="own")(h)
    h = OwnDense(3, name="owned")(h)
    h = layers.EinsumDense("abc,cd->abd", (None, 4), name="einsum")(h)
    h = layers.SeparableConv1D(3, 2, name="apart")(h)
    h = layers.Conv1DTranspose(3, 2, name="turned")(h)
    h = layers.Dense(3, activation=layers.PReLU(), name="inner_slopes")(h)
    h = layers.Dense(3, name="half", dtype="mixed_float16")(h)
    model = keras.Model(x, layers.Dense(3, name="fine")(h))
    with pytest.raises(ConversionError) as caught:
        lra.keras.convert(model, RULE)
    message = str(caught.value)
    refused = [
        *("memory (LSTM)", "attention (MultiHeadAttention)", "(Relu)", "each (TimeDistributed)"),
        *("ways (Bidirectional)", "anything (Lambda)", "own (Own)", "owned (OwnDense)"),
        *("einsum (EinsumDense)", "apart (SeparableConv1D)", "turned (Conv1DTranspose)"),
        *("inner_slopes (Dense)", "half (Dense): float16 needs a scaled loss"),
    ]
    for name in refused:
        assert name in message
    assert "fine (" not in message
    assert len(message.splitlines()) == len(refused) + 2
    assert "skip=(their names)" in message
    names = [line.split("- ")[1].split(" (")[0] for line in message.splitlines()[1:-1]]
    local = lra.keras.convert(model, RULE, skip=names)
    assert isinstance(local.get_layer("fine"), LocalDense)
    lra.keras.convert(model, lra.Backprop())


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="its inputs are dense")
def test_sparse_inputs_are_refused():
    x = keras.Input((6,), sparse=True)
    model = keras.Model(x, layers.Dense(3)(layers.Dense(4, "tanh", name="one")(x)))
    with pytest.raises(ConversionError, match=r"one \(Dense\): its input is sparse"):
        lra.keras.convert(model, RULE)


NONLINEAR = {
    "tanh": keras.ops.tanh,
    "square": keras.ops.square,
    "power": lambda h: h**3,
    "product": lambda h: h * h,
    "clip": lambda h: keras.ops.clip(h, 0.0, 6.0),
    "small clip": lambda h: keras.ops.clip(h, 0.0, 1e-6),
    "maximum": lambda h: keras.ops.maximum(h, 0.0),
    "log": keras.ops.log,
    "round": keras.ops.round,
    "rational": lambda h: 1.0 / h,
    "absolute by where": lambda h: keras.ops.where(h > 0, h, -h),
    "leaky by where": lambda h: keras.ops.where(h > 0, h, 0.1 * h),
    "leaky by maximum": lambda h: keras.ops.maximum(h, 0.1 * h),
    "leaky of a sum": lambda h: (lambda s: keras.ops.maximum(s, 0.1 * s))(h + layers.Dense(8)(h)),
    "leaky of the mean": lambda h: (lambda s: keras.ops.maximum(s, 0.1 * s))(
        h - keras.ops.mean(h, axis=-1, keepdims=True)
    ),
    "slopes": lambda h: keras.ops.maximum(h, h * np.linspace(0.1, 0.8, 8, dtype="float32")),
    "gated by a step": lambda h: h * keras.ops.cast(h > 0, "float32"),
    "clipped in parts": lambda h: keras.ops.minimum(keras.ops.maximum(h, -1.0) + 0.0, 1.0 + 0 * h),
    "silu": lambda h: h * keras.ops.sigmoid(h),
    "layers": lambda h: layers.Maximum()([h, layers.Rescaling(0.1)(h)]),
    "square of layers": lambda h: layers.Multiply()([h, h]),
}
LINEAR = {
    "sum": lambda h: h + h,
    "scale": lambda h: 2.0 * h - 1.0,
    "large": lambda h: 1e6 * (h - 0.3),
    "small": lambda h: 1e-6 * h,
    "scale each": lambda h: h * np.arange(1.0, 9.0, dtype="float32"),
    "gate": lambda h: h * layers.Dense(8)(h),
    "softmax": keras.ops.softmax,
    "reshape": lambda h: keras.ops.reshape(h, (-1, 2, 4)),
    "normalise": lambda h: h - keras.ops.mean(h, axis=-1, keepdims=True),
    "mask": lambda h: keras.ops.where(np.arange(8) > 3, h, -h),
    "sum of parts": lambda h: keras.ops.where(h > 1e9, h, 0.5 * h + h * 0.5),
    "two data": lambda h: keras.ops.where(h > 0, layers.Dense(8)(h), layers.Dense(8)(h)),
    "sum of layers": lambda h: layers.Add()([h, layers.Rescaling(0.1)(h)]),
    "product of activations": lambda h: layers.Multiply()([h, layers.Activation("sigmoid")(h)]),
}


@pytest.mark.parametrize("name", [*NONLINEAR, *LINEAR])
def test_nonlinear_operations_are_refused_and_no_others(name):
    x = keras.Input((6,))
    h = (NONLINEAR | LINEAR)[name](layers.Dense(8)(x))
    model = keras.Model(x, layers.Dense(3)(layers.Flatten()(h)))
    lra.keras.convert(model, lra.FeedbackAlignment())  # its crossing is the derivative
    if name in LINEAR:
        lra.keras.convert(model, RULE)
        return
    with pytest.raises(ConversionError, match=r"a nonlinear function of keras\.ops") as caught:
        lra.keras.convert(model, RULE)
    assert len(str(caught.value).splitlines()) == 3
    assert [each.name for each in caught.value.refused] == [
        line.split("- ")[1].split(" (")[0] for line in str(caught.value).splitlines()[1:-1]
    ]


def test_models_whose_layers_are_hidden_are_refused_with_the_remedy():
    with pytest.raises(ConversionError, match=r"OwnModel is a subclassed model.*LocalDense"):
        lra.keras.convert(OwnModel(), RULE)
    x = keras.Input((3,))
    nested = keras.Model(x, layers.Dense(2)(OwnModel(name="inner")(x)))
    with pytest.raises(ConversionError, match=r"inner \(OwnModel\): a subclassed model"):
        lra.keras.convert(nested, RULE)
    with pytest.raises(ConversionError, match=r"expected a keras\.Model, got int"):
        lra.keras.convert(3, RULE)
    if keras.backend.backend() == "torch":  # where a Keras model is a torch.nn.Module too
        with pytest.raises(ConversionError, match=r"a Keras layer; use lra\.keras\.convert"):
            lra.convert(mlp(), RULE)
    with pytest.raises(ConversionError, match="expected a rule such as"):
        lra.keras.convert(mlp(), "lra-e")
    with pytest.raises(ConversionError, match="no layer to convert"):
        lra.keras.convert(keras.Sequential([keras.Input((3,)), layers.Flatten()]), RULE)
    with pytest.raises(ConversionError, match=r"already converted: 'one'.*restore\(model\) first"):
        lra.keras.convert(lra.keras.convert(mlp(), RULE), RULE)
    for verb in (lra.keras.restore, lra.keras.feedback_parameters):
        with pytest.raises(ConversionError, match=f"{verb.__name__}: no layer of this Sequential"):
            verb(mlp())
    with pytest.raises(ConversionError, match="set_loss_terms: no layer"):
        lra.keras.set_loss_terms(mlp(), 1)
    with pytest.raises(OptionError, match="loss_terms must be one of 'batch', 'tokens'"):
        lra.keras.convert(mlp(), RULE, loss_terms="sum")


def test_a_functional_model_with_its_own_train_step_keeps_it():
    x = keras.Input((3,))
    model = OwnStep(x, layers.Dense(2)(layers.Dense(4, "tanh")(x)))
    assert type(lra.keras.convert(model, RULE)) is OwnStep


def test_subclassed_models_can_use_the_layers():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.one = LocalDense(5, "tanh", rule=RULE, sees_input=True)
            self.two = LocalDense(2, rule=RULE)

        def call(self, x):
            return self.two(self.one(x))

    model = Net()
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    assert len(lra.keras.feedback_parameters(model)) == 1
    assert lra.keras.is_converted(model)
    lra.keras.set_loss_terms(model, 2)


def test_a_compiled_model_is_converted_to_a_compiled_one():
    model = mlp()
    model.compile(keras.optimizers.AdamW(0.003), "mse", metrics=["mae"])
    local = lra.keras.convert(model, RULE)
    assert local.compiled
    assert model.compiled
    assert float(numpy(local.optimizer.learning_rate)) == pytest.approx(0.003)
    assert local.optimizer is not model.optimizer
    model.compile(Record(), lambda y, p: keras.ops.mean(p))  # a function without a config
    assert not lra.keras.convert(model, RULE).compiled
    assert model.compiled


def test_converted_and_restored_models_share_no_memory():
    model = mlp()
    local = lra.keras.convert(model, RULE)
    before = [numpy(v) for v in model.variables]
    x, y = data(model), np.eye(3)[np.arange(8) % 3]
    local.compile("sgd", "mse")
    local.fit(x, y, verbose=0)
    plain = lra.keras.restore(local)
    plain.compile("sgd", "mse")
    plain.fit(x, y, verbose=0)
    local.fit(x, y, verbose=0)
    for v, b in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(numpy(v), b)


def test_backprop_keeps_keras_gradient_to_the_bit():
    model = mlp()
    x, y = data(model), np.eye(3)[np.arange(8) % 3]
    one = by_layer(model, updates(model, x, y))
    local = lra.keras.convert(model, lra.Backprop())
    for old, new in zip(one, by_layer(local, updates(local, x, y)), strict=True):
        assert old.keys() == new.keys()
        for name in old:
            np.testing.assert_array_equal(new[name], old[name])


def run(code, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="this is the torch backend")
def test_nothing_imports_torch():
    done = run(
        "import sys, lra.keras, lra, keras\n"
        "sys.modules['torch'] = None\n"  # importing it now fails
        "m = keras.Sequential([keras.Input((3, 3, 1)), "
        "keras.layers.Conv2D(2, 2, activation='relu'), "
        "keras.layers.Flatten(), keras.layers.Dense(2)])\n"
        "m = lra.keras.convert(m, lra.LRAE())\n"
        "m.compile('sgd', 'mse'); import numpy as np\n"
        "m.fit(np.ones((4, 3, 3, 1)), np.ones((4, 2)), verbose=0)\n"
        "lra.keras.restore(m)\n"
        "names = ('torch', 'lra.torch')\n"
        "found = [n for n, m in sys.modules.items() if n.startswith(names) and m]\n"
        "assert not found, found"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["activations", "testing", "ensemble", "torch.convert"])
def test_without_torch_the_error_says_what_to_do(name):
    done = run(f"import sys; sys.modules['torch'] = None; import lra.{name}")
    assert done.returncode
    assert "needs PyTorch, which is not installed" in done.stderr.splitlines()[-1]
    assert "For Keras models use lra.keras" in done.stderr.splitlines()[-1]


def test_without_keras_or_its_backend_the_error_says_what_to_install():
    done = run("import sys; sys.modules['keras'] = None; import lra.keras")
    assert "pip install 'lra-e[keras]', and one of its backends" in done.stderr
    done = run(
        "import lra.keras",
        KERAS_BACKEND="tensorflow" if keras.backend.backend() != "tensorflow" else "torch",
    )
    assert "Keras is installed, but not its selected backend" in done.stderr


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras's NumPy backend needs jax")
def test_backends_that_only_predict_are_refused():
    done = run(
        "import lra, lra.keras, keras\n"
        "model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])\n"
        "lra.keras.convert(model, lra.LRAE())",
        KERAS_BACKEND="numpy",
    )
    assert "numpy backend does not train; set KERAS_BACKEND to one of tensorflow" in done.stderr


@pytest.mark.skipif(not hasattr(layers, "ReversibleEmbedding"), reason="this Keras has none")
def test_embeddings_in_reverse_are_refused():
    tokens = keras.Input((5,), dtype="int32")
    embedding = layers.ReversibleEmbedding(7, 4)
    hidden = layers.Dense(4, "tanh")(layers.Dense(4, "tanh")(embedding(tokens)))
    model = keras.Model(tokens, embedding(hidden, reverse=True))
    with pytest.raises(ConversionError, match="called in reverse it multiplies by its embeddings"):
        lra.keras.convert(model, lra.LRAE())
    forward = keras.Model(tokens, layers.Dense(7)(hidden))
    lra.keras.convert(keras.models.clone_model(forward), lra.LRAE())
