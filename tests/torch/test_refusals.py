"""Refusals: what cannot follow a rule is named, with the remedy, and nothing is changed."""

import copy
import warnings
from dataclasses import dataclass

import pytest
import torch
from nets import mlp
from torch import nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

import lra
from lra.feedback import Stored
from lra.torch.registry import ACTIVATIONS, WEIGHT_LAYERS

LRA = lra.LRAE()


def integer_linear() -> nn.Linear:
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    layer.weight.data = layer.weight.data.long()
    return layer


class Bends(nn.Module):
    """A nonlinear function in a forward of its own."""

    def forward(self, x, y):
        return F.relu(x) + y


class Multiplies(nn.Module):
    """Weights of its own, in a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, 2))

    def forward(self, x):
        return self.helper(x)

    def helper(self, x):
        return x @ self.w


class Borrows(nn.Module):
    """Weights of a layer that is not called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.layer.weight)


class Learns(nn.PReLU):
    """An activation's subclass with weights, and a forward of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))


def replaced(layer: nn.Module) -> nn.Module:
    layer.forward = lambda x: x
    return layer


def taken() -> nn.Linear:
    layer = nn.Linear(2, 2)
    layer.register_buffer("feedback", torch.ones(3))
    return layer


REFUSED_LAYERS = {
    "bends": (Bends, "its forward calls relu; give convert an example="),
    "multiplies": (Multiplies, "its forward calls @; give convert an example="),
    "borrows": (Borrows, "its forward calls linear; give convert an example="),
    "an activation's subclass": (Learns, r"lra\.unit\(Learns\)"),
    "scripted": (scripted, "its code is closed"),
    "replaced": (lambda: replaced(nn.Linear(2, 2)), "replaced on the instance"),
    "replaced unit": (lambda: replaced(nn.Tanh()), "replaced on the instance"),
    "taken": (taken, "an attribute 'feedback'"),
    "lazy": (lambda: nn.LazyLinear(2), "run one forward pass first"),
    "lazy convolution": (lambda: nn.LazyConv2d(2, 3), "run one forward pass first"),
    "complex": (lambda: nn.Linear(2, 2, dtype=torch.complex64), r"its weight is torch\.complex64"),
    "integer": (integer_linear, r"its weight is torch\.int64"),
    "data parallel": (lambda: nn.DataParallel(nn.Linear(2, 2)), "convert first, then wrap"),
}


def snapshot(model: nn.Module):
    """The classes of a model, what it holds, and the identity of its parameters."""
    held = {k: v.clone() for k, v in model.state_dict().items() if not is_lazy(v)}
    return [type(m) for m in model.modules()], held, [*map(id, model.parameters())]


def assert_unchanged(model: nn.Module, before) -> None:
    classes, held, identities = snapshot(model)
    assert classes == before[0]
    assert identities == before[2]
    assert held.keys() == before[1].keys()
    assert all(torch.equal(held[name], before[1][name]) for name in held)
    assert not lra.is_converted(model)


@pytest.mark.parametrize(("build", "why"), REFUSED_LAYERS.values(), ids=REFUSED_LAYERS)
def test_a_layer_that_would_stay_on_backprop_is_refused(build, why):
    model = nn.Module()
    model.body = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), build())
    before, kind = snapshot(model), type(model.body[2])
    with pytest.raises(lra.errors.ConversionError, match=why) as refusal:
        lra.convert(model, LRA)
    message = str(refusal.value)
    assert f"body.2 ({kind.__name__}): " in message
    assert message.count("  - ") == 1
    assert "skip=" in message
    assert_unchanged(model, before)
    lra.convert(model, LRA, skip=["body.2"])
    assert type(model.body[0]) is WEIGHT_LAYERS[nn.Linear]
    assert type(model.body[2]) is kind
    lra.restore(model)
    assert_unchanged(model, before)


@pytest.mark.parametrize(("build", "why"), REFUSED_LAYERS.values(), ids=REFUSED_LAYERS)
def test_the_model_itself_may_be_what_is_refused(build, why):
    model = build()
    before = snapshot(model)
    with pytest.raises(lra.errors.ConversionError, match=why) as refusal:
        lra.convert(model, LRA)
    assert "(the model itself)" in str(refusal.value)
    assert_unchanged(model, before)


def test_all_troubles_are_told_at_once():
    model = nn.ModuleDict({name: build() for name, (build, _) in REFUSED_LAYERS.items()})
    model["fine"] = nn.Linear(2, 2)
    kinds = [type(m) for m in model.modules()]
    with pytest.raises(lra.errors.ConversionError) as refusal:
        lra.convert(model, LRA)
    message = str(refusal.value)
    for name in REFUSED_LAYERS:
        assert message.count(f"  - {name} (") == 1
    assert message.count("  - ") == len(REFUSED_LAYERS)  # their insides are not listed again
    assert "fine" not in message
    assert [type(m) for m in model.modules()] == kinds
    assert not lra.is_converted(model)


@pytest.mark.parametrize("rule", [lra.FeedbackAlignment(), lra.KolenPollack(), lra.SignSymmetry()])
def test_every_rule_but_backprop_refuses(rule):
    model = nn.Sequential(nn.Linear(2, 2), Multiplies())
    with pytest.raises(lra.errors.ConversionError, match="Multiplies"):
        lra.convert(model, rule)
    lra.convert(model, lra.Backprop())
    assert type(model[1]) is Multiplies
    lra.restore(model)


def test_a_rule_with_the_derivative_asks_nothing_of_nonlinear_functions():
    lra.convert(nn.Sequential(nn.Linear(2, 2), Bends()), lra.KolenPollack())


def test_refusals_are_data():
    model = nn.Sequential(nn.Linear(2, 2), Bends(), Multiplies())
    with pytest.raises(lra.errors.ConversionError) as refusal:
        lra.convert(model, LRA)
    assert [(r.name, r.type) for r in refusal.value.refused] == [
        ("1", "Bends"),
        ("2", "Multiplies"),
    ]
    assert "example=" in refusal.value.refused[0].reason


def test_skip_takes_names_patterns_and_classes():
    for skip in ("1", ["1", "2"], "[12]", Bends, (Bends, Multiplies), ["?"], nn.Module):
        model = nn.Sequential(nn.Linear(2, 2), Bends(), Multiplies(), nn.Linear(2, 2))
        whole = skip in ("[12]",) or (isinstance(skip, (list, tuple)) and len(skip) == 2)
        if whole:
            assert lra.is_converted(lra.convert(model, LRA, skip=skip))
        elif skip in (["?"], nn.Module):
            with pytest.raises(lra.errors.ConversionError, match="no layer to convert"):
                lra.convert(model, LRA, skip=skip)
        else:
            with pytest.raises(lra.errors.ConversionError, match="Multiplies"):
                lra.convert(model, LRA, skip=skip)
    with pytest.raises(lra.errors.OptionError, match="unknown class in skip 'GELU'"):
        lra.convert(model, LRA, skip=nn.GELU)


def test_what_a_rule_does_not_touch_stays_plain():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.LayerNorm(4), nn.Softmax(-1), nn.ReLU(), nn.Linear(4, 2)
    )
    lra.convert(model, lra.FeedbackAlignment())
    assert [type(m) for m in model[1:4]] == [nn.LayerNorm, nn.Softmax, nn.ReLU]
    lra.convert(lra.restore(model), LRA)
    assert type(model[2]) is nn.Softmax
    assert type(model[3]) is ACTIVATIONS[nn.ReLU]


# Calls that make no sense


@pytest.mark.parametrize("model", [nn.Sequential(), nn.ReLU(), nn.Embedding(3, 2)], ids=str)
@pytest.mark.parametrize("rule", [LRA, lra.Backprop()], ids=["lra-e", "backprop"])
def test_nothing_to_convert(model, rule):
    with pytest.raises(
        lra.errors.ConversionError, match=r"has no layer to convert; .* Conv1d, .* Linear"
    ):
        lra.convert(model, rule)


@pytest.mark.parametrize("rule", [LRA, lra.Backprop()], ids=["lra-e", "backprop"])
def test_converted_twice(rule):
    model = lra.convert(mlp(), LRA)
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(
        lra.errors.ConversionError, match=r"already converted: '1', '2'.*lra\.restore"
    ):
        lra.convert(model, rule)
    assert model[1].rule == LRA
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())


def test_half_converted():
    model = nn.Sequential(mlp(), nn.Linear(4, 2))
    lra.convert(model[0], LRA)
    with pytest.raises(lra.errors.ConversionError, match=r"already converted: '0\.1'"):
        lra.convert(model, LRA)
    assert type(model[1]) is nn.Linear
    lra.convert(lra.restore(model), LRA)


def test_many_converted_layers_are_not_all_listed():
    model = lra.convert(nn.Sequential(*(nn.Linear(2, 2) for _ in range(20))), LRA)
    with pytest.raises(lra.errors.ConversionError, match="'7' and 12 more"):
        lra.convert(model, LRA)


@pytest.mark.parametrize("model", [None, [nn.Linear(2, 2)], nn.Linear, torch.ones(2)], ids=repr)
def test_not_a_module(model):
    with pytest.raises(lra.errors.ConversionError, match=r"expected a torch\.nn\.Module, got "):
        lra.convert(model, LRA)


@pytest.mark.parametrize("rule", [None, "lra-e", lra.LRAE, lra.feedback.Learned()], ids=repr)
def test_not_a_rule(rule):
    model = mlp()
    before = snapshot(model)
    with pytest.raises(
        lra.errors.ConversionError, match=r"expected a rule such as lra\.LRAE\(\), got "
    ):
        lra.convert(model, rule)
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    "verb", [lra.restore, lra.feedback_parameters, lambda m: lra.set_loss_terms(m, 1)]
)
def test_verbs_that_need_a_converted_model(verb):
    with pytest.raises(lra.errors.ConversionError, match=r"call lra\.convert\(model, rule\) first"):
        verb(mlp())


def test_loss_terms_that_do_not_exist():
    model = mlp()
    before = snapshot(model)
    with pytest.raises(lra.errors.OptionError, match="loss_terms must be one of"):
        lra.convert(model, LRA, loss_terms="samples")
    assert_unchanged(model, before)
    lra.convert(model, LRA)
    with pytest.raises(lra.errors.OptionError, match="loss_terms must be one of"):
        lra.set_loss_terms(model, 0)
    assert {m.loss_terms for m in model.modules() if hasattr(m, "loss_terms")} == {"batch"}


# Names


def nested() -> nn.Module:
    model = nn.Module()
    model.encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    model.decoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    model.decoder2 = nn.Linear(3, 3)
    return model


@pytest.mark.parametrize(
    ("skip", "said"),
    [
        (["encodr"], "unknown submodule in skip 'encodr'; known: .*Did you mean 'encoder'"),
        (["encoder", "decoder.9"], r"unknown submodule in skip 'decoder\.9'"),
        ("encoder.", r"unknown submodule in skip 'encoder\.'"),
        ("", "unknown submodule in skip ''"),
        (["encoder.0.weight"], "unknown submodule"),
        ([3], "skip takes names, patterns and classes of submodules, got 3"),
    ],
)
def test_names_to_skip_that_do_not_exist(skip, said):
    model = nested()
    before = snapshot(model)
    with pytest.raises(lra.errors.OptionError, match=said):
        lra.convert(model, LRA, skip=skip)
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["decoder.3"],
            r"unknown weight layer in input_layers 'decoder\.3'; known: .*Did you mean",
        ),
        (["encoder"], "unknown weight layer in input_layers 'encoder'"),
        ("encoder.1", "unknown weight layer in input_layers"),
        (["decoder.0"], r"unknown weight layer in input_layers 'decoder\.0'"),  # it is skipped
    ],
)
def test_input_layers_that_do_not_exist(names, said):
    model = nested()
    before = snapshot(model)
    with pytest.raises(lra.errors.OptionError, match=said):
        lra.convert(model, LRA, skip=["decoder"], input_layers=names)
    assert_unchanged(model, before)


@pytest.mark.parametrize("skip", ["decoder", ["decoder"], ("decoder",)], ids=repr)
def test_a_skipped_module_keeps_all_it_holds(skip):
    model = lra.convert(nested(), LRA, skip=skip)
    assert type(model.decoder) is nn.Sequential
    assert [type(m) for m in model.decoder] == [nn.Linear, nn.Tanh, nn.Linear]
    assert type(model.encoder[2]) is WEIGHT_LAYERS[nn.Linear]
    assert type(model.decoder2) is WEIGHT_LAYERS[nn.Linear]  # only its name begins alike


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_shared_module_can_be_skipped_by_any_of_its_names(name):
    model = nn.Module()
    model.below = nn.Linear(2, 2)
    model.first = model.second = nn.Linear(2, 2)
    lra.convert(model, LRA, skip=[name])
    assert type(model.first) is nn.Linear
    assert type(model.below) is WEIGHT_LAYERS[nn.Linear]


def test_lazy_layers_convert_after_a_forward_pass():
    model = nn.Sequential(nn.LazyLinear(3), nn.Tanh(), nn.LazyLinear(2))
    model(torch.randn(2, 4))
    lra.convert(model, LRA)
    assert type(model[2]) is WEIGHT_LAYERS[nn.Linear]
    model(torch.randn(2, 4)).sum().backward()
    assert model[2].feedback.grad is not None


class _Breaks(lra.feedback.Feedback):
    """Cannot be drawn."""

    stored = Stored.LEARNED

    def draw(self, draw: object) -> object:
        raise ArithmeticError("no luck")


def test_feedback_that_cannot_be_drawn_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    before = snapshot(model)
    with pytest.raises(ArithmeticError, match="no luck"):
        lra.convert(model, lra.Rule(_Breaks()))
    assert_unchanged(model, before)


def test_a_wiring_that_torch_does_not_know_is_refused() -> None:
    @dataclass(frozen=True)
    class Elsewhere(lra.wiring.Wiring):
        """Another path."""

    model = mlp()
    before = snapshot(model)
    with pytest.raises(lra.errors.ConversionError, match=r"Elsewhere.*use lra\.Chain\(\)"):
        lra.convert(model, lra.Rule(wiring=Elsewhere()))
    assert_unchanged(model, before)


@pytest.mark.parametrize("name", ["phi", "rule", "table", "place", "restore", "plain", "units"])
@pytest.mark.parametrize("as_method", [False, True])
@pytest.mark.parametrize("parametrized", [False, True])
def test_names_that_a_converted_module_uses(name, as_method, parametrized):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            if parametrized:
                self.weight = nn.Parameter(torch.eye(4))
            if not as_method:
                setattr(self, name, torch.tanh)

        def forward(self, x):
            h = 2 * getattr(self, name)(x)
            return h @ self.weight if parametrized else h

    if as_method:
        setattr(Own, name, lambda self, x: torch.tanh(x))
    model = nn.Sequential(nn.Linear(4, 4), Own(), nn.Linear(4, 2))
    x = torch.randn(3, 4)
    before, classes = model(x), [type(m) for m in model.modules()]
    if name in (("phi",) if parametrized else ("table", "units")):
        lra.convert(model, lra.LRAE(), example=x)  # this kind of module has no use for it
    else:
        with pytest.raises(lra.errors.ConversionError, match=f"Own has '{name}' of its own"):
            lra.convert(model, lra.LRAE(), example=x)
        assert [type(m) for m in model.modules()] == classes
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
