"""Non-finite numbers are located by the layer's name, in networks of any kind."""

import math
import re

import pytest
import torch
from workbench import tiny

import lra
from lra.lab.networks.build import build_network
from lra.lab.training.finite import find_nonfinite_weight, locate_nonfinite

MODELS: dict[str, str] = {
    "resnet": "resnet:width=4",
    "vit": "vit:width=8,depth=2,patch=4",
    "gpt": "gpt:width=8,depth=2,context=6",
}


def network(name: str, converted: bool):
    config = tiny("digits", model=MODELS[name])
    model = build_network(config, (6,) if name == "gpt" else (8, 8), 5)
    terms = "tokens" if name == "gpt" else "batch"
    return lra.convert(model, lra.LRAE(), loss_terms=terms) if converted else model


def samples(name: str) -> torch.Tensor:
    return torch.randint(0, 5, (3, 6)) if name == "gpt" else torch.rand(3, 8, 8)


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize(
    ("name", "weight", "what"),
    [
        ("resnet", "5.block.0.weight", r"layer 5\.block\.0 \(Conv2d\): its weight"),
        ("resnet", "5.block.1.bias", r"layer 5\.block\.1 \(BatchNorm2d\): its bias"),
        ("vit", "positions", r"the network \(VisionTransformer\): its positions"),
        ("vit", "blocks.1.attention.qkv.bias", r"layer blocks\.1\.attention\.qkv \(Linear\)"),
        ("gpt", "blocks.0.mlp.2.weight", r"layer blocks\.0\.mlp\.2 \(Linear\): its weight"),
        ("gpt", "embedding.weight", r"layer embedding \(Embedding\): its weight"),
    ],
)
def test_a_nonfinite_weight_is_located(name: str, weight: str, what: str, converted: bool) -> None:
    model = network(name, converted)
    parameters = dict(model.named_parameters())
    assert find_nonfinite_weight(model) is None
    with torch.no_grad():
        parameters[weight].view(-1)[1] = math.nan
        # another one in a later layer
        parameters["head.bias" if "head.bias" in parameters else "9.bias"][0] = math.inf
    assert find_nonfinite_weight(model) == weight
    message = locate_nonfinite(model, samples(name))
    assert re.match(rf"in {what}", message), message
    assert message.endswith("is no longer finite")


@pytest.mark.parametrize("name", MODELS)
def test_a_nonfinite_output_is_located(name: str) -> None:
    """All weights are finite, but the output of the last layer is not."""
    model = network(name, True)
    head = list(model.modules())[-1]
    with torch.no_grad():
        head.weight.fill_(3e38)
        head.bias.fill_(3e38)
        if hasattr(model, "norm"):
            model.norm.bias.fill_(1.0)
    message = locate_nonfinite(model, samples(name))
    path = next(path for path, module in model.named_modules() if module is head)
    assert message == f"in layer {path} (Linear): its output is no longer finite"


@pytest.mark.parametrize("name", MODELS)
def test_large_outputs_are_located(name: str) -> None:
    """All numbers are finite, so the outputs must be too large. The network keeps no hooks."""
    model = network(name, True)
    message = locate_nonfinite(model, samples(name))
    assert re.fullmatch(
        r"in layer \S+ \(Linear\): its outputs, up to \d\.\de[+-]\d\d, are too large for the loss",
        message,
    )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
