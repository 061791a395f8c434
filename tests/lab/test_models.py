"""Networks and optimizers: the configuration's settings reach torch."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

import lra
from lra.errors import OptionError
from lra.lab.networks.build import build_network, build_optimizer, plain_state
from lra.lab.settings.config import TrainConfig
from lra.lab.settings.options import ACTIVATIONS, OPTIMIZERS


def network(options: str = "", sample_shape: tuple[int, ...] = (2, 3), classes: int = 4):
    return build_network(TrainConfig("digits", model=f"mlp{options}"), sample_shape, classes)


def linears(model: nn.Module) -> list[nn.Linear]:
    return [m for m in model if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("hidden", [(), (5,), (7, 5, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_sizes(hidden: tuple[int, ...], bias: bool) -> None:
    layers = f"hidden={'-'.join(map(str, hidden))}" if hidden else "depth=1"
    model = network(f":{layers},bias={str(bias).lower()}")
    sizes = (6, *hidden, 4)
    kinds = [nn.Flatten, *[nn.Linear, nn.Tanh] * len(hidden), nn.Linear]
    assert [type(m) for m in model] == kinds
    shapes = [(m.in_features, m.out_features) for m in linears(model)]
    assert shapes == list(itertools.pairwise(sizes))
    assert all((m.bias is not None) is bias for m in linears(model))
    assert model(torch.randn(3, 2, 3)).shape == (3, 4)


def test_dropout_follows_each_hidden_activation() -> None:
    model = network(":hidden=7-5,dropout=0.2")
    kinds = [nn.Flatten, *[nn.Linear, nn.Tanh, nn.Dropout] * 2, nn.Linear]
    assert [type(m) for m in model] == kinds
    assert [m.p for m in model if isinstance(m, nn.Dropout)] == [0.2, 0.2]


def test_sample_shapes() -> None:
    assert network(sample_shape=(9,))(torch.randn(2, 9)).shape == (2, 4)
    assert network(sample_shape=(1, 3, 3))(torch.randn(2, 1, 3, 3)).shape == (2, 4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_builds_converts_and_learns(name: str) -> None:
    number = {"lwta": ":2", "quantized": ":3"}.get(name, "")
    model = network(f":hidden=8-8,activation={name}{number},init=normal:1")
    assert [type(m) for m in model][2::2] == [ACTIVATIONS[name]] * 2
    lra.convert(model, lra.LRAE(beta=1.0, two_sided=True, relative="sample"))
    assert isinstance(model[2], ACTIVATIONS[name])
    x, y = torch.randn(64, 2, 3), torch.arange(64) % 4
    nn.functional.cross_entropy(model(x), y).backward()
    layers = linears(model)
    assert all(bool(m.weight.grad.isfinite().all()) for m in layers)
    assert layers[-1].weight.grad.abs().sum() > 0
    assert layers[0].weight.grad.abs().sum() > 0
    assert layers[0].feedback is None
    torch.testing.assert_close(layers[1].feedback.grad, layers[1].weight.grad)


def test_the_number_of_an_activation_is_used() -> None:
    assert network(":hidden=6,activation=elu:0.25")[2].alpha == 0.25
    assert network(":hidden=6,activation=quantized:5")[2].k == 5
    assert network(":hidden=6,activation=lwta:3")[2].k == 3


def test_the_surrogate_of_an_activation_is_used() -> None:
    activation = network(":hidden=6,activation=sign,straight_through=hardtanh")[2]
    assert activation.straight_through == lra.crossing.HardTanhSurrogate()
    assert network(":hidden=6,activation=sign")[2].straight_through is None


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_fan_in_draws_within_its_bound(scale: float) -> None:
    model = network(f":hidden=400,init=fan-in:{scale}", sample_shape=(100,))
    first, second = linears(model)
    for layer, fan_in in ((first, 100), (second, 400)):
        bound = scale / math.sqrt(fan_in)
        assert layer.weight.abs().max() <= bound
        assert layer.weight.abs().max() > 0.98 * bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert abs(layer.weight.mean().item()) < 0.1 * bound


def test_normal_draws_with_its_deviation() -> None:
    first, second = linears(network(":hidden=400,init=normal:0.3", sample_shape=(100,)))
    for layer in (first, second):
        assert layer.weight.std().item() == pytest.approx(0.3, rel=0.1)
        assert abs(layer.weight.mean().item()) < 0.03
        assert layer.weight.abs().max() > 0.6
    assert first.bias.abs().max() <= 0.1  # torch's default


def test_draws_use_the_global_generator() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(network().state_dict())
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=0, atol=0)
        assert not torch.equal(states[0][name], states[2][name])


OPTIONS = [
    ("sgd", {}, torch.optim.SGD, {"momentum": 0.0}),
    ("sgd", {"momentum": 0.7}, torch.optim.SGD, {"momentum": 0.7}),
    ("adam", {}, torch.optim.Adam, {"betas": (0.9, 0.999)}),
    ("adam", {"betas": (0.5, 0.6)}, torch.optim.Adam, {"betas": (0.5, 0.6)}),
    ("adamw", {}, torch.optim.AdamW, {"betas": (0.9, 0.999)}),
    ("adamw", {"betas": (0.0, 0.6)}, torch.optim.AdamW, {"betas": (0.0, 0.6)}),
    ("rmsprop", {}, torch.optim.RMSprop, {"alpha": 0.99, "momentum": 0.0}),
    (
        "rmsprop",
        {"momentum": 0.7, "smoothing": 0.0},
        torch.optim.RMSprop,
        {"alpha": 0.0, "momentum": 0.7},
    ),
]


@pytest.mark.parametrize(("name", "options", "cls", "expected"), OPTIONS, ids=str)
def test_options_reach_the_optimizer(
    name: str, options: dict[str, Any], cls: type, expected: dict[str, Any]
) -> None:
    config = TrainConfig(
        "digits",
        model="mlp:hidden=5-4",
        optimizer=name,
        lr=0.25,
        weight_decay=0.125,
        feedback_lr=0.5,
        **options,
    )
    model = lra.convert(build_network(config, (6,), 3), config.rule)
    optimizer = build_optimizer(config, model)
    assert type(optimizer) is cls
    forward, feedback = optimizer.param_groups
    for group in (forward, feedback):
        assert group["weight_decay"] == 0.125
        for option, value in expected.items():
            assert group[option] == value
    assert (forward["lr"], feedback["lr"]) == (0.25, 0.5)
    learned = {id(p) for p in lra.feedback_parameters(model)}
    assert {id(p) for p in feedback["params"]} == learned
    assert {id(p) for p in forward["params"]} == {id(p) for p in model.parameters()} - learned
    assert len(learned) == 2


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("adamw", None, 0.01),
        ("adam", None, 0.0),
        ("sgd", None, 0.0),
        ("rmsprop", None, 0.0),
        ("adamw", 0.0, 0.0),
        ("adam", 0.5, 0.5),
    ],
)
def test_weight_decay(name: str, given: float | None, expected: float) -> None:
    """The default is 0 for optimizers that add it to the gradient."""
    config = TrainConfig("digits", model="mlp:hidden=5", optimizer=name, weight_decay=given)
    model = lra.convert(build_network(config, (6,), 3), config.rule)
    (group,) = build_optimizer(config, model).param_groups
    assert group["weight_decay"] == expected


def test_every_optimizer_is_tested() -> None:
    assert {name for name, *_ in OPTIONS} == set(OPTIMIZERS)


@pytest.mark.parametrize(("given", "expected"), [(None, 0.25), (0.0, 0.0), (0.5, 0.5)])
def test_learning_rate_of_feedback(given: float | None, expected: float) -> None:
    config = TrainConfig("digits", model="mlp:hidden=5-4", lr=0.25, feedback_lr=given)
    model = lra.convert(build_network(config, (6,), 3), config.rule)
    groups = build_optimizer(config, model).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    learned = {id(p) for p in lra.feedback_parameters(model)}
    assert len(learned) == 2
    for p in model.parameters():
        assert rates[id(p)] == (expected if id(p) in learned else 0.25)


@pytest.mark.parametrize(
    ("rule", "model"),
    [
        (lra.Backprop(), "mlp:hidden=5"),
        (lra.FeedbackAlignment(), "mlp:hidden=5"),
        (lra.LRAE(), "mlp:depth=1"),
    ],
    ids=str,
)
def test_feedback_lr_needs_learned_feedback(rule: lra.Rule, model: str) -> None:
    config = TrainConfig("digits", model=model, rule=rule, feedback_lr=0.5)
    network = lra.convert(build_network(config, (6,), 3), rule)
    with pytest.raises(OptionError, match=r"feedback_lr .*learns no feedback"):
        build_optimizer(config, network)


@pytest.mark.parametrize(
    "rule", [lra.Backprop(), lra.FeedbackAlignment(), lra.SignSymmetry()], ids=str
)
def test_rules_without_learned_feedback_have_one_group(rule: lra.Rule) -> None:
    config = TrainConfig("digits", model="mlp:hidden=5", rule=rule)
    model = lra.convert(build_network(config, (6,), 3), rule)
    (group,) = build_optimizer(config, model).param_groups
    assert len(group["params"]) == 4


RULES = [*(build() for build in lra.RULES.values()), lra.SignSymmetry(lra.feedback.Magnitude.FIXED)]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_plain_state_loads_into_the_unconverted_network(rule: lra.Rule) -> None:
    model = network(":hidden=5-4")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lra.convert(model, rule, example=torch.randn(2, 2, 3))
    state = plain_state(model, before)
    assert list(state) == list(before)
    torch.manual_seed(1)
    plain = network(":hidden=5-4")
    plain.load_state_dict(state, strict=True)
    x = torch.randn(3, 2, 3)
    assert torch.equal(plain(x), model(x))
    for name, value in before.items():
        assert torch.equal(state[name], value)
        assert not state[name].requires_grad
