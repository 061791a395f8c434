"""Pseudo-code: updates of random networks equal those of the paper's algorithm in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import lra
from lra.pseudocode import MLP

ACTIVATIONS = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
}
SIZES = st.lists(st.integers(1, 6), min_size=2, max_size=6)
BETA, GAIN = st.floats(0.01, 2.0), st.floats(0.2, 5.0)


def problem(sizes, activation, output, bias, N, seed):
    """Build a network in NumPy, and draw a batch with targets for it."""
    net = MLP(
        sizes,
        activation=activation,
        output=output,
        bias=bias,
        weight_std=0.7,
        feedback_std=0.7,
        seed=seed,
    )
    rng = np.random.default_rng(seed + 1)
    for b in net.b:
        if b is not None:
            b[:] = rng.normal(size=b.shape)
    x = rng.normal(size=(N, sizes[0]))
    t = rng.integers(0, sizes[-1], N) if output == "softmax" else rng.normal(size=(N, sizes[-1]))
    return net, x, t


def twin(net, activation, rule, **options):
    """Build the same network in torch, with the same E wherever the rule stores it."""
    layers = []
    for W, b in zip(net.W, net.b, strict=True):
        layers += [nn.Linear(*W.shape[::-1], bias=b is not None), ACTIVATIONS[activation]()]
    model = nn.Sequential(*layers[:-1]).double()
    lra.convert(model, rule, **options)
    with torch.no_grad():
        for layer, W, b, E in zip(model[::2], net.W, net.b, net.E, strict=True):
            layer.weight.copy_(torch.from_numpy(W))
            if b is not None:
                layer.bias.copy_(torch.from_numpy(b))
            if E is not None and layer.feedback is not None:
                layer.feedback.copy_(torch.from_numpy(E))
    return model


def backward(model, x, t, output):
    """Run the backward pass from the mean loss."""
    h = model(torch.from_numpy(x))
    t = torch.from_numpy(t)
    loss = F.cross_entropy(h, t) if output == "softmax" else ((h - t) ** 2).sum() / 2 / len(h)
    loss.backward()


def compare(model, dW, db, dE):
    """Compare the model's .grad with the updates in NumPy."""
    for i, layer in enumerate(model[::2]):
        pairs = [(layer.weight, dW[i]), (layer.bias, db[i])]
        if dE is not None:
            pairs.append((layer.feedback, dE[i]))
        for parameter, update in pairs:
            if update is None:
                assert parameter is None
            else:
                torch.testing.assert_close(
                    parameter.grad, torch.from_numpy(update), rtol=1e-10, atol=1e-10
                )


@given(
    sizes=SIZES,
    activation=st.sampled_from([*ACTIVATIONS]),
    output=st.sampled_from(["softmax", "linear"]),
    bias=st.booleans(),
    N=st.integers(1, 6),
    seed=st.integers(0, 1000),
    beta=BETA,
    gamma=st.floats(-2.0, 2.0),
    gain=GAIN,
)
def test_lra_e_equals_the_pseudocode(sizes, activation, output, bias, N, seed, beta, gamma, gain):
    net, x, t = problem(sizes, activation, output, bias, N, seed)
    model = twin(net, activation, lra.LRAE(beta, gamma, gain))
    backward(model, x, t, output)
    compare(model, *net.compute_lra_updates(x, t, beta=beta, gamma=gamma, gain=gain))


@given(sizes=SIZES, N=st.integers(1, 5), seed=st.integers(0, 1000), terms=st.floats(0.5, 20))
def test_lra_e_with_any_number_of_loss_terms_equals_the_pseudocode(sizes, N, seed, terms):
    net, x, t = problem(sizes, "tanh", "softmax", True, N, seed)
    model = twin(net, "tanh", lra.LRAE(), loss_terms=terms)
    h = model(torch.from_numpy(x))
    (F.cross_entropy(h, torch.from_numpy(t), reduction="sum") / terms).backward()
    compare(model, *net.compute_lra_updates(x, t, loss_terms=terms))


