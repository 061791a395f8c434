"""The pseudo-code against finite differences, autograd, explicit loops and torch's optimizers."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from lra import pseudocode
from lra.errors import OptionError
from lra.pseudocode import ACTIVATIONS, MLP, SGD, Adam

TORCH = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "leaky_relu": torch.nn.functional.leaky_relu,
    "softplus": torch.nn.functional.softplus,
    "identity": lambda h: h,
    "sign": torch.sign,
}
DIFFERENTIABLE = [name for name, (_, derivative) in ACTIVATIONS.items() if derivative]
SMOOTH = [name for name in DIFFERENTIABLE if "relu" not in name]


@st.composite
def problems(draw, activations, min_depth=1):
    """Draw a network with nonzero biases, and a batch of inputs and targets for it."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=min_depth + 1, max_size=5))
    output = draw(st.sampled_from(["softmax", "linear"]))
    seed = draw(st.integers(0, 10_000))
    net = MLP(
        sizes,
        activation=draw(st.sampled_from(activations)),
        output=output,
        bias=draw(st.booleans()),
        weight_std=0.7,
        feedback_std=0.7,
        seed=seed,
    )
    rng = np.random.default_rng(seed + 1)
    for b in net.b:
        if b is not None:
            b[:] = rng.normal(size=b.shape)
    N = draw(st.integers(1, 4))
    x = rng.normal(size=(N, sizes[0]))
    t = rng.integers(0, sizes[-1], N) if output == "softmax" else rng.normal(size=(N, sizes[-1]))
    return net, x, t


def small(**options):
    """Build a fixed 3-4-5-3 network and a batch, for tests of one property."""
    rng = np.random.default_rng(7)
    options = {"weight_std": 0.5, "feedback_std": 0.5, "seed": 3} | options
    net = MLP((3, 4, 5, 3), **options)
    for b in net.b:
        if b is not None:
            b[:] = rng.normal(size=b.shape)
    return net, rng.normal(size=(6, 3)), rng.integers(0, 3, 6)


def assert_updates_equal(actual, expected, rtol=1e-10, atol=1e-13):
    for a_list, e_list in zip(actual, expected, strict=True):
        for a, e in zip(a_list, e_list, strict=True):
            if e is None:
                assert a is None
            else:
                assert a.shape == e.shape
                assert_allclose(a, e, rtol=rtol, atol=atol)


# --- backprop: finite differences, autograd -------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(problems(SMOOTH))
def test_backward_is_the_finite_difference_of_the_loss(problem):
    net, x, t = problem
    updates = net.backward(x, t)
    assert all(u is None for u in updates.E)
    for array, update in zip(net.W + net.b, updates.W + updates.b, strict=True):
        if array is None:
            assert update is None
            continue
        difference = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            value = array[index]
            array[index] = value + 1e-5
            above = net.loss(x, t)
            array[index] = value - 1e-5
            below = net.loss(x, t)
            array[index] = value
            difference[index] = (above - below) / 2e-5
        assert_allclose(update, difference, rtol=1e-6, atol=1e-8)


