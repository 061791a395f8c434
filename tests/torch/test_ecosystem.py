"""Machinery: torch's tools around a converted model work as they do around a plain one.

The oracle is the plain model, or the converted one without the tool.
"""

import copy
import warnings

import pytest
import torch
from nets import MODELS, assert_same, images, taken, updates
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lra

LRA = lra.LRAE(beta=0.5)
RULES = {
    rule.name: rule
    for rule in (LRA, lra.MirroredLRA(), lra.FeedbackAlignment(), lra.SignSymmetry())
}


def mlp(act=nn.Tanh):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), act(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3))


def batch():
    torch.manual_seed(1)
    return torch.randn(6, 5), torch.arange(6) % 3


class Products(nn.Module):
    """Functions of torch and a product in the module's own forward."""

    def __init__(self):
        super().__init__()
        self.a, self.w = nn.Linear(5, 7), nn.Parameter(torch.randn(7, 3) / 3)

    def forward(self, x):
        return F.relu(self.a(x)) @ self.w


class Tied(nn.Module):
    """A small language model whose head is its embedding."""

    def __init__(self):
        super().__init__()
        self.e, self.f, self.g = nn.Embedding(11, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.act, self.head = nn.GELU(), nn.Linear(8, 11, bias=False)
        self.head.weight = self.e.weight

    def forward(self, i):
        return self.head(self.e(i) + self.g(self.act(self.f(self.e(i)))))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_tied_weights_survive_safetensors(rule, shared, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    if shared and not isinstance(rule.feedback, lra.feedback.Learned):
        pytest.skip("has no learned feedback to share")

    def build():
        model = lra.convert(Tied(), rule, loss_terms="tokens")
        if shared:
            lra.share_feedback(model, torch.optim.AdamW(model.parameters()))
        return model

    saved, loaded, i = build(), build(), torch.randint(0, 11, (4, 6))
    safetensors.save_model(saved, str(tmp_path / "model.safetensors"))
    safetensors.load_model(loaded, str(tmp_path / "model.safetensors"))
    assert torch.equal(loaded(i), saved(i))
    assert loaded.head.weight is loaded.e.weight
    for model in (saved, loaded):
        F.cross_entropy(model(i).flatten(0, 1), i.flatten()).backward()
    assert_same(taken(loaded), taken(saved))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_states_may_be_detached_in_place(kind):
    torch.manual_seed(0)
    model, parts = kind(5, 6, 2), torch.randn(3, 4, 2, 5)
    lra.convert(model, LRA)
    found = []
    for in_place in (True, False):
        model.zero_grad()
        state = None
        for z in parts:
            y, state = model(z, state)
            y.square().mean().backward()
            states = state if isinstance(state, tuple) else (state,)
            states = [s.detach_() if in_place else s.detach() for s in states]
            state = tuple(states) if len(states) > 1 else states[0]
        found.append(taken(model))
    assert_same(*found)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # the first layer's, of torch
@pytest.mark.parametrize("act", [nn.ReLU, nn.ELU, nn.Hardtanh, nn.SiLU])
@pytest.mark.parametrize("in_place", [False, True])
def test_full_backward_hooks_are_called_or_refused_as_on_a_plain_model(act, in_place):
    (x, t), seen = batch(), []
    for rule in (None, LRA):
        model = mlp(lambda: act(inplace=in_place))
        calls = []
        for at, layer in enumerate(model):
            layer.register_full_backward_hook(lambda *_, at=at, calls=calls: calls.append(at))
        if rule:
            lra.convert(model, rule)
        try:
            F.cross_entropy(model(x), t).backward()
            seen.append(calls)
        except RuntimeError as error:
            seen.append("modified inplace" in str(error))
    assert seen == [True, True] if in_place else seen == [[4, 3, 2, 1, 0]] * 2


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_averaged_models_hold_the_mean_and_can_be_restored(rule):
    model, (x, t) = lra.convert(mlp(), rule), batch()
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    expected = None
    for _ in range(3):
        updates(model, x, t)
        optimizer.step()
        mean.update_parameters(model)
        state = {name: v.clone() for name, v in model.state_dict().items()}
        expected = (
            {name: 0.9 * v + 0.1 * state[name] for name, v in expected.items()}
            if expected
            else state
        )
    tolerances = {"rtol": 1e-5, "atol": 1e-6}
    assert_same(mean.module.state_dict(), expected, **tolerances)
    plain = {name: expected[name] for name in mlp().state_dict()}
    assert_same(lra.restore(mean.module).state_dict(), plain, **tolerances)
    assert lra.is_converted(model)


EXPORTED = {
    "layers": (mlp, lambda: batch()[0]),
    "functions": (Products, lambda: batch()[0]),
    "residual": (MODELS["residual"], lambda: images()[0].float()),
}


@pytest.mark.parametrize(("build", "example"), EXPORTED.values(), ids=EXPORTED)
def test_converted_models_can_be_exported(build, example):
    x = example()
    model = lra.convert(build(), LRA, example=x).eval()
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))


NORMS = {
    "spectral": parametrizations.spectral_norm,
    "weight": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_parametrized_layers_learn_and_are_restored(norm):
    model, (x, t) = mlp(), batch()
    norm(model[2])
    kind = type(model[2])
    lra.convert(model, LRA, example=x)
    assert lra.coverage(model).full
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    before = float(F.cross_entropy(model(x), t).detach())
    for _ in range(60):
        updates(model, x, t)
        optimizer.step()
    assert float(F.cross_entropy(model(x), t).detach()) < 0.5 * before
    lra.restore(model)
    assert type(model[2]) is kind


@pytest.mark.parametrize(
    "rule",
    [*RULES.values(), lra.DirectFeedbackAlignment()],
    ids=[*RULES, "direct-feedback-alignment"],
)
def test_optimizers_may_call_a_closure_several_times(rule):
    x, t = batch()
    model = lra.convert(mlp(), rule, example=x)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), t)
        loss.backward()
        calls.append(float(loss.detach()))
        return loss.detach()

    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    closure()
    once = taken(model)
    closure()
    assert_same(taken(model), once, rtol=0, atol=0)
    optimizer.step(closure)
    assert len(calls) > 3
    assert calls[-1] < calls[0]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_restored_models_are_quantised_as_plain_ones(rule):
    plain, x = mlp(), batch()[0]
    model = lra.restore(lra.convert(copy.deepcopy(plain), rule))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated
        small, expected = (
            torch.ao.quantization.quantize_dynamic(each, {nn.Linear}, dtype=torch.qint8)
            for each in (model, plain)
        )
        assert [type(m) for m in small] == [type(m) for m in expected]
        assert torch.equal(small(x), expected(x))


class Partly(nn.Module):
    """A model of which one layer runs in no training step, or only for some."""

    def __init__(self, spare):
        super().__init__()
        self.a, self.b, self.spare = nn.Linear(5, 7), nn.Linear(7, 3), spare

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(h) if self.training else self.b(h) + self.spare(h)


UNUSED = {
    "layer": lambda: nn.Linear(7, 3),
    "network": lambda: nn.Sequential(nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 3)),
    "convolution": lambda: nn.Conv1d(7, 3, 1),
}


@pytest.mark.parametrize("spare", UNUSED.values(), ids=UNUSED)
def test_layers_that_receive_no_error_cause_no_warning(spare):
    x, t = batch()
    model = lra.convert(Partly(spare()), LRA, example=x)
    optimizer = torch.optim.AdamW(model.parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = updates(model, x, t)
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p.detach(), before[n])}
    assert moved == found.keys() == {n for n in before if not n.startswith("spare")}
    assert "b.feedback" in moved
