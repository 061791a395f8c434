"""The examples in the docstrings of lra.jax show what they print."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lra.jax

sys.path.append(str(Path(__file__).resolve().parents[1]))
from doctests import docstrings, failures


@pytest.mark.parametrize(
    "docstring", [d for d in docstrings() if d.path.startswith("lra/jax/")], ids=str
)
def test_examples_show_what_they_print(docstring, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert failures(docstring, {"jax": jax, "jnp": jnp, "np": np, "lra": lra}) == ""
