"""Tools of torch that look into modules: tracing, quantization, parametrizations, scripting."""

import copy
import io
import pickle

import pytest
import torch
from nets import assert_same, taken
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

import lra

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class Free(nn.Module):
    """A function of torch, and a weight of the module's own."""

    def __init__(self):
        super().__init__()
        self.a, self.w = nn.Linear(5, 7), nn.Parameter(torch.randn(7, 3) / 3)

    def forward(self, x):
        return F.relu(self.a(x)) @ self.w


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.free, self.act = Free(), nn.ReLU(inplace=True)
        self.conv, self.prelu = nn.Conv1d(1, 2, 3, padding=1), nn.PReLU()
        self.norm, self.b = nn.LayerNorm(3), nn.Linear(3, 2)

    def forward(self, x):
        return self.b(self.norm(self.prelu(self.conv(self.act(self.free(x))[:, None]))))


def step(model, x=X):
    model.zero_grad()
    model(x).square().mean().backward()
    return taken(model)


def seeded(build):
    torch.manual_seed(0)
    return build()


def sequential():
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.RReLU(), nn.Linear(6, 3))


# torch.fx


@pytest.mark.parametrize("no_grad", [False, True])
@pytest.mark.parametrize("build", [Body, Mixed, sequential])
def test_symbolic_trace_keeps_the_rule(build, no_grad):
    model = lra.convert(seeded(build), lra.LRAE(beta=0.5), example=X)
    with torch.set_grad_enabled(not no_grad):
        traced = torch.fx.symbolic_trace(model)
    before = seeded(lambda: step(model))
    assert_same(seeded(lambda: step(traced)), before)
    lra.restore(traced)
    assert not lra.is_converted(traced)


@pytest.mark.parametrize("build", [Free, lambda: nn.LSTM(5, 3)], ids=["own", "torch"])
def test_symbolic_trace_of_a_module_with_intercepted_code_is_refused(build):
    model = lra.convert(build(), lra.LRAE(), example=X)
    with pytest.raises(lra.errors.ConversionError, match=r"(Free|LSTM) .*lra\.restore\(model\)"):
        torch.fx.symbolic_trace(model)


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def recompiled(model):
    model.recompile()
    return model


COPIES = [copy.deepcopy, copy.copy, through_pickle, through_a_file, recompiled]


@pytest.mark.parametrize("rule", [lra.FeedbackAlignment(), lra.LRAE(0.5)], ids=["fixed", "learned"])
@pytest.mark.parametrize("copied", COPIES)
def test_copies_of_a_converted_graph_module_keep_the_rule(copied, rule):
    model = lra.convert(torch.fx.symbolic_trace(seeded(Free)), rule, example=X)
    before, state = step(model), copy.deepcopy(model.state_dict())
    other = copied(model)
    assert_same(step(other), before)
    torch.testing.assert_close(dict(other.state_dict()), dict(state), rtol=0, atol=0)
    lra.restore(other)
    assert list(other.state_dict()) == ["w", "a.weight", "a.bias"]
    assert isinstance(other, torch.fx.GraphModule)
    assert torch.equal(seeded(Free)(X), other(X))


def test_code_edited_in_one_copy_of_a_graph_module_stays_there():
    model = lra.convert(torch.fx.symbolic_trace(Free()), lra.FeedbackAlignment(), example=X)
    before, plain = step(model), model(X)
    edited = copy.deepcopy(model)
    (end,) = (node for node in edited.graph.nodes if node.op == "output")
    with edited.graph.inserting_before(end):
        end.args = (edited.graph.call_function(torch.mul, (end.args[0], 2.0)),)
    edited.recompile()
    torch.testing.assert_close(edited(X), 2 * plain)
    assert torch.equal(model(X), plain)
    assert_same(step(model), before)
    torch.testing.assert_close(step(edited)["a.weight"], 4 * before["a.weight"])


# Parametrizations


class Halved(nn.Module):
    def forward(self, W):
        return W / 2


WEIGHTS = {
    "weight norm": (
        parametrizations.weight_norm,
        lambda m: parametrize.remove_parametrizations(m, "weight"),
    ),
    "spectral norm": (
        parametrizations.spectral_norm,
        lambda m: parametrize.remove_parametrizations(m, "weight"),
    ),
    "of a user": (
        lambda m: parametrize.register_parametrization(m, "weight", Halved()),
        lambda m: parametrize.remove_parametrizations(m, "weight"),
    ),
    "orthogonal": (
        parametrizations.orthogonal,
        lambda m: parametrize.remove_parametrizations(m, "weight"),
    ),
    "pruned": (
        lambda m: prune.l1_unstructured(m, "weight", 0.3),
        lambda m: prune.remove(m, "weight"),
    ),
}


