"""Equilibrium propagation: its equations, and the theorem that it estimates a gradient.

The oracles are a loop in NumPy, the numbers of a published implementation, autograd through the
converged dynamics, and a case with a closed form.
"""

import numpy as np
import pytest
import torch
from nets import assert_same, by_method, taken
from torch import nn
from torch.nn import functional as F

import lra

CLOSE = {"rtol": 1e-10, "atol": 1e-13}


def mlp(act=nn.Tanh):
    layers = nn.Linear(6, 8), act(), nn.Linear(8, 5), act(), nn.Linear(5, 3)
    return nn.Sequential(*layers).double()


def convnet():
    """Build a network with pools before and after activations, and an activation at the end."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.AvgPool2d(2), nn.Hardtanh(inplace=True),
        nn.Sequential(nn.Conv2d(4, 5, 2), nn.Softplus(), nn.MaxPool2d(2)), nn.Flatten(),
        nn.Linear(5, 3), nn.Sigmoid(),
    ).double()  # fmt: skip


NETS = {"mlp": (mlp, (9, 6)), "conv": (convnet, (9, 2, 6, 6))}


def batch(kind):
    return torch.randn(NETS[kind][1], dtype=torch.float64), torch.arange(9) % 3


def small(model):
    """Scale the weights down, so that the dynamics of the states contract."""
    with torch.no_grad():
        for p in model.parameters():
            p *= 0.7
    return model


# The equations


@pytest.mark.parametrize("symmetric", [True, False])
def test_updates_equal_a_loop_in_numpy(symmetric):
    model, (x, t) = mlp(), batch("mlp")
    beta, free_steps, nudged_steps, rate, N = 0.3, 6, 4, 0.4, 9
    W = [layer.weight.detach().numpy() for layer in model[::2]]
    b = [layer.bias.detach().numpy() for layer in model[::2]]
    X, Y = x.numpy(), np.eye(3)[t.numpy()]

    def softmax(s):
        return np.exp(s) / np.exp(s).sum(1, keepdims=True)

    def settle(s, steps, push):
        for _ in range(steps):
            asked = (
                np.tanh(X @ W[0].T + b[0] + s[1] @ W[1]),
                np.tanh(s[0] @ W[1].T + b[1] + s[2] @ W[2]),
                s[1] @ W[2].T + b[2] - push * (softmax(s[2]) - Y),
            )
            s = [old + rate * (new - old) for old, new in zip(s, asked, strict=True)]
        return s

    z1 = np.tanh(X @ W[0].T + b[0])
    z2 = np.tanh(z1 @ W[1].T + b[1])
    free = settle([z1, z2, z2 @ W[2].T + b[2]], free_steps, 0)
    plus = settle(free, nudged_steps, beta)
    other, span = (settle(free, nudged_steps, -beta), 2 * beta) if symmetric else (free, beta)
    method = lra.methods.EquilibriumPropagation(beta, free_steps, nudged_steps, rate, symmetric)
    value, found = by_method(method, model, x, t)
    for k in range(3):
        low, high = [other[k - 1] if k else X, other[k]], [plus[k - 1] if k else X, plus[k]]
        expected = torch.from_numpy((low[1].T @ low[0] - high[1].T @ high[0]) / span / N)
        torch.testing.assert_close(found[f"{2 * k}.weight"], expected, **CLOSE)
        expected = torch.from_numpy((low[1] - high[1]).sum(0) / span / N)
        torch.testing.assert_close(found[f"{2 * k}.bias"], expected, **CLOSE)
    free_loss = -np.log(softmax(free[2]))[np.arange(9), t.numpy()].mean()
    assert float(value) == pytest.approx(free_loss, rel=1e-12)
    torch.testing.assert_close(method.output(model, x), torch.from_numpy(free[2]), **CLOSE)


def test_updates_equal_numbers_of_a_published_implementation():
    """P_MLP([4, 6, 5, 3], tanh): 200 steps free, 8 at beta 0.25 and at -0.25, cross-entropy.

    Laborieux-Axel/Equilibrium-Propagation at 93660ed6c5b0, model_utils.py, run in float64 on the
    weights below. Its gradients and ours were the same bits.
    """
    layers = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
    model, count = nn.Sequential(*layers).double(), 0
    for p in model.parameters():
        values = torch.sin(torch.arange(count, count + p.numel()).double() * 1.7) / 4
        p.data = values.reshape(p.shape)
        count += p.numel()
    x, t = torch.cos(torch.arange(20).double() * 0.9).reshape(5, 4), torch.arange(5) % 3
    _, found = by_method(lra.methods.EquilibriumPropagation(0.25, 200, 8, 1.0), model, x, t)
    expected = [0.2140998701, 0.0937362087, 0.2030795762, 0.2445152615, 0.4627335377, 0.4845100508]
    norms = torch.stack([g.norm() for g in found.values()])
    torch.testing.assert_close(norms, torch.tensor(expected).to(norms), rtol=3e-7, atol=0)


# The theorem


def equilibrium(kind, model, x):
    """Compute the free equilibrium by iterating its equations, with a graph through all steps."""
    if kind == "mlp":
        first, second, third = model[0], model[2], model[4]
        s = [torch.zeros(9, n).double() for n in (8, 5, 3)]
        for _ in range(250):
            s = [
                0.5 * s[0] + 0.5 * torch.tanh(first(x) + s[1] @ second.weight),
                0.5 * s[1] + 0.5 * torch.tanh(second(s[0]) + s[2] @ third.weight),
                0.5 * s[2] + 0.5 * third(s[1]),
            ]
        return s[-1]
    conv, linear = model[3][0], model[5]
    s = [torch.zeros(9, 4, 3, 3).double(), torch.zeros(9, 5).double(), torch.zeros(9, 3).double()]
    for _ in range(250):
        h, where = F.max_pool2d(conv(s[0]), 2, return_indices=True)
        back = F.conv_transpose2d(F.max_unpool2d(s[1][..., None, None], where, 2), conv.weight)
        s = [
            0.5 * s[0] + 0.5 * F.hardtanh(F.avg_pool2d(model[0](x), 2) + back),
            0.5 * s[1] + 0.5 * F.softplus(h.flatten(1) + s[2] @ linear.weight),
            0.5 * s[2] + 0.5 * torch.sigmoid(linear(s[1])),
        ]
    return s[-1]


@pytest.mark.parametrize("kind", NETS)
def test_output_is_that_of_the_free_equilibrium(kind):
    model, (x, _) = small(NETS[kind][0]()), batch(kind)
    expected = equilibrium(kind, model, x).detach()
    found = lra.methods.EquilibriumPropagation(free_steps=250).output(model, x)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert (found - model(x)).abs().max() > 1e-3


@pytest.mark.parametrize(("symmetric", "order"), [(True, 2), (False, 1)])
@pytest.mark.parametrize("kind", NETS)
def test_it_estimates_the_gradient_at_the_free_equilibrium(kind, symmetric, order):
    """Scellier and Bengio 2017: the estimate's error falls like beta, or beta squared."""
    model, (x, t) = small(NETS[kind][0]()), batch(kind)
    model.zero_grad()
    F.cross_entropy(equilibrium(kind, model, x), t).backward()
    exact = taken(model)

    def distance(beta):
        method = lra.methods.EquilibriumPropagation(beta, 250, 250, symmetric=symmetric)
        _, found = by_method(method, model, x, t)
        assert found.keys() == exact.keys()
        return max(float((found[k] - exact[k]).norm() / exact[k].norm()) for k in exact)

    far, near = distance(0.01), distance(0.001)
    assert near < 0.01**order
    assert near == pytest.approx(far / 10**order, rel=0.1)


