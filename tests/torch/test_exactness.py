"""Closed form: float32 updates against float64 ones, where subtraction loses all digits."""

import copy
import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lra
from lra.differences import FORMS
from lra.torch.ops import eager
from lra.torch.phi import phi_of_call, phi_of_module
from lra.torch.registry import DIFFERENCES, TORCH_ACTIVATIONS

SMOOTH = (nn.Tanh, nn.Sigmoid, nn.Softplus, nn.GELU, nn.SiLU, nn.Mish, nn.ELU)
PIECEWISE = (nn.ReLU, nn.LeakyReLU, nn.Hardtanh)


def perceptron(act, depth, width=256):
    torch.manual_seed(1)
    layers = [nn.Linear(784, width), act()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def errors_of(model, exact, updates=None):
    """The relative error of each weight's update.

    The data are fixed: a ReLU unit whose h is within rounding of 0, which is rare, would leave an
    error of 1e-3.
    """
    torch.manual_seed(2)
    x, t = torch.rand(50, 784), torch.randint(10, (50,))
    F.cross_entropy(exact(x.double()), t).backward()
    if updates is None:
        F.cross_entropy(model(x), t).backward()
    else:
        updates(x, t)
    pairs = zip(model.named_parameters(), exact.parameters(), strict=True)
    return {
        name: float((p.grad.double() - q.grad).norm() / q.grad.norm())
        for (name, p), q in pairs
        if q.grad is not None and p.dim() > 1
    }


@pytest.mark.parametrize("depth", [3, 4, 5, 8])
@pytest.mark.parametrize("act", [*SMOOTH, *PIECEWISE], ids=lambda act: act.__name__)
def test_float32_updates_equal_float64_updates(act, depth):
    model = lra.convert(perceptron(act, depth), lra.LRAE())
    found = errors_of(model, copy.deepcopy(model).double())
    assert len(found) == 2 * depth + 1
    assert max(found.values()) < (1e-5 if act in SMOOTH else 1e-3), found


def test_subtraction_loses_the_lower_layers():
    """The same networks by subtraction: what the closed forms are for."""

    class Subtracted(nn.Module):  # no closed form is known for it
        def forward(self, h):
            return torch.tanh(h)

    model = lra.convert(perceptron(Subtracted, 8), lra.LRAE())
    exact = lra.convert(perceptron(nn.Tanh, 8), lra.LRAE())
    exact.load_state_dict(model.state_dict())
    found = errors_of(model, exact.double())
    assert found["0.weight"] > 0.5
    assert found["16.weight"] < 1e-5


@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid], ids=lambda act: act.__name__)
def test_bfloat16_updates_are_near_float64_updates(act):
    """Not so for ReLU, in backprop either: in 16 bits many units are on the other side of 0."""
    model = lra.convert(perceptron(act, 8), lra.LRAE())

    def step(x, t):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(x), t)
        loss.backward()

    found = errors_of(model, copy.deepcopy(model).double(), step)
    assert max(found.values()) < 2e-2, found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch's compiler
@pytest.mark.parametrize("act", [nn.Tanh, nn.GELU, nn.ReLU], ids=lambda act: act.__name__)
def test_compiled_float32_updates_equal_float64_updates(act):
    model = lra.convert(perceptron(act, 8), lra.LRAE())
    exact = copy.deepcopy(model).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    found = errors_of(model, exact, lra.compile_step(model, F.cross_entropy, optimizer))
    assert max(found.values()) < (1e-5 if act in SMOOTH else 1e-3), found


def test_mirrored_updates_in_float32_equal_float64_updates():
    for act in SMOOTH:
        model = lra.convert(perceptron(act, 4), lra.MirroredLRA(samples=100))
        found = errors_of(model, copy.deepcopy(model).double())
        assert max(found.values()) < 1e-5, found


# ------------------------------------------------------------------ which form a module gets

SETTINGS = {
    nn.CELU: {"alpha": 0.7},
    nn.ELU: {"alpha": 1.6},
    nn.GELU: {"approximate": "tanh"},
    nn.Hardshrink: {"lambd": 0.3},
    nn.Hardtanh: {"min_val": -0.4, "max_val": 0.6},
    nn.LeakyReLU: {"negative_slope": 0.2},
    nn.PReLU: {"num_parameters": 3, "init": 0.1},
    nn.Softplus: {"beta": 2.5},
    nn.Softshrink: {"lambd": 0.2},
    nn.Threshold: {"threshold": 0.1, "value": -0.5},
}


def points(dtype=torch.float64):
    """Pre-activations for three channels, and differences of all sizes."""
    h = 2 * torch.randn(40, 3, 5, dtype=dtype)
    return h, torch.randn_like(h) * 10 ** torch.linspace(-3, 0.5, 40, dtype=dtype).view(-1, 1, 1)


