"""Products on the way back: those that backprop makes, by oneDNN where that is faster."""

import copy
import math

import pytest
import torch
from nets import taken
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import lra
from lra.torch import products

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch without oneDNN"
)


@pytest.fixture
def made(monkeypatch):
    """Have a processor on which oneDNN is faster, one thread, and tell which products it makes."""
    monkeypatch.setattr(products, "available", lambda: True)
    monkeypatch.setattr(products, "EAGER", 2**20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    found, multiply = [], products._multiply

    def record(a, b, bias):
        found.append((*a.shape, b.shape[1]))
        return multiply(a, b, bias)

    monkeypatch.setattr(products, "_multiply", record)
    return found


@needs_onednn
@pytest.mark.parametrize("a", ["as it lies", "transposed", "a part", "one row for all"])
@pytest.mark.parametrize("b", ["as it lies", "transposed", "a part", "a parameter"])
def test_products_of_any_layout(a, b, made):
    def matrix(kind, rows, columns):
        return {
            "as it lies": torch.randn(rows, columns),
            "transposed": torch.randn(columns, rows).t(),
            "a part": torch.randn(rows + 3, 2 * columns)[3:, ::2],
            "one row for all": torch.randn(1, columns).expand(rows, columns),
            "a parameter": nn.Parameter(torch.randn(rows, columns)),
        }[kind]

    one, other = matrix(a, 96, 80), matrix(b, 80, 144)
    with torch.no_grad():
        found = products.multiply(one, other)
    assert made == [(96, 80, 144)]
    torch.testing.assert_close(found.double(), one.double() @ other.double(), rtol=1e-4, atol=1e-4)


class Labelled(torch.Tensor):
    """A tensor of a class of its own."""


LEFT = {
    "small": lambda a, b: (a[:50], b),
    "thin": lambda a, b: (a.repeat(1, 64), b.repeat(64, 1)[:, :3]),
    "double precision": lambda a, b: (a.double(), b.double()),
    "half precision": lambda a, b: (a.bfloat16(), b.bfloat16()),
    "copied for few columns": lambda a, b: (a.t().contiguous().t(), b[:, :120]),
    "another class": lambda a, b: (a.as_subclass(Labelled), b),
    "no storage": lambda a, b: (a.to("meta"), b.to("meta")),
}


@needs_onednn
@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_what_torch_multiplies(left, made):
    a, b = torch.randn(128, 80), torch.randn(80, 128)
    one, other = left(a, b)
    found = products.multiply(one, other)
    assert made == []
    assert found.shape == (one @ other).shape
    assert found.is_meta or torch.equal(found, one @ other)
    products.multiply(a, b)
    assert made == [(128, 80, 128)]


@needs_onednn
def test_transforms_see_torchs_products(made):
    a, b = torch.randn(2, 128, 80), torch.randn(80, 128)
    torch.testing.assert_close(torch.vmap(products.multiply, (0, None))(a, b), a @ b)
    assert made == []


@needs_onednn
def test_threads_share_a_product(made, monkeypatch):
    """And one alone copies a transposed factor, while the others wait."""
    a, b = torch.randn(80, 128).t(), torch.randn(80, 220)
    products.multiply(a, b)
    assert len(made) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    products.multiply(a, b)
    assert len(made) == 1
    products.multiply(a.contiguous(), b)
    assert len(made) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    products.multiply(a.contiguous(), b)
    assert len(made) == 2


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(160, 144), nn.Tanh(), nn.Linear(144, 128), nn.Tanh(), nn.Linear(128, 10))
    )


@needs_onednn
@pytest.mark.parametrize("tokens", [False, True])
def test_a_networks_way_back(tokens, made, monkeypatch):
    """Large ones, down and for the updates, that of the layer which sees the input too."""
    model = lra.convert(perceptron(), lra.LRAE(), loss_terms=64)
    x, t = torch.randn(64, 160), torch.randint(10, (64,))
    x = x.view(4, 16, 160) if tokens else x

    def updates():
        model.zero_grad()
        F.cross_entropy(model(x).view(64, 10), t).backward()
        return taken(model)

    ours = updates()
    assert made == [(64, 128, 144), (128, 64, 144), (144, 64, 160)]
    monkeypatch.setattr(products, "available", lambda: False)
    torchs = updates()
    assert len(made) == 3
    for name, update in torchs.items():
        assert (ours[name] - update).norm() <= 1e-6 * update.norm(), name


class Conv1D(nn.Module):
    """A linear layer with its weight the other way round, as in GPT-2."""

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
    "by rows": lambda: Conv1D(lambda z, W, b: F.linear(z, W.t(), b)),
}


@pytest.mark.parametrize("rule", [lra.LRAE(), lra.FeedbackAlignment()], ids=lambda rule: rule.name)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_no_more_products_than_backprops(build, rule):
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


@needs_onednn
def test_who_counts_sees_torchs_products(made):
    """Counters of operations and tracers know torch's products, and nobody's own."""
    model = lra.convert(perceptron(), lra.LRAE())
    loss = F.cross_entropy(model(torch.randn(64, 160)), torch.randint(10, (64,)))
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    sizes = [160 * 144, 2 * 144 * 128, 2 * 128 * 10]
    assert made == []
    assert counter.get_total_flops() == 2 * 64 * math.fsum(sizes)


def test_what_sees_the_input_refuses_an_error_inside_a_run_too():
    model = lra.convert(perceptron(), lra.LRAE())
    with pytest.raises(lra.errors.RuleError, match="raw input"):
        model(torch.randn(64, 160, requires_grad=True))
    with pytest.raises(lra.errors.RuleError, match="without a batch"):
        model(torch.randn(160))
