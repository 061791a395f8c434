"""Ensembles: many networks at once equal the same networks one after the other."""

import copy
import dataclasses
import re

import pytest
import torch
from nets import ALL_RULES, MODELS, assert_same, convert, images, mlp, taken, updates
from torch import nn
from torch.nn import functional as F

import lra

K = 4
LRA = lra.LRAE(beta=0.3)
CLOSE = {"rtol": 1e-12, "atol": 1e-15}
RUNS = {
    name: rule
    for name, rule in ALL_RULES.items()
    if rule.wiring == lra.wiring.Chain()
    and getattr(rule.feedback, "magnitude", None) is not lra.feedback.Magnitude.BATCH
}
every_rule = pytest.mark.parametrize("rule", RUNS.values(), ids=RUNS)
every_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)

OPTIMIZERS = {
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "AdamW, fused": (torch.optim.AdamW, {"weight_decay": 0.1, "fused": True}),
    "Adam": (torch.optim.Adam, {"betas": (0.8, 0.99)}),
    "SGD with momentum": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
}


def networks(rules, build=mlp):
    """Build networks with different weights, and copies to train separately."""
    models = [
        build().double() if rule is None else convert(build().double(), rule) for rule in rules
    ]
    return models, copy.deepcopy(models)


def batches(n=6):
    """Draw a batch for each network."""
    pairs = [images(n) for _ in range(K)]
    return torch.stack([x for x, _ in pairs]), torch.stack(
        [y.roll(k) for k, (_, y) in enumerate(pairs)]
    )


def backward(ensemble, x, y):
    torch.vmap(F.cross_entropy)(ensemble(x), y).sum().backward()


