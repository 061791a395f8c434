"""Predictive coding in error form: its equations, its limits, and its refusals.

The oracles are a NumPy loop with every derivative written out, a torch loop with the network
written out, and backprop where theory makes them equal. tests/torch/test_method_limits.py compares
settled errors with predictive coding.
"""

import numpy as np
import pytest
import torch
from nets import Residual, assert_same, by_method, images, taken, updates
from test_predictive_coding import CHAINS, CLOSE, batch, convnet, mlp
from torch import nn
from torch.nn import functional as F

import lra
from lra.errors import Diverged


def test_a_perceptron_equals_the_algorithm_written_out():
    """Errors descend the energy by derivatives written in NumPy; the precision is 3 states."""
    model, (x, t) = mlp(), batch("mlp")
    steps, rate, N, p = 4, 0.3, len(x), 3
    W = [layer.weight.detach().numpy() for layer in model[::2]]
    b = [layer.bias.detach().numpy() for layer in model[::2]]
    eps = [np.zeros(())] * 3

    def forward():
        """Return the predictions z_l, the states s_l = z_l + eps_l, and N dloss/doutput."""
        states, z = [x.numpy()], []
        for layer in range(3):
            z.append(np.tanh(states[-1] @ W[layer].T + b[layer]))
            states.append(z[-1] + eps[layer])
        exps = np.exp(states[3] @ W[3].T + b[3])
        return z, states, exps / exps.sum(1, keepdims=True) - np.eye(3)[t.numpy()]

    for _ in range(steps):
        z, _, top = forward()
        down = [np.zeros(())] * 2 + [top @ W[3]]  # N dloss/ds_l, through all layers above
        for layer in (1, 0):
            down[layer] = (down[layer + 1] * (1 - z[layer + 1] ** 2)) @ W[layer + 1]
        eps = [e - rate * (e + g / p) for e, g in zip(eps, down, strict=True)]
    z, states, top = forward()
    rows = [-p * e * (1 - own**2) for e, own in zip(eps, z, strict=True)] + [top]
    _, found = by_method(lra.methods.ErrorPredictiveCoding(steps, rate), model, x, t)
    for layer in range(4):
        expected = torch.from_numpy(rows[layer].T @ states[layer] / N)
        torch.testing.assert_close(found[f"{2 * layer}.weight"], expected, **CLOSE)
        expected = torch.from_numpy(rows[layer].sum(0) / N)
        torch.testing.assert_close(found[f"{2 * layer}.bias"], expected, **CLOSE)


def gradients_by_loop(parts, model, x, t, steps, rate, p):
    """Compute the updates for f_1, ..., f_L, given as functions of x and the states below."""
    eps = []

    def run(detached):
        states, z = [], []
        for at, part in enumerate(parts[:-1]):
            z.append(part(x, states))
            s = z[-1] + eps[at] if eps else z[-1]
            states.append(s.detach() if detached else s)
        return states, z, F.cross_entropy(parts[-1](x, states), t)

    for _ in range(steps):
        states, _, loss = run(False)
        grads = torch.autograd.grad(len(x) / p * loss, states)
        old = eps or [torch.zeros_like(g) for g in grads]
        eps = [e - rate * (e + g) for e, g in zip(old, grads, strict=True)]
    _, z, loss = run(True)
    model.zero_grad()
    local = sum(-(e * own).sum() for e, own in zip(eps, z, strict=True))
    (loss + p / len(x) * local).backward()
    return taken(model)


def test_a_convolutional_network_equals_its_loop_written_out():
    model, (x, t) = convnet(), batch("conv")
    parts = [
        lambda x, s: model[2](torch.sigmoid(model[0](x))),
        lambda x, s: torch.tanh(model[3](s[0])).flatten(1),
        lambda x, s: model[6](s[1]),
    ]
    for steps, precision in ((1, None), (3, 0.7)):
        method = lra.methods.ErrorPredictiveCoding(steps, 0.4, precision)
        expected = gradients_by_loop(parts, model, x, t, steps, 0.4, precision or 2)
        assert_same(by_method(method, model, x, t)[1], expected, **CLOSE)


def test_layers_that_read_one_tensor_share_its_error():
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
    expected = gradients_by_loop(parts, model, x, t, 2, 0.7, 3)
    assert_same(by_method(lra.methods.ErrorPredictiveCoding(), model, x, t)[1], expected, **CLOSE)