@pytest.mark.parametrize(
    "cls", [cls for cls in TORCH_ACTIVATIONS if cls is not nn.RReLU], ids=lambda cls: cls.__name__
)
def test_an_activations_difference_is_that_of_its_settings(cls):
    for settings in ({}, SETTINGS.get(cls, {})):
        if cls is nn.Threshold and not settings:
            continue
        module = cls(**settings).double()
        phi = phi_of_module(module, cls, module)
        assert phi.form is not None
        h, delta = points()
        with torch.no_grad():
            expected = module(h) - module(h - delta)
            torch.testing.assert_close(
                phi.difference(h, delta, torch), expected, rtol=1e-9, atol=1e-14
            )


CALLS = {
    "F.relu": (F.relu, {}),
    "Tensor.tanh_": (torch.Tensor.tanh_, {}),
    "F.elu, positional": (F.elu, (1.6,)),
    "F.elu, in place": (F.elu, (1.6, True)),
    "F.leaky_relu": (F.leaky_relu, {"negative_slope": 0.2, "inplace": False}),
    "F.hardtanh": (F.hardtanh, (-0.4, 0.6)),
    "F.threshold": (F.threshold, (0.1, -0.5)),
    "F.gelu": (F.gelu, {"approximate": "tanh"}),
    "F.softplus": (F.softplus, (2.5,)),
    "torch.clamp": (torch.clamp, {"min": -0.4}),
    "torch.clamp, None": (torch.clamp, {"min": None, "max": 0.6}),
    "Tensor.clamp": (torch.Tensor.clamp, (-0.4, 0.6)),
    "**": (torch.Tensor.__pow__, (3,)),
    "torch.pow": (torch.pow, {"exponent": 2}),
    "torch.exp": (torch.exp, {}),
    "torch.expm1": (torch.expm1, {}),
    "torch.sin": (torch.sin, {}),
    "torch.abs": (torch.abs, {}),
    "torch.special.expit": (torch.special.expit, {}),
    "torch.special.ndtr": (torch.special.ndtr, {}),
    "F.hardswish": (F.hardswish, {}),
    "F.selu, in place": (F.selu, (True,)),
}


@pytest.mark.parametrize(("func", "options"), CALLS.values(), ids=CALLS)
def test_a_calls_difference_is_that_of_its_arguments(func, options):
    args, kwargs = (options, {}) if isinstance(options, tuple) else ((), options)
    h, delta = points()

    def f(v):
        return func(v.clone(), *args, **kwargs)

    phi = phi_of_call(func, (h, *args), kwargs, h, f)
    assert phi.form is not None
    torch.testing.assert_close(
        phi.difference(h, delta, torch), f(h) - f(h - delta), rtol=1e-9, atol=1e-14
    )


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (torch.clamp, (torch.tensor(-0.4),)),
        (torch.Tensor.__pow__, (torch.tensor(2.0),)),
        (torch.Tensor.__pow__, (9,)),
        (F.softplus, (1.0, 1.2)),
        (torch.sign, ()),
    ],
)
def test_other_calls_subtract(func, args):
    h, delta = points()
    phi = phi_of_call(func, (h, *args), {}, h, lambda v: func(v, *args))
    assert phi.form is None
    expected = func(h, *args) - func(h - delta, *args)
    torch.testing.assert_close(phi.difference(h, delta, torch), expected, rtol=0, atol=0)


def test_a_call_whose_data_is_not_the_first_argument_subtracts():
    h, _ = points()
    assert phi_of_call(torch.pow, (2.0, h), {}, h, lambda v: 2.0**v).form is None


def test_every_function_of_the_table_has_a_closed_form():
    assert set(DIFFERENCES.values()) <= FORMS.keys()


class Cubic(nn.Module):
    """An activation of the user's, which knows its own difference."""

    calls = 0

    def forward(self, h):
        return h**3

    def difference(self, h, delta, xp):
        Cubic.calls += 1
        v = h - delta
        return delta * (h * h + h * v + v * v)


def test_a_users_module_may_supply_its_difference():
    model = lra.convert(perceptron(Cubic, 3, 16), lra.LRAE())
    before = Cubic.calls
    found = errors_of(model, copy.deepcopy(model).double())
    assert Cubic.calls == before + 6
    assert max(found.values()) < 1e-5


# ------------------------------------------------------------------ fast forms of eager steps


@pytest.mark.parametrize("reach", [1e-6, 1e-3, 0.05, 0.1, 0.3, 1.0, 1.3, 5.0])
@pytest.mark.parametrize(
    "module",
    [nn.Tanh(), nn.ReLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), nn.Mish()],
    ids=str,
)
@pytest.mark.parametrize("known", [True, False])
def test_fast_forms_are_exact(module, reach, known):
    phi = phi_of_module(module, type(module), module)
    assert phi.fast is not None
    h = 2 * torch.randn(5000)
    delta = reach * (2 * torch.rand_like(h) - 1)
    delta[0] = reach
    z = module(h) if known else None
    for name in ("difference", "centred"):
        wide = getattr(phi, name)(h.double(), delta.double(), torch)
        found = getattr(phi, name)(h, delta.clone(), torch, z)
        assert found.dtype is torch.float32
        error = (found.double() - wide).abs()
        assert float((error / delta.double().abs()).max()) < 2e-6