@settings(max_examples=80, deadline=None)
@given(problems(DIFFERENTIABLE))
def test_forward_loss_and_gradients_equal_autograds(problem):
    net, x, t = problem
    W = [torch.tensor(w, requires_grad=True) for w in net.W]
    b = [None if b is None else torch.tensor(b, requires_grad=True) for b in net.b]
    name = next(n for n, (phi, _) in ACTIVATIONS.items() if phi is net.phi)
    z, hs, zs = torch.tensor(x), [], [torch.tensor(x)]
    for i, (w, bias) in enumerate(zip(W, b, strict=True)):
        h = torch.nn.functional.linear(z, w, bias)
        z = TORCH[name](h) if i < len(W) - 1 else h
        hs.append(h)
        zs.append(z)
    if net.output == "softmax":
        loss = torch.nn.functional.cross_entropy(z, torch.tensor(t))
        zs[-1] = torch.softmax(z, dim=1)
    else:
        loss = ((z - torch.tensor(t)) ** 2).sum() / 2 / len(x)
    loss.backward()

    h, z = net.compute_output(x)
    assert (len(h), len(z)) == (len(W), len(W) + 1)
    for actual, expected in zip(h + z, hs + zs, strict=True):
        assert_allclose(actual, expected.detach(), rtol=1e-12, atol=1e-14)
    assert_array_equal(net.forward(x), h[-1])
    assert_allclose(net.loss(x, t), loss.item(), rtol=1e-12, atol=1e-14)
    grads = [[None if p is None else p.grad.numpy() for p in ps] for ps in (W, b)]
    assert_updates_equal(net.gradients(x, t), (*grads, [None] * len(W)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_derivatives_equal_torchs(name):
    phi, derivative = ACTIVATIONS[name]
    h = torch.tensor([-900.0, -3, -0.1, 0, 0.1, 3, 900], dtype=torch.float64, requires_grad=True)
    expected = TORCH[name](h)
    values = h.detach().numpy()
    assert_allclose(phi(values), expected.detach(), rtol=1e-7, atol=1e-14)
    if derivative is not None:
        expected.sum().backward()
        assert_allclose(derivative(values), h.grad, rtol=1e-7, atol=1e-14)


def test_large_logits_give_a_finite_loss_in_every_row():
    net = MLP((2, 2), weight_std=0.0)
    net.W[0][:] = [[2000.0, 0.0], [2000.0, 1.0]]
    assert net.loss([[1.0, 0.0]], [1]) == pytest.approx(math.log(2), rel=1e-12)
    x = [[1.0, 500.0], [0.0, 0.0]]  # logits (2000, 2500) and (0, 0)
    assert net.loss(x, [0, 0]) == pytest.approx((500 + math.log(2)) / 2, rel=1e-12)
    assert_allclose(net.compute_output(x)[1][-1], [[0.0, 1.0], [0.5, 0.5]], atol=1e-12)


# --- LRA-E: the closed form, by loops over samples and units --------------------------------------


def lra_by_loops(net, x, t, beta, gamma, gain, use_derivative, N):
    """Compute LRA-E's updates in loops over samples and units, on single numbers."""

    def phi(h):
        return float(net.phi(np.array(h)))

    def slope(h):
        return float(net.phi_derivative(np.array(h)))

    layers = range(len(net.W))
    dW = [np.zeros_like(w) for w in net.W]
    db = [None if b is None else np.zeros_like(b) for b in net.b]
    for x_n, t_n in zip(x, t, strict=True):
        z, h = [list(x_n)], []
        for i in layers:
            out, into = net.W[i].shape
            h.append([sum(net.W[i][j, k] * z[i][k] for k in range(into)) for j in range(out)])
            if net.b[i] is not None:
                h[i] = [h[i][j] + net.b[i][j] for j in range(out)]
            z.append([phi(value) for value in h[i]])
        if net.output == "softmax":
            total = sum(math.exp(value) for value in h[-1])
            e = [math.exp(v) / total - (j == t_n) for j, v in enumerate(h[-1])]
        else:
            e = [v - t_n[j] for j, v in enumerate(h[-1])]
        for i in reversed(layers):
            hidden = i < len(net.W) - 1
            for j in range(len(h[i])):
                scale = slope(h[i][j]) if use_derivative and hidden else 1.0
                for k in range(len(z[i])):
                    dW[i][j, k] += e[j] * scale * z[i][k] / N
                if db[i] is not None:
                    db[i][j] += e[j] * scale / N
            if i > 0:
                below = []
                for k in range(len(z[i])):
                    d = sum(e[j] * net.E[i][j, k] for j in range(len(e)))
                    below.append(gain * (z[i][k] - phi(h[i - 1][k] - beta * d)))
                e = below
    dE = [None] + [gamma * update for update in dW[1:]]
    return dW, db, dE


@settings(max_examples=80, deadline=None)
@given(
    problems(list(ACTIVATIONS)),
    st.floats(0, 2),
    st.floats(-2, 2),
    st.floats(0.1, 10),
    st.booleans(),
    st.none() | st.floats(0.5, 20),
)
def test_lra_updates_equal_explicit_loops(problem, beta, gamma, gain, v1, loss_terms):
    net, x, t = problem
    v1 = v1 and net.phi_derivative is not None
    options = {"beta": beta, "gamma": gamma, "gain": gain, "use_derivative": v1}
    actual = net.compute_lra_updates(x, t, loss_terms=loss_terms, **options)
    assert_updates_equal(actual, lra_by_loops(net, x, t, N=loss_terms or len(x), **options), 1e-9)


def test_the_defaults_are_the_published_settings():
    net, x, t = small()
    expected = lra_by_loops(net, x, t, 0.1, 1.0, 1.0, use_derivative=False, N=len(x))
    assert_updates_equal(net.compute_lra_updates(x, t), expected)


# --- identities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["softmax", "linear"])
@pytest.mark.parametrize("use_derivative", [False, True])
def test_one_weight_layer_equals_backprop(output, use_derivative):
    net = MLP((3, 4), output=output, weight_std=1.0)
    x, t = np.random.default_rng(0).normal(size=(5, 3)), np.eye(4)[[0, 1, 2, 3, 0]]
    updates = net.compute_lra_updates(x, t, beta=0.7, gain=3.0, use_derivative=use_derivative)
    assert np.abs(updates.W[0]).max() > 0.01
    assert_updates_equal(updates, net.gradients(x, t))


@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("output", ["softmax", "linear"])
def test_normalized_lra_with_transposed_weights_tends_to_backprop(activation, output):
    net, x, t = small(activation=activation, output=output)
    net.E[1:] = [w.copy() for w in net.W[1:]]
    t = np.eye(3)[t]
    expected = net.gradients(x, t)

    def error(beta):
        updates = net.compute_lra_updates(x, t, beta=beta, gain=1 / beta)
        pairs = zip(updates.W + updates.b, expected.W + expected.b, strict=True)
        return max(np.abs(a - e).max() for a, e in pairs)

    coarse, fine = error(1e-3), error(1e-4)
    if activation == "identity":  # nothing to expand: equal at any beta
        assert coarse < 1e-12
    else:
        assert 1e-7 < coarse < 1e-2
        assert 9.5 < coarse / fine < 10.5


def test_v1_is_v2_with_hidden_errors_times_the_derivative():
    net, x, t = small()
    x, t = x[:1], t[:1]  # for one sample db is e itself
    v2 = net.compute_lra_updates(x, t)
    v1 = net.compute_lra_updates(x, t, use_derivative=True)
    h, z = net.compute_output(x)
    for i in range(3):
        slope = 1 - np.tanh(h[i][0]) ** 2 if i < 2 else np.ones(3)
        assert_allclose(v1.b[i], v2.b[i] * slope, rtol=1e-12)
        assert_allclose(v1.W[i], np.outer(v2.b[i] * slope, z[i][0]), rtol=1e-12)
    assert np.abs(v1.W[0] - v2.W[0]).max() > 1e-5


def test_gamma_scales_only_the_feedback_update():
    net, x, t = small()
    one = net.compute_lra_updates(x, t)
    for gamma in (0.0, 3.0, -1.0):
        other = net.compute_lra_updates(x, t, gamma=gamma)
        expected = (one.W, one.b, [None] + [gamma * u for u in one.W[1:]])
        assert_updates_equal(other, expected)


def test_updates_are_means_over_the_loss_terms():
    net, x, t = small()
    one = net.compute_lra_updates(x, t)
    assert_updates_equal(net.compute_lra_updates(np.tile(x, (2, 1)), np.tile(t, 2)), one)
    double = [[None if u is None else 2 * u for u in us] for us in one]
    assert_updates_equal(net.compute_lra_updates(x, t, loss_terms=3), double)
    assert_updates_equal(net.compute_lra_updates(x, t, loss_terms=6), one)
    assert net.loss(np.tile(x, (2, 1)), np.tile(t, 2)) == pytest.approx(net.loss(x, t))


def test_labels_one_hot_rows_and_lists_agree():
    net, x, t = small()
    one = net.compute_lra_updates(x, t)
    assert_updates_equal(net.compute_lra_updates(x, np.eye(3)[t]), one)
    assert_updates_equal(net.compute_lra_updates(x.tolist(), t.tolist()), one)
    assert net.loss(x, np.eye(3, dtype=int)[t]) == net.loss(x, t)


def test_users_functions_as_activation():
    named, x, t = small()
    own, _, _ = small(activation=(np.tanh, lambda h: 1 / np.cosh(h) ** 2))
    assert_updates_equal(own.gradients(x, t), named.gradients(x, t))
    assert_updates_equal(own.compute_lra_updates(x, t), named.compute_lra_updates(x, t))


# --- initialisation and steps ---------------------------------------------------------------------


def test_initial_parameters_have_the_given_shapes_scales_and_seeds():
    net = MLP((200, 300, 100), weight_std=0.3, feedback_std=2.0, seed=5)
    assert [w.shape for w in net.W] == [(300, 200), (100, 300)]
    assert [b.tolist() for b in net.b] == [[0.0] * 300, [0.0] * 100]
    assert net.E[0] is None
    assert net.E[1].shape == net.W[1].shape
    assert_allclose([net.W[0].std(), net.W[1].std(), net.E[1].std()], [0.3, 0.3, 2.0], rtol=0.03)
    assert all(w.dtype == np.float64 for w in net.W)
    assert MLP((2, 2), bias=False).b == [None]

    same = MLP((200, 300, 100), weight_std=0.3, feedback_std=1.0, seed=np.random.default_rng(5))
    assert_array_equal(same.W[1], net.W[1])
    assert_allclose(same.E[1], net.E[1] / 2)
    other = MLP((200, 300, 100), weight_std=0.3, seed=6)
    assert np.abs(other.W[0] - net.W[0]).max() > 0.1
    default = MLP((200, 300, 100))
    assert_allclose([default.W[0].std(), default.E[1].std()], 0.1, rtol=0.03)


@pytest.mark.parametrize("bias", [True, False])
def test_only_an_optimizer_changes_parameters_and_by_its_own_step(bias):
    net, x, t = small(bias=bias)
    arrays = net.W + net.b + net.E
    before = [None if a is None else a.copy() for a in arrays]

    def changes():
        pairs = zip(arrays, before, strict=True)
        return [None if a is None else b - a for a, b in pairs]

    net.compute_lra_updates(x, t)
    net.backward(x, t)
    assert all(c is None or not c.any() for c in changes())

    updates = net.compute_lra_updates(x, t, SGD(0.5), gamma=2.0)
    expected = [None if u is None else 0.5 * u for us in updates for u in us]
    assert_updates_equal([changes()], [expected])

    before = [None if a is None else a.copy() for a in arrays]
    updates = net.backward(x, t, SGD(0.5))
    expected = [None if u is None else 0.5 * u for u in updates.W + updates.b]
    assert_updates_equal([changes()], [expected + [a if a is None else 0 * a for a in net.E]])
    assert all(a is b for a, b in zip(arrays, net.W + net.b + net.E, strict=True))  # in place


def test_any_function_of_two_lists_works_as_an_optimizer():
    net, x, t = small()
    seen = []
    updates = net.compute_lra_updates(x, t, lambda parameters, us: seen.append((parameters, us)))
    ((parameters, us),) = seen
    assert [id(p) for p in parameters] == [id(p) for p in net.W + net.b + net.E[1:]]
    assert [id(u) for u in us] == [id(u) for u in updates.W + updates.b + updates.E[1:]]


@pytest.mark.parametrize(
    ("optimizer", "twin"),
    [
        (SGD(0.3), lambda ps: torch.optim.SGD(ps, lr=0.3)),
        (SGD(), lambda ps: torch.optim.SGD(ps, lr=0.01)),
        (SGD(0.1, momentum=0.9), lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9)),
        (Adam(0.05), lambda ps: torch.optim.Adam(ps, lr=0.05)),
        (
            Adam(betas=(0.5, 0.8), eps=0.1),
            lambda ps: torch.optim.Adam(ps, betas=(0.5, 0.8), eps=0.1),
        ),
    ],
)
def test_optimizers_equal_torchs(optimizer, twin):
    net, x, t = small()
    tensors = [torch.tensor(a) for a in net.W + net.b + net.E[1:]]
    reference = twin(tensors)
    for _ in range(5):
        updates = net.compute_lra_updates(x, t, optimizer)
        for tensor, u in zip(tensors, updates.W + updates.b + updates.E[1:], strict=True):
            tensor.grad = torch.tensor(u)
        reference.step()
    for array, tensor in zip(net.W + net.b + net.E[1:], tensors, strict=True):
        assert_allclose(array, tensor, rtol=1e-10, atol=1e-14)


# --- learning -------------------------------------------------------------------------------------


def train_xor(beta, steps=300):
    """Train on noisy XOR, whose classes are not linearly separable, and return the accuracy."""
    rng = np.random.default_rng(0)
    x = np.repeat([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]], 25, axis=0)
    x, t = x + 0.2 * rng.normal(size=x.shape), np.repeat([0, 0, 1, 1], 25)
    net = MLP((2, 8, 8, 2), weight_std=0.3, feedback_std=0.3)
    optimizer = Adam(0.03)
    for _ in range(steps):
        updates = net.compute_lra_updates(x, t, optimizer, beta=beta)
    return (net.forward(x).argmax(axis=1) == t).mean(), updates, net


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_lra_learns_xor(beta):
    accuracy, _, _ = train_xor(beta)
    assert accuracy >= 0.98


