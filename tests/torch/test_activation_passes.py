"""Errors cross an activation by the settings, the noise and the arguments of its own pass."""

import random

import numpy as np
import pytest
import torch
from nets import assert_same, taken
from torch import nn

import lra
from lra.torch.layers import is_activation
from lra.torch.registry import ACTIVATIONS

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def step(model, seed=0):
    model.zero_grad()
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    model(X).square().mean().backward()
    return taken(model)


@pytest.fixture
def _registry():
    before = dict(ACTIVATIONS)
    yield
    ACTIVATIONS.clear()
    ACTIVATIONS.update(before)


# Settings


class Steep(nn.Module):
    def __init__(self, k=1.0):
        super().__init__()
        self.k = k

    def forward(self, h):
        return torch.tanh(self.k * h)


class SteepBuffer(nn.Module):
    def __init__(self, k=1.0):
        super().__init__()
        self.register_buffer("k", torch.tensor(k, dtype=torch.float64))

    def forward(self, h):
        return torch.tanh(self.k * h)


class Counted(Steep):
    """A module whose forward changes the setting that it reads."""

    def forward(self, h):
        z = torch.tanh(self.k * h)
        self.k += 1.0
        return z


class Moded(nn.Module):
    def forward(self, h):
        return torch.tanh(h) if self.training else torch.sin(h)


def assign(name):
    return lambda unit, value: setattr(unit, name, value)


SETTINGS = {
    "leaky": (nn.LeakyReLU, assign("negative_slope"), 0.5, 0.05),
    "leaky in place": (lambda: nn.LeakyReLU(inplace=True), assign("negative_slope"), 0.5, 0.05),
    "hardtanh": (nn.Hardtanh, assign("max_val"), 1.0, 0.2),
    "user": (Steep, assign("k"), 2.0, 0.5),
    "buffer": (SteepBuffer, lambda unit, value: unit.k.fill_(value), 2.0, 0.5),
    "mode": (Moded, lambda unit, value: unit.train(value), True, False),
    "counted": (Counted, lambda unit, value: None, 1.0, 2.0),
}


class Twice(nn.Module):
    """One activation used twice, with a setting that changes."""

    def __init__(self, unit, change, values):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)
        self.unit, self.change, self.values = unit, change, values

    def forward(self, x):
        self.change(self.unit, self.values[0])
        h = self.unit(self.a(x))
        self.change(self.unit, self.values[1])
        return self.c(self.unit(self.b(h)))


