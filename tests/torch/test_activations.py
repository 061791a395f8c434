"""Activations that backprop cannot train, and the exactness of errors at all activations."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from nets import ACTIVATION_CASES, alone, assert_same, name_of, taken
from torch import nn
from torch.nn import functional as F

import lra
from lra.lab.data import load

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
LEVELS = {k: np.linspace(-1, 1, k) for k in (2, 3, 4, 8)}


def nearest(levels):
    return lambda h: levels[np.abs(np.tanh(h)[..., None] - levels).argmin(-1)]


def winners(h, k, axis):
    """Keep the largest of each k neighbours along an axis."""
    z = np.zeros_like(h)
    rows, result = np.moveaxis(h, axis, -1), np.moveaxis(z, axis, -1)
    for at in np.ndindex(rows.shape[:-1]):
        for start in range(0, rows.shape[-1], k):
            best = start + int(np.argmax(rows[at][start : start + k]))
            result[at][best] = rows[at][best]
    return z


def staircase(h):
    return np.floor(2 * np.tanh(h)) / 2


STEPS = {
    "sign": (lra.activations.Sign, np.sign),
    "heaviside": (lra.activations.Heaviside, lambda h: (h > 0).astype(float)),
    **{
        f"{k} levels": (lambda k=k, **o: lra.activations.Quantized(k, **o), nearest(levels))
        for k, levels in LEVELS.items()
    },
    "black box": (lambda **o: lra.activations.BlackBox(staircase, numpy=True, **o), staircase),
}
"""Step functions: how to build each, and phi in NumPy."""

FORMULAS = STEPS | {"lwta": (lambda: lra.activations.LWTA(3), lambda h: winners(h, 3, -1))}
BUILT = {name: build for name, (build, _) in FORMULAS.items()} | {
    "bernoulli": lra.activations.Bernoulli
}
SURROGATES = {
    lra.crossing.IdentitySurrogate(): lambda h: np.ones_like(h),
    lra.crossing.TanhSurrogate(): lambda h: 1 - np.tanh(h) ** 2,
    lra.crossing.HardTanhSurrogate(): lambda h: (np.abs(h) < 1).astype(float),
    lra.crossing.SigmoidSurrogate(): lambda h: np.exp(-h) / (1 + np.exp(-h)) ** 2,
}

every_activation = pytest.mark.parametrize("build", BUILT.values(), ids=BUILT)
formulas = pytest.mark.parametrize(("build", "phi"), FORMULAS.values(), ids=FORMULAS)
steps = pytest.mark.parametrize("build", [build for build, _ in STEPS.values()], ids=STEPS)


def pre_activations(*shape):
    """Draw numbers of all sizes, and some zeros."""
    h = torch.randn(shape).double() * torch.logspace(-1, 0.7, shape[-1]).double()
    h.view(-1)[::7] = 0
    return h


def net(build, rule=None, **options):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 12), build(), nn.Linear(12, 12), build(), nn.Linear(12, 3)
    ).double()
    return model if rule is None else lra.convert(model, rule, **options)


def batch():
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(1)).double(), torch.arange(
        6
    ) % 3


def updates(model, run=None):
    x, t = batch()
    torch.manual_seed(2)  # for activations that draw
    model.zero_grad()
    F.cross_entropy((run or model)(x), t).backward()
    return taken(model)


# Forward


@formulas
@pytest.mark.parametrize("shape", [(6,), (5, 12), (2, 3, 9)], ids=str)
def test_activations_equal_their_formulas(build, phi, shape):
    h = pre_activations(*shape)
    torch.testing.assert_close(build()(h), torch.from_numpy(phi(h.numpy())), **CLOSE)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(
    ("shape", "dim", "axis"),
    [
        ((6,), None, 0),
        ((4, 6), None, 1),
        ((2, 5, 6), None, 2),
        ((2, 6, 3, 5), None, 1),
        ((2, 6, 3, 2, 2), None, 1),
        ((2, 6, 5), 1, 1),
        ((2, 4, 5, 6), -1, 3),
    ],
    ids=str,
)
def test_lwta_keeps_the_largest_of_each_group(k, shape, dim, axis):
    h = torch.randn(shape).double()
    found = lra.activations.LWTA(k, dim)(h)
    torch.testing.assert_close(found, torch.from_numpy(winners(h.numpy(), k, axis)), **CLOSE)


def test_lwta_keeps_the_first_of_equal_units():
    h = torch.tensor([[2.0, 2.0, -1.0, -1.0, -3.0, -1.0]])
    assert lra.activations.LWTA(3)(h).tolist() == [[2.0, 0, 0, -1.0, 0, 0]]


def test_the_mean_of_bernoulli_is_the_sigmoid():
    h, bernoulli = torch.linspace(-4, 4, 9), lra.activations.Bernoulli()
    z = bernoulli(h.expand(100_000, 9))
    assert sorted(z.unique().tolist()) == [0.0, 1.0]
    p = torch.sigmoid(h)
    assert bool(((z.mean(0) - p).abs() < 5 * (p * (1 - p) / 100_000).sqrt()).all())
    torch.testing.assert_close(bernoulli.eval()(h), p)


@every_activation
@pytest.mark.parametrize("train", [True, False])
def test_conversion_preserves_the_forward_pass_bit_for_bit(build, train):
    x, _ = batch()
    plain = net(build).train(train)
    model = lra.convert(copy.deepcopy(plain), lra.MirroredLRA())
    torch.manual_seed(3)
    expected = plain(x)
    for grad in (True, False):
        torch.manual_seed(3)
        with torch.set_grad_enabled(grad):
            assert torch.equal(model(x), expected)
    assert repr(lra.restore(model)) == repr(plain)


# Under autograd


@steps
@pytest.mark.parametrize(("surrogate", "slope"), SURROGATES.items(), ids=str)
def test_autograd_uses_the_derivative_of_the_surrogate(build, surrogate, slope):
    h = (pre_activations(5, 12) + 1e-3).requires_grad_()
    d = torch.randn(5, 12).double()
    z = build(straight_through=surrogate)(h)
    assert torch.equal(z, build()(h))
    z.backward(d)
    torch.testing.assert_close(h.grad, d * torch.from_numpy(slope(h.detach().numpy())), **CLOSE)


def test_autograd_uses_the_surrogate_of_bernoulli_in_both_modes():
    h = torch.randn(50).requires_grad_()
    for train in (True, False):
        h.grad = None
        lra.activations.Bernoulli(straight_through=lra.crossing.SigmoidSurrogate()).train(train)(
            h
        ).sum().backward()
        p = torch.sigmoid(h.detach())
        torch.testing.assert_close(h.grad, p * (1 - p))


@pytest.mark.parametrize("name", [name for name in BUILT if name not in ("black box", "lwta")])
def test_without_a_surrogate_the_derivative_is_zero(name):
    h = torch.randn(5, 12).requires_grad_()
    BUILT[name]()(h).sum().backward()
    assert h.grad is not None
    assert not h.grad.any()


def test_the_derivative_of_lwta_is_one_for_winners():
    h = torch.randn(5, 12).requires_grad_()
    z = lra.activations.LWTA(3)(h)
    z.sum().backward()
    assert torch.equal(h.grad, (z != 0).float())


@steps
def test_rules_by_the_derivative_use_the_surrogate(build):
    def with_surrogate():
        return build(straight_through=lra.crossing.TanhSurrogate())

    expected = updates(net(with_surrogate))
    assert expected["0.weight"].any()
    assert_same(updates(net(with_surrogate, lra.Backprop())), expected)
    assert_same(
        updates(net(with_surrogate, lra.Rule(crossing=lra.crossing.Derivative()))), expected
    )
    model = net(with_surrogate, lra.FeedbackAlignment())
    with torch.no_grad():
        for layer in (model[2], model[4]):
            layer.feedback.copy_(layer.weight)
    assert_same(updates(model), expected, rtol=1e-10, atol=1e-14)


# Under rules with targets

TARGETS = {
    "named": (
        lra.MirroredLRA(2.0),
        lambda phi, h, z, d, n: np.abs(d) / 4 * (phi(h + 2 * np.sign(d)) - phi(h - 2 * np.sign(d))),
    ),
    "two sides": (
        lra.LRAE(2.0, normalized=True, two_sided=True, relative="batch"),
        lambda phi, h, z, d, n: (
            (s := np.abs(d).max()) / 4 * (phi(h + 2 * d / s) - phi(h - 2 * d / s))
        ),
    ),
    "one side": (lra.LRAE(beta=3.0), lambda phi, h, z, d, n: (z - phi(h - 3 * n * d)) / n),
}


@formulas
@pytest.mark.parametrize(("rule", "error"), TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize(
    "surrogate", [None, lra.crossing.TanhSurrogate()], ids=["plain", "surrogate"]
)
def test_targets_evaluate_the_activation_itself(build, phi, rule, error, surrogate):
    if surrogate is not None and build is BUILT["lwta"]:
        pytest.skip("LWTA takes no surrogate")
    if build is BUILT["lwta"] and rule == TARGETS["named"][0]:
        pytest.skip("relative_if_flat applies to step functions only, and LWTA is none")
    act = alone(build() if surrogate is None else build(straight_through=surrogate), rule)
    h = pre_activations(5, 12).requires_grad_()
    d = torch.randn(5, 12).double() / 5
    act(h).backward(d)
    v, e = h.detach().numpy(), d.numpy()
    torch.testing.assert_close(h.grad, torch.from_numpy(error(phi, v, phi(v), e, 5)), **CLOSE)
    assert h.grad.any()


@pytest.mark.parametrize("name", ["two sides", "one side"])
@pytest.mark.parametrize("train", [True, False])
def test_targets_of_bernoulli_are_targets_of_its_mean(name, train):
    rule, error = TARGETS[name]
    bernoulli = alone(lra.activations.Bernoulli().train(train), rule)
    h = torch.randn(5, 12).double().requires_grad_()
    d = torch.randn(5, 12).double() / 5
    bernoulli(h).backward(d)

    def mean(h):
        return 1 / (1 + np.exp(-h))

    v = h.detach().numpy()
    torch.testing.assert_close(h.grad, torch.from_numpy(error(mean, v, mean(v), d.numpy(), 5)))


@steps
def test_targets_use_the_surrogate_of_the_rule(build):
    act = alone(build(), lra.MirroredLRA(0.5, surrogate=lra.crossing.TanhSurrogate()))
    h = pre_activations(5, 12).requires_grad_()
    d = torch.randn(5, 12).double()
    act(h).backward(d)
    m = 0.5 * d / d.abs().max()
    expected = d.abs().max() * (torch.tanh(h + m) - torch.tanh(h - m))
    torch.testing.assert_close(h.grad, expected.detach(), **CLOSE)


@every_activation
def test_activations_are_fully_covered(build):
    x, _ = batch()
    model = net(build, lra.MirroredLRA(), example=x)
    report = lra.coverage(model)
    assert report.full
    assert report.activations == {type(build()).__name__: 2}
    assert lra.audit(model, x).clean


@every_activation
def test_audit_reports_skipped_activations(build):
    model = net(build, lra.MirroredLRA(), skip=["1"])
    found = lra.audit(model, batch()[0]).findings
    if build is BUILT["lwta"]:
        assert not found  # a selection, which passes errors on to the winners
    else:
        assert found[0].module == "1"
        assert "take it out of skip=" in found[0].remedy


def test_subclasses_are_activations_too():
    class Pairs(lra.activations.LWTA):
        def __init__(self):
            super().__init__(2)

    model = net(Pairs, lra.MirroredLRA())
    assert lra.coverage(model).activations == {"Pairs": 2}


# Machinery


@every_activation
def test_copies_and_pickles_give_the_same_updates(build):
    model = net(build, lra.MirroredLRA())
    expected = updates(model)
    assert_same(updates(copy.deepcopy(model)), expected)
    assert_same(updates(pickle.loads(pickle.dumps(model))), expected)
    plain = net(build)
    assert torch.equal(
        pickle.loads(pickle.dumps(plain)).eval()(batch()[0]), plain.eval()(batch()[0])
    )


@every_activation
def test_fused_layers_equal_layers_called_one_by_one(build):
    model = net(build, lra.MirroredLRA())

    def one_by_one(x):
        for layer in model:
            x = layer(x)
        return x

    assert_same(updates(model, one_by_one), updates(model), rtol=1e-12, atol=1e-14)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch's compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # from its graph breaks
@pytest.mark.parametrize("converted", [True, False])
@pytest.mark.parametrize("name", ["sign", "4 levels", "black box", "lwta", "bernoulli"])
def test_compiled_models_give_the_eager_updates(name, converted):
    build = BUILT[name]
    black_box = build is BUILT["black box"]
    if black_box and not converted:
        build = functools.partial(build, straight_through=lra.crossing.TanhSurrogate())
    model = net(build, lra.MirroredLRA() if converted else None)
    torch._dynamo.reset()
    run = torch.compile(model, backend="aot_eager", fullgraph=not black_box)
    if isinstance(model[1], lra.activations.Bernoulli):
        model.eval()  # the compiler's random numbers differ
    assert_same(updates(model, run), updates(model), rtol=1e-10, atol=1e-14)


@every_activation
def test_torch_func_transforms_give_the_same_updates(build):
    model = net(build, lra.MirroredLRA(relative="sample"))
    x, t = batch()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x, t):
        return F.cross_entropy(torch.func.functional_call(model, parameters, (x,)), t)

    expected = updates(model)
    torch.manual_seed(2)
    found = torch.func.grad(loss)(parameters, x, t)
    assert_same({k: found[k] for k in expected}, expected, rtol=1e-10, atol=1e-14)

    def one(parameters, x, t):
        return loss(parameters, x[None], t[None])

    model.eval()  # in training mode, Bernoulli draws for each sample separately
    expected = updates(model)
    each = torch.func.vmap(torch.func.grad(one), (None, 0, 0))(parameters, x, t)
    assert_same({k: each[k].mean(0) for k in expected}, expected, rtol=1e-10, atol=1e-14)


@every_activation
def test_updates_under_autocast_are_finite(build):
    model = net(build, lra.MirroredLRA()).float()
    x, t = batch()
    with torch.autocast("cpu", torch.bfloat16):
        F.cross_entropy(model(x.float()), t).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
    assert model[0].weight.grad.any()


# Learning


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    arrays = (data.x_train, data.y_train, data.x_test, data.y_test)
    x, y, x_test, y_test = map(torch.from_numpy, arrays)
    return x.flatten(1), y, x_test.flatten(1), y_test


def accuracy(digits, build, rule=None, epochs=10):
    x, y, x_test, y_test = digits
    model = nn.Sequential(nn.Linear(64, 64), build(), nn.Linear(64, 64), build(), nn.Linear(64, 10))
    if rule is not None:
        lra.convert(model, rule)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        share = (model.eval()(x_test).argmax(1) == y_test).double().mean().item()
    return share, model


LEARN = BUILT | {"lwta": lambda: lra.activations.LWTA(4)}


@pytest.mark.parametrize("name", ["sign", "heaviside", "4 levels", "black box", "lwta"])
def test_targets_train_activations_without_a_useful_derivative(name, digits):
    share = accuracy(digits, LEARN[name], lra.MirroredLRA())[0]
    assert share > 0.91


def test_targets_train_bernoulli(digits):
    assert accuracy(digits, lra.activations.Bernoulli, lra.MirroredLRA())[0] > 0.7


def test_backprop_trains_only_the_layer_above_the_steps(digits):
    share, model = accuracy(digits, lra.activations.Sign)
    assert share < 0.85
    for layer in (model[0], model[2]):
        assert not layer.weight.grad.any()
    assert model[4].weight.grad.any()


def test_backprop_trains_steps_through_a_surrogate(digits):
    share, _ = accuracy(
        digits, lambda: lra.activations.Sign(straight_through=lra.crossing.HardTanhSurrogate())
    )
    assert share > 0.92


# Refusals


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lra.activations.Sign("tanh"), "straight_through must be a Surrogate, such as"),
        (
            lambda: lra.activations.Sign(lra.crossing.TanhSurrogate),
            "straight_through must be a Surrogate, such as",
        ),
        (lambda: lra.activations.Quantized(1), "k must be 2 levels or more, got 1"),
        (lambda: lra.activations.Quantized(2.5), "k must be a whole number above 0, got 2.5"),
        (lambda: lra.activations.LWTA(0), "k must be a whole number above 0, got 0"),
        (lambda: lra.activations.LWTA(2, "channels"), "dim must be a whole number or None"),
        (
            lambda: lra.activations.LWTA(4)(torch.ones(2, 6)),
            r"6 units along dimension -1 of \(2, 6\) make no",
        ),
        (lambda: lra.activations.BlackBox(3), "expected a function of an array, got int"),
        (
            lambda: lra.activations.BlackBox(nn.Tanh()),
            r"got Tanh; .* lra\.register_activation\(Class\)",
        ),
        (
            lambda: lra.activations.BlackBox(np.sum, numpy=True)(torch.ones(2, 3)),
            r"sum returned \(\) for \(2, 3\)",
        ),
        (
            lambda: lra.activations.BlackBox(lambda h: None)(torch.ones(2)),
            "returned no numbers, but None",
        ),
    ],
)
def test_invalid_activations_are_refused(build, message):
    with pytest.raises(lra.errors.OptionError, match=message):
        build()


class Rounded(nn.Module):
    """A staircase in a user's module."""

    def forward(self, h):
        return torch.round(2 * h) / 2