def assert_close(found, expected, **tolerances):
    """Assert that tensors are close, relative to the largest number of each."""
    assert found.keys() == expected.keys()
    for name, b in expected.items():
        size = float(b.detach().abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(
            found[name], b, rtol=tolerances.get("rtol", 1e-12), atol=1e-12 * size + 1e-300,
            msg=lambda m, name=name: f"{name}: {m}",
        )  # fmt: skip


def assert_equals_separate(models, separate, x, y):
    """Assert that an ensemble gives the updates and buffers of separate networks."""
    backward(lra.ensemble.Ensemble(models), x, y)
    for model, own, rows, labels in zip(models, separate, x, y, strict=True):
        assert_close(taken(model), updates(own, rows, labels))
        assert_close(dict(model.named_buffers()), dict(own.named_buffers()))


# Updates


@every_rule
@every_model
def test_updates_equal_those_of_separate_networks(build, rule):
    models, separate = networks([rule] * K, build)
    assert_equals_separate(models, separate, *batches())


@every_model
def test_plain_networks_equal_separate_ones(build):
    models, separate = networks([None] * K, build)
    assert_equals_separate(models, separate, *batches())


NUMBERS = {
    "beta": [lra.LRAE(beta=beta) for beta in (0.1, 0.2, 0.5, 1)],
    "gamma": [lra.LRAE(gamma=gamma) for gamma in (1.0, 0.0, 0.5, -2)],
    "gamma of Kolen-Pollack": [lra.KolenPollack(gamma) for gamma in (1.0, 0.3, 0.5, 2.0)],
    "all": [lra.LRAE(0.1 * k, 1 / k, gain=k) for k in range(1, 5)],
    "normalised": [lra.LRAE(0.1 * k, normalized=True, two_sided=True) for k in range(1, 5)],
    "mirrored": [
        lra.MirroredLRA(beta, samples=s) for beta, s in ((1, 9), (0.5, 50), (2, 9), (3, 9))
    ],
    "relative to a sample": [lra.MirroredLRA(0.3 * k, relative="sample") for k in range(1, 5)],
    "alpha of the local loss": [
        lra.LRAE(local_loss=lra.crossing.Mixed(0.2 * k)) for k in range(1, 5)
    ],
    "first draws": [
        lra.LRAE(init=i)
        for i in (
            lra.inits.Normal(0.2),
            lra.inits.FanIn(),
            lra.inits.LikeWeights(2.0),
            lra.inits.Normal(),
        )
    ],
}


@every_model
@pytest.mark.parametrize("rules", NUMBERS.values(), ids=NUMBERS)
def test_each_network_uses_the_numbers_of_its_rule(build, rules):
    models, separate = networks(rules, build)
    assert_equals_separate(models, separate, *batches())


def test_each_network_uses_its_numbers_at_step_functions():
    def build():
        return nn.Sequential(
            nn.Flatten(), nn.Linear(192, 6), lra.activations.Sign(), nn.Linear(6, 4)
        )

    models, separate = networks([lra.MirroredLRA(beta) for beta in (0.5, 1.0, 2.0, 3.0)], build)
    assert_equals_separate(models, separate, *batches())


def test_each_network_uses_its_numbers_in_float32():
    models = [lra.convert(mlp(), rule) for rule in NUMBERS["all"]]
    separate = copy.deepcopy(models)
    x, y = batches()
    backward(lra.ensemble.Ensemble(models), x.float(), y)
    for model, own, rows, labels in zip(models, separate, x.float(), y, strict=True):
        assert_same(taken(model), updates(own, rows, labels), rtol=1e-4, atol=1e-6)
        assert {g.dtype for g in taken(model).values()} == {torch.float32}


def test_updates_of_two_networks_equal_their_formulas():
    rules = [lra.LRAE(beta=beta, gamma=gamma) for beta, gamma in ((0.1, 1.0), (0.7, 0.5))]
    models = []
    for rule in rules:
        layers = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        models.append(lra.convert(layers, rule))
    x, error = torch.randn(2, 6, 5).double(), torch.randn(2, 6, 3).double() / 6
    (lra.ensemble.Ensemble(models)(x) * error).sum().backward()
    for model, rule, z0, e in zip(models, rules, x, error, strict=True):
        h = z0 @ model[0].weight.T + model[0].bias
        d = e @ model[2].feedback
        below = (torch.tanh(h) - torch.tanh(h - rule.crossing.beta * 6 * d)) / 6
        dW = e.T @ torch.tanh(h)
        found = {
            "dW": model[2].weight.grad,
            "dE": model[2].feedback.grad,
            "d0": model[0].weight.grad,
        }
        expected = {"dW": dW, "dE": rule.feedback.gamma * dW, "d0": below.T @ z0}
        assert_close(found, {k: v.detach() for k, v in expected.items()}, rtol=1e-10)


# Training


def train(step, models, optimizer):
    """Take a hundred steps, each on another batch."""
    kind, settings = OPTIMIZERS[optimizer]
    optimizers = [
        kind(model.parameters(), **settings | {"lr": 1e-3 * (1 + k)})
        for k, model in enumerate(models)
    ]
    torch.manual_seed(7)
    for _ in range(100):
        x, y = batches()
        for one in optimizers:
            one.zero_grad()
        step(x, y)
        for one in optimizers:
            one.step()
    return optimizers


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rules", [NUMBERS["all"], NUMBERS["mirrored"]], ids=["lra-e", "mirrored"])
def test_a_hundred_steps_equal_those_of_separate_networks(rules, optimizer):
    models, separate = networks(rules)
    ensemble = lra.ensemble.Ensemble(models)

    def one_by_one(x, y):
        for model, rows, labels in zip(separate, x, y, strict=True):
            F.cross_entropy(model(rows), labels).backward()

    own = train(lambda x, y: backward(ensemble, x, y), models, optimizer)
    theirs = train(one_by_one, separate, optimizer)
    ensemble.separate()
    for model, other, mine, its in zip(models, separate, own, theirs, strict=True):
        assert_same(dict(model.state_dict()), dict(other.state_dict()), rtol=1e-8, atol=1e-10)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            found, expected = mine.state[p], its.state[q]
            assert_same(found, expected, rtol=1e-7, atol=1e-10)
        x, y = images()
        assert_same(updates(model, x, y), updates(other, x, y), rtol=1e-6, atol=1e-9)


def test_updates_accumulate_until_zero_grad():
    models, separate = networks([LRA] * K)
    ensemble = lra.ensemble.Ensemble(models)
    first, second = batches(), batches()
    backward(ensemble, *first)
    once = [taken(model) for model in models]
    backward(ensemble, *second)
    for k, model in enumerate(models):
        more = updates(separate[k], second[0][k], second[1][k])
        assert_close(taken(model), {name: once[k][name] + g for name, g in more.items()})
    ensemble.zero_grad()
    backward(ensemble, *first)
    for k, model in enumerate(models):
        assert_same(taken(model), once[k])


def test_one_optimizer_for_all_networks_with_clipping():
    models, separate = networks([LRA] * K)
    ensemble = lra.ensemble.Ensemble(models)
    optimizer = torch.optim.SGD(ensemble.parameters(), lr=0.1)
    x, y = batches()
    backward(ensemble, x, y)
    for k, model in enumerate(models):
        nn.utils.clip_grad_norm_(model.parameters(), 0.01 * (k + 1))
    optimizer.step()
    for k, (model, own) in enumerate(zip(models, separate, strict=True)):
        updates(own, x[k], y[k])
        nn.utils.clip_grad_norm_(own.parameters(), 0.01 * (k + 1))
        torch.optim.SGD(own.parameters(), lr=0.1).step()
        assert_close(dict(model.named_parameters()), dict(own.named_parameters()))


def test_frozen_parameters_get_no_updates():
    models, _ = networks([LRA] * K)
    for model in models:
        model[3].weight.requires_grad_(False)
        model[3].feedback.requires_grad_(False)
    x, y = batches()
    ensemble = lra.ensemble.Ensemble(models)
    backward(ensemble, x, y)
    assert all(model[3].weight.grad is None for model in models)
    for model in models:  # unfrozen again, they do
        model[3].weight.requires_grad_(True)
    ensemble.zero_grad()
    backward(ensemble, x, y)
    assert all(bool(model[3].weight.grad.any()) for model in models)


def test_evaluation_equals_that_of_separate_networks():
    models, separate = networks([LRA] * K, MODELS["residual"])
    ensemble = lra.ensemble.Ensemble(models)
    x, y = batches()
    backward(ensemble, x, y)
    for model, rows in zip(separate, x, strict=True):
        model(rows)  # updates the running averages of batch norms
    ensemble.eval()
    with torch.no_grad():
        found = ensemble(x)
    expected = torch.stack([model.eval()(rows) for model, rows in zip(separate, x, strict=True)])
    torch.testing.assert_close(found, expected.detach(), **CLOSE)


# Stacks


def test_networks_are_views_of_stacks_until_separated():
    models, _ = networks([LRA] * K)
    ensemble = lra.ensemble.Ensemble(models)
    x, y = batches()
    backward(ensemble, x, y)
    size = models[0][1].weight.untyped_storage().nbytes()
    assert size == K * models[0][1].weight.nbytes
    before = [copy.deepcopy(model.state_dict()) for model in models]
    ensemble.separate()
    for model, state in zip(models, before, strict=True):
        assert_same(dict(model.state_dict()), dict(state))
        for t in model.state_dict().values():
            assert t.untyped_storage().nbytes() == t.nbytes
        assert not lra.is_converted(lra.restore(model))


@pytest.mark.parametrize("change", ["load", "assign", "replace", "separate", "float", "copy"])
def test_changes_of_tensors_between_passes_take_effect(change):
    models, _ = networks([LRA] * K)
    ensemble = lra.ensemble.Ensemble(models)
    x, y = batches()
    backward(ensemble, x, y)
    ensemble.zero_grad()
    if change in ("load", "assign"):
        state = copy.deepcopy(models[2].state_dict())
        models[0].load_state_dict(state, assign=change == "assign")
    elif change == "replace":
        models[1][5].weight = nn.Parameter(torch.randn_like(models[1][5].weight))
    elif change == "separate":
        ensemble.separate()
    elif change == "float":
        ensemble, x = ensemble.float(), x.float()
    else:
        ensemble = copy.deepcopy(ensemble)
        models = list(ensemble.models)
    separate = copy.deepcopy(models)
    backward(ensemble, x, y)
    for model, own, rows, labels in zip(models, separate, x, y, strict=True):
        exact = (
            {"rtol": 1e-4, "atol": 1e-6} if change == "float" else {"rtol": 1e-10, "atol": 1e-13}
        )
        assert_same(taken(model), updates(own, rows, labels), **exact)


def test_a_change_of_the_rule_between_passes_takes_effect():
    models, _ = networks([LRA] * K)
    ensemble = lra.ensemble.Ensemble(models)
    x, y = batches()
    backward(ensemble, x, y)
    for k, model in enumerate(models):
        lra.convert(lra.restore(model), lra.LRAE(beta=0.1 * (k + 1)))
    separate = copy.deepcopy(models)
    ensemble.zero_grad()
    backward(ensemble, x, y)
    for model, own, rows, labels in zip(models, separate, x, y, strict=True):
        assert_close(taken(model), updates(own, rows, labels))


def test_keyword_arguments_and_nested_results():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, a, *, b, twice):
            out = torch.tanh(self.left(a)) + self.right(b)
            return {"out": out * 2 if twice else out, "rows": out.sum(-1)}

    models = [Two() for _ in range(K)]
    a, b = torch.randn(K, 6, 3), torch.randn(K, 6, 5)
    found = lra.ensemble.Ensemble(models)(a, b=b, twice=True)
    for k, model in enumerate(models):
        expected = model(a[k], b=b[k], twice=True)
        torch.testing.assert_close({name: t[k] for name, t in found.items()}, expected)


