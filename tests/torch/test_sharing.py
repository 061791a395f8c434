"""Modules that several models hold: activations are copied, trunks of one rule are kept."""

import pytest
import torch
from nets import assert_same, taken
from torch import nn
from torch.nn import functional as F

import lra

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Swish(nn.Module):
    def forward(self, h):
        return h * torch.sigmoid(2 * h)


class Gate(nn.Module):
    """No activation by itself, but one by its functions."""

    def forward(self, h):
        a, b = h.chunk(2, -1)
        return torch.cat((a * torch.tanh(b), a), -1)


class Net(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(4, 8), act, nn.Linear(8, 2)

    def forward(self, x):
        return self.b(self.act(self.a(x)))


def step(model, x=X):
    model.zero_grad()
    model(x).square().mean().backward()
    return taken(model)


ACTS = {
    "torch": nn.Tanh,
    "user": Swish,
    "parameters": nn.PReLU,
    "container": lambda: nn.Sequential(nn.Tanh(), nn.ReLU()),
    "functions": Gate,
    "torch functions": lambda: nn.Sequential(nn.GLU(), nn.ZeroPad1d((0, 4))),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_shared_activation_leaves_other_models_unchanged(act):
    shared = act()
    plain, other = Net(shared), Net(shared)
    before = step(plain)
    types = [type(m) for m in plain.modules()]
    lra.convert(other, lra.MirroredLRA(), example=X)
    ours = step(other)
    assert [type(m) for m in plain.modules()] == types
    assert_same(step(plain), before)
    lra.convert(plain, lra.LRAE(beta=0.5), example=X)
    assert_same(step(other), ours)
    later = Net(shared)
    assert not lra.is_converted(later)
    lra.restore(other)
    assert lra.is_converted(plain.act)


def test_an_activation_in_aliased_containers_is_converted_once():
    class Aliased(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), act, nn.Linear(8, 2))
            self.alias = self.net
            self.again = nn.ModuleList([act])

        def forward(self, x):
            return self.net(x)

    act = nn.ReLU()
    for model in (Aliased(act), Aliased(act)):
        lra.convert(model, lra.LRAE(), example=X)
        assert model.net[1] is model.alias[1] is model.again[0]
        assert lra.is_converted(model.net[1])
    assert type(act) is nn.ReLU


@pytest.mark.parametrize("nested", [False, True])
def test_an_activation_that_the_model_holds_in_a_list_too_stays_the_same_module(nested):
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.ModuleList([nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)])
            self.listed = {"path": [(m, 1) for m in self.net]} if nested else list(self.net)

        def forward(self, x):
            for module in self.listed["path"] if nested else self.listed:
                x = module[0](x) if nested else module(x)
            return x

    model = lra.convert(Listed(), lra.LRAE(), example=X)
    held = model.listed["path"][1][0] if nested else model.listed[1]
    assert held is model.net[1]
    assert lra.is_converted(held)


@pytest.mark.filterwarnings("ignore::UserWarning")  # from torch's compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_activation_that_is_compiled_by_itself_is_converted():
    compiled = torch.compile(nn.Tanh(), backend="eager")
    model = lra.convert(Net(compiled), lra.LRAE(beta=3.0), example=X)
    plain = lra.convert(Net(nn.Tanh()), lra.LRAE(beta=3.0), example=X)
    plain.load_state_dict(model.state_dict())
    found, expected = step(model), step(plain)
    torch.testing.assert_close(found, expected)
    assert lra.coverage(model).full


def test_skipped_activations_are_not_copied():
    model = Net(nn.Tanh())
    act = model.act
    lra.convert(model, lra.LRAE(), skip=["act"])
    assert model.act is act


def test_hooks_of_an_activation_are_kept():
    calls = []
    model = Net(nn.Tanh())
    handle = model.act.register_forward_hook(lambda *args: calls.append(1))
    lra.convert(model, lra.LRAE())
    model(X)
    handle.remove()
    model(X)
    assert calls == [1]


