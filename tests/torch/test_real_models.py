"""Unchanged models of other libraries: errors cross every weight and activation by the rule.

The oracle is backprop's gradient: with E = W and the normalised target difference, each parameter's
update tends to it as beta falls; with random E, each parameter below a weight layer has another
update. benchmarks/reach.py applies the same test to some four hundred models.
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
    ("hf", "wav2vec2-bert"),  # products with position embeddings
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


@pytest.mark.filterwarnings("ignore")  # from these libraries
@pytest.mark.parametrize(("library", "name"), MODELS, ids=str)
def test_models_of_other_libraries(library, name):
    if library == "timm" and importlib.util.find_spec("timm") is None:
        pytest.skip("timm requires torchvision: pip install --no-deps timm")
    row = reach.scaled(library, name, 1.0, False)
    assert row["share"] == 1.0
    assert row["activations"] == 1.0
    assert reach.verdict(row).startswith("reached"), reach.verdict(row)