# Refusals


def refused(rules, change=lambda models: None):
    models, _ = networks(rules)
    change(models)
    with pytest.raises(lra.errors.EnsembleError) as found:
        lra.ensemble.Ensemble(models)
    return found.value


@pytest.mark.parametrize("name", ["direct-feedback-alignment", "direct-lra", "rec-lra"])
def test_wired_rules_are_refused(name):
    assert re.search(
        r"wired by (Direct|Stride).*lra\.wiring\.Chain", str(refused([ALL_RULES[name]] * 2))
    )


SIGNS = lra.SignSymmetry
REFUSED = {
    "kinds": ([LRA, lra.KolenPollack()], r"differ at crossing: TargetDifference, Derivative"),
    "options": ([LRA, lra.LRAE(two_sided=True)], r"differ at crossing\.two_sided"),
    "surrogates": (
        [LRA, lra.LRAE(surrogate=lra.crossing.TanhSurrogate())],
        r"differ at crossing\.surrogate",
    ),
    "losses": (
        [LRA, lra.LRAE(local_loss=lra.crossing.Absolute())],
        r"differ at crossing\.local_loss",
    ),
    "draws": ([SIGNS("batch")] * 2, r"draws feedback weights at every step.*'fixed'"),
    "measures": (
        [SIGNS(init=lra.inits.LikeWeights())] * 2,
        r"measures each network's weights.*FanIn",
    ),
    "computed": ([SIGNS(), SIGNS(init=lra.inits.FanIn(2.0))], r"differ at feedback\.init\.scale"),
    "one plain": ([LRA, None], r"networks 0 and 1 differ at"),
}