@pytest.mark.usefixtures("_registry")
@pytest.mark.parametrize(("build", "change", "one", "two"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_change_between_uses(build, change, one, two):
    lra.register_activation(SteepBuffer, Counted)
    model = Twice(build(), change, (one, two)).double()
    lra.convert(model, lra.LRAE(beta=0.5))
    units = build(), build()
    for unit, value in zip(units, (one, two), strict=True):
        change(unit, value)
        if isinstance(unit, Counted):
            unit.k = value
    apart = nn.Sequential(nn.Linear(5, 7), units[0], nn.Linear(7, 6), units[1], nn.Linear(6, 3))
    lra.convert(apart.double(), lra.LRAE(beta=0.5))
    for mine, layer in zip((model.a, model.b, model.c), apart[::2], strict=True):
        layer.load_state_dict(mine.state_dict())
    ours = list(step(model).values())
    for a, b in zip(ours, step(apart).values(), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_a_target_does_not_change_the_module():
    """A count in the forward pass counts forward passes, not evaluations of targets."""
    unit = Counted()
    model = nn.Sequential(nn.Linear(5, 7), unit, nn.Linear(7, 3)).double()
    lra.register_activation(Counted)
    try:
        lra.convert(model, lra.LRAE())
        step(model)
        assert model[1].k == 2.0
    finally:
        del ACTIVATIONS[Counted]


# Noise


def torch_noise(h):
    return torch.randn_like(h)


def numpy_noise(h):
    return torch.from_numpy(np.random.standard_normal(h.shape)).to(h)


FORMS = {
    "added": lambda h, n: torch.tanh(h) + 0.5 * n,
    "inside": lambda h, n: torch.tanh(h + 0.5 * n),
    "dropped": lambda h, n: torch.tanh(h) * (n > 0),
    "sampled": lambda h, n: torch.sigmoid(3 * h - n).round() + torch.tanh(h),
}


class Noisy(nn.Module):
    """Random in training, elementwise in eval mode."""

    def __init__(self, form, draw=torch_noise):
        super().__init__()
        self.form, self.draw = form, draw

    def forward(self, h):
        return self.form(h, self.draw(h) if self.training else torch.zeros_like(h) + 0.1)


class Fixed(nn.Module):
    """The same with noise that is given."""

    def __init__(self, form, noise):
        super().__init__()
        self.form, self.noise = form, noise

    def forward(self, h):
        return self.form(h, self.noise)


RULES = {
    "one-sided": lra.LRAE(beta=0.5),
    "two-sided": lra.MirroredLRA(),
}


@pytest.mark.usefixtures("_registry")
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("draw", [torch_noise, numpy_noise])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_noise_is_the_same_in_targets_as_in_the_forward_pass(form, training, draw, rule):
    model = nn.Sequential(nn.Linear(5, 7), Noisy(form, draw), nn.Linear(7, 3)).double()
    lra.convert(model.train(training), rule).train()
    assert lra.is_converted(model[1])

    torch.manual_seed(0)
    np.random.seed(0)
    lra.register_activation(Fixed)
    fixed = Fixed(form, draw(torch.empty(6, 7, dtype=torch.float64)))
    known = lra.convert(nn.Sequential(nn.Linear(5, 7), fixed, nn.Linear(7, 3)).double(), rule)
    for mine, layer in zip(model[::2], known[::2], strict=True):
        layer.load_state_dict(mine.state_dict())
    assert_same(step(known), step(model), **CLOSE)


def test_random_states_after_a_step_are_those_of_the_plain_model():
    def after(model):
        step(model)
        return torch.rand(3)

    model = nn.Sequential(nn.Linear(5, 7), Noisy(FORMS["inside"]), nn.Linear(7, 3)).double()
    expected = after(model)
    before = model(X)
    lra.convert(model, lra.LRAE())
    assert torch.equal(after(model), expected)
    step(model)
    assert not torch.equal(model(X), before)  # new noise in each pass


def test_a_noisy_registered_activation_of_other_shapes_is_found():
    class Channels(Noisy):
        def forward(self, h):
            if h.dim() != 2 or h.shape[1] != 7:
                raise ValueError("7 units only")
            return super().forward(h)

    lra.register_activation(Channels)
    try:
        model = nn.Sequential(nn.Linear(5, 7), Channels(FORMS["added"]), nn.Linear(7, 3)).double()
        lra.convert(model, lra.LRAE(beta=0.5))
    finally:
        del ACTIVATIONS[Channels]
    plain = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    lra.convert(plain, lra.LRAE(beta=0.5))
    for mine, layer in zip(model[::2], plain[::2], strict=True):
        layer.load_state_dict(mine.state_dict())

    # With the errors at z of the noisy model, those at h are the plain ones.
    grads = []
    for net in (model, plain):
        h = net[0](X).detach().requires_grad_()
        net[1](h).backward(torch.full_like(h, 0.01))
        grads.append(h.grad)
    torch.testing.assert_close(*grads, **CLOSE)


def test_a_compiled_noisy_activation_is_refused():
    model = nn.Sequential(nn.Linear(5, 7), Noisy(FORMS["added"]), nn.Linear(7, 3))
    lra.convert(model, lra.LRAE())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    compiled = lra.compile_step(model, nn.MSELoss(), optimizer, backend="eager")
    with pytest.raises(lra.errors.LraError, match="random"):
        compiled(X.float(), torch.zeros(6, 3))


class Centred(nn.Module):
    """Elementwise in eval mode only."""

    def forward(self, h):
        return torch.tanh(h - h.mean(0)) if self.training else torch.tanh(h)


class Hard(nn.Module):
    """Linear in training only."""

    def forward(self, h):
        return h if self.training else torch.sign(h)


class Dropped(nn.Module):
    """Linear, with noise."""

    def forward(self, h):
        return h * (torch.rand_like(h) > 0.3) if self.training else h


class Shuffled(nn.Module):
    """Random, and not elementwise."""

    def forward(self, h):
        return torch.tanh(h[torch.randperm(len(h))]) if self.training else torch.tanh(h)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Noisy(FORMS["added"]), True),
        (Moded(), True),
        (Hard(), True),
        (Centred(), False),
        (Dropped(), False),
        (Shuffled(), False),
    ],
    ids=lambda v: type(v).__name__,
)
def test_an_activation_is_elementwise_in_both_modes(module, expected, training):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert is_activation(module.train(training)) is expected
    assert module.training is training
    assert torch.equal(torch.get_rng_state(), before)


