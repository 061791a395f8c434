"""Learning: short trainings on the bundled digits, with a floor or a ceiling on test accuracy."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lra
from lra.lab.data import load


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    arrays = (data.x_train, data.y_train, data.x_test, data.y_test)
    x, y, x_test, y_test = map(torch.from_numpy, arrays)
    return x.flatten(1), y, x_test.flatten(1), y_test


def network(rule: lra.Rule) -> nn.Sequential:
    model = nn.Sequential(
        nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)
    )
    return lra.convert(model, rule, example=torch.zeros(2, 64))


def accuracy(model, digits, epochs: int = 12) -> float:
    """Train on the training pair, and give the share of the test pair that is right."""
    x, y, x_test, y_test = digits
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return (model(x_test).argmax(1) == y_test).double().mean().item()


@pytest.mark.parametrize("name", lra.RULES)
def test_every_named_rule_learns(name, digits):
    assert accuracy(network(lra.named(name)), digits) > 0.93


def behind_a_fixed_head(share: float) -> nn.Sequential:
    """A net whose hidden layers alone can learn, from errors sent down through E = share W."""
    model = network(lra.LRAE(gamma=0.0))
    with torch.no_grad():
        for layer in (model[2], model[4]):
            layer.feedback.copy_(share * layer.weight)
    head = model[-1]
    head.weight.requires_grad_(False)
    head.bias.requires_grad_(False)
    return model


def test_hidden_layers_learn_by_what_feedback_carries(digits):
    model = behind_a_fixed_head(share=1.0)
    assert accuracy(model, digits) > 0.85


def test_nothing_is_learned_where_feedback_carries_nothing(digits):
    model = behind_a_fixed_head(share=0.0)
    x, y, *_ = digits
    F.cross_entropy(model(x), y).backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    assert accuracy(model, digits) < 0.3


@pytest.mark.parametrize(
    ("optimizer", "shrinks"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9), 1.0),
        (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0), 1.0),
        (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5), 1 - 0.01 * 0.5),
    ],
)
def test_feedback_keeps_its_distance_from_the_weights_but_for_decay(digits, optimizer, shrinks):
    """gamma = 1: E - W is what it was drawn as, times (1 - lr decay) a step."""
    x, y, *_ = digits
    model = network(lra.LRAE(gamma=1.0)).double()
    layers = [model[2], model[4]]
    start = [layer.weight.detach().clone() for layer in layers]
    apart = [(layer.feedback - layer.weight).detach() for layer in layers]
    stepper = optimizer(model.parameters())
    for rows in torch.arange(1000).split(50):
        stepper.zero_grad()
        F.cross_entropy(model(x[rows].double()), y[rows]).backward()
        stepper.step()
    for layer, W, difference in zip(layers, start, apart, strict=True):
        found = (layer.feedback - layer.weight).detach()
        torch.testing.assert_close(found, difference * shrinks**20, rtol=0, atol=1e-12)
        assert (layer.weight - W).abs().max() > 1e-3
