"""The examples in docstrings show what they print; tests/{jax,keras} run those of their modules."""

import re
from unittest.mock import patch

import pytest

from doctests import ROOT, Docstring, docstrings, failures
from lra.torch import registry
from lra.torch.compiled import available

IMPORTS = re.search(
    r"^```python\n(.*?)^```$", (ROOT / "docs/api/index.md").read_text("utf-8"), re.DOTALL | re.M
)[1]
"""The lines that the API reference names for all examples."""

SLOW = {  # they start processes
    "lra/lab/comparison/api.py::compare",
    "lra/lab/comparison/api.py::tune",
}

DOCSTRINGS = docstrings()

EXAMPLES = [
    pytest.param(each, id=str(each), marks=[pytest.mark.slow] * (str(each) in SLOW))
    for each in DOCSTRINGS
    if not each.path.startswith(("lra/jax/", "lra/keras/"))
]


@pytest.fixture
def names(tmp_path, monkeypatch):
    """Return the names that examples assume, in an empty folder and with tables of their own."""
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(IMPORTS, found)
    with patch.dict(registry.WEIGHT_LAYERS), patch.dict(registry.ACTIVATIONS):
        yield found


@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'>")  # from torch
@pytest.mark.parametrize("docstring", EXAMPLES)
def test_examples_show_what_they_print(docstring, names):
    if docstring.name == "compile_step" and not available():
        pytest.skip("this torch cannot compile a backward pass")
    assert failures(docstring, names) == ""


def test_slow_examples_exist():
    assert {str(each) for each in DOCSTRINGS} >= SLOW


@pytest.mark.parametrize(
    ("text", "found"), [("1 + 1\n    2", ""), ("1 + 1\n    3", "Expected"), ("1 / 0", "ZeroDiv")]
)
def test_a_wrong_example_is_found(text, found):
    shown = failures(Docstring("lra/axis.py", "f", f"Return x.\n\n    >>> {text}\n", 0), {})
    assert found in shown
    assert bool(shown) == bool(found)


def test_examples_of_every_kind_of_docstring_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("doctests.SOURCE", tmp_path)
    (tmp_path / "a.py").write_text(
        '"""M.\n\n>>> 1\n1\n"""\n\n\nclass C:\n    """C."""\n\n    def f(self):\n'
        '        """F.\n\n        >>> 1\n        1\n        """\n\n\n'
        'X = 1\n"""X.\n\n>>> 1\n1\n"""\n'
    )
    assert [each.name for each in docstrings(tmp_path)] == ["", "C.f", ""]
