"""What is known of our own methods: where they meet backprop, or another gradient."""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from lra.methods import DTP, EquilibriumPropagation, PredictiveCoding
from lra.torch.testing.identities import CANCELLED, ROUNDING, by_backward, gap
from lra.torch.testing.methods import IDENTITIES, MethodBench


@IDENTITIES.add("zero divergence", ROUNDING)
def _zero_divergence(bench: MethodBench) -> float | None:
    """Predictive coding moving by 1 has backprop's update in layer L - k after k steps."""
    if not isinstance(bench.method, PredictiveCoding):
        return None
    net, batch = bench.net(), bench.batch()
    expected = bench.backprop(net)
    gaps = []
    for steps, layer in ((1, 2), (2, 0)):
        found = bench.updates(net, *batch, method=replace(bench.method, steps=steps, step=1.0))
        keys = f"{layer}.weight", f"{layer}.bias"
        gaps.append(gap({key: found[key] for key in keys}, {key: expected[key] for key in keys}))
    return max(gaps)


@IDENTITIES.add("small errors", 0.12)
def _small_errors(bench: MethodBench) -> float | None:
    """Settled predictive coding comes to backprop as errors fall: the gap at 1e-4 over at 1e-3."""
    if not isinstance(bench.method, PredictiveCoding):
        return None
    net, (x, t) = bench.net(), bench.batch()
    expected = bench.backprop(net)
    nearer, near = (
        gap(bench.updates(net, x, t, method=bench.settled(), loss_terms=pull * t.numel()), expected)
        for pull in (1e-4, 1e-3)  # a loss that divides by less than it says pulls less
    )
    return nearer / near


@IDENTITIES.add("nudging", 0.12)
def _nudging(bench: MethodBench) -> float | None:
    """Equilibria's difference comes to the gradient as beta falls: the gap at 1e-3 over at 1e-2."""
    if not isinstance(bench.method, EquilibriumPropagation):
        return None
    net, (x, t) = bench.net(), bench.batch()
    expected = by_backward(net, bench.loss(t)(_equilibrium(net, x)))
    nearer, near = (
        gap(bench.updates(net, x, t, method=bench.settled(beta=beta)), expected)
        for beta in (1e-3, 1e-2)
    )
    return nearer / near


def _equilibrium(net: nn.Sequential, x: Tensor) -> Tensor:
    """Give the output at which the perceptron stands still, with a graph through all the way."""
    first, unit1, second, unit2, third = net
    W2, W3 = second.weight, third.weight
    s1 = unit1(first(x))
    s2 = unit2(second(s1))
    s3 = third(s2)
    for _ in range(200):
        s1, s2, s3 = (
            (s1 + unit1(first(x) + s2 @ W2)) / 2,
            (s2 + unit2(second(s1) + s3 @ W3)) / 2,
            (s3 + third(s2)) / 2,
        )
    return cast(Tensor, s3)


@IDENTITIES.add("two layers", CANCELLED)
def _two_layers(bench: MethodBench) -> float | None:
    """Target propagation through two weight layers is backprop."""
    if not isinstance(bench.method, DTP):
        return None
    net = bench.attach(bench.plain()[:3])
    return gap(bench.updates(net, *bench.batch()), bench.backprop(bench.plain()[:3]))


@IDENTITIES.add("transposed inverses", CANCELLED)
def _transposed_inverses(bench: MethodBench) -> float | None:
    """Target propagation through linear layers, by inverses that are transposed, is backprop."""
    if not isinstance(bench.method, DTP):
        return None
    net = bench.attach(bench.plain()[::2])
    with torch.no_grad():
        net[1].get_parameter("inverse.weight").copy_(net[1].get_parameter("weight").t())
    expected = bench.backprop(bench.plain()[::2])
    found = bench.updates(net, *bench.batch())
    return gap({key: found[key] for key in expected}, expected)


@IDENTITIES.add("inverses", ROUNDING)
def _inverses(bench: MethodBench) -> float | None:
    """Without noise an inverse learns from |g(f(z)) - z|^2 / (2 N) alone."""
    if not isinstance(bench.method, DTP):
        return None
    net, (x, t) = bench.net(), bench.batch()
    found = bench.updates(net, x, t, method=replace(bench.method, sigma=0.0))
    inverse = net[2].get_submodule("inverse")
    with torch.no_grad():
        z = net[:2](x)
        there = net[2:4](z)
    expected = by_backward(net, (inverse(there) - z).square().sum() / (2 * t.numel()))
    return gap({key: found[key] for key in expected}, expected)
