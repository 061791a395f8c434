"""Updates that are too small: against updates by hand and the steps of torch's optimizers."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lra
from lra.torch.diagnose import Arrival

BATCH = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
RMS = math.sqrt((3**2 + 4**2) / 2)  # of the numbers that are not zero


def by_hand(size=1.0, dtype=torch.float32):
    """Return a layer and a loss whose update is size * BATCH."""
    model = lra.convert(nn.Sequential(nn.Linear(4, 1, bias=False)).to(dtype), lra.Backprop())
    return model, lambda output: output.sum() * size


def diagnose(model, loss, optimizer=None):
    dtype = next(model.parameters()).dtype
    return lra.diagnose(model, BATCH.to(dtype), loss=loss, optimizer=optimizer)


def deep(rule, depth=12, width=16):
    torch.manual_seed(0)
    layers = [nn.Linear(4, width), nn.Tanh()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.Tanh()]
    return lra.convert(nn.Sequential(*layers, nn.Linear(width, 3)), rule)


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(9, 4, generator=generator), torch.arange(9) % 3


# ---------------------------------------------------------------- the typical size of an update


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1.0, torch.float32), (1e-30, torch.float32), (1e-39, torch.float32), (1e-200, torch.float64)],
)
def test_the_size_is_the_rms_of_the_numbers_that_are_not_zero(size, dtype):
    update = diagnose(*by_hand(size, dtype))["0"].update
    expected = torch.tensor(size * RMS, dtype=torch.float64)
    rounding = 1e-5 if size < 1e-38 else 1e-6  # subnormal numbers have fewer digits
    torch.testing.assert_close(
        torch.tensor(update.rms, dtype=torch.float64), expected, rtol=rounding, atol=0
    )


def test_an_update_of_zero_is_not_small():
    found = diagnose(*by_hand(0.0))
    assert found["0"].update.rms == 0
    assert found["0"].update.step_scale is None
    assert found.below_eps == found.subnormal == ()
    assert found["0"].arrival is Arrival.ZERO


@pytest.mark.filterwarnings("ignore::lra.LraWarning")
def test_an_update_that_is_not_finite_is_not_small():
    found = diagnose(*by_hand(math.inf))
    assert found.below_eps == found.subnormal == ()
    assert json.dumps(found.rows())


# ---------------------------------------------------------------- what eps does to a step


class Same(nn.Module):
    """A layer whose update is the same number everywhere."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1, bias=False).double()

    def forward(self, x):
        return self.layer(x)


U = 1e-5

OPTIMIZERS = {
    "Adam": lambda p, eps: torch.optim.Adam(p, eps=eps),
    "AdamW": lambda p, eps: torch.optim.AdamW(p, eps=eps, weight_decay=0.0),
    "NAdam": lambda p, eps: torch.optim.NAdam(p, eps=eps, momentum_decay=0.0),
    "RAdam": lambda p, eps: torch.optim.RAdam(p, eps=eps, betas=(0.9, 0.95)),
    "Adamax": lambda p, eps: torch.optim.Adamax(p, eps=eps),
    "RMSprop": lambda p, eps: torch.optim.RMSprop(p, eps=eps, alpha=0.9),
    "Adagrad": lambda p, eps: torch.optim.Adagrad(p, eps=eps),
}


def last_step(build, eps, steps):
    """Return the length of an optimizer's last step, if all its updates are U."""
    W = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = build([W], eps)
    for _ in range(steps):
        before = W.detach().clone()
        W.grad = torch.full_like(W, U)
        optimizer.step()
    return float((W.detach() - before).norm())


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("eps", [U / 10, U, 30 * U])
def test_the_share_of_a_step_is_what_the_optimizer_takes(name, eps):
    build, steps = OPTIMIZERS[name], 1 if name == "Adagrad" else 400  # Adagrad adds up its updates
    expected = last_step(build, eps, steps) / last_step(build, 0.0, steps)
    model = lra.convert(Same(), lra.Backprop())
    x = torch.ones(1, 3, dtype=torch.float64)
    optimizer = build(model.parameters(), eps)
    found = lra.diagnose(model, x, loss=lambda output: U * output.sum(), optimizer=optimizer)
    update = found["layer"].update
    assert update.eps == eps
    torch.testing.assert_close(update.step_scale, expected, rtol=1e-6, atol=0)
    assert found.below_eps == (("layer",) if eps > U else ())
    assert found.rows()[0]["step_scale"] == found.scalars()["step_scale/layer"] == update.step_scale