@pytest.mark.parametrize(("rules", "message"), REFUSED.values(), ids=REFUSED)
def test_rules_that_differ_in_more_than_numbers_are_refused(rules, message):
    assert re.search(message, str(refused(rules)))


def test_networks_that_differ_are_refused():
    def other_width(models):
        models[1][3] = nn.Linear(3, 7).double()

    def other_setting(models):
        models[1].scale = 2.0

    def other_tensor(models):
        models[0].shift, models[1].shift = torch.zeros(2), torch.ones(2)

    def other_type(models):
        models[1].float()

    def same(models):
        models[1] = models[0]

    def shared(models):
        models[1][1].weight = models[0][1].weight

    assert "differ at 3" in str(refused([None] * 2, other_width))
    assert "differ at .scale" in str(refused([None] * 2, other_setting))
    assert "differ at .shift" in str(refused([None] * 2, other_tensor))
    assert "torch.float64" in str(refused([LRA] * 2, other_type))
    assert "copy.deepcopy" in str(refused([LRA] * 2, same))
    assert "copy.deepcopy" in str(refused([LRA] * 2, shared))
    assert "two or more" in str(refused([LRA]))
    leaky = [nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(s)) for s in (0.1, 0.2)]
    with pytest.raises(lra.errors.EnsembleError, match="negative_slope"):
        lra.ensemble.Ensemble(leaky)


