"""PEPITA, Forward-Forward and direct random target projection: chains of linear layers.

The oracles are NumPy loops with every derivative written out, backprop in limits, and finite
differences of local losses.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
from nets import assert_same, by_method, taken, updates
from torch import nn
from torch.nn import functional as F

import lra

CLOSE = {"rtol": 1e-10, "atol": 1e-13}
METHODS = [lra.methods.PEPITA(), lra.methods.ForwardForward(), lra.methods.DRTP()]
every = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def chain(sizes=(6, 8, 7, 3), phi=nn.Tanh, dropout=0.0):
    layers = []
    for below, above in itertools.pairwise(sizes):
        layers += [nn.Linear(below, above), phi()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers[: -2 if dropout else -1]).double()


def batch(features=6, classes=3):
    return torch.randn(9, features, dtype=torch.float64), torch.arange(9) % classes


def arrays(model):
    layers = [m for m in model if isinstance(m, nn.Linear)]
    return [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in layers]


def softmax(h):
    exps = np.exp(h - h.max(-1, keepdims=True))
    return exps / exps.sum(-1, keepdims=True)


def assert_updates(found, expected):
    """Compare updates with pairs (error, input) by layer, for layers two modules apart."""
    for k, (e, z) in enumerate(expected):
        for name, update in (("weight", e.T @ z), ("bias", e.sum(0))):
            torch.testing.assert_close(found[f"{2 * k}.{name}"], torch.from_numpy(update), **CLOSE)


# PEPITA


def test_pepita_equals_the_algorithm_written_out():
    model, (x, t) = chain(), batch()
    method = lra.methods.PEPITA(scale=0.4)
    method.attach(model, x)
    value, found = by_method(method, model, x, t)
    projection = model[0].projection.numpy()
    params = arrays(model)

    def forward(x):
        z = [x]
        for W, b in params[:-1]:
            z.append(np.tanh(z[-1] @ W.T + b))
        return [*z, z[-1] @ params[-1][0].T + params[-1][1]]

    first = forward(x.numpy())
    e = softmax(first[-1]) - np.eye(3)[t.numpy()]
    second = forward(x.numpy() + e @ projection)
    errors = [first[1] - second[1], first[2] - second[2], e]
    assert_updates(found, [(error / 9, z) for error, z in zip(errors, second, strict=False)])
    torch.testing.assert_close(value, F.cross_entropy(model(x), t).detach(), **CLOSE)


@pytest.mark.parametrize("phi", [nn.ReLU, lambda: nn.ReLU(inplace=True)], ids=["copied", "inplace"])
def test_pepita_uses_the_same_dropout_masks_in_both_passes(phi):
    model, (x, t) = chain((6, 8, 3), phi, dropout=0.4), batch()
    method = lra.methods.PEPITA(scale=0.4)
    method.attach(model, x)
    torch.manual_seed(5)
    found = by_method(method, model, x, t)[1]
    (W, b), (V, c) = arrays(model)
    torch.manual_seed(5)
    mask = F.dropout(torch.ones(9, 8, dtype=torch.float64), 0.4).numpy()

    def hidden(x):
        return np.maximum(x @ W.T + b, 0) * mask

    z = hidden(x.numpy())
    e = softmax(z @ V.T + c) - np.eye(3)[t.numpy()]
    moved = x.numpy() + e @ model[0].projection.numpy()
    for key, update in (
        ("0.weight", (z - hidden(moved)).T @ moved / 9),
        ("3.weight", e.T @ hidden(moved) / 9),
    ):
        torch.testing.assert_close(found[key], torch.from_numpy(update), **CLOSE)


def test_pepita_has_backprops_updates_with_the_right_projection():
    """With small F, z - z' is -phi'(h) e F W^T: backprop's error where F W^T is -V for output W."""
    model, (x, t) = chain((6, 5, 3), nn.Sigmoid), batch()
    expected = updates(model, x, t)
    method = lra.methods.PEPITA()
    method.attach(model, x)
    scale = 1e-6
    with torch.no_grad():
        model[0].projection.copy_(-scale * model[2].weight @ torch.linalg.pinv(model[0].weight).T)
    found = by_method(method, model, x, t)[1]
    for name in ("weight", "bias"):
        found[f"0.{name}"] /= scale
    assert_same(found, expected, rtol=1e-4, atol=1e-6)


def test_pepita_refuses_autocast():
    model, (x, t) = chain().float(), batch()
    method = lra.methods.PEPITA()
    method.attach(model, x)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(lra.errors.MethodError, match=r"PEPITA: autocast is on"),
    ):
        by_method(method, model, x.float(), t)


# Forward-Forward


