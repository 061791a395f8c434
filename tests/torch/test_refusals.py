"""Refusals: each error names the layer and the remedy, and leaves the model unchanged."""

import copy
import warnings
from dataclasses import dataclass

import pytest
import torch
from nets import assert_same, images, mlp, updates
from torch import nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

import lra
from lra.feedback import Stored

LRA = lra.LRAE()


def integer_linear() -> nn.Linear:
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    layer.weight.data = layer.weight.data.long()
    return layer


class Activates(nn.Module):
    """A forward that calls an activation function."""

    def forward(self, x, y):
        return F.relu(x) + y


class Multiplies(nn.Module):
    """A forward that multiplies with a parameter, in a method that it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, 2))

    def forward(self, x):
        return self.helper(x)

    def helper(self, x):
        return x @ self.w


class Borrows(nn.Module):
    """A forward that multiplies with the weight of a layer without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.layer.weight)


class Doubled(nn.PReLU):
    """A subclass of an activation with parameters and another forward."""

    def forward(self, x):
        return 2 * super().forward(x)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))


class Unchanged(nn.Module):
    """A forward that no rule changes."""

    def forward(self, x):
        return x + 1


def with_replaced_forward(layer: nn.Module) -> nn.Module:
    layer.forward = lambda x: x
    return layer


def with_own_feedback() -> nn.Linear:
    layer = nn.Linear(2, 2)
    layer.register_buffer("feedback", torch.ones(3))
    return layer


REFUSED_LAYERS = {
    "activates": (Activates, "its forward calls relu; pass example="),
    "multiplies": (Multiplies, "its forward calls @; pass example="),
    "borrows": (Borrows, "its forward calls linear; pass example="),
    "an activation's subclass": (Doubled, r"call lra\.register_activation\(Doubled\)"),
    "scripted": (scripted, "its code is closed"),
    "replaced": (lambda: with_replaced_forward(nn.Linear(2, 2)), "replaced on the instance"),
    "replaced activation": (lambda: with_replaced_forward(nn.Tanh()), "replaced on the instance"),
    "replaced recurrent": (
        lambda: with_replaced_forward(nn.LSTM(2, 2)),
        "replaced on the instance",
    ),
    "replaced container": (
        lambda: with_replaced_forward(nn.Sequential(nn.ReLU())),
        "replaced on the instance",
    ),
    "replaced own forward": (
        lambda: with_replaced_forward(Unchanged()),
        "replaced on the instance",
    ),
    "own feedback": (with_own_feedback, "an attribute 'feedback'"),
    "lazy": (lambda: nn.LazyLinear(2), "run one forward pass first"),
    "lazy convolution": (lambda: nn.LazyConv2d(2, 3), "run one forward pass first"),
    "complex": (lambda: nn.Linear(2, 2, dtype=torch.complex64), r"its weight is torch\.complex64"),
    "integer": (integer_linear, r"its weight is torch\.int64"),
    "data parallel": (lambda: nn.DataParallel(nn.Linear(2, 2)), "convert first, then wrap"),
}


def snapshot(model: nn.Module):
    """Return the classes of a model's modules, its state, and the identity of its parameters."""
    state = {k: v.clone() for k, v in model.state_dict().items() if not is_lazy(v)}
    return [type(m) for m in model.modules()], state, [*map(id, model.parameters())]


def assert_unchanged(model: nn.Module, before) -> None:
    classes, state, identities = snapshot(model)
    assert classes == before[0]
    assert identities == before[2]
    assert state.keys() == before[1].keys()
    assert all(torch.equal(state[name], before[1][name]) for name in state)
    assert not lra.is_converted(model)


@pytest.mark.parametrize(("build", "reason"), REFUSED_LAYERS.values(), ids=REFUSED_LAYERS)
def test_a_layer_that_would_stay_on_backprop_is_refused(build, reason):
    model = nn.Module()
    model.body = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), build())
    before, kind = snapshot(model), type(model.body[2])
    with pytest.raises(lra.errors.ConversionError, match=reason) as refusal:
        lra.convert(model, LRA)
    message = str(refusal.value)
    assert f"body.2 ({kind.__name__}): " in message
    assert message.count("  - ") == 1
    assert "skip=" in message
    assert_unchanged(model, before)
    lra.convert(model, LRA, skip=["body.2"])
    assert lra.is_converted(model.body[0])
    assert type(model.body[2]) is kind
    lra.restore(model)
    assert_unchanged(model, before)


@pytest.mark.parametrize(("build", "reason"), REFUSED_LAYERS.values(), ids=REFUSED_LAYERS)
def test_the_refused_layer_may_be_the_model_itself(build, reason):
    model = build()
    before = snapshot(model)
    with pytest.raises(lra.errors.ConversionError, match=reason) as refusal:
        lra.convert(model, LRA)
    assert "(the model itself)" in str(refusal.value)
    assert_unchanged(model, before)


