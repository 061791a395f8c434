"""Oracle: learning. Two epochs of MNIST, compared with backprop on the same network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import lra
from lra.errors import DataError
from lra.keras import recipes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def mnist():
    data = pytest.importorskip("lra.lab.data", exc_type=ImportError)
    try:
        found = data.load("mnist")
    except DataError as error:
        pytest.skip(f"MNIST is not on this machine and cannot be downloaded: {error}")
    x, x_test = (images.reshape(len(images), -1) for images in (found.x_train, found.x_test))
    return x, found.y_train, x_test, found.y_test


def accuracy(mnist, rule, epochs=2):
    keras.utils.set_random_seed(0)
    x, y, x_test, y_test = mnist
    model = recipes.MNIST.model(rule)
    model.fit(x, y, batch_size=recipes.MNIST.batch_size, epochs=epochs, verbose=0)
    return model.evaluate(x_test, y_test, batch_size=1000, verbose=0)[1]


def test_two_epochs_of_mnist_come_within_a_point_of_backprop(mnist):
    found, backprop = accuracy(mnist, lra.LRAE()), accuracy(mnist, lra.Backprop())
    print(f"{keras.backend.backend()}: LRA-E {found:.4f}, backprop {backprop:.4f}")
    assert backprop > 0.95
    assert found > backprop - 0.007


def test_the_published_setup_learns(mnist):
    assert accuracy(mnist, recipes.MNIST.rule, epochs=1) > 0.88


ROOT = Path(__file__).parent.parent.parent


def run(*arguments):
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_code_in_the_docs_learns():
    (code,) = re.findall(
        r"^## Train\n\n```python\n(.*?)```",
        (ROOT / "docs" / "guides" / "keras.md").read_text("utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    assert float(run("-c", code).split()[-1].rstrip("]")) > 0.95


@pytest.mark.usefixtures("mnist")
def test_the_example_compares_three_rules():
    found = re.findall(
        r"1 epochs: test accuracy ([\d.]+)", run("examples/keras_mnist.py", "--epochs", "1")
    )
    assert len(found) == 3
    assert min(map(float, found)) > 0.88


def test_a_fresh_adamw_at_every_step_equals_one_without_memory():
    import dataclasses

    import numpy as np

    recipe = dataclasses.replace(recipes.MNIST, fresh=True, hidden=(8,), batch_size=5)
    x, y = np.random.default_rng(0).normal(size=(15, 6)), np.arange(15) % 3
    keras.utils.set_random_seed(0)
    one = recipe.model(inputs=6, classes=3)
    keras.utils.set_random_seed(0)
    two = recipe.model(inputs=6, classes=3)
    one.fit(x, y, batch_size=5, shuffle=False, verbose=0)
    for i in range(3):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        two.compile(keras.optimizers.AdamW(recipe.step), loss)
        two.fit(x[5 * i : 5 * i + 5], y[5 * i : 5 * i + 5], batch_size=5, verbose=0, shuffle=False)
    for a, b in zip(one.trainable_variables, two.trainable_variables, strict=True):
        a, b = (keras.ops.convert_to_numpy(v.value) for v in (a, b))
        np.testing.assert_allclose(a, b, atol=1e-6)
