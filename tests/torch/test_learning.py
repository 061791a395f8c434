"""Learning: short trainings on the bundled digits, with a lower or upper bound on accuracy."""

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
    """Train on the training set, and return the accuracy on the test set."""
    x, y, x_test, y_test = digits
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
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


def network_with_a_fixed_head(share: float) -> nn.Sequential:
    """Build a network in which only hidden layers learn, with the fixed feedback E = share W."""
    model = network(lra.LRAE(gamma=0.0))
    with torch.no_grad():
        for layer in (model[2], model[4]):
            layer.feedback.copy_(share * layer.weight)
    head = model[-1]
    head.weight.requires_grad_(False)
    head.bias.requires_grad_(False)
    return model


def test_hidden_layers_learn_from_the_errors_that_feedback_sends(digits):
    model = network_with_a_fixed_head(share=1.0)
    assert accuracy(model, digits) > 0.85


def test_hidden_layers_learn_nothing_from_zero_feedback(digits):
    model = network_with_a_fixed_head(share=0.0)
    x, y, *_ = digits
    F.cross_entropy(model(x), y).backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    assert accuracy(model, digits) < 0.3


@pytest.mark.parametrize(
    ("optimizer", "factor"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9), 1.0),
        (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0), 1.0),
        (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5), 1 - 0.01 * 0.5),
    ],
)
def test_weight_decay_alone_changes_the_difference_of_feedback_and_weights(
    digits, optimizer, factor
):
    """With gamma = 1, each step multiplies E - W by 1 - lr * weight_decay."""
    x, y, *_ = digits
    model = network(lra.LRAE(gamma=1.0)).double()
    layers = [model[2], model[4]]
    start = [layer.weight.detach().clone() for layer in layers]
    offsets = [(layer.feedback - layer.weight).detach() for layer in layers]
    stepper = optimizer(model.parameters())
    for rows in torch.arange(1000).split(50):
        stepper.zero_grad()
        F.cross_entropy(model(x[rows].double()), y[rows]).backward()
        stepper.step()
    for layer, W, offset in zip(layers, start, offsets, strict=True):
        found = (layer.feedback - layer.weight).detach()
        torch.testing.assert_close(found, offset * factor**20, rtol=0, atol=1e-12)
        assert (layer.weight - W).abs().max() > 1e-3
