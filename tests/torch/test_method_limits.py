"""Limits: where each of our methods equals backprop, or the gradient of its own equilibrium.

Every limit is also measured on updates that are too long by a hundredth, and must fail there.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from nets import METHOD_SETTINGS

import lra
from lra.identities import CANCELLED, ROUNDING
from lra.loss_terms import LossTerms
from lra.torch.testing import check_rule
from lra.torch.testing.identities import by_backward, gap
from lra.torch.testing.methods import MethodBench


class Limit(NamedTuple):
    """The largest deviation allowed, and the function that measures it."""

    allowed: float
    deviation: Callable[[MethodBench], float]


# Predictive coding


def zero_divergence(bench):
    """With steps of 1, layer L - k has backprop's update after k steps."""
    net, batch = bench.net(), bench.batch()
    expected = bench.backprop(net)
    gaps = []
    for steps, layer in ((1, 2), (2, 0)):
        found = bench.updates(net, *batch, method=replace(bench.method, steps=steps, step=1.0))
        keys = f"{layer}.weight", f"{layer}.bias"
        gaps.append(gap({key: found[key] for key in keys}, {key: expected[key] for key in keys}))
    return max(gaps)


def small_errors(bench):
    """Settled states come to backprop as errors fall: the gap at 1e-4 over that at 1e-3."""
    net, (x, t) = bench.net(), bench.batch()
    expected, method = bench.backprop(net), bench.method.settled()
    nearer, near = (
        gap(bench.updates(net, x, t, method=method, loss_terms=scale * t.numel()), expected)
        for scale in (1e-4, 1e-3)  # fewer terms than the loss divides by: errors of this scale
    )
    return nearer / near


# Predictive coding in error form


def settled_errors(bench):
    """Settled errors give predictive coding's updates for the loss over the precision."""
    net, (x, t) = bench.net(), bench.batch()
    p = bench.method.precision or 2  # the number of states
    coding = lra.methods.PredictiveCoding(300, 0.3)
    loss = bench.loss(t)
    theirs = bench.step(net, lambda output: loss(output) / p, x, method=coding)
    found = bench.updates(net, x, t, method=replace(bench.method, steps=300, step=0.3))
    return gap(found, {key: p * update for key, update in theirs.items()})


def precise_errors(bench):
    """Settled updates come to backprop as the precision grows: the gap at 1e4 over that at 1e3."""
    net, batch = bench.net(), bench.batch()
    expected, method = bench.backprop(net), bench.method.settled()
    nearer, near = (
        gap(bench.updates(net, *batch, method=replace(method, precision=p)), expected)
        for p in (1e4, 1e3)
    )
    return nearer / near


# Equilibrium propagation


def nudging(bench):
    """The update comes to the equilibrium's gradient as beta falls: the gap at 1e-3 over 1e-2."""
    net, (x, t) = bench.net(), bench.batch()
    expected = by_backward(net, bench.loss(t)(equilibrium(net, x)))
    nearer, near = (
        gap(bench.updates(net, x, t, method=replace(bench.method.settled(), beta=beta)), expected)
        for beta in (1e-3, 1e-2)
    )
    return nearer / near


def equilibrium(net, x):
    """Iterate the perceptron's equations to the fixed point, with a graph through all steps."""
    first, phi1, second, phi2, third = net
    W2, W3 = second.weight, third.weight
    s1 = phi1(first(x))
    s2 = phi2(second(s1))
    s3 = third(s2)
    for _ in range(200):
        s1, s2, s3 = (
            (s1 + phi1(first(x) + s2 @ W2)) / 2,
            (s2 + phi2(second(s1) + s3 @ W3)) / 2,
            (s3 + third(s2)) / 2,
        )
    return s3


# Difference target propagation


def two_layers(bench):
    """Two weight layers learn as by backprop."""
    net = bench.attach(bench.plain()[:3])
    return gap(bench.updates(net, *bench.batch()), bench.backprop(bench.plain()[:3]))


def transposed_inverses(bench):
    """Linear layers with transposed inverses learn as by backprop."""
    net = bench.attach(bench.plain()[::2])
    with torch.no_grad():
        net[1].get_parameter("inverse.weight").copy_(net[1].get_parameter("weight").t())
    expected = bench.backprop(bench.plain()[::2])
    found = bench.updates(net, *bench.batch())
    return gap({key: found[key] for key in expected}, expected)


def inverses(bench):
    """Without noise an inverse learns from |g(f(z)) - z|^2 / (2 N) alone."""
    net, (x, t) = bench.net(), bench.batch()
    found = bench.updates(net, x, t, method=replace(bench.method, sigma=0.0))
    inverse = net[2].get_submodule("inverse")
    with torch.no_grad():
        z = net[:2](x)
        there = net[2:4](z)
    expected = by_backward(net, (inverse(there) - z).square().sum() / (2 * t.numel()))
    return gap({key: found[key] for key in expected}, expected)


# Methods without a backward pass


