"""Oracle: learning. The examples of lra.jax run without warnings and reach an accuracy."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lra.errors import DataError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
data = pytest.importorskip("lra.lab.data", exc_type=ImportError)


def run(example, *options):
    """Run an example and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", f"examples/{example}.py", *options],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("rule", ["lra-e", "direct-feedback-alignment"])
def test_mnist_learns_in_an_epoch(rule):
    try:
        data.load("mnist")
    except DataError as error:
        pytest.skip(f"MNIST is not on this machine and cannot be downloaded: {error}")
    printed = run("jax_mnist", "--rule", rule, "--epochs", "1")
    valid, test = map(float, re.findall(r"accuracy ([\d.]+)%", printed))
    assert min(valid, test) > 90.0


def test_a_transformer_predicts_characters():
    pytest.importorskip("flax")
    printed = run("jax_transformer", "--steps", "60")
    assert "100% of the parameters follow the rule" in printed
    (accuracy,) = map(float, re.findall(r"accuracy ([\d.]+)%", printed))
    # Spaces alone, the most frequent characters, are 30% of the test text.
    assert accuracy > 33.0


def test_the_table_has_a_row_for_each_beta():
    printed = run("jax_many_seeds", "--seeds", "2", "--epochs", "10")
    found = re.findall(r"\| ([\d.]+) \| ([\d.]+) ± ([\d.]+) \|", printed)
    means = {float(beta): float(mean) for beta, mean, _ in found}
    assert len(means) == 6
    assert means[0.1] > 92.0
    assert means[100.0] < means[0.1]  # targets far from h: each row has the beta that it names
