"""Identity: the forward pass stays as it was, and rules equal backprop where they must."""

import copy

import pytest
import torch
from nets import (
    ACTIVATION_CASES,
    ALL_RULES,
    MODELS,
    SMOOTH,
    alone,
    assert_same,
    convert,
    copy_weights_to_feedback,
    images,
    mlp,
    name_of,
    taken,
    updates,
)
from torch import nn

import lra
from lra.torch.registry import WEIGHT_LAYERS

every_rule = pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES)
every_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)

WEIGHT_LAYER_SHAPES = {
    nn.Linear: [((5, 3), {}, (4, 5)), ((5, 3), {"bias": False}, (2, 4, 5)), ((1, 1), {}, (1,))],
    nn.Conv1d: [((4, 6, 3), {"groups": 2, "padding": "same"}, (2, 4, 9))],
    nn.Conv2d: [
        ((2, 3, 3), {"stride": 2, "padding": 1}, (2, 2, 7, 6)),
        ((2, 3, (2, 4)), {"padding": "same", "padding_mode": "reflect"}, (2, 6, 5)),
    ],
    nn.Conv3d: [((1, 2, 2), {"dilation": 2, "bias": False}, (2, 1, 5, 4, 4))],
}
CASES = [(cls, *case) for cls in WEIGHT_LAYERS for case in WEIGHT_LAYER_SHAPES[cls]]


@every_rule
@pytest.mark.parametrize(("cls", "args", "options", "shape"), CASES, ids=name_of)
def test_forward_of_a_weight_layer_is_bit_equal(cls, args, options, shape, rule):
    plain = cls(*args, **options)
    x = torch.randn(shape)
    converted = alone(copy.deepcopy(plain), rule)
    assert isinstance(converted, cls)
    assert torch.equal(converted(x), plain(x))
    assert torch.equal(converted(x.requires_grad_()), plain(x))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("cls", "options"), ACTIVATION_CASES, ids=name_of)
def test_forward_of_an_activation_is_bit_equal(cls, options, train):
    plain = cls(**options).train(train)
    converted = alone(copy.deepcopy(plain), lra.LRAE())
    assert isinstance(converted, cls)
    assert lra.is_converted(converted)
    for h in (torch.randn(4, 3, 5), torch.randn(2, 3), 1e4 * torch.randn(2, 3), torch.zeros(1, 3)):
        torch.manual_seed(1)
        expected = plain(h.clone())
        torch.manual_seed(1)
        assert torch.equal(converted(h.clone()), expected)


@pytest.mark.parametrize("train", [True, False])
@every_rule
@every_model
def test_forward_of_a_model_is_bit_equal(build, rule, train):
    plain = build().train(train)
    converted = convert(copy.deepcopy(plain), rule)
    x, _ = images(5, torch.float32)
    expected = plain(x)
    assert torch.equal(converted(x), expected)
    buffers = dict(converted.named_buffers())
    for key, buffer in plain.named_buffers():  # batch norm's statistics
        assert torch.equal(buffers[key], buffer), key
    with torch.no_grad():
        assert torch.equal(converted(x), plain(x))


@every_rule
@every_model
def test_convert_keeps_names_parameters_and_types(build, rule):
    model = build()
    before = dict(model.named_parameters())
    kinds = {name: type(m) for name, m in model.named_modules()}
    assert convert(model, rule) is model
    assert lra.is_converted(model)
    after = dict(model.named_parameters())
    assert all(after[name] is before[name] for name in before)
    assert all(name.endswith("feedback") for name in after.keys() - before.keys())
    assert all(isinstance(m, kinds[name]) for name, m in model.named_modules())