@given(
    sizes=SIZES,
    activation=st.sampled_from([*ACTIVATIONS]),
    bias=st.booleans(),
    N=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_backprop_equals_the_pseudocode(sizes, activation, bias, N, seed):
    net, x, t = problem(sizes, activation, "softmax", bias, N, seed)
    model = twin(net, activation, lra.Backprop())
    backward(model, x, t, "softmax")
    expected = net.gradients(x, t)
    compare(model, expected.W, expected.b, None)


LOSSES = {
    "squared": (lra.crossing.Squared(), lambda u: u),
    "absolute": (lra.crossing.Absolute(), np.sign),
    "cauchy": (lra.crossing.Cauchy(), lambda u: u / (1 + u**2)),
}
SURROGATES = {
    "phi": (None, None),
    "tanh": (lra.crossing.TanhSurrogate(), np.tanh),
    "identity": (lra.crossing.IdentitySurrogate(), lambda h: h),
}


def by_hand(net, x, t, feedback, cross):
    """Compute the updates of a network under e = cross(h, e E), as every rule here has it."""
    h, z = net.compute_output(x)
    errors = [z[-1] - np.eye(net.layer_sizes[-1])[t]]
    for i in reversed(range(len(h) - 1)):
        errors.insert(0, cross(h[i], errors[0] @ feedback[i + 1]))
    dW = [e.T @ below / len(x) for e, below in zip(errors, z[:-1], strict=True)]
    db = [None if b is None else e.mean(0) for e, b in zip(errors, net.b, strict=True)]
    return dW, db


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("surrogate", SURROGATES)
@given(
    sizes=SIZES,
    activation=st.sampled_from([*ACTIVATIONS]),
    N=st.integers(1, 4),
    seed=st.integers(0, 1000),
    beta=BETA,
    gain=GAIN,
    gamma=st.floats(-2.0, 2.0),
)
def test_local_losses_and_surrogates(
    loss, surrogate, sizes, activation, N, seed, beta, gain, gamma
):
    net, x, t = problem(sizes, activation, "softmax", True, N, seed)
    local_loss, derivative = LOSSES[loss]
    through, s = SURROGATES[surrogate]
    s = s or net.phi
    model = twin(net, activation, lra.LRAE(beta, gamma, gain, local_loss, through))
    if loss == "absolute":
        # The sign of a difference is arbitrary where only rounding separates it from 0.
        def derivative(u):
            return np.where((u != 0) & (np.abs(u) < 1e-13), np.nan, np.sign(u))

    dW, db = by_hand(net, x, t, net.E, lambda h, d: gain * derivative(s(h) - s(h - beta * d)))
    assume(not any(np.isnan(u).any() for u in dW))
    backward(model, x, t, "softmax")
    compare(model, dW, db, [None, *(gamma * u for u in dW[1:])])


@given(
    sizes=SIZES,
    activation=st.sampled_from([*ACTIVATIONS]),
    N=st.integers(1, 4),
    seed=st.integers(0, 1000),
    which=st.sampled_from(["random", "learned", "uniform", "fixed"]),
)
def test_feedback_axes_with_the_derivative(sizes, activation, N, seed, which):
    net, x, t = problem(sizes, activation, "softmax", True, N, seed)
    rule, feedback = {
        "random": (lra.FeedbackAlignment(), net.E),
        "learned": (lra.KolenPollack(0.5), net.E),
        "uniform": (
            lra.SignSymmetry(init=lra.inits.Normal(0.3)),
            [0.3 * np.sign(W) for W in net.W],
        ),
        "fixed": (
            lra.SignSymmetry("fixed"),
            [None, *(np.abs(E) * np.sign(W) for W, E in zip(net.W[1:], net.E[1:], strict=True))],
        ),
    }[which]
    model = twin(net, activation, rule)
    backward(model, x, t, "softmax")
    dW, db = by_hand(net, x, t, feedback, lambda h, d: net.phi_derivative(h) * d)
    compare(model, dW, db, [None, *(0.5 * u for u in dW[1:])] if which == "learned" else None)


@given(seed=st.integers(0, 1000), beta=BETA, N=st.integers(1, 4))
def test_lra_with_weight_transport(seed, beta, N):
    net, x, t = problem([4, 5, 3, 3], "sigmoid", "softmax", True, N, seed)
    model = twin(
        net, "sigmoid", lra.Rule(lra.feedback.Transpose(), lra.crossing.TargetDifference(beta))
    )
    backward(model, x, t, "softmax")
    dW, db = by_hand(net, x, t, net.W, lambda h, d: net.phi(h) - net.phi(h - beta * d))
    compare(model, dW, db, None)
