"""Machinery: the backward pass of a rule costs no more matrix products than backprop's."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import lra


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(160, 144), nn.Tanh(), nn.Linear(144, 128), nn.Tanh(), nn.Linear(128, 10))
    )


class Conv1D(nn.Module):
    """A linear layer with a transposed weight, as in GPT-2."""

    def __init__(self, product) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, 24) / 6)
        self.bias = nn.Parameter(torch.zeros(24))
        self.product = product

    def forward(self, z):
        return self.product(z, self.weight, self.bias)


MODELS = {
    "layers": lambda: nn.Linear(32, 24),
    "addmm": lambda: Conv1D(lambda z, W, b: torch.addmm(b, z, W)),
    "matmul": lambda: Conv1D(lambda z, W, b: z @ W + b),
    "linear": lambda: Conv1D(lambda z, W, b: F.linear(z, W.t(), b)),
}


@pytest.mark.parametrize("rule", [lra.LRAE(), lra.FeedbackAlignment()], ids=lambda rule: rule.name)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_rules_cost_the_products_of_backprop(build, rule):
    x = torch.randn(16, 20)
    plain = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), build(), nn.Tanh(), nn.Linear(24, 10))
    ours = lra.convert(copy.deepcopy(plain), rule, example=x)
    counts = []
    for model in (plain, ours):
        loss = F.cross_entropy(model(x), torch.arange(16) % 10)
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 2 * 16 * (20 * 32 + 2 * 32 * 24 + 2 * 24 * 10)


def test_flop_counters_count_the_backward_pass():
    model = lra.convert(perceptron(), lra.LRAE())
    loss = F.cross_entropy(model(torch.randn(64, 160)), torch.randint(10, (64,)))
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    sizes = [160 * 144, 2 * 144 * 128, 2 * 128 * 10]
    assert counter.get_total_flops() == 2 * 64 * math.fsum(sizes)


def test_fused_layers_check_the_input_of_the_first():
    model = lra.convert(perceptron(), lra.LRAE())
    with pytest.raises(lra.errors.RuleError, match="raw input"):
        model(torch.randn(64, 160, requires_grad=True))
    with pytest.raises(lra.errors.RuleError, match="without a batch"):
        model(torch.randn(160))