def test_forward_forward_equals_the_algorithm_written_out():
    model, (x, t) = chain((6, 8, 7, 3), nn.ReLU), batch()
    method = lra.methods.ForwardForward(threshold=0.3)
    torch.manual_seed(5)
    value, found = by_method(method, model, x, t)
    torch.manual_seed(5)
    wrong = (t + torch.randint(1, 3, (9,))) % 3
    assert (wrong != t).all()
    params = arrays(model)

    def norm(z):
        return z / (np.sqrt((z**2).mean(-1, keepdims=True)) + 1e-8)

    def hidden(label):
        z = [norm(np.concatenate([label, x.numpy()[:, 3:]], 1))]
        out = []
        for W, b in params[:-1]:
            out.append(np.maximum(z[-1] @ W.T + b, 0))
            z.append(norm(out[-1]))
        return z, out

    sums = [[0, 0], [0, 0]]
    for label, sign in ((t, 1), (wrong, -1)):
        z, out = hidden(np.eye(3)[label.numpy()])
        for k in range(2):
            g = (out[k] ** 2).sum(-1) - 0.3 * out[k].shape[-1]
            d_g = -sign / (1 + np.exp(sign * g)) / 18
            e = 2 * out[k] * d_g[:, None]
            sums[k] = [sums[k][0] + e.T @ z[k], sums[k][1] + e.sum(0)]
    z, _ = hidden(np.full((9, 3), 1 / 3))
    logits = z[-1] @ params[-1][0].T + params[-1][1]
    e = (softmax(logits) - np.eye(3)[t.numpy()]) / 9
    sums.append([e.T @ z[-1], e.sum(0)])
    for k, pair in enumerate(sums):
        for name, update in zip(("weight", "bias"), pair, strict=True):
            expected = torch.from_numpy(update)
            torch.testing.assert_close(found[f"{2 * k}.{name}"], expected, **CLOSE)
    answer = method.output(model, x)
    torch.testing.assert_close(answer, torch.from_numpy(logits), **CLOSE)
    torch.testing.assert_close(value, F.cross_entropy(answer, t), **CLOSE)


def test_wrong_labels_are_drawn_evenly_and_differ_between_steps(monkeypatch):
    model, (x, t) = chain((6, 4, 4), nn.ReLU), batch(classes=4)
    x, t = x.repeat(100, 1), t.repeat(100)
    method = lra.methods.ForwardForward()
    seen = []
    one_hot = F.one_hot
    monkeypatch.setattr(F, "one_hot", lambda t, n: seen.append(t) or one_hot(t, n))
    for _ in range(2):
        by_method(method, model, x, t)
    wrong = [labels for labels in seen if not torch.equal(labels, t)]
    assert len(wrong) == 2
    assert not torch.equal(*wrong)
    counts = torch.bincount((torch.cat(wrong) - t.repeat(2)) % 4, minlength=4)
    assert counts[0] == 0
    assert all(abs(int(n) - 600) < 120 for n in counts[1:])


def test_forward_forward_needs_room_for_the_label():
    method, x = lra.methods.ForwardForward(), torch.randn(2, 4)
    message = r"an entry for each of at least two classes:\n  - 0 \(Linear\): it reads 4 numbers"
    for outputs in (5, 1):
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, outputs))
        with pytest.raises(lra.errors.MethodError, match=message):
            method.attach(model, x)


# Direct random target projection


def test_drtp_equals_the_algorithm_written_out():
    model, (x, t) = chain(), batch()
    method = lra.methods.DRTP(scale=0.5)
    method.attach(model, x)
    _, found = by_method(method, model, x, t)
    (W1, b1), (W2, b2), (W3, b3) = arrays(model)
    B1, B2 = model[0].projection.numpy(), model[2].projection.numpy()
    z0, target = x.numpy(), np.eye(3)[t.numpy()]
    z1 = np.tanh(z0 @ W1.T + b1)
    z2 = np.tanh(z1 @ W2.T + b2)
    e3 = softmax(z2 @ W3.T + b3) - target
    e1, e2 = (1 - z1**2) * (target @ B1), (1 - z2**2) * (target @ B2)
    assert_updates(found, [(e1 / 9, z0), (e2 / 9, z1), (e3 / 9, z2)])


def test_drtp_of_one_layer_is_backprop():
    model, (x, t) = chain((6, 3)), batch()
    method = lra.methods.DRTP()
    method.attach(model, x)
    assert not list(model.buffers())
    assert_same(by_method(method, model, x, t)[1], updates(model, x, t), **CLOSE)