def test_one_layer_equals_its_closed_form():
    """With s_+ = (h + beta t) / (1 + beta), the update is the gradient over 1 - beta^2."""
    model, (x, _) = nn.Sequential(nn.Linear(6, 3)).double(), batch("mlp")
    t = torch.randn(9, 3).double()

    def loss(output):
        return 0.5 * (output - t).square().sum() / 9

    loss(model(x)).backward()
    expected = {k: g / (1 - 0.3**2) for k, g in taken(model).items()}
    model.zero_grad()
    lra.methods.EquilibriumPropagation(0.3, 1, 200)(model, loss, x)
    assert_same(taken(model), expected, **CLOSE)


# Gradients, shared and in-place modules


def test_gradients_accumulate_at_the_scale_of_the_loss():
    model, (x, t) = convnet(), batch("conv")
    method = lra.methods.EquilibriumPropagation()
    _, mean = by_method(method, model, x, t)
    _, summed = by_method(method, model, x, t, "sum", loss_terms=1)
    assert_same({k: 9 * g for k, g in mean.items()}, summed, **CLOSE)
    method(model, lambda o: F.cross_entropy(o, t, reduction="sum"), x, loss_terms=1)
    assert_same(taken(model), {k: 2 * g for k, g in summed.items()}, **CLOSE)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_one_activation_module_can_be_used_twice():
    layers = nn.Conv1d(1, 3, 2), nn.Sigmoid(), nn.MaxPool1d(2), nn.Conv1d(3, 4, 2), nn.Sigmoid()
    model = nn.Sequential(nn.Unflatten(1, (1, 6)), *layers, nn.Flatten(), nn.Linear(4, 3)).double()
    x, t = batch("mlp")
    expected = by_method(lra.methods.EquilibriumPropagation(), model, x, t)[1]
    model[5] = model[2]
    assert_same(by_method(lra.methods.EquilibriumPropagation(), model, x, t)[1], expected)


