"""Oracle: machinery. Saving, export, callbacks, a killed process, precision, replicas."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from keras_nets import numpy, updates

import lra
import lra.keras
from lra.errors import ConversionError

RULE = lra.LRAE(beta=0.3)
BACKEND = keras.backend.backend()


def net(rule=RULE, policy=None, optimizer=None):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(4, 3, activation="relu", dtype=policy),
         layers.Conv2D(4, 3, activation="tanh", dtype=policy),
         layers.DepthwiseConv2D(3, padding="same", activation="relu", dtype=policy),
         layers.Flatten(dtype=policy),
         layers.Dense(16, dtype=policy), layers.PReLU(dtype=policy),
         layers.Dense(3, dtype=policy)]
    )  # fmt: skip
    local = lra.keras.convert(model, rule)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    local.compile(optimizer or keras.optimizers.AdamW(0.01), loss, metrics=["accuracy"])
    local.optimizer.build(local.trainable_variables)
    return local


def data(count=64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 6, 6, 1)).astype("float32")
    return x, np.eye(3, dtype="float32")[(x.sum((1, 2, 3)) > 0).astype(int)]


def weights(model):
    return {v.path: numpy(v) for v in model.variables}


def assert_same(one, other):
    pairs = zip(one.variables, other.variables, strict=True)
    for old, new in pairs:
        np.testing.assert_array_equal(numpy(new), numpy(old))


RULES = [RULE, lra.FeedbackAlignment(), lra.SignSymmetry("fixed"), lra.SignSymmetry("batch")]


@pytest.mark.parametrize("rule", RULES, ids=["lra-e", "fa", "frsf", "brsf"])
def test_a_saved_model_keeps_its_feedback_and_continues_with_the_same_numbers(tmp_path, rule):
    x, y = data()
    model = net(rule)
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in model.layers]
    assert loaded.layers[1].rule == rule
    assert_same(model, loaded)
    for either in (model, loaded):
        either.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    assert_same(model, loaded)
    assert_same(lra.keras.restore(model), lra.keras.restore(loaded))


def test_weights_alone_are_saved_with_the_feedback(tmp_path):
    x, y = data()
    model, other = net(), net()
    model.fit(x, y, verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same(model, other)


def test_settings_survive_the_round_trip(tmp_path):
    rule = lra.LRAE(
        0.2, 0.5, 2.0, lra.crossing.Cauchy(), lra.crossing.TanhSurrogate(), lra.inits.Normal(1.0)
    )
    x = keras.Input((4,))
    h = layers.Dense(5, "tanh", name="one")(x)
    model = keras.Model(x, layers.Dense(2, "sigmoid", name="two")(h))
    local = lra.keras.convert(model, rule, loss_terms=7.0)
    local.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for name in ("one", "two"):
        one, two = local.get_layer(name), loaded.get_layer(name)
        assert one.rule == two.rule == rule
        assert two.loss_terms == 7.0
        assert (one.sees_input, one.crosses_activation) == (two.sees_input, two.crosses_activation)


def test_the_exported_model_predicts_the_same(tmp_path):
    x, y = data()
    model = net()
    model.fit(x, y, verbose=0)
    expected = model.predict(x, verbose=0)
    np.testing.assert_array_equal(lra.keras.restore(model).predict(x, verbose=0), expected)
    if BACKEND != "torch":
        tf = pytest.importorskip("tensorflow", reason="Keras exports from JAX through TensorFlow")
        model.export(tmp_path / "saved", verbose=False)
        saved = tf.saved_model.load(tmp_path / "saved")
        found = saved.serve(x).numpy()
    else:
        import torch

        with _quiet():
            sizes = {0: torch.export.Dim("batch", min=1, max=128)}  # Keras's own default is 1
            path = tmp_path / "model.pt2"
            model.export(path, format="torch", verbose=False, dynamic_shapes=sizes)
            program = torch.export.load(tmp_path / "model.pt2")
        found = program.module()(torch.as_tensor(x)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def _quiet():
    import warnings

    return warnings.catch_warnings(action="ignore")


def test_early_stopping_checkpoints_and_the_log(tmp_path):
    x, y = data()
    model = net()
    best, log = tmp_path / "best.keras", tmp_path / "log.csv"
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    history = model.fit(
        x,
        y,
        batch_size=16,
        epochs=60,
        validation_data=(x[:20], 1 - y[:20]),  # learning makes it worse, so training stops early
        callbacks=[
            stop,
            keras.callbacks.ModelCheckpoint(best, "val_loss", save_best_only=True),
            keras.callbacks.CSVLogger(log),
        ],
        verbose=0,
    )
    epochs = len(history.history["loss"])
    assert 1 < epochs < 60
    assert stop.stopped_epoch == epochs - 1
    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert len(rows) == epochs
    assert float(rows[0]["loss"]) == pytest.approx(history.history["loss"][0], rel=1e-5)
    loaded = keras.saving.load_model(best)
    assert [numpy(v).shape for v in loaded.variables] == [numpy(v).shape for v in model.variables]
    for old, new in zip(model.trainable_variables, loaded.trainable_variables, strict=True):
        np.testing.assert_array_equal(numpy(new), numpy(old))  # the best weights, both


TRAINING = """
import os, signal, sys
import keras, numpy as np
sys.path.insert(0, {tests!r})
from test_keras_machinery import data, net
folder, kill_at = sys.argv[1], int(sys.argv[2])
keras.utils.set_random_seed(0)
x, y = data()
model = net()

