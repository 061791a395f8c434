"""The examples in the docstrings of lra.keras show what they print."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import lra.keras

sys.path.append(str(Path(__file__).resolve().parents[1]))
from doctests import docstrings, failures


@pytest.mark.parametrize(
    "docstring", [d for d in docstrings() if d.path.startswith("lra/keras/")], ids=str
)
def test_examples_show_what_they_print(docstring, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert failures(docstring, {"keras": keras, "np": np, "lra": lra}) == ""