@pytest.mark.parametrize("name", sorted(eager.FAST))
def test_fast_forms_are_used_where_they_apply(name, monkeypatch):
    cls = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish}[
        name
    ]
    module = cls()
    phi = phi_of_module(module, cls, module)
    used = []
    form = phi.form

    def counted(*args, **kwargs):
        used.append(args)
        return form(*args, **kwargs)

    slow = eager.EagerPhi(phi.f, counted, fast=phi.fast)
    h, delta = torch.randn(8), 0.01 * torch.randn(8)
    slow.difference(h, delta.clone(), torch)
    slow.centred(h, delta.clone(), torch)
    assert not used
    for other in (h.double(), h[:0], torch.randn(8).as_subclass(Labelled)):
        used.clear()
        slow.difference(other, 0.01 * other, torch)
        assert len(used) == 1
    used.clear()
    torch.vmap(lambda h, d: slow.difference(h, d, torch))(h, delta)
    assert used
    if name != "relu":
        used.clear()
        slow.difference(h, 50 + h, torch)  # too far
        slow.difference(h, h * math.nan, torch)
        assert len(used) == 2


class Labelled(torch.Tensor):
    """A tensor of a class of the user's."""


def test_given_tensors_stay_as_they_are():
    """Fast forms may overwrite the distance of a target, and nothing else."""
    for cls in (nn.Tanh, nn.ReLU, nn.GELU):
        model = nn.Sequential(nn.Linear(4, 4), cls(), nn.Linear(4, 2))
        lra.convert(model, lra.LRAE())
        x = torch.randn(6, 4)
        h = model[0](x)
        h.retain_grad()
        z = model[1](h)
        z.retain_grad()
        before = [t.detach().clone() for t in (x, h, z)]
        model[2](z).sum().backward()
        d = z.grad.clone()
        z.grad = None
        for t, was in zip((x, h, z), before, strict=True):
            assert torch.equal(t.detach(), was)
        assert d.abs().sum() > 0


# ------------------------------------------------------------------ bounded domains

BOUNDED = {
    "log": (torch.log, 0.01, 5.0),
    "sqrt": (torch.sqrt, 0.01, 5.0),
    "power": (lambda h: h**0.7, 0.01, 5.0),
    "asin": (torch.asin, -0.99, 0.99),
    "acosh": (torch.acosh, 1.01, 5.0),
    "atanh": (torch.atanh, -0.99, 0.99),
    "logit": (torch.logit, 0.01, 0.99),
    "rsqrt": (torch.rsqrt, 0.05, 5.0),
}


class Bounded(nn.Module):
    """A function with a bounded domain between two weight layers."""

    def __init__(self, f, low, high):
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)
        self.f, self.low, self.high = f, low, high

    def forward(self, x):
        h = self.low + (self.high - self.low) * self.squash(self.a(x))
        return self.b(self.f(h))

    @staticmethod
    def squash(h):
        h = h - h.amin()
        return h / h.amax()


@pytest.mark.parametrize(
    "rule", [lra.LRAE(beta=500.0), lra.MirroredLRA(beta=3.0)], ids=lambda r: r.name
)
@pytest.mark.parametrize(("f", "low", "high"), BOUNDED.values(), ids=BOUNDED)
def test_updates_are_finite_where_backprops_are(f, low, high, rule):
    x, t = torch.randn(30, 6), torch.randint(3, (30,))
    plain = Bounded(f, low, high)
    F.cross_entropy(plain(x), t).backward()
    assert all(p.grad.isfinite().all() for p in plain.parameters())
    model = lra.convert(copy.deepcopy(plain), rule, example=x)
    model.zero_grad()
    F.cross_entropy(model(x), t).backward()
    assert lra.coverage(model).full
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert (
        functools.reduce(lambda a, p: a + float(p.grad.abs().sum()), model.a.parameters(), 0.0) > 0
    )


AT_THE_END = {
    "log of sigmoid": lambda h: torch.log(torch.sigmoid(h) + 1e-6),
    "sqrt of relu": lambda h: torch.sqrt(F.relu(h) + 1e-8),
    "asin of tanh": lambda h: torch.asin(torch.tanh(h)),
    "acosh of softplus": lambda h: torch.acosh(1 + F.softplus(h)),
    "power of sigmoid": lambda h: torch.sigmoid(h) ** 0.5,
    "atanh of softsign": lambda h: torch.atanh(F.softsign(h)),
    "reciprocal of relu": lambda h: torch.reciprocal(F.relu(h) + 1e-3),
}


@pytest.mark.parametrize("rule", [lra.LRAE(), lra.MirroredLRA()], ids=lambda r: r.name)
@pytest.mark.parametrize("f", AT_THE_END.values(), ids=AT_THE_END)
def test_updates_are_finite_at_the_end_of_a_domain(f, rule):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(f(self.a(x)))

    x = 3 * torch.randn(30, 4)
    model = lra.convert(Net(), rule, example=x)
    F.smooth_l1_loss(model(x), torch.ones(30, 2)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.a.weight.grad.abs().sum() > 0