def test_all_refusals_are_in_one_error():
    model = nn.ModuleDict({name: build() for name, (build, _) in REFUSED_LAYERS.items()})
    model["accepted"] = nn.Linear(2, 2)
    kinds = [type(m) for m in model.modules()]
    with pytest.raises(lra.errors.ConversionError) as refusal:
        lra.convert(model, LRA)
    message = str(refusal.value)
    for name in REFUSED_LAYERS:
        assert message.count(f"  - {name} (") == 1
    assert message.count("  - ") == len(REFUSED_LAYERS)  # without the modules inside them
    assert "accepted" not in message
    assert [type(m) for m in model.modules()] == kinds
    assert not lra.is_converted(model)


@pytest.mark.parametrize("rule", [lra.FeedbackAlignment(), lra.KolenPollack(), lra.SignSymmetry()])
def test_every_rule_except_backprop_refuses(rule):
    model = nn.Sequential(nn.Linear(2, 2), Multiplies())
    with pytest.raises(lra.errors.ConversionError, match="Multiplies"):
        lra.convert(model, rule)
    lra.convert(model, lra.Backprop())
    assert type(model[1]) is Multiplies
    lra.restore(model)


def test_rules_with_the_derivative_accept_activation_functions():
    model = nn.Sequential(nn.Linear(2, 2), Activates())
    assert lra.is_converted(lra.convert(model, lra.KolenPollack()))


def test_refusals_are_data():
    model = nn.Sequential(nn.Linear(2, 2), Activates(), Multiplies())
    with pytest.raises(lra.errors.ConversionError) as refusal:
        lra.convert(model, LRA)
    assert [(r.name, r.type) for r in refusal.value.refused] == [
        ("1", "Activates"),
        ("2", "Multiplies"),
    ]
    assert "example=" in refusal.value.refused[0].reason


def swish(x):
    return x * torch.sigmoid(x)


@pytest.mark.parametrize(
    "build",
    [lambda: nn.Linear(2, 2), lambda: nn.Tanh(), lambda: Unchanged(), lambda: nn.LSTM(2, 2)],
    ids=["layer", "activation", "own", "recurrent"],
)
def test_a_forward_replaced_on_the_instance_is_refused_with_an_example(build):
    model = nn.Sequential(nn.Linear(2, 2), build(), nn.Linear(2, 2))
    model[1].forward = swish
    before = snapshot(model)
    with pytest.raises(
        lra.errors.ConversionError, match=r"1 .*replaced on the instance"
    ) as refusal:
        lra.convert(model, LRA, example=torch.randn(3, 2))
    assert [r.name for r in refusal.value.refused] == ["1"]
    assert_unchanged(model, before)


def test_a_replaced_forward_that_calls_converted_layers_only_is_accepted_with_an_example():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Tanh()), nn.Linear(2, 2))
    model[1].forward = lambda x: model[1][0](x) + 1
    lra.convert(model, LRA, example=torch.randn(3, 2))
    assert lra.coverage(model).full


class Physics(nn.Module):
    """A network whose output is a derivative of another's (a PINN, a force field)."""

    def __init__(self):
        super().__init__()
        self.u = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.u(x).sum(), x, create_graph=True)
        return slope