@pytest.mark.parametrize(
    "build",
    [torch.optim.SGD, torch.optim.ASGD, torch.optim.Rprop, torch.optim.Adafactor],
)
def test_optimizers_without_such_an_eps(build):
    model, loss = by_hand(1e-20)
    found = diagnose(model, loss, build(model.parameters(), lr=0.1))
    assert found["0"].update.eps is None
    assert found.below_eps == ()
    assert "eps" not in str(found)


def test_adadelta_adds_its_eps_to_the_square():
    model, loss = by_hand(1e-4)
    found = diagnose(model, loss, torch.optim.Adadelta(model.parameters(), eps=1e-6))
    torch.testing.assert_close(found["0"].update.eps, 1e-3)
    assert found.below_eps == ("0",)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_adds_its_eps_to_the_norm_of_a_matrix():
    model, loss = by_hand(1e-20)
    assert diagnose(model, loss, torch.optim.Muon(model.parameters())).below_eps == ()


# ---------------------------------------------------------------- which layers, which eps


def two_layers():
    torch.manual_seed(0)
    return lra.convert(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), lra.LRAE())


def test_each_parameter_is_compared_with_the_eps_of_its_group():
    model, (x, t) = two_layers(), batch()
    groups = [
        {"params": model[0].parameters(), "eps": 1e3},
        {"params": model[2].weight, "eps": 1e-30},
        {"params": [model[2].bias, model[2].feedback], "eps": 1e6},
    ]
    found = lra.diagnose(model, x, t, optimizer=torch.optim.Adam(groups))
    assert {u.name: u.eps for layer in found.layers for u in layer.updates} == {
        **{"0.weight": 1e3, "0.bias": 1e3, "2.weight": 1e-30, "2.bias": 1e6, "2.feedback": 1e6}
    }
    assert found.below_eps == ("0",)  # 2.bias and 2.feedback are no weights
    assert "Adam's eps (1000)" in str(found)


def test_several_optimizers_and_parameters_without_one():
    model, (x, t) = two_layers(), batch()
    sgd = torch.optim.SGD(model[0].parameters())
    adam = torch.optim.Adam([model[2].weight], eps=1e3)
    found = lra.diagnose(model, x, t, optimizer=[sgd, adam])
    assert found.below_eps == ("2",)
    assert found.optimizer == "SGD and Adam"
    assert lra.diagnose(model, x, t, optimizer=sgd).below_eps == ()
    assert lra.diagnose(model, x, t, optimizer=[]).below_eps == ()


def test_frozen_parameters_are_left_out():
    model, (x, t) = two_layers(), batch()
    optimizer = torch.optim.Adam(model.parameters(), eps=1e3)
    assert lra.diagnose(model, x, t, optimizer=optimizer).below_eps == ("0", "2")
    model[0].requires_grad_(False)
    assert lra.diagnose(model, x, t, optimizer=optimizer).below_eps == ("2",)


def test_without_an_optimizer_adams_default_counts():
    for size, below in ((0.5e-8, ("0",)), (2e-8, ())):
        found = diagnose(*by_hand(size / RMS))
        assert found["0"].update.eps == torch.optim.AdamW([nn.Parameter(BATCH)]).defaults["eps"]
        assert found.below_eps == below
        assert ("Adam's default eps" in str(found)) == bool(below)


def test_methods_are_compared_with_eps_too():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    method, (x, t) = lra.methods.PredictiveCoding(2), batch()
    for eps, below in ((1e3, ("0", "2")), (1e-30, ())):
        optimizer = torch.optim.Adam(model.parameters(), eps=eps)
        found = lra.diagnose(model, x, t, method=method, optimizer=optimizer)
        assert found.below_eps == below


@pytest.mark.parametrize("given", [3, "adam", [torch.optim.SGD]])
def test_anything_but_an_optimizer_is_refused(given):
    with pytest.raises(lra.errors.OptionError, match=r"must be a torch\.optim\.Optimizer"):
        diagnose(*by_hand(), given)


# ---------------------------------------------------------------- the notes


