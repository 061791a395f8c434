"""Pseudo-code: updates of MLPs equal those of `lra.pseudocode`, and each rule written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import cross_entropy, squares

import lra
import lra.jax
from lra.pseudocode import MLP

JAX_ACTIVATIONS = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "softplus": jax.nn.softplus,
    "sign": jnp.sign,
}


def network(sizes, every=1, activation="tanh", output="softmax", N=4):
    """Draw a network and a batch. E[i + 1] carries the error of a layer above to z[i]."""
    net = MLP(sizes, activation=activation, output=output, weight_std=0.7, seed=len(sizes))
    rng = np.random.default_rng(0)
    for b in net.b:
        b[:] = rng.normal(size=b.shape)
    for i in range(len(sizes) - 2):
        source = min(i + every, len(sizes) - 2)
        net.E[i + 1] = 0.7 * rng.normal(size=(sizes[source + 1], sizes[i + 1]))
    x = rng.normal(size=(N, sizes[0]))
    t = rng.integers(0, sizes[-1], N) if output == "softmax" else rng.normal(size=(N, sizes[-1]))
    return net, x, t


def by_jax(net, rule, x, t, activation="tanh", output="softmax", layout="out_in", **options):
    """Compute updates by `lra.jax`, in lists as those of `net`, with the rule's own E by path."""
    turn = np.transpose if layout == "in_out" else np.asarray
    params = [{"W": turn(W), "b": b} for W, b in zip(net.W, net.b, strict=True)]
    phi = JAX_ACTIVATIONS[activation]

    def loss(params, x, t):
        z = x
        for layer in params:
            h = z @ (layer["W"].T if layout == "out_in" else layer["W"]) + layer["b"]
            z = phi(h)
        return cross_entropy(h, t) if output == "softmax" else squares(h, t)

    feedback = lra.jax.init(
        lra.jax.plan(loss, params, x, t), rule, jax.tree.map(jnp.asarray, params), jax.random.key(0)
    )
    paths = [f"[{i}]['W']" for i in range(len(params))]
    own = turn if rule.wiring.reach == 1 else np.asarray  # E has W's shape, or (outputs, units)
    if feedback:
        assert sorted(feedback) == paths[1:]
        feedback = {p: own(E) for p, E in zip(paths[1:], net.E[1:], strict=True)}
    step = jax.jit(lra.jax.value_and_grad(loss, rule, **options))
    value, (grads, feedback_grads) = step(params, feedback, x, t)
    dE = [own(feedback_grads[p]) if p in feedback_grads else None for p in paths]
    return value, [turn(g["W"]) for g in grads], [g["b"] for g in grads], dE


def check(ours, dW, db, dE):
    """Compare updates with those in NumPy, where None stands for no update."""
    for got, expected in zip(ours[1:], (dW, db, dE), strict=True):
        for a, b in zip(got, expected, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


SIZES = [(5, 3), (5, 6, 3), (5, 6, 4, 3), (4, 5, 6, 5, 3), (5, 4, 4, 4, 4, 4, 4, 3)]
sizes = pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"{len(sizes) - 1}-layers")


@sizes
@pytest.mark.parametrize("output", ["softmax", "linear"])
@pytest.mark.parametrize("layout", ["out_in", "in_out"])
def test_lra_e_equals_the_pseudocode(sizes, output, layout):
    net, x, t = network(sizes, output=output)
    rule = lra.LRAE(beta=0.3, gamma=0.5, gain=2.0)
    ours = by_jax(net, rule, x, t, output=output, layout=layout)
    np.testing.assert_allclose(ours[0], net.loss(x, t), rtol=1e-13)
    check(ours, *net.compute_lra_updates(x, t, beta=0.3, gamma=0.5, gain=2.0))


@pytest.mark.parametrize("activation", JAX_ACTIVATIONS)
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_lra_e_at_each_activation_equals_the_pseudocode(activation, beta):
    net, x, t = network((5, 6, 6, 6, 3), activation=activation)
    ours = by_jax(net, lra.LRAE(beta=beta), x, t, activation)
    check(ours, *net.compute_lra_updates(x, t, beta=beta))


def test_lra_e_with_other_numbers_of_loss_terms_equals_the_pseudocode():
    """N scales the errors on the way, not the gradient of the loss, which is a mean over 4."""
    net, x, t = network((5, 6, 6, 3))
    ours = by_jax(net, lra.LRAE(), x, t, loss_terms=7.0)
    dW, db, dE = net.compute_lra_updates(x, t, beta=0.1 * 7 / 4, gain=4 / 7)
    check(ours, dW, db, dE)


def derivative(net, h, z, d):
    return net.phi_derivative(h) * d


def target(beta, alpha=1.0):
    def cross(net, h, z, d):
        difference = z - net.phi(h - beta * d)
        return alpha * difference + (1 - alpha) * np.sign(difference)

    return cross


def relative_targets(net, h, z, d):
    s = abs(d).max()
    m = d / s
    return s / 2 * (net.phi(h + m) - net.phi(h - m))


RULES = {
    "backprop": (lra.Backprop(), 1, derivative, None),
    "feedback-alignment": (lra.FeedbackAlignment(), 1, derivative, None),
    "kolen-pollack": (lra.KolenPollack(gamma=0.5), 1, derivative, 0.5),
    "sign-symmetry": (lra.SignSymmetry(), 1, derivative, None),
    "lra-e": (lra.LRAE(0.2), 1, target(0.2), 1.0),
    "mirrored-lra": (lra.MirroredLRA(samples=4), 1, relative_targets, 1.0),
    "direct-feedback-alignment": (lra.DirectFeedbackAlignment(), 99, derivative, None),
    "direct-lra": (lra.LRAE(0.2, wiring=lra.wiring.Direct()), 99, target(0.2), 1.0),
    "rec-lra": (lra.RecLRA(beta=0.2, gamma=0.3), 2, target(0.2), 0.3),
    "rec-lra-signs": (lra.RecLRA(3, 0.2, 0.3, alpha=0.24), 3, target(0.2, 0.24), 0.3),
}


def by_hand(net, x, t, every, cross, gamma):
    """Compute d = e_source E, e = cross(h, d), dW = e^T z / N and dE = gamma e_source^T z / N."""
    h, (x, *z) = net.compute_output(x)
    e = [z[-1] - np.eye(net.layer_sizes[-1])[t]] * len(z)
    sources = [min(i + every, len(z) - 1) for i in range(len(z) - 1)]
    for i in reversed(range(len(z) - 1)):
        e[i] = cross(net, h[i], z[i], e[sources[i]] @ net.E[i + 1])
    dW = [e_i.T @ below / len(x) for e_i, below in zip(e, [x, *z[:-1]], strict=True)]
    db = [e_i.sum(0) / len(x) for e_i in e]
    dE = [None] * len(z)
    if gamma is not None:
        dE[1:] = [gamma * e[s].T @ z[i] / len(x) for i, s in enumerate(sources)]
    return dW, db, dE


@sizes
@pytest.mark.parametrize("name", RULES)
def test_each_named_rule_equals_numpy(name, sizes):
    rule, every, cross, gamma = RULES[name]
    net, x, t = network(sizes, every)
    if name == "backprop":
        net.E[1:] = net.W[1:]
    if name == "sign-symmetry":
        net.E[1:] = [np.sign(W) / np.sqrt(W.shape[1]) for W in net.W[1:]]
    check(by_jax(net, rule, x, t), *by_hand(net, x, t, every, cross, gamma))
