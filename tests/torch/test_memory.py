"""Saved tensors: an activation and the weight layer above it save one tensor, where they may.

The oracle is the step in which the weight layer saves its own input.
"""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lra
from lra.torch.ops.ops import Recompute


class Net(nn.Module):
    """An activation module and an activation function, with an operation on the output of each."""

    def __init__(self, between, inplace=False):
        super().__init__()
        self.stem, self.act = nn.Linear(6, 8), nn.ReLU(inplace)
        self.one, self.two, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.between = between

    def forward(self, x):
        z = self.between(self.act(self.stem(x)))
        z = self.between(F.gelu(self.one(z) + self.two(z)))
        return self.head(z)


BETWEEN = {
    "nothing": lambda z: z,
    "another": lambda z: 2 * z,
    "in place": lambda z: z.mul_(2),
    "under no_grad": lambda z: z.detach().mul_(2).requires_grad_(),
    "a view": lambda z: z[:, :],
}


def gradients(between, inplace, twice=False):
    torch.manual_seed(0)
    model = Net(between, inplace).double()
    x = torch.randn(5, 6).double()
    lra.convert(model, lra.LRAE(0.3), example=x)
    loss = model(x).square().mean()
    loss.backward(retain_graph=twice)
    if twice:
        loss.backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("before", [lambda h: h, lambda h: h[:, :6], lambda h: h.view(-1)[:30]])
def test_an_in_place_activation_equals_the_plain_one(before):
    class Activated(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.stem, self.act = nn.Linear(6, 8), nn.ELU(inplace=inplace)

        def forward(self, x):
            part = before(self.stem(x))
            z = self.act(part)
            assert (part is z or part.equal(z)) == self.act.inplace
            return z

    outputs = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = lra.convert(Activated(inplace).double(), lra.LRAE(0.3))
        z = model(torch.randn(5, 6).double())
        z.square().mean().backward()
        outputs.append((z.detach(), model.stem.weight.grad))
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_recomputed_inputs_give_the_same_updates(between, inplace, twice, monkeypatch):
    found = gradients(between, inplace, twice)
    monkeypatch.setattr(Recompute, "of", staticmethod(lambda z: None))
    expected = gradients(between, inplace, twice)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_the_output_of_an_activation_is_not_saved():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    lra.convert(model, lra.LRAE(0.3))
    h = model[0](torch.randn(5, 6))
    z = model[1](h)
    out, reference = model[2](z), weakref.ref(z)
    del z
    gc.collect()
    assert reference() is None
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_no_tensor_is_held_after_a_step():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x):
            h = self.stem(x)
            F.relu(h, inplace=True)
            return self.head(h)

    model, x = InPlace(), torch.randn(5, 6)
    lra.convert(model, lra.LRAE(0.3), example=x)
    gc.disable()
    try:
        model(x).sum().backward()
        held = []
        model.stem.register_forward_hook(lambda m, i, o: held.append(weakref.ref(o)))
        model(x).sum().backward()
        assert held[0]() is None
    finally:
        gc.enable()
