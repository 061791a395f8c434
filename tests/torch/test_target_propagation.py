"""Difference target propagation: its equations, its identities, and the inverses it learns.

The oracles are a NumPy loop with every derivative written out, a torch loop with the network
written out, and backprop where the inverses make it equal.
"""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from nets import assert_same, by_method, taken, updates
from torch import nn
from torch.nn import functional as F

import lra

CLOSE = {"rtol": 1e-10, "atol": 1e-13}


def chain(sizes, phi=nn.Tanh):
    layers = []
    for below, above in itertools.pairwise(sizes):
        layers += [nn.Linear(below, above), phi()]
    return nn.Sequential(*layers[:-1]).double()


def convnet():
    return nn.Sequential(
        nn.Unflatten(1, (2, 12)),
        nn.Conv1d(2, 4, 3), nn.Tanh(),
        nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), nn.Sigmoid(),
        nn.AvgPool1d(2), nn.Flatten(),
        nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3),
    ).double()  # fmt: skip


def batch(features=6):
    return torch.randn(9, features, dtype=torch.float64), torch.arange(9) % 3


def without_inverses(found):
    return {k: g for k, g in found.items() if ".inverse." not in k}


# Equations


@pytest.mark.parametrize("difference_loss", [False, True])
def test_a_perceptron_equals_the_algorithm_written_out(difference_loss):
    """Compare with Lee et al.'s algorithm in NumPy, its local loss divided by 2 eta.

    The difference loss is Ernoult et al.'s, divided by 2 sigma^2.
    """
    model, (x, t) = chain((6, 8, 7, 5, 3)), batch()
    method, N = lra.methods.DTP(eta=0.3, sigma=0.2, difference_loss=difference_loss), 9
    method.attach(model, x[:1])
    layers = model[::2]
    W = [layer.weight.detach().numpy() for layer in layers]
    b = [layer.bias.detach().numpy() for layer in layers]
    V = [layer.inverse.weight.detach().numpy() for layer in layers[1:3]]
    c = [layer.inverse.bias.detach().numpy() for layer in layers[1:3]]
    torch.manual_seed(5)
    noise, noise_above = {}, {}
    for layer, width, width_above in ((2, 7, 5), (1, 8, 7)):
        noise[layer] = torch.randn(9, width, dtype=torch.float64).numpy()
        if difference_loss:
            noise_above[layer] = torch.randn(9, width_above, dtype=torch.float64).numpy()
    torch.manual_seed(5)
    _, found = by_method(method, model, x, t)

    z = [x.numpy()]
    for layer in range(3):
        z.append(np.tanh(z[-1] @ W[layer].T + b[layer]))
    exps = np.exp(z[3] @ W[3].T + b[3])
    top = exps / exps.sum(1, keepdims=True) - np.eye(3)[t.numpy()]
    y = {3: z[3] - 0.3 * top @ W[3]}
    e = {3: top}
    for layer in (2, 1):
        g = [np.tanh(u @ V[layer - 1].T + c[layer - 1]) for u in (z[layer + 1], y[layer + 1])]
        y[layer] = z[layer] - (g[0] - g[1])
        u = z[layer] + 0.2 * noise[layer]
        above = np.tanh(u @ W[layer].T + b[layer])
        if difference_loss:  # terms: the input of the inverse, and the derivative by its output
            far = z[layer + 1] + 0.2 * noise_above[layer]
            to_far = np.tanh(far @ V[layer - 1].T + c[layer - 1]) - g[0]
            moved = 0.2 * noise[layer]
            terms = ((above, -moved), (far, to_far), (z[layer + 1], moved - to_far))
            scale = 0.2**2
        else:
            back = np.tanh(above @ V[layer - 1].T + c[layer - 1])
            terms, scale = ((above, back - u),), 1
        by_weight = by_bias = 0
        for given, d in terms:
            e_back = d * (1 - np.tanh(given @ V[layer - 1].T + c[layer - 1]) ** 2) / scale
            by_weight, by_bias = by_weight + e_back.T @ given, by_bias + e_back.sum(0)
        for name, expected in (("weight", by_weight), ("bias", by_bias)):
            update = found[f"{2 * layer}.inverse.{name}"]
            torch.testing.assert_close(update, torch.from_numpy(expected / N), **CLOSE)
    for layer in range(3):
        e[layer] = (1 - z[layer + 1] ** 2) * (z[layer + 1] - y[layer + 1]) / 0.3
    for layer in range(4):
        for name, expected in (("weight", e[layer].T @ z[layer]), ("bias", e[layer].sum(0))):
            update = found[f"{2 * layer}.{name}"]
            torch.testing.assert_close(update, torch.from_numpy(expected / N), **CLOSE)


