"""Predictive coding: its equations, its limits, and the state of the model after a step.

The oracles are a NumPy loop with every derivative written out, a torch loop with the network
written out, the numbers of a published implementation, and backprop where theory makes them equal.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
from nets import MODELS, SMOOTH, Residual, ViT, assert_same, by_method, images, taken, updates
from torch import nn
from torch.nn import functional as F

import lra

CLOSE = {"rtol": 1e-10, "atol": 1e-13}


def mlp(sizes=(6, 8, 7, 5, 3)):
    layers = []
    for below, above in itertools.pairwise(sizes):
        layers += [nn.Linear(below, above), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


def convnet():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.Sigmoid(), nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3),
    ).double()  # fmt: skip


CHAINS = {
    "mlp": (mlp, (9, 6)),
    "conv": (convnet, (9, 2, 6, 6)),
}


def batch(kind):
    return torch.randn(CHAINS[kind][1], dtype=torch.float64), torch.arange(9) % 3


# Equations


@pytest.mark.parametrize(("beta", "symmetric"), [(1.0, False), (0.4, False), (0.4, True)])
def test_a_perceptron_equals_the_algorithm_written_out(beta, symmetric):
    """Compare with Whittington and Bogacz's algorithm in NumPy, with derivatives by hand."""
    model, (x, t) = mlp(), batch("mlp")
    steps, rate, N = 7, 0.3, len(x)
    W = [layer.weight.detach().numpy() for layer in model[::2]]
    b = [layer.bias.detach().numpy() for layer in model[::2]]
    forward = [x.numpy()]
    for layer in range(3):  # the inputs of the layers above
        forward.append(np.tanh(forward[-1] @ W[layer].T + b[layer]))

    def errors(states, nudge):
        predictions = [np.tanh(states[layer] @ W[layer].T + b[layer]) for layer in range(3)]
        found = [np.zeros(()), *(states[layer + 1] - predictions[layer] for layer in range(3))]
        exps = np.exp(states[3] @ W[3].T + b[3])
        return found, nudge * (exps / exps.sum(1, keepdims=True) - np.eye(3)[t.numpy()])

    def at_h(states, layer, e):
        """Compute dF/dh of a layer from its prediction error."""
        z = np.tanh(states[layer] @ W[layer].T + b[layer])
        return -(1 - z**2) * e

    def nudged(nudge):
        """Compute dF/dW and dF/db of each layer."""
        states = list(forward)
        for _ in range(steps):
            e, top = errors(states, nudge)
            down = [at_h(states, layer, e[layer + 1]) @ W[layer] for layer in range(1, 3)]
            down.append(top @ W[3])
            for layer in range(1, 4):
                states[layer] = states[layer] - rate * (e[layer] + down[layer - 1])
        e, top = errors(states, nudge)
        rows = [*(at_h(states, layer, e[layer + 1]) for layer in range(3)), top]
        return [(row.T @ state, row.sum(0)) for row, state in zip(rows, states, strict=True)]

    method = lra.methods.PredictiveCoding(steps, rate, beta, symmetric)
    _, found = by_method(method, model, x, t)
    up, down = nudged(beta), nudged(-beta)
    for layer in range(4):
        for name, plus, minus in zip(("weight", "bias"), up[layer], down[layer], strict=True):
            expected = (plus - minus) / (2 * beta * N) if symmetric else plus / (beta * N)
            update = found[f"{2 * layer}.{name}"]
            torch.testing.assert_close(update, torch.from_numpy(expected), **CLOSE)


@pytest.mark.parametrize(("symmetric", "order"), [(False, 1), (True, 2)])
def test_settled_updates_tend_to_backprops_with_beta(symmetric, order):
    """Half of beta halves their distance, and with both directions quarters it."""
    model, (x, t) = mlp(), batch("mlp")
    expected, distances = updates(model, x, t), []
    for beta in (0.02, 0.01):
        method = lra.methods.PredictiveCoding(300, 0.3, beta, symmetric)
        found = by_method(method, model, x, t)[1]
        distances.append(sum(float((found[k] - g).norm()) for k, g in expected.items()))
    assert distances[0] / distances[1] == pytest.approx(2**order, rel=0.05)
    assert distances[1] < 0.01