STEP_FUNCTIONS = (
    lra.activations.Sign(),
    lra.activations.Heaviside(),
    lra.activations.Quantized(4),
    lra.activations.BlackBox(np.sign),
    Rounded(),
)


@pytest.mark.parametrize(
    ("act", "relative"),
    [
        *((step, "unit") for step in STEP_FUNCTIONS),
        *((act, "batch") for act in (lra.activations.Bernoulli(), lra.activations.LWTA(2))),
        *((act, "batch") for act in (nn.Tanh(), nn.ReLU(), nn.Hardtanh())),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_step_functions_get_targets_relative_to_each_unit(act, relative):
    act = copy.deepcopy(act)
    model = lra.convert(
        nn.Sequential(nn.Linear(4, 6), act, nn.Linear(6, 2)), lra.MirroredLRA(samples=10)
    )
    assert model[1].crossing.relative == relative
    surrogate = lra.MirroredLRA(samples=10, surrogate=lra.crossing.TanhSurrogate())
    assert lra.convert(lra.restore(model), surrogate)[1].crossing.relative == "batch"


# Closed forms, float32, and what a backward pass may overwrite


class SlowTanh(nn.Module):
    """tanh as a module whose closed form is not known."""

    def forward(self, h):
        return (torch.exp(h) - torch.exp(-h)) / (torch.exp(h) + torch.exp(-h))


class Called(nn.Module):
    def __init__(self, phi, *sizes):
        super().__init__()
        self.below, self.above, self.phi = nn.Linear(*sizes[:2]), nn.Linear(*sizes[1:]), phi

    def forward(self, x):
        return self.above(self.phi(self.below(x)))


TANHS = {
    "function": lambda: Called(torch.tanh, 5, 6, 3),
    "F.tanh": lambda: Called(F.tanh, 5, 6, 3),
    "method": lambda: Called(lambda h: h.tanh(), 5, 6, 3),
    "in place": lambda: Called(torch.tanh_, 5, 6, 3),
    "module": lambda: Called(nn.Tanh(), 5, 6, 3),
    "fused": lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)),
}