@pytest.mark.parametrize(("add", "remove"), WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parametrizations_can_be_removed_after_convert(add, remove):
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    add(model[2])
    rule = lra.Rule(lra.feedback.Random())
    lra.convert(model, rule, example=X).eval()
    before, y = step(model), model(X)
    (slot,) = model[2]._lra.slots.values()
    E = slot.stored(model[2])
    if E.shape == model[2].weight.shape:
        remove(model[2])
    else:
        with pytest.warns(lra.errors.LraWarning, match=r"'2' \(.*Linear\).*new ones were drawn"):
            remove(model[2])
        (slot,) = model[2]._lra.slots.values()
        E, before = slot.stored(model[2]), {}
    torch.testing.assert_close(model(X), y)
    after = step(model)
    for name in before.keys() & {"0.weight", "0.bias", "2.bias"}:
        torch.testing.assert_close(after[name], before[name])
    e = 2 * y.detach() / y.numel()
    z = model[1](model[0](X)).detach()
    torch.testing.assert_close(after["0.bias"], (e @ E * (1 - z**2)).sum(0))
    torch.testing.assert_close(after["2.weight"], e.T @ z)
    lra.restore(model)
    assert type(model[2]) is nn.Linear
    assert sorted(model[2].state_dict()) == ["bias", "weight"]


# Quantization and TorchScript


@pytest.mark.parametrize(
    "tool",
    [
        lambda m: torch.ao.quantization.quantize_dynamic(m, {nn.Linear}),
        lambda m: torch.ao.quantization.prepare(m),
        lambda m: torch.ao.quantization.prepare_qat(m.train()),
        lambda m: torch.ao.quantization.quantize_fx.prepare_fx(
            m, torch.ao.quantization.get_default_qconfig_mapping(), (X,)
        ),
        torch.jit.script,
    ],
    ids=["dynamic", "static", "trained", "traced", "script"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tools_for_plain_layers_ask_for_restore(tool):
    import torch.ao.quantization.quantize_fx

    model = lra.convert(seeded(sequential), lra.LRAE()).eval()
    before = model(X)
    with pytest.raises(lra.errors.ConversionError, match=r"'0' \(Linear\).*lra\.restore\(model\)"):
        tool(model)
    assert torch.equal(model.eval()(X), before)
    lra.restore(model)
    assert model(X).shape == tool(model)(X).shape


# Drawing weights again


class Tile(nn.Linear):
    """A third-party layer derived from nn.Linear, with a method of that name."""

    def forward(self, z):
        with torch.no_grad():
            return F.linear(z, (self.weight * 16).round() / 16, self.bias)

    def reset_parameters(self):
        super().reset_parameters()


class Transposed(nn.Module):
    """A registered layer without reset_parameters."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) / 3), None

    def forward(self, z):
        return z @ self.weight


@pytest.fixture
def _registered(monkeypatch):
    from lra.torch.registry import WEIGHT_LAYERS

    for cls in (Tile, Transposed):
        monkeypatch.setitem(WEIGHT_LAYERS, cls, None)
        del WEIGHT_LAYERS[cls]
    lra.register_weight_layer(Tile, black_box=True)
    lra.register_weight_layer(Transposed, lambda layer, z, W, b: z @ W)


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("cls", [Tile, nn.Linear, lambda i, o: nn.Conv1d(i, o, 1)])
def test_reset_parameters_draws_weights_and_feedback_again(cls):
    model = nn.Sequential(cls(5, 7), nn.Tanh(), cls(7, 3))
    lra.convert(model, lra.MirroredLRA())
    W, E = model[2].weight.detach().clone(), model[2].feedback.detach().clone()
    model[2].reset_parameters()
    new = model[2].weight.detach()
    assert not torch.equal(new, W)
    assert not torch.equal(model[2].feedback, E)
    cosine = F.cosine_similarity(model[2].feedback.detach().flatten(), new.flatten(), 0)
    assert cosine > 0.9  # it mirrors the new weights


@pytest.mark.usefixtures("_registered")
def test_a_layer_of_somebody_else_trains_as_a_black_box():
    model = nn.Sequential(Tile(5, 7), nn.Tanh(), Tile(7, 3))
    lra.convert(model, lra.LRAE())
    found = step(model)
    e = 2 * model(X).detach() / (6 * 3)
    torch.testing.assert_close(found["2.weight"], e.T @ model[1](model[0](X)).detach())
    assert found["0.weight"].any()


@pytest.mark.usefixtures("_registered")
def test_a_layer_without_reset_parameters_gets_none():
    layer = lra.convert(nn.Sequential(Transposed(5, 5)), lra.LRAE())[0]
    assert not hasattr(layer, "reset_parameters")


def test_reset_parameters_of_an_intercepted_layer_draws_feedback_again():
    rule = lra.Rule(lra.feedback.Learned(init=lra.inits.Normal(1.0)))
    model = lra.convert(nn.LSTM(5, 64), rule, example=X)
    E = model.feedback_hh_l0.detach().clone()
    model.reset_parameters()
    assert not torch.equal(model.feedback_hh_l0, E)
    # torch draws all parameters from -1/8 to 1/8, E among them, where the rule draws from N(0, 1).
    torch.testing.assert_close(model.feedback_hh_l0.std().item(), 1.0, rtol=0.05, atol=0)
