"""Models of other libraries, as they are: every weight and unit follows the rule, in its limit.

The oracle is backprop's gradient: with E = W and the normalised target difference, each parameter's
update comes to it as beta falls; with any other E, every parameter below a weight moves otherwise.
benchmarks/reach.py holds some four hundred models to the same; these few keep it true.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import reach

MODELS = [
    ("hf", "gpt2"),  # Conv1D, weights tied to the embedding
    ("hf", "bert"),
    ("hf", "mixtral"),  # experts: indexed weights
    ("hf", "gpt-oss"),
    ("hf", "llama"),
    ("hf", "t5"),
    ("hf", "xlnet"),  # einsum
    ("hf", "mamba"),  # exponentials, a scan
    ("hf", "deberta"),
    ("hf", "wav2vec2-bert"),  # looked up positions that are multiplied with
    ("pyg", "GATConv"),
    ("pyg", "SAGEConv"),
    ("torch", "LSTM, packed"),
    ("torch", "Transformer"),
    ("timm", "beit"),
    ("timm", "efficientnet"),
    ("timm", "nfnet"),  # standardised weights
    ("timm", "swin_transformer_v2"),
]


@pytest.fixture(autouse=True)
def _default_dtype():
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.mark.filterwarnings("ignore")  # of these libraries
@pytest.mark.parametrize(("library", "name"), MODELS, ids=str)
def test_a_model_as_it_is(library, name):
    if library == "timm" and importlib.util.find_spec("timm") is None:
        pytest.skip("timm asks for torchvision: pip install --no-deps timm")
    row = reach.scaled(library, name, 1.0, False)
    assert row["share"] == 1.0
    assert row["activations"] == 1.0
    assert reach.verdict(row).startswith("reached"), reach.verdict(row)