def test_activations_can_work_in_place():
    model, (x, t) = mlp(lambda: nn.LeakyReLU(0.2)), batch("mlp")
    expected = by_method(lra.methods.EquilibriumPropagation(), model, x, t)[1]
    model[1].inplace = model[3].inplace = True
    assert_same(by_method(lra.methods.EquilibriumPropagation(), model, x, t)[1], expected)


def test_max_pools_can_come_before_or_after_an_activation():
    layers = nn.Conv1d(1, 3, 2), nn.Sigmoid(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(6, 3)
    model = nn.Sequential(nn.Unflatten(1, (1, 6)), *layers).double()
    x, t = batch("mlp")
    expected = by_method(lra.methods.EquilibriumPropagation(), model, x, t)[1]
    model[2], model[3] = model[3], model[2]
    assert_same(by_method(lra.methods.EquilibriumPropagation(), model, x, t)[1], expected, **CLOSE)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return x + torch.tanh(self.layer(x))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Residual(), nn.Linear(6, 3)), r"0 \(Residual\): it is not supported in a chain"),
        ((nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 3)), r"1 \(GELU\).*"),
        ((nn.Linear(6, 6), nn.Dropout(), nn.Linear(6, 3)), r"1 \(Dropout\).*"),
        ((nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)), "BatchNorm1d"),
        ((nn.Linear(6, 6), nn.Linear(6, 3)), "0 activations follow it before the next"),
        ((nn.Linear(6, 6), nn.Tanh(), nn.Tanh(), nn.Linear(6, 3)), "2 activations follow it"),
        ((nn.Linear(6, 3), nn.Tanh(), nn.Flatten()), "follow the model's last activation"),
        ((nn.Tanh(),), "no weight layer"),
    ],
)
def test_other_networks_are_refused(layers, message):
    model = nn.Sequential(*layers)
    for call in (
        lambda m: lra.methods.EquilibriumPropagation()(m, torch.sum, torch.randn(9, 6)),
        lambda m: lra.methods.EquilibriumPropagation().attach(m, torch.randn(2, 6)),
        lambda m: lra.methods.EquilibriumPropagation().output(m, torch.randn(2, 6)),
    ):
        with pytest.raises(lra.errors.MethodError, match=message):
            call(model)


def test_autocast_is_refused():
    model = mlp().float()
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(lra.errors.MethodError, match=r"outside torch\.autocast"),
    ):
        lra.methods.EquilibriumPropagation()(model, torch.sum, torch.randn(9, 6))