def test_the_published_rule_in_twelve_layers():
    x, t = batch()
    model = deep(lra.LRAE())
    sgd, adamw = torch.optim.SGD(model.parameters()), torch.optim.AdamW(model.parameters())
    small = torch.optim.AdamW(model.parameters(), eps=1e-30)
    found = lra.diagnose(model, x, t, optimizer=adamw)
    scales = {layer.name: layer.update.step_scale for layer in found.weights}
    assert found.below_eps == tuple(name for name, scale in scales.items() if scale < 0.5)
    assert {"0", "2", "4", "6"} <= set(found.below_eps) < set(scales) - {"22", "24"}
    *_, note, remedy = str(found).splitlines()
    assert note.startswith("updates below AdamW's eps (1e-08), which cuts steps to this share: 0 (")
    assert f"2 ({scales['2']:.1g}), 4 (" in note
    assert remedy == "remedy: normalized=True, lra.MirroredLRA() or a smaller eps"
    for optimizer in (sgd, small):
        found = lra.diagnose(model, x, t, optimizer=optimizer)
        assert found.below_eps == ()
        assert "eps" not in str(found)
        assert "remedy" not in str(found)


@pytest.mark.parametrize("rule", [lra.MirroredLRA(), lra.LRAE(normalized=True), lra.Backprop()])
def test_rules_that_keep_the_scale_need_no_remedy(rule):
    model = deep(rule)
    optimizer = torch.optim.AdamW(model.parameters())
    found = lra.diagnose(model, *batch(), optimizer=optimizer)
    assert found.below_eps == found.subnormal == ()
    assert "remedy" not in str(found)
    optimizer.param_groups[0]["eps"] = 1e3
    found = lra.diagnose(model, *batch(), optimizer=optimizer)
    assert str(found).endswith("\nremedy: a smaller eps")


@pytest.mark.parametrize(
    ("size", "dtype", "subnormal"),
    [
        (1e-39, torch.float32, True),
        (1e-37, torch.float32, False),
        (1e-39, torch.float64, False),
        (1e-310, torch.float64, True),
    ],
)
def test_subnormal_updates_depend_on_the_type(size, dtype, subnormal):
    model, loss = by_hand(size, dtype)
    found = diagnose(model, loss, torch.optim.SGD(model.parameters()))
    assert found.subnormal == (("0",) if subnormal else ())
    least = {torch.float32: "1.2e-38", torch.float64: "2.2e-308"}[dtype]
    note = f"updates below their type's smallest normal number ({least}), which is slow"
    assert (note in str(found)) == subnormal
    assert "remedy" not in str(found)  # backprop has none


@pytest.mark.filterwarnings("ignore:the loss divides by:lra.LraWarning")
@pytest.mark.parametrize(
    ("build", "remedies"),
    [
        (torch.optim.SGD, "normalized=True or lra.MirroredLRA()"),
        (torch.optim.Adam, "normalized=True, lra.MirroredLRA() or a smaller eps"),
    ],
)
def test_the_remedies_of_subnormal_updates(build, remedies):
    model, (x, t) = two_layers(), batch()
    optimizer = build(model.parameters())
    found = lra.diagnose(
        model, x, t, loss=lambda z, t: F.cross_entropy(z, t) * 1e-39, optimizer=optimizer
    )
    assert found.subnormal == ("0", "2")
    assert str(found).endswith(f"\nremedy: {remedies}")


# ---------------------------------------------------------------- targets that rounding loses


def test_only_targets_compared_by_subtraction_are_lost():
    class Cube(nn.Module):
        def forward(self, h):
            return h + h * h * h

    x, t = batch()
    for act, surrogate, arrival in (
        (nn.Tanh(), None, Arrival.USABLE),
        (nn.RReLU(), None, Arrival.USABLE),
        (Cube(), None, Arrival.UNDERFLOW),
        (Cube(), lra.crossing.TanhSurrogate(), Arrival.USABLE),
    ):
        model = nn.Sequential(nn.Linear(4, 5), act, nn.Linear(5, 3))
        lra.convert(model, lra.LRAE(1e-9, normalized=True, surrogate=surrogate), example=x)
        found = lra.diagnose(model, x, t)
        assert found["1"].arrival is arrival, act
        assert bool(found["0"].error) == (arrival is Arrival.USABLE)