@pytest.mark.parametrize(
    "cls", [nn.Dropout, nn.AlphaDropout, nn.RReLU, lra.activations.Bernoulli, nn.PReLU, nn.GLU]
)
def test_modules_that_cannot_run_across_networks_are_refused(cls):
    def build():
        layer = nn.Linear(192, 4)
        return nn.Sequential(nn.Flatten(), layer, nn.Tanh(), cls(), nn.LazyLinear(4))

    def networks():
        for _ in range(2):
            model = build().double()
            model(images(2)[0])
            yield lra.convert(model, LRA)

    with pytest.raises(lra.errors.EnsembleError) as found:
        lra.ensemble.Ensemble(networks())
    (refusal,) = found.value.refused
    assert refusal.name == "3"
    assert "one after the other" in str(found.value)


def test_hooks_are_refused_at_any_time():
    models, _ = networks([LRA] * 2)
    ensemble = lra.ensemble.Ensemble(models)
    ensemble(torch.randn(2, 3, 3, 8, 8).double())
    handle = models[1][2].register_forward_hook(lambda *_: None)
    with pytest.raises(lra.errors.EnsembleError, match="it has hooks"):
        ensemble(torch.randn(2, 3, 3, 8, 8).double())
    handle.remove()
    ensemble(torch.randn(2, 3, 3, 8, 8).double())


def test_different_modes_are_refused():
    models, _ = networks([LRA] * 2)
    ensemble = lra.ensemble.Ensemble(models)
    x = torch.randn(2, 3, 3, 8, 8).double()
    models[1][2].eval()
    with pytest.raises(lra.errors.EnsembleError, match=r"train\(\), eval\(\)"):
        ensemble(x)
    ensemble.train()
    lra.set_loss_terms(models[0], 5)
    with pytest.raises(lra.errors.EnsembleError, match=r"lra\.set_loss_terms"):
        ensemble(x)
    lra.set_loss_terms(ensemble, 5)
    models[0][1].weight.requires_grad_(False)
    with pytest.raises(lra.errors.EnsembleError, match=r"'1\.weight' is frozen in some"):
        ensemble(x)


def test_inputs_without_the_networks_dimension_are_refused():
    ensemble = lra.ensemble.Ensemble(networks([LRA] * 2)[0])
    with pytest.raises(lra.errors.EnsembleError, match=r"shape \(3, 3, 8, 8\).*x\.expand\(2, "):
        ensemble(torch.randn(3, 3, 8, 8).double())
    with pytest.raises(lra.errors.EnsembleError, match="no tensor"):
        ensemble()


def test_inputs_that_need_an_error_are_refused():
    ensemble = lra.ensemble.Ensemble(networks([LRA] * 2)[0])
    with pytest.raises(lra.errors.RuleError, match=r"input_layers=\(\)"):
        ensemble(torch.randn(2, 3, 3, 8, 8).double().requires_grad_())


def test_buffers_that_a_forward_replaces_are_refused():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen = self.seen + 1
            return self.layer(x)

    with pytest.raises(lra.errors.EnsembleError, match=r"'seen'.*copy_"):
        lra.ensemble.Ensemble([Counts(), Counts()])(torch.randn(2, 4, 3))


def test_derivatives_of_updates_are_refused():
    ensemble = lra.ensemble.Ensemble(networks([LRA] * 2)[0])
    loss = ensemble(torch.randn(2, 3, 3, 8, 8).double()).square().mean()
    with pytest.raises(lra.errors.RuleError, match="create_graph=True"):
        loss.backward(create_graph=True)


def test_methods_are_refused():
    ensemble = lra.ensemble.Ensemble(networks([None] * 2)[0])
    x = torch.randn(2, 3, 3, 8, 8).double()
    ensemble(x)
    for method in lra.methods.METHODS.values():
        with pytest.raises(lra.LraError):
            method()(ensemble, lambda out: out.square().mean(), x)


def test_rules_are_unchanged():
    rules = NUMBERS["all"]
    models, _ = networks(rules)
    before = [dataclasses.asdict(rule) for rule in rules]
    backward(lra.ensemble.Ensemble(models), *batches())
    assert [dataclasses.asdict(model[1].rule) for model in models] == before