@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize(("steps", "rate"), [(1, 0.4), (2, 0.7), (5, 0.5)])
def test_precise_updates_are_a_multiple_of_backprops(kind, steps, rate):
    """Errors of T steps are 1 - (1 - step)^T of the settled ones, where those are small."""
    model, (x, t) = CHAINS[kind][0](), batch(kind)
    expected = updates(model, x, t)
    method = lra.methods.ErrorPredictiveCoding(steps, rate, precision=1e7)
    _, found = by_method(method, model, x, t)
    share = 1 - (1 - rate) ** steps
    last = list(expected)[-2:]  # the output layer's
    for name, g in expected.items():
        factor = 1 if name in last else share
        torch.testing.assert_close(found[name], factor * g, rtol=1e-4, atol=1e-8)


def test_one_weight_layer_has_backprops_updates_to_the_bit():
    model, (x, t) = nn.Sequential(nn.Linear(6, 3), nn.Softplus()).double(), batch("mlp")
    value, found = by_method(lra.methods.ErrorPredictiveCoding(), model, x, t)
    assert_same(found, updates(model, x, t))
    assert torch.equal(value, F.cross_entropy(model(x), t).detach())


@pytest.mark.parametrize(("frozen", "left"), [(4, (0, 2, 6)), (6, (0, 2, 4))])
def test_errors_cross_frozen_layers(frozen, left):
    model, (x, t) = mlp(), batch("mlp")
    method = lra.methods.ErrorPredictiveCoding()
    whole = by_method(method, model, x, t)[1]
    model[frozen].requires_grad_(False)
    found = by_method(method, model, x, t)[1]
    expected = [f"{at}.{name}" for at in left for name in ("weight", "bias")]
    assert_same(found, {key: whole[key] for key in expected}, **CLOSE)


def test_a_state_that_the_loss_ignores_gets_no_error():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head, self.unused = nn.Linear(6, 5), nn.Linear(5, 3), nn.Linear(5, 2)

        def forward(self, x):
            z = torch.tanh(self.stem(x))
            self.unused(torch.sin(z))
            return self.head(z)

    model, (x, t) = Branch().double(), batch("mlp")
    method = lra.methods.ErrorPredictiveCoding(precision=2.0)
    found = by_method(method, model, x, t)[1]
    plain = nn.Sequential(model.stem, nn.Tanh(), model.head)
    expected = by_method(method, plain, x, t)[1]
    assert_same(
        {k: found[k] for k in ("stem.weight", "head.weight")},
        {"stem.weight": expected["0.weight"], "head.weight": expected["2.weight"]},
        **CLOSE,
    )


def test_updates_have_the_scale_of_the_loss():
    model, (x, t) = mlp(), batch("mlp")
    method = lra.methods.ErrorPredictiveCoding(3)
    _, mean = by_method(method, model, x, t)
    _, summed = by_method(method, model, x, t, "sum", loss_terms=1)
    assert_same({k: 9 * g for k, g in mean.items()}, summed, **CLOSE)


def test_errors_and_gradients_are_float32_under_autocast():
    model, (x, t) = mlp().float(), batch("mlp")
    method = lra.methods.ErrorPredictiveCoding()
    exact = by_method(method, model, x.float(), t)[1]
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        method(model, lambda o: F.cross_entropy(o, t), x.float())
    for name, g in taken(model).items():
        assert g.dtype is torch.float32
        assert (g - exact[name]).norm() < 0.1 * exact[name].norm()


def test_unstable_errors_are_reported():
    model, (x, t) = mlp(), batch("mlp")
    with pytest.raises(Diverged, match="ErrorPredictiveCoding: the states are not finite"):
        by_method(lra.methods.ErrorPredictiveCoding(2000, 3.0), model, x, t)
    with pytest.warns(lra.LraWarning, match=r"do not settle.*larger precision"):
        by_method(lra.methods.ErrorPredictiveCoding(5, 2.5), model, x, t)


def test_wrong_options_are_refused():
    for wrong in ({"steps": 0}, {"step": 0.0}, {"precision": 0.0}, {"precision": float("nan")}):
        with pytest.raises(lra.errors.OptionError, match=next(iter(wrong))):
            lra.methods.ErrorPredictiveCoding(**wrong)