def test_a_convolutional_network_equals_its_loop_written_out():
    model, (x, t) = convnet(), batch(24)
    method, N = lra.methods.DTP(eta=0.3, sigma=0.2), 9
    method.attach(model, x)
    conv, linear = model[3], model[7]

    def f1(x):
        return torch.tanh(model[1](x.reshape(9, 2, 12)))

    def f2(z):
        return F.avg_pool1d(torch.sigmoid(conv(z)), 2).flatten(1)

    def f3(z):
        return torch.tanh(linear(z))

    def g2(z):
        z = z.reshape(9, 6, 2).repeat_interleave(2, -1)
        like = {"stride": 2, "padding": 1, "output_padding": 1, "dilation": 2, "groups": 2}
        return torch.tanh(F.conv_transpose1d(z, conv.inverse.weight, conv.inverse.bias, **like))

    def g3(z):
        return torch.sigmoid(F.linear(z, linear.inverse.weight, linear.inverse.bias))

    z1 = f1(x)
    z2 = f2(z1.detach())
    z3 = f3(z2.detach())
    leaf = z3.detach().requires_grad_()
    loss = F.cross_entropy(model[9](leaf), t)
    (d,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    torch.manual_seed(5)
    u2 = (z2 + 0.2 * torch.randn(9, 12, dtype=torch.float64)).detach()
    u1 = (z1 + 0.2 * torch.randn(9, 4, 10, dtype=torch.float64)).detach()
    with torch.no_grad():
        y3 = z3 - 0.3 * N * d
        y2 = z2 - (g3(z3) - g3(y3))
        y1 = z1 - (g2(z2) - g2(y2))
    local = sum(((z - y) ** 2).sum() for z, y in ((z1, y1), (z2, y2), (z3, y3))) / (0.6 * N)
    back = ((g3(f3(u2).detach()) - u2) ** 2).sum() + ((g2(f2(u1).detach()) - u1) ** 2).sum()
    model.zero_grad()
    (loss + local + back / (2 * N)).backward()
    expected = taken(model)
    torch.manual_seed(5)
    assert_same(by_method(method, model, x, t)[1], expected, **CLOSE)


# Identities


@pytest.mark.parametrize("sizes", [(6, 3), (6, 8, 3)])
def test_two_weight_layers_have_backprops_updates(sizes):
    """There is no inverse, and the derivative of each local loss is backprop's."""
    model, (x, t) = chain(sizes), batch()
    method = lra.methods.DTP(eta=0.7)
    method.attach(model, x)
    assert list(model.state_dict()) == list(chain(sizes).state_dict())
    value, found = by_method(method, model, x, t)
    assert_same(found, updates(model, x, t), **CLOSE)
    assert torch.equal(value, F.cross_entropy(model(x), t).detach())


def test_transposed_inverses_of_linear_layers_give_backprop():
    model, (x, t) = chain((6, 8, 7, 5, 3), nn.Identity), batch()
    method = lra.methods.DTP(eta=0.4)
    method.attach(model, x)
    with torch.no_grad():
        for layer in model[2:6:2]:
            layer.inverse.weight.copy_(layer.weight.T)
    found = without_inverses(by_method(method, model, x, t)[1])
    assert_same(found, without_inverses(updates(model, x, t)), **CLOSE)


def test_exact_inverses_have_zero_updates_and_targets_solve_the_layers():
    """Each target is the input that takes the last hidden layer to its target: d W^-1 per layer."""
    model, (x, t) = chain((6, 5, 5, 5, 3), nn.Identity), batch()
    method = lra.methods.DTP(eta=0.4)
    method.attach(model, x)
    with torch.no_grad():
        for layer in model[2:6:2]:
            layer.inverse.weight.copy_(layer.weight.inverse())
            layer.inverse.bias.copy_(-layer.bias @ layer.weight.inverse().T)
    found = by_method(method, model, x, t)[1]
    for at in (2, 4):
        learned = found.pop(f"{at}.inverse.weight"), found.pop(f"{at}.inverse.bias")
        assert max(float(g.abs().max()) for g in learned) < 1e-10
    h = model(x)
    d = (torch.softmax(h, 1) - F.one_hot(t, 3)) @ model[6].weight / 9
    W2, W3 = model[2].weight, model[4].weight
    moved = d @ torch.linalg.inv(W3).T @ torch.linalg.inv(W2).T  # the layer that reads x
    torch.testing.assert_close(found["0.weight"], (moved.T @ x).detach(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("phi", [nn.Identity, nn.Tanh])
def test_the_difference_loss_makes_updates_those_of_backprop(phi):
    """With small steps to targets, and derivatives of inverses near the layers' transposed ones."""
    model, (x, t) = chain((6, 8, 7, 5, 3), phi), batch()
    method = lra.methods.DTP(eta=0.01, sigma=0.05, difference_loss=True)
    method.attach(model, x)
    expected = without_inverses(updates(model, x, t))
    inverses = method.feedback_parameters(model)
    optimizer = torch.optim.Adam(inverses, lr=0.02)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.02, 400)
    for _ in range(400):
        optimizer.zero_grad()
        by_method(method, model, x.repeat(8, 1), t.repeat(8))
        optimizer.step()
        decay.step()
    found = without_inverses(by_method(method, model, x, t)[1])
    if phi is nn.Identity:
        W, V = model[2].weight, model[2].inverse.weight
        assert (V - W.T).norm() < 0.05 * W.norm()
    for name, g in expected.items():
        assert F.cosine_similarity(found[name].flatten(), g.flatten(), dim=0) > 0.97, name


def test_inverses_learn_to_invert():
    model, (x, t) = convnet(), batch(24)
    method = lra.methods.DTP(sigma=0.1)
    method.attach(model, x)
    inverses = [p for name, p in model.named_parameters() if ".inverse." in name]
    assert len(inverses) == 4
    optimizer = torch.optim.Adam(inverses, lr=0.01)
    z1 = model[:3](x).detach()
    z2 = model[3:7](z1).detach()

    def distances():
        with torch.no_grad():
            first = (model[3].inverse(z2) - z1).norm() / z1.norm()
            second = (model[7].inverse(model[7:9](z2)) - z2).norm() / z2.norm()
        return float(first), float(second)

    before = distances()
    for _ in range(300):
        optimizer.zero_grad()
        by_method(method, model, x, t)
        optimizer.step()
    for old, new in zip(before, distances(), strict=True):
        assert new < 0.9 * old


# What it adds to a model, and the model after a step


def test_inverses_are_parameters_and_leave_the_forward_pass_unchanged():
    plain, (x, t) = chain((6, 8, 7, 3)), batch()
    model, method = copy.deepcopy(plain), lra.methods.DTP()
    expected = model(x)
    assert method.attach(model, x) is model
    assert torch.equal(model(x), expected)
    added = set(model.state_dict()) - set(plain.state_dict())
    assert added == {"2.inverse.weight", "2.inverse.bias"}
    assert added < {name for name, _ in model.named_parameters()}
    torch.manual_seed(1)
    found = by_method(method, model, x, t)[1]
    assert added < found.keys()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.manual_seed(1)
        assert_same(by_method(method, other, x, t)[1], found)
    loaded = lra.methods.DTP().attach(copy.deepcopy(plain), x)
    loaded.load_state_dict(model.state_dict())
    torch.manual_seed(1)
    assert_same(by_method(method, loaded, x, t)[1], found)
    assert_same(dict(method.detach(model).state_dict()), dict(plain.state_dict()))
    assert not hasattr(model[2], "inverse")


def test_gradients_have_the_scale_of_the_loss_and_add_up():
    model, (x, t) = convnet(), batch(24)
    method = lra.methods.DTP(sigma=0.0)
    method.attach(model, x)
    _, mean = by_method(method, model, x, t)
    _, summed = by_method(method, model, x, t, "sum", loss_terms=1)
    assert_same({k: 9 * g for k, g in mean.items()}, summed, **CLOSE)
    method(model, lambda o: F.cross_entropy(o, t, reduction="sum"), x, loss_terms=1)
    assert_same(taken(model), {k: 2 * g for k, g in summed.items()}, **CLOSE)
    assert all(not m._forward_pre_hooks for m in model.modules())


def test_targets_and_gradients_are_float32_under_autocast():
    model, (x, t) = chain((6, 8, 7, 5, 3)).float(), batch()
    method = lra.methods.DTP(sigma=0.0)
    method.attach(model, x.float())
    exact = by_method(method, model, x.float(), t)[1]
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        method(model, lambda o: F.cross_entropy(o, t), x.float())
    for name, g in taken(model).items():
        assert g.dtype is torch.float32
        assert (g - exact[name]).norm() < 0.1 * exact[name].norm(), name


# Refusals


def test_other_networks_are_refused_and_stay_unchanged():
    method, (x, _) = lra.methods.DTP(), batch()
    for layer, message in (
        (nn.Dropout(), r"1 \(Dropout\): it is not supported"),
        (nn.PReLU(), r"1 \(PReLU\): it is not supported"),
        (nn.BatchNorm1d(6), "BatchNorm1d"),
        (nn.Bilinear(6, 6, 6), "Bilinear"),
    ):
        model = nn.Sequential(nn.Linear(6, 6), layer, nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
        with pytest.raises(lra.errors.MethodError, match=message):
            method.attach(model.double(), x)
        assert not hasattr(model[2], "inverse")
    layers = nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3, padding="same"), nn.Conv1d(4, 2, 3)
    with pytest.raises(lra.errors.MethodError, match=r"1 .Conv1d.: its padding has no known inv"):
        method.attach(nn.Sequential(*layers), torch.randn(3, 2, 9))


def test_the_difference_loss_needs_noise():
    assert lra.methods.DTP(sigma=0).sigma == 0
    with pytest.raises(lra.errors.OptionError, match="DTP: sigma must be a finite number above 0"):
        lra.methods.DTP(sigma=0, difference_loss=True)


def test_a_step_without_inverses_and_a_second_attach_are_refused():
    method, (x, t) = lra.methods.DTP(), batch()
    model = chain((6, 8, 7, 3))
    with pytest.raises(lra.errors.MethodError, match=r"2: no inverse yet; call method.attach"):
        by_method(method, model, x, t)
    method.attach(model, x)
    with pytest.raises(
        lra.errors.MethodError, match=r"2: the attribute 'inverse' is taken.*detach"
    ):
        method.attach(model, x)