@pytest.mark.parametrize(
    "loss",
    [
        lra.crossing.Squared(),
        lra.crossing.Absolute(),
        lra.crossing.Cauchy(),
        lra.crossing.Mixed(0.3),
    ],
)
@pytest.mark.parametrize(
    "options", [{}, {"two_sided": True}, {"two_sided": True, "relative": "batch"}], ids=str
)
@pytest.mark.parametrize("build", TANHS.values(), ids=TANHS)
def test_every_call_of_tanh_gives_the_updates_of_its_formula(build, options, loss):
    """The closed form, by any way to call tanh, equals subtraction in float64."""
    x, t = torch.randn(7, 5, dtype=torch.float64), torch.randint(3, (7,))
    crossing = lra.crossing.TargetDifference(0.3, gain=1.7, local_loss=loss, **options)
    rule = lra.Rule(lra.feedback.Random(), crossing)
    found = []
    for model in (build(), Called(SlowTanh(), 5, 6, 3)):
        torch.manual_seed(0)
        for p in model.double().parameters():
            nn.init.normal_(p)
        lra.convert(model, rule, example=x)
        F.cross_entropy(model(x), t).backward()
        found.append([p.grad for p in model.parameters()])
    for exact, formula in zip(*found, strict=True):
        torch.testing.assert_close(exact, formula, rtol=1e-9, atol=1e-12)