def test_with_beta_zero_hidden_layers_stay_and_xor_is_not_learned():
    accuracy, updates, net = train_xor(0.0)
    start = MLP((2, 8, 8, 2), weight_std=0.3, feedback_std=0.3)
    for i in range(2):
        assert not updates.W[i].any()
        assert not updates.b[i].any()
        assert_array_equal(net.W[i], start.W[i])
    assert np.abs(net.W[2] - start.W[2]).max() > 0.1
    assert accuracy <= 0.8


def test_lra_trains_what_backprop_cannot():
    net, x, t = small(activation="sign")
    with pytest.raises(OptionError, match="no derivative"):
        net.gradients(x, t)
    with pytest.raises(OptionError, match="use V2"):
        net.compute_lra_updates(x, t, use_derivative=True)
    assert all(u.any() for u in net.compute_lra_updates(x, t, beta=2.0).W)


# --- refusals and imports -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP((3,)), r"layer_sizes is \(3,\); pass two or more"),
        (lambda: MLP((3, 0, 2)), "positive integers"),
        (lambda: MLP((3, 4.0, 2)), "positive integers"),
        (lambda: MLP((3, 2), activation="tahn"), "'tahn'; choose one of tanh, sigmoid, relu"),
        (lambda: MLP((3, 2), output="sotfmax"), "'sotfmax'; choose softmax or linear"),
        (lambda: MLP((3, 2), weight_std=-1.0), "weight_std is -1.0; .* at least 0"),
        (lambda: MLP((3, 2), feedback_std=math.nan), "feedback_std is nan"),
    ],
)
def test_invalid_networks_are_refused(make, message):
    with pytest.raises(OptionError, match=message):
        make()