class Kill(keras.callbacks.Callback):
    steps = 0
    def on_train_batch_end(self, batch, logs=None):
        Kill.steps += 1
        if Kill.steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

backup = keras.callbacks.BackupAndRestore(folder, save_freq={save!r}, delete_checkpoint=False)
model.fit(x, y, batch_size=16, epochs=4, shuffle=False, verbose=0, callbacks=[backup, Kill()])
model.save_weights(sys.argv[3])
"""


def test_a_killed_run_resumes_from_its_backup(tmp_path):
    script = TRAINING.format(tests=str(Path(__file__).parent), save="epoch")

    def train(folder, kill_at, result):
        return subprocess.run(
            [sys.executable, "-c", script, tmp_path / folder, str(kill_at), tmp_path / result],
            capture_output=True,
            text=True,
            timeout=200,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    assert train("whole", 0, "whole.weights.h5").returncode == 0
    killed = train("killed", 10, "never.weights.h5")  # in the third epoch of four steps each
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "never.weights.h5").exists()
    resumed = train("killed", 0, "resumed.weights.h5")
    assert resumed.returncode == 0, resumed.stderr
    one, two = net(), net()
    one.load_weights(tmp_path / "whole.weights.h5")
    two.load_weights(tmp_path / "resumed.weights.h5")
    assert_same(one, two)


def test_mixed_bfloat16_crosses_in_float32():
    x, y = data(32)
    full = updates(net(), x, y)
    half = updates(net(policy="mixed_bfloat16"), x, y)
    for (name, one), two in zip(full.items(), half.values(), strict=True):
        assert two.dtype == np.float32
        distance = np.linalg.norm(two - one) / np.linalg.norm(one)
        assert distance < 0.06, name
    model = net(policy="mixed_bfloat16")
    before = model.evaluate(x, y, verbose=0)[0]
    model.fit(x, y, epochs=20, verbose=0)
    assert model.evaluate(x, y, verbose=0)[0] < 0.8 * before


def test_float16_is_refused_with_the_reason():
    for policy in ("mixed_float16", "float16"):
        with pytest.raises(ConversionError, match=r"float16 needs a scaled loss.*mixed_bfloat16"):
            net(policy=policy)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(ConversionError, match="float16 needs a scaled loss"):
            lra.keras.convert(keras.Sequential([keras.Input((3,)), layers.Dense(2)]), RULE)
    finally:
        keras.config.set_dtype_policy("float32")


def test_fit_learns():
    x, y = data(256)
    model = net()
    history = model.fit(x, y, batch_size=32, epochs=20, verbose=0).history
    assert history["accuracy"][-1] > 0.9
    assert history["accuracy"][0] < 0.8


def test_a_custom_training_loop_gets_the_updates_of_fit():
    x, y = data(16)
    model, loss = net(), keras.losses.CategoricalCrossentropy(from_logits=True)
    expected = updates(net(), x, y)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        found = tape.gradient(value, model.trainable_variables)
    elif BACKEND == "jax":
        import jax

        def value_of(trainable, rest):
            return loss(y, model.stateless_call(trainable, rest, x, training=True)[0])

        trainable, rest = (
            [v.value for v in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )
        found = jax.grad(value_of)(trainable, rest)
    else:
        loss(keras.ops.convert_to_tensor(y), model(x, training=True)).backward()
        found = [v.value.grad for v in model.trainable_variables]
    for one, update in zip(found, expected.values(), strict=True):
        size = np.abs(update).max()
        assert size > 1e-6
        np.testing.assert_allclose(keras.ops.convert_to_numpy(one), update, atol=1e-2 * size)


def compiled(model, optimizer=None, loss="mse", **options):
    model.compile(optimizer=optimizer or keras.optimizers.SGD(0.5), loss=loss, **options)
    return model


@pytest.mark.skipif(BACKEND != "tensorflow", reason="its MirroredStrategy")
def test_replicas_share_one_batch():
    code = (
        "import tensorflow as tf\n"
        "cpus = tf.config.list_physical_devices('CPU')\n"
        "two = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "tf.config.set_logical_device_configuration(cpus[0], two)\n"
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import keras, numpy as np, lra, lra.keras\n"
        "from test_keras_machinery import data, net, weights\n"
        "x, y = data(32)\n"
        "sgd = lambda: keras.optimizers.SGD(0.5)\n"
        "one = net(optimizer=sgd())\n"
        "one.fit(x, y, batch_size=32, verbose=0, shuffle=False)\n"
        "with tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1']).scope():\n"
        "    two = net(optimizer=sgd())\n"
        "    two.fit(x, y, batch_size=32, verbose=0, shuffle=False)\n"
        "for a, b in zip(one.trainable_variables, two.trainable_variables):\n"
        "    np.testing.assert_allclose(np.array(b.value), np.array(a.value), atol=2e-6)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("way", ["fit", "train_on_batch"])
def test_one_seed_gives_the_same_bits_every_time(way):
    """600 steps, three times, on several threads: E is read before it is updated."""
    code = (
        "import sys, keras, numpy as np, lra, lra.keras\n"
        "from keras import layers\n"
        "rng = np.random.default_rng(0)\n"
        "x = rng.normal(size=(3000, 32)).astype('float32')\n"
        "y = rng.integers(0, 10, len(x))\n"
        "def train():\n"
        "    keras.utils.clear_session()\n"
        "    keras.utils.set_random_seed(0)\n"
        "    hidden = [layers.Dense(64, 'tanh') for _ in range(4)]\n"
        "    net = keras.Sequential([keras.Input((32,)), *hidden, layers.Dense(10)])\n"
        "    net = lra.keras.convert(net, lra.KolenPollack())\n"
        "    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)\n"
        "    net.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)\n"
        "    if sys.argv[1] == 'fit':\n"
        "        net.fit(x, y, batch_size=50, epochs=10, shuffle=False, verbose=0)\n"
        "    else:\n"
        "        for step in range(600):\n"
        "            some = slice(step * 50 % 3000, step * 50 % 3000 + 50)\n"
        "            net.train_on_batch(x[some], y[some])\n"
        "    return [keras.ops.convert_to_numpy(v) for v in net.trainable_variables]\n"
        "first = train()\n"
        "for _ in range(2):\n"
        "    for a, b in zip(first, train()):\n"
        "        np.testing.assert_array_equal(a, b)\n"
    )
    threads = {"TF_NUM_INTEROP_THREADS": "4", "TF_NUM_INTRAOP_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, way],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | threads,
    )
    assert done.returncode == 0, done.stderr[-2000:]


COMPILING = {
    "dense": "[keras.Input((6,)), L.Dense(8, 'tanh'), L.Dense(8, 'tanh'), L.Dense(3)]",
    "conv": "[keras.Input((6, 1)), L.Conv1D(4, 3, activation='relu'), L.PReLU(),"
    " L.DepthwiseConv1D(3, activation='tanh'), L.Flatten(), L.Dense(3)]",
    "mixed precision": "[keras.Input((6,)), L.Dense(8, 'tanh', dtype='mixed_bfloat16'), L.PReLU(),"
    " L.Dense(8, 'relu', dtype='mixed_bfloat16'), L.Dense(3)]",
}


@pytest.mark.skipif(BACKEND != "tensorflow", reason="its jit_compile")
@pytest.mark.parametrize("kind", COMPILING)
def test_jit_compiles_the_step_once(tmp_path, kind):
    """XLA writes one file for each module that it compiles."""
    code = (
        "import keras, numpy as np, lra, lra.keras\n"
        "from keras import layers as L\n"
        f"net = lra.keras.convert(keras.Sequential({COMPILING[kind]}), lra.LRAE())\n"
        "net.compile('sgd', 'mse', jit_compile=True)\n"
        "net.fit(np.ones((40,) + net.input_shape[1:]), np.ones((40, 3)), batch_size=8, verbose=0)\n"
    )
    flags = {"XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | flags,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(tmp_path.glob("*before_optimizations.txt"))) == 1


@pytest.mark.skipif(BACKEND == "torch", reason="it runs eagerly")
@pytest.mark.parametrize("jit_compile", [True] if BACKEND == "jax" else [True, False])
def test_steps_after_the_first_trace_nothing(jit_compile):
    calls = []

    def counted(h):
        calls.append(h)
        return keras.ops.tanh(h)

    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, counted), layers.Dense(2)])
    model = lra.keras.convert(model, RULE)
    x, y = np.ones((8, 4), "float32"), np.ones((8, 2), "float32")
    compiled(model, jit_compile=jit_compile).fit(x, y, batch_size=4, verbose=0)
    calls.clear()
    model.fit(x, y, batch_size=4, epochs=3, verbose=0)
    assert not calls


@pytest.mark.skipif(BACKEND != "torch", reason="the other side is lra.torch")
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_the_updates_equal_those_of_lra_torch(kind):
    import torch

    rng = np.random.default_rng(0)
    if kind == "dense":
        ours = keras.Sequential(
            [keras.Input((6,)), layers.Dense(8, "tanh"), layers.Dense(7, "relu"), layers.Dense(3)]
        )
        theirs = torch.nn.Sequential(
            torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 7), torch.nn.ReLU(),
            torch.nn.Linear(7, 3),
        )  # fmt: skip
        x = rng.normal(size=(16, 6)).astype("float32")
        turn = (1, 0)
    else:
        ours = keras.Sequential(
            [keras.Input((9, 9, 2)), layers.Conv2D(4, 3, activation="tanh", strides=2),
             layers.Conv2D(6, 3, activation="tanh", groups=2),
             layers.Conv2D(3, 2, name="last"), layers.GlobalAveragePooling2D()]
        )  # fmt: skip
        theirs = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, stride=2), torch.nn.Tanh(), torch.nn.Conv2d(4, 6, 3, groups=2),
            torch.nn.Tanh(), torch.nn.Conv2d(6, 3, 2), torch.nn.Flatten(2),
        )  # fmt: skip
        x = rng.normal(size=(16, 9, 9, 2)).astype("float32")
        turn = (3, 2, 0, 1)
    y = rng.integers(0, 3, 16)
    rule = lra.LRAE(beta=0.3, gamma=0.7)
    ours = lra.keras.convert(ours, rule)
    lra.convert(theirs, rule)
    weighted = [m for m in theirs if hasattr(m, "weight")]
    local = [layer for layer in ours.layers if hasattr(layer, "kernel")]
    with torch.no_grad():
        for m, layer in zip(weighted, local, strict=True):
            m.weight.copy_(torch.tensor(numpy(layer.kernel).transpose(turn)))
            m.bias.copy_(torch.tensor(numpy(layer.bias)))
            assert (m.feedback is None) == (layer.feedback is None)
            if m.feedback is not None:
                m.feedback.copy_(torch.tensor(numpy(layer.feedback).transpose(turn)))
    found = updates(ours, x, y, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logits = theirs(torch.tensor(x if kind == "dense" else x.transpose(0, 3, 1, 2).copy()))
    logits = logits if kind == "dense" else logits.mean(2)
    torch.nn.functional.cross_entropy(logits, torch.tensor(y)).backward()
    for m, layer in zip(weighted, local, strict=True):
        for name, parameter in (("kernel", m.weight), ("feedback", m.feedback)):
            if parameter is not None:
                update = found[getattr(layer, name).path].transpose(turn)
                np.testing.assert_allclose(update, parameter.grad.numpy(), atol=1e-6)
                assert np.abs(update).max() > 1e-3
        np.testing.assert_allclose(found[layer.bias.path], m.bias.grad.numpy(), atol=1e-6)


@pytest.mark.skipif(BACKEND != "torch", reason="other backends compile the step to one function")
def test_training_frees_its_graphs_like_keras():
    import gc

    import torch

    kinds = (torch.Tensor, torch.autograd.graph.Node)
    x, y = data(16)

    def growth(model):
        counts = []
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                model.fit(x, y, verbose=0)
                counts.append(sum(issubclass(type(o), kinds) for o in gc.get_objects()))
        finally:
            gc.enable()
        return counts[-1] - counts[1]

    model = net()
    assert growth(model) <= 2 * max(growth(lra.keras.restore(model)), 10)


def test_weights_of_another_layer_are_refused(tmp_path):
    for file, bias in (("with", True), ("without", False)):
        model = keras.Sequential(
            [keras.Input((6, 6, 2)), layers.Conv2D(2, 3), layers.DepthwiseConv2D(3, use_bias=bias)]
        )
        local = lra.keras.convert(model, RULE)
        local.save_weights(tmp_path / f"{file}.weights.h5")
    with pytest.raises(ValueError, match="expected 1 variables, but received 2"):
        local.load_weights(tmp_path / "with.weights.h5")