class Unknown(nn.Module):
    """An activation whose closed form is not known."""

    def __init__(self, phi):
        super().__init__()
        self.phi = phi

    def forward(self, h):
        return self.phi(h) + 0


CALLS = {
    F.relu: [nn.ReLU(), nn.ReLU(inplace=True), F.relu, torch.relu, torch.relu_, lambda h: h.relu()],
    F.silu: [nn.SiLU(), nn.SiLU(inplace=True), F.silu, functools.partial(F.silu, inplace=True)],
    torch.sigmoid: [nn.Sigmoid(), torch.sigmoid, lambda h: h.sigmoid(), F.sigmoid],
    F.gelu: [nn.GELU(), F.gelu],
    functools.partial(F.gelu, approximate="tanh"): [nn.GELU("tanh")],
}


@pytest.mark.parametrize("options", [{}, {"two_sided": True}, {"relative": "batch"}], ids=str)
@pytest.mark.parametrize(
    ("phi", "call"), [(phi, call) for phi, calls in CALLS.items() for call in calls]
)
@pytest.mark.parametrize("fused", [False, True])
def test_two_backward_passes_add_the_same_updates(phi, call, fused, options):
    """The first pass overwrites nothing that the second one reads."""
    if fused and not isinstance(call, nn.Module):
        pytest.skip("only modules are fused")
    x, t = torch.randn(7, 5, dtype=torch.float64), torch.randint(3, (7,))
    rule = lra.Rule(lra.feedback.Random(), lra.crossing.TargetDifference(0.3, gain=1.7, **options))
    found = []
    for act, passes in ((call, 2), (Unknown(phi), 1)):
        torch.manual_seed(0)
        model = Called(copy.deepcopy(act), 5, 6, 3)
        if fused:
            model = nn.Sequential(model.below, model.phi, model.above)
        for p in model.double().parameters():
            nn.init.normal_(p)
        lra.convert(model, rule, example=x)
        loss = F.cross_entropy(model(x), t)
        for _ in range(passes):
            loss.backward(retain_graph=True)
        found.append([p.grad / passes for p in model.parameters()])
    for exact, formula in zip(*found, strict=True):
        torch.testing.assert_close(exact, formula, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("build", [nn.Tanh, nn.ReLU, nn.GELU, lambda: Unknown(torch.sin)])
@pytest.mark.parametrize("rule", [lra.LRAE(), lra.MirroredLRA()], ids=("lra-e", "mirrored"))
def test_the_backward_pass_does_not_overwrite_the_error_it_receives(build, rule):
    for dtype in (torch.float64, torch.float32):
        model = nn.Sequential(nn.Linear(5, 6), build(), nn.Linear(6, 4), build()).to(dtype)
        lra.convert(model, rule, example=torch.randn(7, 5, dtype=dtype))
        g = torch.randn(7, 4, dtype=dtype)
        before = g.clone()
        model(torch.randn(7, 5, dtype=dtype)).backward(g)
        assert torch.equal(g, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_users_crossings_get_a_phi_that_preserves_its_arguments(dtype):
    class Checked(lra.crossing.Crossing):
        def error(self, phi, h, z, d, n, xp):
            before, z_before, error = h.clone(), z.clone(), d.clone()
            torch.testing.assert_close(phi(h), z)
            slope = phi.difference(h, torch.full_like(h, 1e-3), xp) / 1e-3
            assert torch.equal(h, before)
            assert torch.equal(z, z_before)
            assert torch.equal(d, error)
            return slope * d

    for act in (nn.ReLU(), nn.ReLU(inplace=True), nn.Tanh(), nn.GELU()):
        model = lra.convert(
            nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 2)).to(dtype),
            lra.Rule(crossing=Checked()),
        )
        model(torch.randn(3, 4, dtype=dtype)).sum().backward()
        assert model[0].weight.grad.any()