class Flow(nn.Module):
    """A step of a continuous flow, with the exact trace of its Jacobian."""

    def __init__(self):
        super().__init__()
        self.a, self.w = nn.Linear(2, 2), nn.Parameter(torch.randn(2, 2))

    def forward(self, x):
        x = x.detach().requires_grad_()
        f = torch.tanh(self.a(x)) @ self.w
        terms = [
            torch.autograd.grad(f[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2)
        ]
        return f + sum(terms)[:, None]


class Adapted(nn.Module):
    """A model that takes an inner step of gradient descent (MAML)."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        (step,) = torch.autograd.grad(
            self.b(torch.tanh(self.a(x))).square().mean(), self.a.weight, create_graph=True
        )
        return self.b(F.linear(x, self.a.weight - step))


@pytest.mark.parametrize("rule", [LRA, lra.FeedbackAlignment()], ids=["lra-e", "fa"])
@pytest.mark.parametrize("cls", [Physics, Flow, Adapted])
def test_a_forward_that_trains_through_a_derivative_is_refused(cls, rule):
    x = torch.randn(3, 2)
    for model, name in ((cls(), ""), (nn.Sequential(nn.Linear(2, 2), cls()), "1")):
        before = snapshot(model)
        with pytest.raises(
            lra.errors.ConversionError, match=rf"{cls.__name__}.* create_graph=True"
        ) as refusal:
            lra.convert(model, rule, example=x)
        assert [(r.name, r.type) for r in refusal.value.refused] == [(name, cls.__name__)]
        assert ("skip=('1',)" in str(refusal.value)) == bool(name)
        assert_unchanged(model, before)
    lra.convert(model, rule, example=x, skip=["1"])
    model(x).sum().backward()


def test_skip_takes_names_patterns_and_classes():
    for skip in ("1", ["1", "2"], "[12]", Activates, (Activates, Multiplies), ["?"], nn.Module):
        model = nn.Sequential(nn.Linear(2, 2), Activates(), Multiplies(), nn.Linear(2, 2))
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


def test_modules_that_a_rule_does_not_change_stay_plain():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.LayerNorm(4), nn.Softmax(-1), nn.ReLU(), nn.Linear(4, 2)
    )
    lra.convert(model, lra.FeedbackAlignment())
    assert [type(m) for m in model[1:4]] == [nn.LayerNorm, nn.Softmax, nn.ReLU]
    lra.convert(lra.restore(model), LRA)
    assert type(model[2]) is nn.Softmax
    assert lra.is_converted(model[3])


# Wrong calls


@pytest.mark.parametrize("model", [nn.Sequential(), nn.ReLU(), nn.Embedding(3, 2)], ids=str)
@pytest.mark.parametrize("rule", [LRA, lra.Backprop()], ids=["lra-e", "backprop"])
def test_a_model_without_weight_layers_is_refused(model, rule):
    with pytest.raises(
        lra.errors.ConversionError, match=r"has no layer to convert; .* Conv1d, .* Linear"
    ):
        lra.convert(model, rule)


@pytest.mark.parametrize("rule", [LRA, lra.Backprop()], ids=["lra-e", "backprop"])
def test_converting_twice_is_refused(rule):
    model = lra.convert(mlp(), LRA)
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(
        lra.errors.ConversionError, match=r"already converted: '1', '2'.*lra\.restore"
    ):
        lra.convert(model, rule)
    assert model[1].rule == LRA
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())


def test_a_model_with_layers_of_another_rule_is_refused():
    model = nn.Sequential(mlp(), nn.Linear(4, 2))
    lra.convert(model[0], LRA)
    for rule, options in (
        (lra.FeedbackAlignment(), {}),
        (LRA, {"loss_terms": 1}),
        (lra.LRAE(wiring=lra.wiring.Direct()), {"example": torch.randn(2, 3)}),
    ):
        with pytest.raises(
            lra.errors.ConversionError, match=r"already converted: '0\.1'.*copy\.deepcopy"
        ):
            lra.convert(model, rule, **options)
        assert type(model[1]) is nn.Linear
        assert model[0][1].rule == LRA
    lra.convert(lra.restore(model), LRA)


def test_a_long_list_of_converted_layers_is_shortened():
    model = lra.convert(nn.Sequential(*(nn.Linear(2, 2) for _ in range(20))), LRA)
    with pytest.raises(lra.errors.ConversionError, match="'7' and 12 more"):
        lra.convert(model, LRA)


@pytest.mark.parametrize("model", [None, [nn.Linear(2, 2)], nn.Linear, torch.ones(2)], ids=repr)
def test_something_else_than_a_module_is_refused(model):
    with pytest.raises(lra.errors.ConversionError, match=r"expected a torch\.nn\.Module, got "):
        lra.convert(model, LRA)


@pytest.mark.parametrize("rule", [None, "lra-e", lra.LRAE, lra.feedback.Learned()], ids=repr)
def test_something_else_than_a_rule_is_refused(rule):
    model = mlp()
    before = snapshot(model)
    with pytest.raises(
        lra.errors.ConversionError, match=r"expected a rule such as lra\.LRAE\(\), got "
    ):
        lra.convert(model, rule)
    assert_unchanged(model, before)


def test_a_rule_that_was_not_called_is_named():
    with pytest.raises(lra.errors.ConversionError, match=r"; call it: MirroredLRA\(\)$"):
        lra.convert(mlp(), lra.MirroredLRA)


@pytest.mark.parametrize(
    "verb", [lra.restore, lra.feedback_parameters, lambda m: lra.set_loss_terms(m, 1)]
)
def test_verbs_that_need_a_converted_model_refuse_a_plain_one(verb):
    with pytest.raises(lra.errors.ConversionError, match=r"call lra\.convert\(model, rule\) first"):
        verb(mlp())


def test_unknown_loss_terms_are_refused():
    model = mlp()
    before = snapshot(model)
    with pytest.raises(lra.errors.OptionError, match="loss_terms must be one of"):
        lra.convert(model, LRA, loss_terms="samples")
    assert_unchanged(model, before)
    lra.convert(model, LRA)
    x, y = images(5, torch.float32)
    expected = updates(model, x, y)
    with pytest.raises(lra.errors.OptionError, match="loss_terms must be one of"):
        lra.set_loss_terms(model, 0)
    assert_same(updates(model, x, y), expected)


# Names


def nested() -> nn.Module:
    model = nn.Module()
    model.encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    model.decoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    model.decoder2 = nn.Linear(3, 3)
    return model


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        (["encodr"], "unknown submodule in skip 'encodr'; known: .*Did you mean 'encoder'"),
        (["encoder", "decoder.9"], r"unknown submodule in skip 'decoder\.9'"),
        ("encoder.", r"unknown submodule in skip 'encoder\.'"),
        ("", "unknown submodule in skip ''"),
        (["encoder.0.weight"], "unknown submodule"),
        ([3], "skip takes names, patterns and classes of submodules, got 3"),
    ],
)
def test_unknown_names_in_skip_are_refused(skip, message):
    model = nested()
    before = snapshot(model)
    with pytest.raises(lra.errors.OptionError, match=message):
        lra.convert(model, LRA, skip=skip)
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["decoder.3"],
            r"unknown weight layer in input_layers 'decoder\.3'; known: .*Did you mean",
        ),
        (["encoder"], "unknown weight layer in input_layers 'encoder'"),
        ("encoder.1", "unknown weight layer in input_layers"),
        (["decoder.0"], r"unknown weight layer in input_layers 'decoder\.0'"),  # skipped
    ],
)
def test_unknown_names_in_input_layers_are_refused(names, message):
    model = nested()
    before = snapshot(model)
    with pytest.raises(lra.errors.OptionError, match=message):
        lra.convert(model, LRA, skip=["decoder"], input_layers=names)
    assert_unchanged(model, before)


@pytest.mark.parametrize("skip", ["decoder", ["decoder"], ("decoder",)], ids=repr)
def test_all_modules_inside_a_skipped_one_stay_plain(skip):
    model = lra.convert(nested(), LRA, skip=skip)
    assert type(model.decoder) is nn.Sequential
    assert [type(m) for m in model.decoder] == [nn.Linear, nn.Tanh, nn.Linear]
    assert lra.is_converted(model.encoder[2])
    assert lra.is_converted(model.decoder2)  # only its name begins with "decoder"


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_shared_module_can_be_skipped_by_any_of_its_names(name):
    model = nn.Module()
    model.below = nn.Linear(2, 2)
    model.first = model.second = nn.Linear(2, 2)
    lra.convert(model, LRA, skip=[name])
    assert type(model.first) is nn.Linear
    assert lra.is_converted(model.below)


def test_lazy_layers_convert_after_a_forward_pass():
    model = nn.Sequential(nn.LazyLinear(3), nn.Tanh(), nn.LazyLinear(2))
    model(torch.randn(2, 4))
    lra.convert(model, LRA)
    assert lra.is_converted(model[2])
    model(torch.randn(2, 4)).sum().backward()
    assert model[2].feedback.grad is not None


class _FailingFeedback(lra.feedback.Feedback):
    """Feedback that cannot be drawn."""

    stored = Stored.LEARNED

    def draw(self, draw: object) -> object:
        raise ArithmeticError("cannot draw")


def test_failing_feedback_leaves_the_model_unchanged() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    before = snapshot(model)
    with pytest.raises(ArithmeticError, match="cannot draw"):
        lra.convert(model, lra.Rule(_FailingFeedback()))
    assert_unchanged(model, before)


def test_an_unknown_wiring_is_refused() -> None:
    @dataclass(frozen=True)
    class Elsewhere(lra.wiring.Wiring):
        """A wiring that torch models do not support."""

    model = mlp()
    before = snapshot(model)
    with pytest.raises(lra.errors.ConversionError, match=r"Elsewhere.*use lra\.wiring\.Chain\(\)"):
        lra.convert(model, lra.Rule(wiring=Elsewhere()))
    assert_unchanged(model, before)


@pytest.mark.parametrize("name", ["crossing", "op", "plain", "restore", "rule", "sources"])
@pytest.mark.parametrize("as_method", [False, True])
@pytest.mark.parametrize("parametrized", [False, True])
def test_a_module_with_attributes_of_a_converted_module_is_refused(name, as_method, parametrized):
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
    if name == ("crossing" if parametrized else "sources"):
        lra.convert(model, lra.LRAE(), example=x)  # modules of this kind do not use the name
    else:
        with pytest.raises(lra.errors.ConversionError, match=f"Own has attributes named '{name}'"):
            lra.convert(model, lra.LRAE(), example=x)
        assert [type(m) for m in model.modules()] == classes
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