X, T = np.zeros((4, 3)), np.zeros(4, dtype=int)


@pytest.mark.parametrize("method", ["compute_lra_updates", "gradients", "backward", "loss"])
@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (np.zeros((4, 2)), T, r"x has shape \(4, 2\), not \(N >= 1, 3\)"),
        (np.zeros(3), T, r"x has shape \(3,\)"),
        (np.zeros((0, 3)), T[:0], "at least one"),
        (X, T[:3], r"t has shape \(3,\) .* integer labels \(4,\)"),
        (X, np.zeros((4, 5)), r"not \(4, 2\)"),
        (X, np.full((1, 2), 0.5), r"not \(4, 2\)"),
        (X, np.zeros(4), "float64"),
        (X, T + 2, r"labels t go from 2 to 2, not in 0\.\.1"),
        (X, T - 1, "labels t go from -1 to -1"),
        (X, np.ones((4, 2)), "sum to 1"),
        (X, np.tile([2.0, -1.0], (4, 1)), "probabilities"),
        (X, np.full((4, 2), np.nan), "probabilities"),
    ],
)
def test_invalid_data_is_refused(method, x, t, message):
    with pytest.raises(OptionError, match=message):
        getattr(MLP((3, 5, 2)), method)(x, t)


def test_linear_outputs_take_rows_of_any_numbers_and_refuse_labels():
    net = MLP((3, 5, 2), output="linear")
    assert net.loss(X, np.full((4, 2), -3.0)) == 9.0
    with pytest.raises(OptionError, match=r"not \(4, 2\); pass"):
        net.loss(X, T)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("beta", -0.1),
        ("beta", math.inf),
        ("gamma", math.nan),
        ("gain", math.inf),
        ("loss_terms", 0),
        ("loss_terms", -4),
        ("loss_terms", math.nan),
    ],
)
def test_invalid_options_are_refused_by_name(option, value):
    with pytest.raises(OptionError, match=f"{option} is {value}"):
        MLP((3, 5, 2)).compute_lra_updates(X, T, **{option: value})


def test_the_module_imports_only_numpy_and_the_errors():
    tree = ast.parse(Path(pseudocode.__file__).read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    imported = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    standard = {"math", "collections.abc", "dataclasses", "typing"}
    assert imported <= standard | {"numpy", "numpy.typing", "lra.errors"}
