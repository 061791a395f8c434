"""Machinery: what users do with a torch module works on a converted one, with the same updates."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from nets import (
    ALL_RULES,
    COMBINATIONS,
    MODELS,
    alone,
    assert_same,
    convert,
    images,
    mlp,
    taken,
    updates,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import lra

LRA = lra.LRAE(beta=0.3)
CLOSE = {"rtol": 1e-10, "atol": 1e-12}

every_rule = pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES)
every_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
DRAWS_PER_PASS = COMBINATIONS["sign symmetry, drawn per batch"]


def converted(build, rule=LRA, **options):
    return convert(build().double(), rule, **options)


# Parameters


@every_model
def test_learned_feedback_is_a_parameter(build):
    model = converted(build)
    named = dict(model.named_parameters())
    feedback = {name: p for name, p in named.items() if name.endswith("feedback")}
    assert [*map(id, lra.feedback_parameters(model))] == [*map(id, feedback.values())]
    holders = {name.removesuffix("feedback") for name in feedback}
    weights = [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    assert holders == {f"{name}." for name in weights[1:]}  # the first sees the raw input
    for name, E in feedback.items():
        W = named[name.replace("feedback", "weight")]
        assert (E.shape, E.dtype, E.requires_grad) == (W.shape, W.dtype, True)
    assert not [name for name, _ in model.named_buffers() if "feedback" in name]


@pytest.mark.parametrize(
    "rule", [lra.FeedbackAlignment(), lra.SignSymmetry("fixed")], ids=["fa", "frsf"]
)
def test_fixed_feedback_is_a_buffer(rule):
    model = converted(mlp, rule)
    assert lra.feedback_parameters(model) == []
    assert [*dict(model.named_buffers())] == ["3.feedback", "5.feedback"]
    assert "3.feedback" in model.state_dict()
    x, y = images()
    before = model[3].feedback.clone()
    updates(model, x, y)
    assert torch.equal(model[3].feedback, before)
    assert model[3].feedback.grad is None


@pytest.mark.parametrize(
    "rule", [lra.Backprop(), lra.SignSymmetry(), DRAWS_PER_PASS], ids=["bp", "usf", "brsf"]
)
def test_rules_without_stored_feedback_add_nothing_to_the_state(rule):
    plain = mlp()
    keys = [*plain.state_dict()]
    model = lra.convert(plain, rule)
    assert [*model.state_dict()] == keys
    assert lra.feedback_parameters(model) == []


def test_layers_that_see_the_raw_input_have_no_feedback():
    embedded = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    lra.convert(embedded, LRA)
    assert len(lra.feedback_parameters(embedded)) == 2
    F.cross_entropy(embedded(torch.arange(4)), torch.arange(4) % 2).backward()
    assert embedded[0].weight.grad.abs().sum() > 0
    flat = lra.convert(mlp(), LRA, input_layers=())
    assert len(lra.feedback_parameters(flat)) == 3
    two = nn.ModuleDict({"left": nn.Linear(3, 4), "right": nn.Linear(3, 4), "top": nn.Linear(4, 2)})
    lra.convert(two, LRA, input_layers=["left", "right"])
    assert [name for name, _ in two.named_parameters() if "feedback" in name] == ["top.feedback"]


def test_an_optimizer_built_before_convert_can_be_extended():
    model = mlp().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lra.convert(model, LRA)
    optimizer.add_param_group({"params": lra.feedback_parameters(model), "lr": 0.2})
    x, y = images()
    got = updates(model, x, y)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, p in model.named_parameters():
        step = 0.2 if "feedback" in name else 0.1
        torch.testing.assert_close(p.detach(), before[name] - step * got[name], **CLOSE)


@pytest.mark.parametrize("before", [True, False])
def test_frozen_weights_leave_the_other_updates_unchanged(before):
    torch.manual_seed(3)
    expected_model = converted(mlp)
    x, y = images()
    expected = updates(expected_model, x, y)
    torch.manual_seed(3)
    model = mlp().double()
    if before:
        model[3].weight.requires_grad_(False)
    lra.convert(model, LRA)
    if before:
        assert not model[3].feedback.requires_grad
    else:
        model[3].weight.requires_grad_(False)
        model[3].feedback.requires_grad_(False)
    got = updates(model, x, y)
    assert expected.keys() - got.keys() == {"3.weight", "3.feedback"}
    assert_same(got, {name: expected[name] for name in got})


# The scale of the loss, and batches in parts


@every_rule
def test_accumulated_batches_equal_one_batch(rule):
    if rule == DRAWS_PER_PASS:
        pytest.skip("draws feedback for every batch")
    if getattr(rule.crossing, "relative", None) == "batch":
        pytest.skip("divides by the largest error of each part of the batch")
    model, k = converted(mlp, rule), 3
    x, y = images(12)
    expected = updates(model, x, y)
    lra.set_loss_terms(model, 12)
    model.zero_grad()
    for part, labels in zip(x.chunk(k), y.chunk(k), strict=True):
        (F.cross_entropy(model(part), labels) / k).backward()
    assert_same(taken(model), expected, **CLOSE)


@every_model
def test_a_summed_loss_has_one_term(build):
    model = converted(build).eval()
    x, y = images(6)
    expected = updates(model, x, y)
    lra.set_loss_terms(model, 1)
    assert_same(updates(model, x, y, scale=6), {k: 6 * g for k, g in expected.items()}, **CLOSE)


@every_model
def test_a_scaled_loss_has_fewer_terms(build):
    model, S = converted(build), 1024.0
    x, y = images(6)
    expected = updates(model, x, y)
    lra.set_loss_terms(model, 6 / S)
    assert_same(updates(model, x, y, scale=S), {k: S * g for k, g in expected.items()}, **CLOSE)


RELATIVE = {
    relative: lra.LRAE(1.0, normalized=True, two_sided=True, relative=relative)
    for relative in ("unit", "sample", "batch")
}


@every_model
@pytest.mark.parametrize("relative", RELATIVE)
@pytest.mark.parametrize("S", [1e-4, 6.0, 65536.0])
def test_relative_rules_work_at_any_scale_of_the_loss(build, relative, S):
    model = converted(build, RELATIVE[relative]).eval()
    x, y = images(6)
    expected = updates(model, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = updates(model, x, y, scale=S)
    assert_same(found, {k: S * g for k, g in expected.items()}, **CLOSE)


@pytest.mark.parametrize("relative", ["unit", "sample"])
def test_relative_rules_work_with_batches_in_any_parts(relative):
    model = converted(mlp, RELATIVE[relative])
    x, y = images(12)
    expected = updates(model, x, y)
    model.zero_grad()
    for part, labels in zip(x.split([5, 1, 6]), y.split([5, 1, 6]), strict=True):
        (F.cross_entropy(model(part), labels) * len(part) / 12).backward()
    assert_same(taken(model), expected, **CLOSE)
    inner = model[1:]  # without Flatten, which reads a single sample as a batch
    rows, parameters = x.flatten(1), dict(inner.named_parameters())
    model.zero_grad()
    for row, label in zip(rows, y, strict=True):
        (F.cross_entropy(inner(row), label) / 12).backward()  # without a batch dimension
    assert_same(taken(model), expected, **CLOSE)

    def loss(parameters, row, label):
        return F.cross_entropy(torch.func.functional_call(inner, parameters, (row,)), label)

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, rows, y)
    assert_same({k: g.mean(0) for k, g in per_sample.items()}, expected, **CLOSE)


@pytest.mark.parametrize("rule", [LRA, lra.MirroredLRA(), lra.FeedbackAlignment()])
def test_two_backward_calls_add_the_updates_of_two_losses(rule):
    model, (x, y) = converted(mlp, rule), images()
    losses = (
        lambda h: F.cross_entropy(h, y),
        lambda h: F.smooth_l1_loss(h, torch.ones_like(h)),
        lambda h: h.square().mean(),
    )

    def run(*calls):
        model.zero_grad()
        for call in calls:
            call(model(x)).backward()
        return taken(model)

    apart = [run(loss) for loss in losses]
    expected = {name: sum(each[name] for each in apart) for name in apart[0]}
    assert_same(run(*losses), expected, **CLOSE)
    at_once = run(lambda h: sum(loss(h) for loss in losses))
    linear = rule == lra.FeedbackAlignment()
    for name in ("1.weight", "3.weight"):
        assert linear == torch.allclose(at_once[name], expected[name], rtol=1e-6, atol=1e-9)


def test_tokens_count_as_loss_terms():
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 4))
    lra.convert(model.double(), LRA)
    x, y = torch.randn(3, 7, 5).double(), torch.randint(4, (3, 7))
    expected = updates(model, x.flatten(0, 1), y.flatten())
    lra.set_loss_terms(model, "tokens")
    model.zero_grad()
    F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
    assert_same(taken(model), expected, **CLOSE)


def test_updates_of_an_empty_batch_are_zero():
    model = converted(mlp)
    model(torch.empty(0, 192).double()).sum().backward()
    assert all(not g.any() for g in taken(model).values())
    assert len(taken(model)) == 8


def test_feedback_drawn_per_batch_is_drawn_per_forward():
    model = converted(mlp, DRAWS_PER_PASS)
    x, y = images()
    first, second = updates(model, x, y), updates(model, x, y)
    assert not torch.equal(first["1.weight"], second["1.weight"])
    assert torch.equal(first["5.weight"], second["5.weight"])
    loss = F.cross_entropy(model(x), y)
    model.zero_grad()
    loss.backward(retain_graph=True)
    once = taken(model)
    loss.backward()
    assert_same(taken(model), {k: 2 * g for k, g in once.items()}, **CLOSE)


def test_updates_in_float32_are_close_to_those_in_float64():
    model = converted(mlp)
    x, y = images()
    exact = updates(model, x, y)
    assert all(g.dtype == torch.float64 for g in exact.values())
    single = updates(model.float(), x.float(), y)
    assert_same({k: g.double() for k, g in single.items()}, exact, rtol=1e-4, atol=1e-6)


# Copies and storage


@every_rule
@every_model
def test_copies_give_the_same_updates(build, rule):
    model = convert(build(), rule)
    x, y = images(4, torch.float32)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    )
    torch.manual_seed(1)
    expected = updates(model, x, y)
    for other in copies:
        assert repr(other) == repr(model)
        torch.manual_seed(1)
        assert_same(updates(other, x, y), expected)
        assert not lra.is_converted(lra.restore(other))


@every_rule
def test_the_state_of_a_plain_model_loads_and_leaves_feedback_unchanged(rule):
    plain, model = mlp(), convert(mlp(), rule)
    state = plain.state_dict()
    keys = [*state]
    feedback = {k: v.clone() for k, v in model.state_dict().items() if "feedback" in k}
    with warnings.catch_warnings(action="ignore", category=lra.LraWarning):  # about mirrors
        result = model.load_state_dict(state, strict=True)
    assert str(result) == "<All keys matched successfully>"
    assert [*state] == keys
    loaded = model.state_dict()
    assert_same({k: loaded[k] for k in keys}, dict(state))
    assert_same({k: loaded[k] for k in feedback}, feedback)


@pytest.mark.parametrize("assign", [False, True])
@every_rule
def test_the_state_of_a_converted_model_includes_feedback(rule, assign):
    model, other = convert(mlp(), rule), convert(mlp(), rule)
    state = copy.deepcopy(model.state_dict())
    other.load_state_dict(state, assign=assign)
    assert_same(dict(other.state_dict()), dict(state))
    x, y = images(4, torch.float32)
    torch.manual_seed(1)
    expected = updates(model, x, y)
    torch.manual_seed(1)
    assert_same(updates(other, x, y), expected)


def test_strict_loading_refuses_wrong_keys():
    model = lra.convert(mlp(), LRA)
    state = model.state_dict()
    state["6.weight"] = state.pop("5.weight")
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(state)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        mlp().load_state_dict(lra.convert(mlp(), LRA).state_dict())


def test_repr_shows_the_rule_without_default_fields():
    lines = repr(lra.convert(mlp(), lra.LRAE(beta=0.3, gamma=0.5))).splitlines()
    assert lines[2] == (
        "  (1): LocalLinear(in_features=192, out_features=10, bias=True, feedback=None)"
    )
    assert lines[3] == "  (2): LocalTanh(crossing=TargetDifference(beta=0.3))"
    assert lines[4] == (
        "  (3): LocalLinear(in_features=10, out_features=8, bias=True, feedback=Learned(gamma=0.5))"
    )
    assert "feedback=Learned())" in repr(lra.convert(mlp(), LRA))


# Other ways to run a backward pass


@every_rule
@every_model
def test_functional_grad(build, rule):
    model = converted(build, rule).eval()
    x, y = images(4)
    torch.manual_seed(1)
    expected = updates(model, x, y)
    parameters = dict(model.named_parameters())

    def loss(parameters):
        return F.cross_entropy(torch.func.functional_call(model, parameters, (x,)), y)

    torch.manual_seed(1)
    assert_same(torch.func.grad(loss)(parameters), expected, **CLOSE)


@pytest.mark.parametrize("build", [mlp, MODELS["vit"]], ids=["mlp", "vit"])
def test_updates_per_sample(build):
    model = converted(build, loss_terms=1)
    x, y = images(3)
    parameters = dict(model.named_parameters())

    def loss(parameters, x, y):
        return F.cross_entropy(torch.func.functional_call(model, parameters, (x[None],)), y[None])

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, y)
    for i in range(len(x)):
        expected = updates(model, x[i : i + 1], y[i : i + 1])
        assert_same({k: g[i] for k, g in per_sample.items()}, expected, **CLOSE)


@every_model
def test_autograd_grad(build):
    model = converted(build)
    x, y = images(4)
    expected = updates(model, x, y)
    named = dict(model.named_parameters())
    got = torch.autograd.grad(F.cross_entropy(model(x), y), [*named.values()])
    assert_same(dict(zip(named, got, strict=True)), expected)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("rule", [LRA, DRAWS_PER_PASS], ids=["lra-e", "brsf"])
def test_gradient_checkpointing(rule, reentrant):
    model = converted(mlp, rule)
    x, y = images()
    torch.manual_seed(1)
    expected = updates(model, x, y)
    torch.manual_seed(1)
    model.zero_grad()
    z = model[2](model[1](model[0](x)))
    h = checkpoint(model[3:], z, use_reentrant=reentrant)
    F.cross_entropy(h, y).backward()
    assert_same(taken(model), expected, **CLOSE)


def test_backward_hooks_receive_the_errors_of_the_rule():
    model = converted(mlp)
    x, y = images()
    model(x)
    seen = {}
    handles = [
        model[3].register_full_backward_hook(lambda m, d, e: seen.update(d=d[0], e=e[0])),
        model[3].weight.register_hook(lambda g: seen.update(dW=g)),
        model[2].register_forward_hook(lambda m, i, z: seen.update(z=z)),
    ]
    updates(model, x, y)
    torch.testing.assert_close(seen["d"], seen["e"] @ model[3].feedback, **CLOSE)
    torch.testing.assert_close(seen["dW"], seen["e"].T @ seen["z"], **CLOSE)
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("build", [mlp, lambda: nn.Sequential(nn.Linear(192, 4), nn.Linear(4, 4))])
def test_second_derivatives_are_refused(build):
    model = converted(build)
    x, y = images()
    x = x.flatten(1)
    loss = F.cross_entropy(model(x), y)
    with pytest.raises(lra.errors.RuleError, match=r"create_graph=True.* lra\.restore"):
        loss.backward(create_graph=True)
    with pytest.raises(lra.errors.RuleError, match="create_graph=True"):
        torch.autograd.grad(F.cross_entropy(model(x), y), [*model.parameters()], create_graph=True)


@pytest.mark.parametrize("rule", [LRA, lra.FeedbackAlignment()], ids=["lra-e", "fa"])
def test_a_raw_input_that_requires_a_gradient_is_refused(rule):
    model = converted(mlp, rule)
    x, y = images()
    with torch.no_grad():
        model(x.requires_grad_())
    with pytest.raises(lra.errors.RuleError, match=r"layer '1' .* input_layers=\(\)") as refusal:
        model(x)
    assert "raw input" in str(refusal.value)
    lra.convert(lra.restore(model), rule, input_layers=())
    updates(model, x, y)
    assert x.grad.abs().min() > 0


def test_inference_mode():
    model = lra.convert(mlp(lambda: nn.ReLU(inplace=True)), LRA)
    x, _ = images(3, torch.float32)
    with torch.inference_mode():
        z = model(x)
    assert torch.equal(z, model(x))


# Precision


def distance(a, b):
    a, b = (torch.cat([g.flatten().double() for _, g in sorted(u.items())]) for u in (a, b))
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("rule", [LRA, lra.KolenPollack()], ids=["lra-e", "kolen-pollack"])
@every_model
def test_autocast(build, rule):
    model = convert(build(), rule)
    x, y = images(8, torch.float32)
    expected = updates(model, x, y)
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    got = taken(model)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in got.values())
    assert got.keys() == expected.keys()
    assert distance(got, expected) < 0.05


class Subtracted(nn.Module):
    """tanh in a class without a closed form, so that the rule subtracts y from z."""

    def forward(self, h: Tensor) -> Tensor:
        return torch.tanh(h)


@pytest.mark.parametrize("phi", [nn.Tanh, Subtracted], ids=["closed form", "subtracted"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_updates_in_half_precision(phi, dtype, bound, monkeypatch):
    model = lra.convert(mlp(phi), lra.LRAE(beta=0.01, gain=100))
    x, y = images(8, torch.float32)
    expected = updates(model, x, y)
    model.to(dtype)
    x = x.to(dtype)
    assert distance(updates(model, x, y), expected) < bound

    def error_in_half_precision(op, d, h, z=None):
        return op.crossing.error(op.phi, h, op.phi(h), d, len(h), torch)

    if phi is Subtracted:  # in 16 bits y would cancel z, and the bound detects that
        monkeypatch.setattr("lra.torch.ops.ops.activation_error", error_in_half_precision)
        assert distance(updates(model, x, y), expected) > 4 * bound


def test_tied_weights_sum_both_updates():
    tied = nn.Linear(4, 4, bias=False).double()
    model = nn.Sequential(nn.Linear(4, 4).double(), nn.Tanh(), tied, nn.Tanh(), tied)
    lra.convert(model, LRA)
    untied = nn.Sequential(*(copy.deepcopy(layer) for layer in model))
    x, y = torch.randn(5, 4).double(), torch.arange(5) % 4
    got, expected = updates(model, x, y), updates(untied, x, y)
    for name in ("weight", "feedback"):
        both = expected[f"2.{name}"] + expected[f"4.{name}"]
        torch.testing.assert_close(got[f"2.{name}"], both, **CLOSE)


def test_one_layer_can_run_on_several_batches_before_backward():
    layer = alone(nn.Linear(3, 3).double(), LRA)
    x = torch.randn(2, 4, 3).double()
    (layer(x[0]).sum() + layer(x[1]).sum()).backward()
    expected = torch.ones(4, 3).double().T @ (x[0] + x[1])
    torch.testing.assert_close(layer.weight.grad, expected, **CLOSE)


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Softplus, nn.Tanh])
@pytest.mark.parametrize("sequential", [True, False])
def test_the_output_of_an_activation_may_be_overwritten(
    activation: type[nn.Module], sequential: bool
) -> None:
    layers = [nn.Linear(4, 5), activation(), nn.Dropout(0.5, inplace=True), nn.Linear(5, 3)]
    model = nn.Sequential(*layers).double()
    lra.convert(model, lra.LRAE())
    x = torch.randn(6, 4, dtype=torch.float64)
    torch.manual_seed(0)
    h = model[:2](x) if sequential else model[1](model[0](x))
    before = h.detach().clone()
    model[3](model[2](h)).sum().backward()
    assert not torch.equal(h, before)
    assert model[0].weight.grad.abs().sum() > 0


class OwnProduct(nn.Module):
    """A forward with torch functions and a product with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.w, self.b = nn.Linear(6, 8), nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.b(torch.tanh(torch.tanh(self.a(x)) @ self.w))
        return h


@pytest.mark.parametrize(
    "rule",
    [
        lra.LRAE(),
        lra.KolenPollack(),
        lra.LRAE(wiring=lra.wiring.Direct()),
        lra.DirectFeedbackAlignment(),
    ],
    ids=lambda rule: rule.name,
)
def test_updates_under_vmap(rule: lra.Rule) -> None:
    """Compare vmap with a plain batch: under vmap, requires_grad is False for every tensor."""
    x = torch.randn(5, 6, dtype=torch.float64)
    model = lra.convert(OwnProduct().double(), rule, example=x, loss_terms=1)
    expected = updates_of(model, lambda: model(x).square().sum())
    found = updates_of(model, lambda: torch.vmap(model)(x).square().sum())
    assert expected.keys() == found.keys() >= {"a.weight", "w", "b.weight"}
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    lra.restore(model)
    assert not torch.allclose(updates_of(model, lambda: model(x).square().sum())["w"], found["w"])


def updates_of(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    loss().backward()
    return taken(model)