@every_rule
@every_model
def test_restore_returns_the_plain_model(build, rule):
    model = build()
    x, y = images(5, torch.float32)
    plain = copy.deepcopy(model)
    assert lra.restore(convert(model, rule)) is model
    assert not lra.is_converted(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert [vars(m).keys() for m in model.modules()] == [vars(m).keys() for m in plain.modules()]
    assert [*model.state_dict()] == [*plain.state_dict()]
    assert repr(model) == repr(plain)
    assert_same(updates(model, x, y), updates(plain, x, y))


@every_model
def test_backprop_equals_autograd_to_the_bit(build):
    plain = build()
    converted = lra.convert(copy.deepcopy(plain), lra.Backprop())
    x, y = images(5, torch.float32)
    assert_same(updates(converted, x, y), updates(plain, x, y))


@pytest.mark.parametrize("build", SMOOTH.values(), ids=SMOOTH)
def test_normalised_lra_tends_to_backprop(build):
    plain = build().double()
    x, y = images()
    expected = updates(plain, x, y)
    total = torch.cat([g.flatten() for g in expected.values()]).norm()

    def distance(beta):
        model = lra.convert(copy.deepcopy(plain), lra.LRAE(beta=beta, gain=1 / beta))
        assert lra.feedback_parameters(model)
        copy_weights_to_feedback(model)
        got = updates(model, x, y)
        # The gradient of the bias of attention's keys is zero; divide by the whole gradient there.
        distances = [(got[k] - g).norm() / max(g.norm(), 1e-3 * total) for k, g in expected.items()]
        return max(distances).item()

    far, near = distance(1e-3), distance(1e-4)
    assert far < 1e-3
    assert 8 < far / near < 12


@every_rule
def test_rules_agree_on_one_weight_layer(rule):
    x, y = torch.randn(6, 5, dtype=torch.float64), torch.arange(6) % 3
    plain = nn.Linear(5, 3).double()
    expected = updates(plain, x, y)
    assert_same(updates(lra.convert(copy.deepcopy(plain), rule, example=x), x, y), expected)
    with_feedback = lra.convert(copy.deepcopy(plain), rule, example=x, input_layers=())
    got = updates(with_feedback, x, y)
    got.pop("feedback", None)
    assert_same(got, expected, rtol=1e-12, atol=1e-14)


@every_rule
@pytest.mark.parametrize("act", [nn.Tanh, lambda: nn.ReLU(inplace=True)], ids=["tanh", "in place"])
def test_a_fused_sequential_equals_its_layers_run_one_by_one(rule, act):
    model = convert(mlp(act).double(), rule)
    x, y = images()

    def one_by_one():
        torch.manual_seed(1)  # for rules that draw feedback in each pass
        model.zero_grad()
        z = x
        for layer in model:
            z = layer(z)
        nn.functional.cross_entropy(z, y).backward()
        return taken(model)

    torch.manual_seed(1)
    fused = updates(model, x, y)
    assert_same(fused, one_by_one(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("hooked", range(1, 6))
def test_hooks_inside_a_fused_sequential_are_called(hooked):
    model = lra.convert(mlp().double(), lra.LRAE())
    x, y = images()
    expected = updates(model, x, y)
    called = []
    layer = model[hooked]
    handles = [
        layer.register_forward_pre_hook(lambda *_: called.append("before")),
        layer.register_forward_hook(lambda *_: called.append("after")),
    ]
    if hooked > 1:  # torch warns about backward hooks where no input requires a gradient
        handles += [
            layer.register_full_backward_pre_hook(lambda *_: called.append("backward before")),
            layer.register_full_backward_hook(lambda *_: called.append("backward")),
        ]
    assert_same(updates(model, x, y), expected)
    assert called == ["before", "after", "backward before", "backward"][: len(handles)]
    for handle in handles:
        handle.remove()
    assert_same(updates(model, x, y), expected)
    assert len(called) == len(handles)


def test_a_forward_replaced_on_the_instance_is_used():
    model = lra.convert(mlp(), lra.LRAE())
    model[2].forward = lambda h: 0 * h
    x, _ = images(2, torch.float32)
    z = x
    for layer in model:
        z = layer(z)
    assert torch.equal(model(x), z)
    assert torch.equal(model(x)[0], model(x)[1])


def test_global_hooks_are_called_for_every_layer():
    model = lra.convert(mlp(), lra.LRAE())
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    try:
        model(images(2, torch.float32)[0])
    finally:
        handle.remove()
    assert seen == [*model, model]


@pytest.mark.parametrize("rule", [lra.LRAE(), lra.FeedbackAlignment()], ids=["lra-e", "fa"])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 2, 3, 5)], ids=str)
def test_the_output_of_a_weight_layer_can_be_changed_in_place(shape, rule):
    layer = alone(nn.Linear(5, 4), rule)
    x = torch.randn(shape, requires_grad=True)
    h = layer(x)
    h.relu_()
    h.sum().backward()
    e = (nn.functional.linear(x, layer.weight, layer.bias) > 0).float()
    torch.testing.assert_close(x.grad, e @ layer.feedback)