# Labels from the loss


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: method.name)
def test_labels_need_the_cross_entropy_and_its_number_of_terms(method):
    model, (x, t) = chain(), batch()
    method.attach(model, x)
    losses = (
        lambda h: F.mse_loss(h, F.one_hot(t, 3).double()),
        lambda h: F.cross_entropy(h, t, label_smoothing=0.1),
        lambda h: F.cross_entropy(h, t, weight=torch.tensor([1.0, 1.0, 2.0]).double()),
        lambda h: F.cross_entropy(h, t.masked_fill(t == 2, -100), reduction="sum") / 9,
        lambda h: F.cross_entropy(h, t) / 2,
    )
    for loss in losses:
        with pytest.raises(lra.errors.MethodError, match="is not the cross-entropy of the model's"):
            method(model, loss, x)
    assert not taken(model)
    method(model, lambda h: F.cross_entropy(h, t) / 2, x, loss_terms=18)
    with torch.no_grad():
        model[-1].bias[0] = float("nan")
    with pytest.raises(lra.errors.Diverged, match="the output is not finite"):
        method(model, lambda h: F.cross_entropy(h, t), x)


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: method.name)
def test_labels_are_found_in_16_bits(method):
    model, (x, t) = chain(phi=nn.ReLU).float(), batch()
    model, x = method.attach(model, x), x.float()
    torch.manual_seed(5)
    exact = by_method(method, model, x, t)[1]
    with torch.no_grad():
        model[-1].weight.mul_(30)
    with torch.autocast("cpu", torch.bfloat16):
        by_method(method, model, x, t)
    with torch.no_grad():
        model[-1].weight.div_(30)
    model.zero_grad()
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        method(model, lambda h: F.cross_entropy(h, t), x)
    for name, g in taken(model).items():
        assert g.dtype is torch.float32
        assert (g - exact[name]).norm() < 0.1 * exact[name].norm(), name


# What they add to a model, and refusals


@pytest.mark.parametrize("method", [METHODS[0], METHODS[2]], ids=lambda method: method.name)
def test_projections_are_buffers_drawn_at_their_scale(method):
    plain = chain((600, 400, 200, 50))
    model = method.attach(copy.deepcopy(plain), None)
    sizes = {"0": 600} if method.name == "pepita" else {"0": 400, "2": 200}
    added = {f"{name}.projection": size for name, size in sizes.items()}
    buffers = dict(model.named_buffers())
    assert buffers.keys() == added.keys() == model.state_dict().keys() - plain.state_dict().keys()
    for name, size in added.items():
        assert buffers[name].shape == (50, size)
        bound = method.scale * (6 / size) ** 0.5
        assert 0.99 * bound < buffers[name].abs().max() <= bound
        assert abs(buffers[name].std() / (bound / 3**0.5) - 1) < 0.02
    assert method.feedback_parameters(model) == []
    with pytest.raises(lra.errors.MethodError, match=r"0.*'projection' is taken; call detach"):
        method.attach(model, None)
    assert_same(dict(method.detach(model).state_dict()), dict(plain.state_dict()))
    x = torch.randn(2, 600, dtype=torch.float64)
    with pytest.raises(lra.errors.MethodError, match=r"0.*: no projection yet; call method.attach"):
        by_method(method, model, x, torch.arange(2))


@every
def test_other_networks_are_refused_and_stay_unchanged(method):
    for layer, message in (
        (nn.PReLU(), r"1 \(PReLU\): it is not supported"),
        (nn.BatchNorm1d(6), "BatchNorm1d"),
        (nn.Flatten(), r"takes an nn.Sequential of nn.Linear, with elementwise.*\n.*1 \(Flatten\)"),
        (nn.Conv1d(6, 6, 1), r"1 \(Conv1d\): it is not supported"),
    ):
        model = nn.Sequential(nn.Linear(6, 6), layer, nn.Linear(6, 3))
        with pytest.raises(lra.errors.MethodError, match=message):
            method.attach(model, None)
        assert not hasattr(model[0], "projection")
    with pytest.raises(lra.errors.MethodError, match=r"must read the last .*\n.*a Tanh follows it"):
        method.attach(chain()[:4], None)
    with pytest.raises(lra.errors.MethodError, match="it has no weight layer"):
        method.attach(nn.Sequential(nn.Flatten()), None)


@every
def test_no_error_crosses_a_layer(method):
    """Layers above change the first layer's update through the error at the output alone."""
    model, (x, t) = chain(), batch()
    method.attach(model, x)
    torch.manual_seed(5)
    _, found = by_method(method, model, x, t)
    with torch.no_grad():
        model[2].weight.mul_(1.5)
    torch.manual_seed(5)
    _, other = by_method(method, model, x, t)
    reads_the_error = method.name == "pepita"
    assert torch.equal(found["0.weight"], other["0.weight"]) is not reads_the_error
    assert not torch.equal(found["4.weight"], other["4.weight"])