# Arguments


class Masked(nn.Module):
    def forward(self, v, mask=None, *, scale=1.0):
        z = torch.tanh(v)
        return scale * (z if mask is None else z * mask)


MASK = (torch.arange(7) % 3 > 0).double()


class Net(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(5, 7), act, nn.Linear(7, 3)


class Keyword(Net):
    def forward(self, x):
        return self.b(self.act(v=self.a(x)))


class Positional(Net):
    def forward(self, x):
        return self.b(self.act(self.a(x), MASK))


class Keywords(Net):
    def forward(self, x):
        return self.b(self.act(mask=MASK, v=self.a(x)))


class Beside(Net):
    def forward(self, x):
        return self.b(self.act(self.a(x), mask=MASK))


class Plain(Net):
    def forward(self, x):
        return self.b(self.act(self.a(x)))


class PlainMasked(Net):
    def forward(self, x):
        return self.b(self.act(self.a(x)) * MASK)


CALLS = [Keyword, Positional, Keywords, Beside]


@pytest.mark.parametrize("example", [None, X], ids=["scan", "example"])
@pytest.mark.parametrize("cls", CALLS)
def test_activations_take_keywords_and_further_arguments(cls, example):
    model = cls(Masked()).double()
    before = model(X)
    lra.convert(model, lra.LRAE(beta=0.5), example=example)
    assert torch.equal(model(X), before)
    # A mask of zeros and ones after tanh sends the same error.
    known = (Plain if cls is Keyword else PlainMasked)(nn.Tanh()).double()
    lra.convert(known, lra.LRAE(beta=0.5), example=example)
    known.load_state_dict(model.state_dict())
    assert_same(step(model), step(known), **CLOSE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch's compiler
@pytest.mark.parametrize("cls", CALLS)
def test_compiled_activations_take_further_arguments(cls):
    model = lra.convert(cls(Masked()).double(), lra.LRAE(beta=0.5))
    expected = step(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    model.zero_grad()
    compiled(X).square().mean().backward()
    assert_same(taken(model), expected, **CLOSE)


def test_further_arguments_get_their_gradients():
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    model = lra.convert(Plain(Masked()).double(), lra.LRAE(beta=0.5))
    h = model.a(X).detach().requires_grad_()
    d = torch.full_like(h, 0.01)
    model.act(h, scale=scale).backward(d)
    torch.testing.assert_close(scale.grad, (d * h.tanh()).sum().detach())
    N = len(X)
    expected = 0.7 * (h.tanh() - (h - 0.5 * N * d).tanh()) / N
    torch.testing.assert_close(h.grad, expected.detach(), **CLOSE)


def test_an_activation_called_without_its_input_is_refused():
    class Odd(nn.Module):
        def forward(self, *v, **named):
            return torch.tanh(*v, *named.values())

    class Model(Net):
        def forward(self, x):
            return self.b(self.act(h=self.a(x)))

    model = lra.convert(Model(Odd()).double(), lra.LRAE())
    with pytest.raises(lra.errors.RuleError, match=r"'act' \(Odd\) .*first argument.*skip="):
        model(X)


def test_an_activation_of_another_shape_is_refused():
    class Folds(nn.Module):
        def forward(self, h, fold=False):
            return torch.tanh(h).sum(1) if fold else torch.tanh(h)

    class Model(Net):
        def forward(self, x):
            return self.act(self.a(x), fold=True)

    model = lra.convert(Model(Folds()).double(), lra.LRAE())
    with pytest.raises(lra.errors.RuleError, match=r"'act' \(Folds\) .*\(6,\) for \(6, 7\)"):
        model(X)
