"""Refusals: states that diverge are an error, and states that do not settle a warning."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lra

PC, EP = lra.methods.PredictiveCoding, lra.methods.EquilibriumPropagation
EPC = lra.methods.ErrorPredictiveCoding


def net(act, scale):
    torch.manual_seed(0)
    layers = nn.Linear(5, 7), act(), nn.Linear(7, 6), act(), nn.Linear(6, 3)
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    return model


def call(method, model):
    x, t = torch.randn(6, 5), torch.arange(6) % 3
    return method(model, lambda output: F.cross_entropy(output, t), x)


INFINITE = {
    "predictive coding": (PC(), nn.ReLU, 100),
    "predictive coding, long steps": (PC(steps=100, step=1.0), nn.LeakyReLU, 12),
    "predictive coding, more steps": (PC(steps=200, step=2.5), nn.Softplus, 4),
    "errors, long steps": (EPC(steps=100, step=10.0), nn.Tanh, 1),
    "equilibrium propagation, ReLU": (EP(), nn.ReLU, 12),
    "equilibrium propagation, Softplus": (EP(), nn.Softplus, 100),
    "equilibrium propagation, one-sided": (EP(symmetric=False), nn.LeakyReLU, 12),
}


@pytest.mark.parametrize(("method", "act", "scale"), INFINITE.values(), ids=INFINITE)
def test_states_that_are_not_finite_are_an_error(method, act, scale):
    model = net(act, scale)
    with pytest.raises(lra.errors.Diverged, match=rf"^{type(method).__name__}: .* not finite"):
        call(method, model)
    assert all(p.grad is None for p in model.parameters())


UNSETTLED = {
    "predictive coding": (PC(), nn.ReLU, 12),
    "predictive coding, long steps": (PC(steps=5, step=1.0), nn.Tanh, 2),
    "predictive coding, one step": (PC(steps=1, step=3.0), nn.Tanh, 4),
    "predictive coding, saturated": (PC(steps=5, step=1.0), nn.Tanh, 1e4),
    "predictive coding, in a cycle": (PC(steps=100, step=1.0), nn.Tanh, 1000),
    "errors": (EPC(steps=5), nn.Tanh, 20),
    "errors, long steps": (EPC(steps=2, step=2.5), nn.Tanh, 1),
    "equilibrium propagation, ReLU": (EP(), nn.ReLU, 2),
    "equilibrium propagation, few steps": (EP(free_steps=4, nudged_steps=2), nn.ReLU, 4),
    "equilibrium propagation, Softplus": (EP(), nn.Softplus, 4),
}


@pytest.mark.parametrize(("method", "act", "scale"), UNSETTLED.values(), ids=UNSETTLED)
def test_states_that_do_not_settle_cause_a_warning(method, act, scale):
    name = type(method).__name__
    with pytest.warns(lra.LraWarning, match=f"^{name}: the states do not settle") as seen:
        call(method, net(act, scale))
    assert seen[0].filename == __file__


def test_an_answer_at_no_equilibrium_is_an_error():
    with pytest.raises(lra.errors.Diverged, match="have no equilibrium"):
        EP().output(net(nn.ReLU, 12), torch.randn(6, 5))


SETTLING = {
    "predictive coding": (PC(), nn.ReLU, 4),
    "predictive coding, settled": (PC(steps=300, step=0.2), nn.Tanh, 1),
    "predictive coding, Z-IL": (PC(steps=2, step=1.0), nn.Tanh, 1),
    "errors": (EPC(), nn.ReLU, 1),
    "errors, settled": (EPC(steps=100, step=0.5), nn.Tanh, 1),
    "equilibrium propagation": (EP(), nn.Hardsigmoid, 12),
    "equilibrium propagation, settled": (EP(free_steps=300, nudged_steps=300), nn.Tanh, 1),
    "equilibrium propagation, saturated": (EP(), nn.Tanh, 100),
}


@pytest.mark.parametrize(("method", "act", "scale"), SETTLING.values(), ids=SETTLING)
def test_states_that_settle_cause_no_warning(method, act, scale):
    model = net(act, scale)
    call(method, model)
    assert all(p.grad.isfinite().all() for p in model.parameters())
    call(method, nn.Sequential(nn.Linear(5, 3)))  # no states, or only the output's