def test_both_directions_leave_the_model_as_one_does():
    """Buffers, random numbers and gradients that were there are those of one forward pass."""
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    (x, t), found = (torch.randn(9, 6), torch.arange(9) % 3), []
    for symmetric in (False, True):
        one = copy.deepcopy(model)
        torch.manual_seed(3)
        lra.methods.PredictiveCoding(3, 0.1, 1.0, symmetric)(
            one, lambda y: F.cross_entropy(y, t), x
        )
        found.append((dict(one.named_buffers()), torch.rand(2)))
    assert_same(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def gradients_after_inference(parts, model, x, t, steps, rate):
    """Compute the gradients of F after inference.

    Args:
        parts: f_1, ..., f_L as functions of x and the states below.
    """
    states = []
    for part in parts[:-1]:
        states.append(part(x, states).detach().requires_grad_())

    def energy():
        F_ = len(x) * F.cross_entropy(parts[-1](x, states), t)
        for at, part in enumerate(parts[:-1]):
            F_ = F_ + 0.5 * ((states[at] - part(x, states[:at])) ** 2).sum()
        return F_

    for _ in range(steps):
        grads = torch.autograd.grad(energy(), states)
        states = [
            (s - rate * g).detach().requires_grad_() for s, g in zip(states, grads, strict=True)
        ]
    model.zero_grad()
    (energy() / len(x)).backward()
    return taken(model)


def test_a_convolutional_network_equals_its_loop_written_out():
    model, (x, t) = convnet(), batch("conv")
    parts = [
        lambda x, s: model[2](torch.sigmoid(model[0](x))),
        lambda x, s: torch.tanh(model[3](s[0])).flatten(1),
        lambda x, s: model[6](s[1]),
    ]
    expected = gradients_after_inference(parts, model, x, t, 6, 0.2)
    assert_same(by_method(lra.methods.PredictiveCoding(6, 0.2), model, x, t)[1], expected, **CLOSE)


def test_layers_that_read_one_tensor_share_its_state():
    """In a residual network, a block and its shortcut read one state."""
    model = Residual(lambda: nn.Tanh()).double()
    model.bn1, model.bn2 = nn.Identity(), nn.Identity()
    model.stem = nn.Conv2d(3, 4, 3, padding=1).double()
    x, t = images()
    parts = [
        lambda x, s: torch.tanh(model.stem(x)),
        lambda x, s: torch.tanh(model.conv1(s[0])),
        lambda x, s: torch.tanh(model.conv2(s[1]) + model.shortcut(s[0])).mean((2, 3)),
        lambda x, s: model.head(s[2]),
    ]
    expected = gradients_after_inference(parts, model, x, t, 5, 0.2)
    assert_same(by_method(lra.methods.PredictiveCoding(5, 0.2), model, x, t)[1], expected, **CLOSE)


class InPlace(nn.Module):
    """A tensor that two layers read, one before and one after it is changed in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(5, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        z = self.stem(x)
        first = self.a(z)
        z.mul_(2).tanh_()
        return self.head(torch.tanh(first + self.b(z)))


def test_a_tensor_changed_in_place_gets_another_state():
    model, (x, t) = InPlace().double(), batch("mlp")
    parts = [
        lambda x, s: model.stem(x),
        lambda x, s: torch.tanh(2 * model.stem(x)),
        lambda x, s: torch.tanh(model.a(s[0]) + model.b(s[1])),
        lambda x, s: model.head(s[2]),
    ]
    expected = gradients_after_inference(parts, model, x, t, 5, 0.2)
    assert_same(by_method(lra.methods.PredictiveCoding(5, 0.2), model, x, t)[1], expected, **CLOSE)


def test_gradients_equal_those_of_torch2pc():
    """Compare with PCInfer(model, loss, x, t, "Strict", eta=0.2, n=2000).

    The loss is a summed cross-entropy. RobertRosenbaum/Torch2PC at 00c6c50ee354, float64, on the
    network below. Its states have settled by then, and after as many steps here the gradients were
    the same to the bit.
    """
    model, count = mlp((4, 6, 5, 3)), 0
    for p in model.parameters():
        values = torch.sin(torch.arange(count, count + p.numel()).double() * 1.7) / 2
        p.data = values.reshape(p.shape)
        count += p.numel()
    x, t = torch.cos(torch.arange(20).double() * 0.9).reshape(5, 4), torch.arange(5) % 3
    _, found = by_method(lra.methods.PredictiveCoding(300, 0.5), model, x, t, "sum", loss_terms=1)
    expected = [1.1528404398, 0.5596842001, 1.715916609, 1.2941831999, 2.4236696917, 1.6311569329]
    norms = torch.stack([g.norm() for g in found.values()])
    torch.testing.assert_close(
        norms, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0
    )


# Where theory makes it equal to backprop


@pytest.mark.parametrize("steps", [1, 20])
def test_one_weight_layer_has_backprops_updates_to_the_bit(steps):
    model, (x, t) = nn.Sequential(nn.Linear(6, 3), nn.Softplus()).double(), batch("mlp")
    value, found = by_method(lra.methods.PredictiveCoding(steps), model, x, t)
    assert_same(found, updates(model, x, t))
    assert torch.equal(value, F.cross_entropy(model(x), t).detach())


@pytest.mark.parametrize("kind", CHAINS)
def test_zero_divergence(kind):
    """With step 1 from the forward pass, layer L - k has backprop's update after k steps.

    Source: Song et al., 2020.
    """
    model, (x, t) = CHAINS[kind][0](), batch(kind)
    expected = updates(model, x, t)
    layers = [name for name, m in model.named_children() if hasattr(m, "weight")]
    for k, layer in enumerate(reversed(layers)):
        _, found = by_method(lra.methods.PredictiveCoding(max(k, 1), 1.0), model, x, t)
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if k:
                torch.testing.assert_close(found[name], expected[name], **CLOSE)
            else:  # the output layer has it before the first step
                assert (found[name] - expected[name]).norm() > 0.01 * expected[name].norm()


SETTLING = {
    "mlp": (SMOOTH["mlp"], 120, 0.3),
    "residual": (SMOOTH["residual"], 300, 0.2),
    "vit": (lambda: ViT(depth=1), 250, 0.2),
}


@pytest.mark.parametrize("kind", SETTLING)
def test_updates_tend_to_backprop_as_the_loss_gets_weaker(kind):
    """Settled states are O(pull) away from their predictions."""
    build, steps, rate = SETTLING[kind]
    model, (x, t) = build().double(), images()
    expected = updates(model, x, t)

    def distance(pull):
        method = lra.methods.PredictiveCoding(steps, rate)
        _, found = by_method(method, model, x, t, loss_terms=pull * len(x))
        assert found.keys() == expected.keys()
        a, b = (torch.cat([g.flatten() for g in each.values()]) for each in (found, expected))
        return float((a - b).norm() / b.norm())

    near, nearer = distance(1e-3), distance(1e-4)
    assert nearer < 1e-3
    assert nearer == pytest.approx(near / 10, rel=0.1)


# The model after a step


@pytest.mark.parametrize("kind", MODELS)
def test_a_step_changes_the_model_as_one_forward_pass_does(kind):
    plain = MODELS[kind]().double()
    if kind == "residual":
        plain.act3 = nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.3))
    model, (x, t) = copy.deepcopy(plain), images()
    torch.manual_seed(3)
    expected = F.cross_entropy(plain(x), t).detach()
    after = torch.rand(3)
    torch.manual_seed(3)
    value, _ = by_method(lra.methods.PredictiveCoding(5), model, x, t)
    assert torch.equal(torch.rand(3), after)
    assert torch.equal(value, expected)
    assert not value.requires_grad
    assert_same(dict(model.named_buffers()), dict(plain.named_buffers()))
    assert all(not m._forward_pre_hooks for m in model.modules())
    found = []
    for each in (model, plain):
        torch.manual_seed(4)
        found.append(updates(each, x, t))
    assert_same(*found)


def test_all_passes_of_a_step_draw_the_same_dropout():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    x, t = batch("mlp")
    torch.manual_seed(1)
    mask = torch.dropout(torch.ones(9, 5).double(), 0.5, True)
    parts = [lambda x, s: torch.tanh(model[0](x)) * mask, lambda x, s: model[3](s[0])]
    expected = gradients_after_inference(parts, model, x, t, 4, 0.2)
    torch.manual_seed(1)
    assert_same(by_method(lra.methods.PredictiveCoding(4, 0.2), model, x, t)[1], expected, **CLOSE)


def test_gradients_have_the_scale_of_the_loss_and_add_up():
    model, (x, t) = mlp(), batch("mlp")
    method = lra.methods.PredictiveCoding(5)
    _, mean = by_method(method, model, x, t)
    _, summed = by_method(method, model, x, t, "sum", loss_terms=1)
    assert_same({k: 9 * g for k, g in mean.items()}, summed, **CLOSE)
    method(model, lambda o: F.cross_entropy(o, t, reduction="sum"), x, loss_terms=1)
    assert_same(taken(model), {k: 2 * g for k, g in summed.items()}, **CLOSE)
    parts = [slice(0, 4), slice(4, 9)]
    model.zero_grad()
    for rows in parts:  # accumulated, with the mean over all of it as the loss
        share = len(x[rows]) / 9
        method(
            model, lambda o, r=rows, s=share: s * F.cross_entropy(o, t[r]), x[rows], loss_terms=9
        )
    assert_same(taken(model), mean, **CLOSE)


def test_tokens_count_as_loss_terms():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, t = torch.randn(4, 7, 6).double(), torch.randint(3, (4, 7))
    _, flat = by_method(lra.methods.PredictiveCoding(5), model, x.flatten(0, 1), t.flatten())
    model.zero_grad()
    lra.methods.PredictiveCoding(5)(
        model, lambda o: F.cross_entropy(o.flatten(0, 1), t.flatten()), x, loss_terms="tokens"
    )
    assert_same(taken(model), flat, **CLOSE)


def test_errors_cross_frozen_layers():
    model, (x, t) = mlp(), batch("mlp")
    whole = by_method(lra.methods.PredictiveCoding(5), model, x, t)[1]
    model[4].requires_grad_(False)
    found = by_method(lra.methods.PredictiveCoding(5), model, x, t)[1]
    assert_same(found, {k: g for k, g in whole.items() if not k.startswith("4.")})
    model[0].requires_grad_(False)  # nothing below trains, so its output is now an input
    head = nn.Sequential(*model[2:])
    expected = by_method(lra.methods.PredictiveCoding(5), head, model[:2](x).detach(), t)[1]
    found = by_method(lra.methods.PredictiveCoding(5), model, x, t)[1]
    assert list(found) == ["2.weight", "2.bias", "6.weight", "6.bias"]
    for g, e in zip(found.values(), expected.values(), strict=True):
        assert torch.equal(g, e)


def test_states_and_gradients_are_float32_under_autocast():
    model, (x, t) = mlp().float(), batch("mlp")
    exact = by_method(lra.methods.PredictiveCoding(), model, x.float(), t)[1]
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        lra.methods.PredictiveCoding()(model, lambda o: F.cross_entropy(o, t), x.float())
    for name, g in taken(model).items():
        assert g.dtype is torch.float32
        assert (g - exact[name]).norm() < 0.1 * exact[name].norm()


# Refusals


class OwnProduct(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.w = nn.Linear(6, 5), nn.Parameter(torch.randn(5, 3))

    def forward(self, x):
        return torch.tanh(self.first(x)) @ self.w


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.body = nn.Linear(6, 5), nn.Sequential(nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.body, self.first(x), use_reentrant=False)


def refused(model, message, x=None):
    x = torch.randn(9, 6) if x is None else x
    with pytest.raises(lra.errors.MethodError, match=message) as caught:
        lra.methods.PredictiveCoding()(model, lambda o: o.sum(), x)
    return caught.value


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch.jit
def test_models_that_it_is_not_defined_on_are_refused():
    refused(lra.convert(mlp().float(), lra.LRAE()), r"converted to a rule.*lra.restore")
    found = refused(OwnProduct(), r"OwnProduct\): its forward calls @; write it with nn.Linear")
    assert [each.type for each in found.refused] == ["OwnProduct"]
    lstm = nn.Sequential(nn.LSTM(6, 5))
    assert [each.name for each in refused(lstm, "several weights in one kernel").refused] == ["0"]
    refused(nn.TransformerEncoderLayer(6, 2, 8), "self_attn")
    refused(torch.compile(mlp().float(), backend="eager"), "before torch.compile")
    refused(nn.Sequential(nn.DataParallel(nn.Linear(6, 3))), "DistributedDataParallel")
    refused(torch.jit.script(nn.Linear(6, 3)), "scripted")
    refused(3, "expected a torch.nn.Module, got int")


def test_calls_with_wrong_results_are_refused():
    model = mlp().float()
    with torch.no_grad():
        refused(model, r"outside torch\.no_grad")
    refused(model, r"x.detach\(\)", torch.randn(9, 6, requires_grad=True))
    refused(Checkpointed(), "runs again in the backward pass.*checkpointing")
    assert all(not m._forward_pre_hooks for m in model.modules())

    class DictOutput(nn.Linear):
        def forward(self, x):
            return {"out": super().forward(x)}

    method, model, x = lra.methods.PredictiveCoding(), DictOutput(6, 3), torch.randn(9, 6)
    with pytest.raises(lra.errors.MethodError, match="output is a dict"):
        method(model, lambda o: o["out"].sum(), x)
    method(model, lambda o: o["out"].sum(), x, loss_terms=1)
