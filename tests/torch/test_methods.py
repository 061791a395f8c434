"""What all methods share: options, names, and short trainings with a lower bound on accuracy."""

import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lra
from lra.lab.data import load


@pytest.mark.parametrize("name", lra.methods.METHODS)
def test_methods_compare_pickle_and_convert_to_plain_data(name):
    method = lra.named(name)
    assert method.name == name
    assert pickle.loads(pickle.dumps(method)) == method
    assert lra.methods.Method.from_config(method.to_config()) == method
    assert method.to_config()["type"] == type(method).__name__
    with pytest.raises(lra.errors.OptionError, match=r"unknown option of rule .* 'betta'"):
        lra.named(name, betta=1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: lra.methods.PredictiveCoding(steps=0),
            "steps must be a whole number above 0, got 0",
        ),
        (lambda: lra.methods.PredictiveCoding(step=0.0), "step must be a finite number above 0"),
        (
            lambda: lra.methods.EquilibriumPropagation(beta=-1),
            "beta must be a finite number above 0",
        ),
        (lambda: lra.methods.EquilibriumPropagation(step=1.5), "step must be at most 1, got 1.5"),
        (
            lambda: lra.methods.EquilibriumPropagation(free_steps=2.5),
            "free_steps must be a whole number",
        ),
        (
            lambda: lra.methods.EquilibriumPropagation(nudged_steps=0),
            "nudged_steps must be a whole",
        ),
        (
            lambda: lra.methods.EquilibriumPropagation(symmetric=1),
            "symmetric must be True or False",
        ),
        (lambda: lra.methods.DTP(eta=0), "eta must be a finite number above 0"),
        (lambda: lra.methods.DTP(sigma=-0.1), "sigma must be 0 or more"),
        (lambda: lra.methods.PEPITA(scale=0), "scale must be a finite number above 0"),
        (lambda: lra.methods.DRTP(scale=-1), "scale must be a finite number above 0"),
        (lambda: lra.methods.ForwardForward(threshold=0), "threshold must be a finite number"),
        (lambda: lra.named("dtb"), "unknown rule 'dtb'.*Did you mean 'dtp'"),
    ],
)
def test_options_out_of_range_are_refused(build, message):
    with pytest.raises(lra.errors.OptionError, match=message):
        build()


def test_convert_refuses_a_method():
    with pytest.raises(lra.errors.ConversionError, match="PredictiveCoding is a method"):
        lra.convert(nn.Sequential(nn.Linear(2, 2)), lra.methods.PredictiveCoding())


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    arrays = (data.x_train, data.y_train, data.x_test, data.y_test)
    return [torch.from_numpy(a).flatten(1) if a.ndim > 1 else torch.from_numpy(a) for a in arrays]


SETTINGS = {
    "predictive-coding": {"steps": 10, "step": 0.2},
    "forward-forward": {"threshold": 0.25},
}
"""Options for methods whose defaults would take too long."""


@pytest.mark.parametrize("name", lra.methods.METHODS)
def test_every_method_learns(name, digits):
    x, t, x_test, t_test = digits
    method = lra.named(name, **SETTINGS.get(name, {}))
    layers = nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)
    model = nn.Sequential(*layers)
    assert method.attach(model, x[:1]) is model
    lr = 1e-2 if name in ("pepita", "forward-forward", "drtp") else 2e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    for _ in range(5):
        for rows in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            method(model, lambda h, r=rows: F.cross_entropy(h, t[r]), x[rows])
            optimizer.step()
    output = method.output(model, x_test)
    assert not output.requires_grad
    assert (output.argmax(1) == t_test).double().mean() > 0.9
