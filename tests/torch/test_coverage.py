"""Coverage counts the model as it is now."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lra

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(7, 7))

    def forward(self, h):
        return torch.relu(h @ self.w)


class Scale(nn.Module):
    """A module of the user's that no rule changes."""

    def __init__(self):
        super().__init__()
        self.s = nn.Parameter(torch.ones(7))

    def forward(self, h):
        return self.s * h


def build(rule, example=X):
    model = nn.Sequential(
        nn.Linear(5, 7),
        nn.Tanh(),
        nn.LayerNorm(7),
        Scale(),
        Own(),
        nn.Dropout(0.1),
        nn.Linear(7, 3),
    )
    return lra.convert(model, rule, example=example)


def set_at(at, module):
    return lambda model: model.__setitem__(at, module)


CHANGES = {
    "head": (set_at(6, nn.Linear(7, 3)), "6", "Linear", 24),
    "appended": (lambda model: model.append(nn.Linear(3, 2)), "7", "Linear", 8),
    "own weights": (set_at(3, Own()), "3", "Own", 49),
    "own weights again": (set_at(4, Own()), "4", "Own", 49),
    "activation": (set_at(1, nn.ReLU()), "1", None, 0),
    "recurrent": (lambda model: model.append(nn.GRU(3, 2)), "7", "GRU", 42),
    "own class": (lambda model: model.insert(5, Scale()), "5", "Scale", 7),
    "parametrized": (
        set_at(6, nn.utils.parametrizations.weight_norm(nn.Linear(7, 3))),
        "6",
        None,
        27,
    ),
}


@pytest.mark.parametrize(("change", "name", "kind", "size"), CHANGES.values(), ids=CHANGES)
def test_a_module_that_came_later_is_on_autograd(change, name, kind, size):
    model = build(lra.LRAE())
    assert lra.coverage(model).full
    change(model)
    report = lra.coverage(model)
    assert not report.full
    assert report.changed[0] == name
    assert sum(report.left.values()) == size
    assert kind is None or report.left == {kind: size}
    assert report.share < 1 or not size
    assert f"new since lra.convert: {name!r}" in str(report)


def test_a_later_module_of_the_same_kind_that_no_rule_changes_is_covered():
    model = build(lra.LRAE())
    model[2], model[3], model[5] = nn.LayerNorm(7), Scale(), nn.Identity()
    assert lra.coverage(model).full


@pytest.mark.parametrize("rule", [lra.FeedbackAlignment(), lra.Backprop()], ids=["fa", "backprop"])
def test_a_later_activation_changes_nothing_under_derivatives(rule):
    model = build(rule)
    model[1] = nn.ReLU()
    assert lra.coverage(model).full
    model[6] = nn.Linear(7, 3)
    assert lra.coverage(model).full == (rule == lra.Backprop())


@pytest.mark.parametrize(
    "wrap",
    [
        nn.Sequential,
        lambda m: nn.Sequential(nn.Flatten(), m),
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: nn.parallel.DataParallel(m, device_ids=None),
        lambda m: nn.ModuleDict({"a": m, "b": build(lra.LRAE())}),
    ],
    ids=["inside", "shifted", "copy", "pickle", "parallel", "two models"],
)
def test_a_model_that_moved_is_still_covered(wrap):
    assert lra.coverage(wrap(build(lra.LRAE()))).full


def test_a_model_around_a_converted_one_is_not_covered():
    class Around(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return F.softplus(self.inner(x))

    report = lra.coverage(Around(build(lra.LRAE())))
    assert not report.full
    assert report.changed == ("",)
    assert report.share == 1


def test_skipped_modules_are_not_new():
    model = lra.convert(
        nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)),
        lra.LRAE(),
        skip=["2"],
        example=X,
    )
    report = lra.coverage(nn.Sequential(model))
    assert report.changed == ()
    assert report.left == {"Linear": 24}


def test_types_are_those_before_conversion():
    report = lra.coverage(build(lra.LRAE()))
    assert report.weights.keys() == {"Linear", "LayerNorm", "Scale", "Own"}
    assert report.activations == {"Tanh": 1}


def test_coverage_claims_no_more_than_an_example_verified():
    def build():
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))

    unverified = str(lra.coverage(lra.convert(build(), lra.LRAE())))
    assert "at most 100.0% of the weights" in unverified
    assert "not verified: pass example=" in unverified
    verified = str(lra.coverage(lra.convert(build(), lra.LRAE(), example=torch.randn(2, 4))))
    assert "\n100.0% of the weights" in verified


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Conv2d(1, 3, 3), torch.randn(2, 1, 6, 6)),
        (nn.Linear(6, 3), torch.randn(2, 1, 4, 6)),
        (nn.Conv1d(1, 3, 3), torch.randn(2, 1, 6)),
    ],
)
def test_a_layer_that_reads_the_input_follows_the_rule(layer, x):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.out = layer, nn.LazyLinear(2)
            self(x)

        def forward(self, x):
            return self.out(torch.relu(self.layer(x)).flatten(1))

    model = lra.convert(Net(), lra.LRAE(), example=x)
    assert lra.coverage(model).passes == {"torch.Tensor.flatten": 1}
