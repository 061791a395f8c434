"""Refusals: `lra.jax` loads when it is used, needs JAX alone, and says how to install it."""

import subprocess
import sys

import jax
import pytest

OTHERS = ("equinox", "flax", "keras", "optax", "torch")


def run(code, missing=()):
    """Run code in a new process where some packages cannot be imported; return what it prints."""
    hidden = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", hidden + code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tests_run_in_float64_on_two_devices():
    assert jax.numpy.ones(()).dtype == "float64"
    assert len(jax.devices()) == 2


def test_lra_jax_needs_no_other_library():
    assert "jax" in run("import lra.jax; print(lra.jax.__name__)", missing=OTHERS)


def test_lra_jax_imports_no_other_library():
    code = f"import lra.jax; print(sorted({{*sys.modules}} & {{*{OTHERS!r}}}))"
    assert run(code) == "[]\n"


def test_lra_jax_loads_when_it_is_used():
    code = "import lra; print('jax' in sys.modules); lra.jax; print('lra.jax' in sys.modules)"
    assert run(code).split() == ["False", "True"]


@pytest.mark.parametrize("code", ["import lra.jax", "import lra; lra.jax"])
def test_without_jax_the_error_has_the_command(code):
    code = f"try:\n    {code}\nexcept ImportError as error:\n    print(error)"
    assert "lra.jax needs JAX" in (message := run(code, missing=("jax",)))
    assert "pip install 'lra-e[jax]'" in message