EXACT_CASES = [
    *((cls, settings) for cls, settings in ACTIVATION_CASES if cls is not nn.Softplus),
    *((nn.Softplus, settings) for settings in ({}, {"beta": 2.5})),
]
"""Activations with a closed form. At a low threshold torch's Softplus has a step, and none."""


def errors_at(cls, settings, crossing, h, d):
    """Return the error at h in float32, and from the same numbers in float64."""
    found = []
    for dtype in (torch.float32, torch.float64):
        act = alone(cls(**settings).to(dtype), lra.Rule(lra.feedback.Random(), crossing))
        at = h.to(dtype, copy=True).requires_grad_()
        torch.manual_seed(1)  # for the slopes of RReLU
        act(at.clone()).backward(d.to(dtype))
        found.append(at.grad)
    return found


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("size", [1.0, 1e-1, 1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize(("cls", "settings"), EXACT_CASES, ids=name_of)
def test_errors_in_float32_are_exact_to_rounding(cls, settings, size, two_sided):
    """Subtraction would be off by 1e-7 / size, relative to the error."""
    torch.manual_seed(0)
    crossing = lra.crossing.TargetDifference(1.0, two_sided=two_sided)
    h, d = torch.randn(500, 3, 20), size * torch.randn(500, 3, 20) / 500
    e, exact = errors_at(cls, settings, crossing, h, d)
    assert e.dtype == torch.float32
    assert (e - exact).norm() <= 3e-6 * exact.norm()
    assert exact.any()
    assert not errors_at(cls, settings, crossing, h, 0 * d)[0].any()


def test_tensor_subclasses_give_the_errors_of_tensors():
    class Watched(torch.Tensor):
        pass

    for act in (nn.GELU(), nn.Tanh(), nn.ReLU()):
        op = lra.convert(nn.Sequential(nn.Linear(4, 4), act), lra.LRAE())[1].op()[0]
        h, d = torch.randn(3, 4), torch.randn(3, 4)
        before = h.clone()
        (found,) = op.backward((h.as_subclass(Watched),), d, (True,))
        (expected,) = op.backward((h,), d, (True,))
        torch.testing.assert_close(found.as_subclass(torch.Tensor), expected)
        assert torch.equal(h, before)