@pytest.mark.parametrize(
    "options",
    [{"rule": lra.LRAE(wiring=lra.wiring.Direct())}, {"example": X[:, 1:]}, {"skip": "none"}],
    ids=["wiring", "example", "skip"],
)
def test_a_refused_model_keeps_its_activations(options):
    model = Net(nn.Tanh())
    act = model.act
    with pytest.raises((lra.errors.LraError, RuntimeError)):
        lra.convert(model, **{"rule": lra.LRAE()} | options)
    assert model.act is act
    assert type(act) is nn.Tanh


# Trunks


def trunk_of_two():
    trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh()).double()
    heads = nn.Linear(5, 3).double(), nn.Linear(5, 1).double()
    return trunk, *(nn.Sequential(trunk, head) for head in heads)


@pytest.mark.parametrize("example", [None, X.double()], ids=["scan", "example"])
def test_a_trunk_of_two_models_is_converted_once(example):
    trunk, actor, critic = trunk_of_two()
    rule = lra.FeedbackAlignment()
    lra.convert(actor, rule, example=example)
    layers, before = list(trunk), step(actor, X.double())
    lra.convert(critic, rule, example=example)
    assert all(a is b for a, b in zip(trunk, layers, strict=True))
    assert_same(step(actor, X.double()), before)

    # The critic's update of the trunk, by hand.
    x = X.double()
    found = step(critic, x)
    h1 = F.linear(x, trunk[0].weight, trunk[0].bias)
    h2 = F.linear(h1.tanh(), trunk[2].weight, trunk[2].bias)
    y = critic[1](h2.tanh())
    e = 2 * y / y.numel() @ critic[1].feedback * (1 - h2.tanh() ** 2)
    e = e @ trunk[2].feedback * (1 - h1.tanh() ** 2)
    torch.testing.assert_close(found["0.0.weight"], e.T @ x)
    report = lra.coverage(critic)
    assert not report.left
    assert not report.changed
    assert report.verified == (example is not None)


def test_a_trunk_above_other_layers_keeps_its_feedback():
    trunk = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    deep, shallow = nn.Sequential(nn.Linear(4, 4), trunk), nn.Sequential(trunk, nn.Linear(4, 2))
    lra.convert(deep, lra.LRAE(), example=X)
    before = step(deep)
    lra.convert(shallow, lra.LRAE(), example=X)
    assert_same(step(deep), before)


def test_a_refused_model_leaves_the_trunk_of_another_as_it_is():
    _, actor, critic = trunk_of_two()
    lra.convert(actor, lra.LRAE(), example=X.double())
    before = step(actor, X.double())
    critic[1] = nn.Linear(6, 1).double()  # does not fit
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        lra.convert(critic, lra.LRAE(), example=X.double())
    assert type(critic[1]) is nn.Linear
    assert_same(step(actor, X.double()), before)


def test_a_new_head_is_converted_by_a_second_call():
    model = lra.convert(Net(nn.Tanh()), lra.LRAE(), example=X)
    feedback = model.a.weight
    model.b = nn.Linear(8, 3)
    lra.convert(model, lra.LRAE(), example=X)
    assert model.a.weight is feedback
    assert lra.coverage(model).full
    assert "b.feedback" in step(model)


@pytest.mark.parametrize("example", [None, X], ids=["scan", "example"])
@pytest.mark.parametrize("rule", [lra.LRAE(), lra.Backprop()], ids=["lra-e", "backprop"])
def test_a_model_without_anything_new_is_refused(rule, example):
    model = lra.convert(Net(nn.Tanh()), rule, example=example)
    with pytest.raises(lra.errors.ConversionError, match=r"already converted: 'a'.*lra\.restore"):
        lra.convert(model, rule, example=example)
    assert lra.is_converted(model)