def last_layer(bench, net, expected):
    """Return the gap of the last layer's update from an expected one."""
    found = bench.updates(net, *bench.batch())
    return gap(*({key: each[key] for key in ("4.weight", "4.bias")} for each in (found, expected)))


def small_projection(bench):
    """The last layer's update comes to backprop's as F falls: the gap at 1e-4 F over 1e-3 F."""
    gaps = []
    for scale in (1e-4, 1e-3):
        net = bench.net()
        expected = bench.backprop(net)
        net[0].get_buffer("projection").mul_(scale)
        gaps.append(last_layer(bench, net, expected))
    return gaps[0] / gaps[1]


def neutral_label(bench):
    """The last layer has backprop's update for the neutral label and normalised inputs."""
    net, (x, t) = bench.net(), bench.batch()
    z = torch.cat([torch.full_like(x[..., :3], 1 / 3), x[..., 3:]], -1)
    for at, module in enumerate(net):
        if at % 2 == 0:
            z = z / (z.square().mean(-1, keepdim=True).sqrt() + 1e-8)
        z = module(z)
    return last_layer(bench, net, by_backward(net, bench.loss(t)(z)))


def projected_labels(bench):
    """The last layer has backprop's update."""
    net = bench.net()
    return last_layer(bench, net, bench.backprop(net))


LIMITS = {
    "predictive-coding": {
        "zero divergence": Limit(ROUNDING, zero_divergence),
        "small errors": Limit(0.12, small_errors),
    },
    "error-predictive-coding": {
        "settled errors": Limit(CANCELLED, settled_errors),
        "precise errors": Limit(0.12, precise_errors),
    },
    "equilibrium-propagation": {"nudging": Limit(0.12, nudging)},
    "dtp": {
        "two layers": Limit(CANCELLED, two_layers),
        "transposed inverses": Limit(CANCELLED, transposed_inverses),
        "inverses": Limit(ROUNDING, inverses),
    },
    "pepita": {"small projection": Limit(0.12, small_projection)},
    "forward-forward": {"neutral label": Limit(ROUNDING, neutral_label)},
    "drtp": {"projected labels": Limit(ROUNDING, projected_labels)},
}


def by_limit(test):
    cases = [(method, limit) for method, limits in LIMITS.items() for limit in limits]
    return pytest.mark.parametrize(("name", "limit"), cases)(test)


@pytest.mark.parametrize(
    ("settings", "terms"),
    [({}, "batch"), (METHOD_SETTINGS, "batch"), (METHOD_SETTINGS, "tokens")],
    ids=["default", "batch", "tokens"],
)
@by_limit
def test_methods_have_their_limits(name, limit, settings, terms):
    method = lra.named(name, **settings.get(name, {}))
    allowed, deviation = LIMITS[name][limit]
    assert deviation(MethodBench(LossTerms(terms), method)) <= allowed


def test_every_method_has_limits():
    assert set(LIMITS) == set(lra.methods.METHODS)


# The same methods with a defect


class Longer:
    """Makes updates longer by a hundredth."""

    def __call__(self, model, loss, x, **options):
        before = [(p, p.grad) for p in model.parameters()]
        for p, _ in before:
            p.grad = None
        value = super().__call__(model, loss, x, **options)
        for p, grad in before:
            if p.grad is not None:
                p.grad = p.grad * 1.01 + (0 if grad is None else grad)
        return value


class LongerCoding(Longer, lra.methods.PredictiveCoding):
    pass


class LongerErrors(Longer, lra.methods.ErrorPredictiveCoding):
    pass


class LongerEquilibrium(Longer, lra.methods.EquilibriumPropagation):
    pass


class LongerTargets(Longer, lra.methods.DTP):
    pass


class LongerPEPITA(Longer, lra.methods.PEPITA):
    pass


class LongerForward(Longer, lra.methods.ForwardForward):
    pass


class LongerProjection(Longer, lra.methods.DRTP):
    pass


LONGER = {
    "predictive-coding": LongerCoding(),
    "error-predictive-coding": LongerErrors(),
    "equilibrium-propagation": LongerEquilibrium(free_steps=3, nudged_steps=2),
    "dtp": LongerTargets(),
    "pepita": LongerPEPITA(),
    "forward-forward": LongerForward(),
    "drtp": LongerProjection(),
}


@by_limit
def test_longer_updates_miss_every_limit(name, limit):
    allowed, deviation = LIMITS[name][limit]
    assert deviation(MethodBench(LossTerms.BATCH, LONGER[name])) > allowed


@pytest.mark.parametrize("name", ["predictive-coding", "error-predictive-coding", "dtp", "drtp"])
def test_longer_updates_break_one_identity_of_all_methods(name):
    with pytest.raises(lra.errors.RuleError) as caught:
        check_rule(LONGER[name])
    assert re.findall(r"FAILS ([^:]+):", str(caught.value)) == ["one layer"]


@pytest.mark.parametrize("name", ["equilibrium-propagation", "pepita", "forward-forward"])
def test_longer_estimates_break_no_identity_of_all_methods(name):
    check_rule(LONGER[name])
