"""The identities that every method must keep."""

import copy
import json
import pickle
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.errors import MethodError
from lra.loss_terms import LossTerms
from lra.methods import EquilibriumPropagation, Loss, Method, PredictiveCoding
from lra.torch.testing.identities import (
    CANCELLED,
    ROUNDING,
    Bench,
    Identities,
    Updates,
    by_backward,
    differing,
    gap,
    gap_of_copy,
    held,
    largest,
    same,
    seed,
    taken,
)


@dataclass(frozen=True)
class MethodBench(Bench):
    """What an identity is measured with: networks, data, and steps of the method."""

    method: Method

    def attach(self, model: nn.Module) -> nn.Sequential:
        """Make a model ready; drawn alike every time."""
        seed(1)
        return cast(nn.Sequential, self.method.attach(model, self.batch()[0]))

    def net(self) -> nn.Sequential:
        """Build the perceptron, ready, the same every time."""
        return self.attach(self.plain())

    def loss(self, t: Tensor, reduction: str = "mean") -> Loss:
        """Give the cross-entropy as a function of the output."""
        return lambda output: F.cross_entropy(
            output.flatten(0, -2), t.flatten(), reduction=reduction
        )

    def step(
        self,
        model: nn.Module,
        loss: Loss,
        x: Tensor,
        *,
        method: Method | None = None,
        loss_terms: LossTerms | float | None = None,
        draw: int = 3,
    ) -> Updates:
        """Give each parameter's update; drawn alike every time, unless asked for another draw."""
        model.zero_grad()
        seed(draw)
        (method or self.method)(model, loss, x, loss_terms=loss_terms or self.terms)
        return taken(model)

    def updates(self, model: nn.Module, x: Tensor, t: Tensor, **options: Any) -> Updates:
        """Give each parameter's update for the cross-entropy."""
        return self.step(model, self.loss(t), x, **options)

    def backprop(self, model: nn.Module) -> Updates:
        """Give backprop's updates for the batch."""
        x, t = self.batch()
        return by_backward(model, self.loss(t)(model(x)))

    def steady(self, model: nn.Module, x: Tensor, t: Tensor) -> Updates:
        """Give the updates that no random number of the method moves: the same by another draw."""
        found, other = self.updates(model, x, t), self.updates(model, x, t, draw=4)
        return {key: found[key] for key in found if torch.equal(found[key], other[key])}

    def settled(self, **options: Any) -> Method:
        """Give the method with other options, and with enough steps for its states to settle."""
        if isinstance(self.method, PredictiveCoding):
            options |= {"steps": 100, "step": 0.3}
        if isinstance(self.method, EquilibriumPropagation):
            options |= {"free_steps": 100, "nudged_steps": 100, "step": 0.5}
        return replace(self.method, **options)

    def names(self, model: nn.Module) -> set[str]:
        """Name the parameters that `attach` has not added."""
        added = {id(p) for p in self.method.feedback_parameters(model)}
        return {name for name, p in model.named_parameters() if id(p) not in added}


IDENTITIES: Identities[MethodBench] = Identities()
"""The identities, in the order in which they are reported."""


@IDENTITIES.add("forward")
def _forward(bench: MethodBench) -> float:
    """Attaching leaves the forward pass as it is, to the bit."""
    net, (x, _) = bench.plain(), bench.batch()
    with torch.no_grad():
        before = net(x)
        return gap({"h": bench.attach(net)(x)}, {"h": before})


@IDENTITIES.add("detach")
def _detach(bench: MethodBench) -> float:
    """After a step, detach gives the plain model, to the bit."""
    plain, net = bench.plain(), bench.net()
    bench.updates(net, *bench.batch())
    net = cast(nn.Sequential, bench.method.detach(net))
    types = [[type(m) for m in model.modules()] for model in (plain, net)]
    return (types[0] != types[1]) + gap(net.state_dict(), plain.state_dict())


@IDENTITIES.add("left as it was")
def _left_as_it_was(bench: MethodBench) -> float:
    """A step leaves weights, mode, classes, hooks and attributes as they are: modules changed."""
    net = bench.net()
    before, weights = list(held(net)), copy.deepcopy(net.state_dict())
    bench.updates(net, *bench.batch())
    after = list(held(net))
    changed = abs(len(before) - len(after)) + sum(
        not same(a, b) for a, b in zip(before, after, strict=False)
    )
    return changed + gap(net.state_dict(), weights)


@IDENTITIES.add("buffers")
def _buffers(bench: MethodBench) -> float | None:
    """Buffers are as after one forward pass, of a normalisation in front, to the bit."""
    x, t = bench.batch()
    plain = nn.Sequential(nn.BatchNorm1d(x.shape[1], affine=False).double(), *bench.plain())
    net = copy.deepcopy(plain)
    plain(x)
    try:
        bench.updates(bench.attach(net), x, t)
    except MethodError:  # it may be defined on fewer networks
        return None
    expected, found = dict(plain.named_buffers()), dict(net.named_buffers())
    return gap({name: found[name] for name in expected}, expected)


@IDENTITIES.add("filled")
def _filled(bench: MethodBench) -> float:
    """Every parameter gets a finite update of its shape and type: parameters where not."""
    net = bench.net()
    bench.updates(net, *bench.batch())
    grads = [(p, p.grad) for p in net.parameters()]
    return sum(
        grad is None
        or grad.shape != p.shape
        or grad.dtype != p.dtype
        or not bool(grad.isfinite().all())
        for p, grad in grads
    )


@IDENTITIES.add("value", ROUNDING)
def _value(bench: MethodBench) -> float:
    """What is returned is the loss of the method's own answer, without a graph."""
    net, (x, t) = bench.net(), bench.batch()
    seed(3)
    value = bench.method(net, bench.loss(t), x, loss_terms=bench.terms)
    seed(3)
    answer = bench.method.output(net, x)
    graphs = value.requires_grad + answer.requires_grad
    return graphs + gap({"loss": value}, {"loss": bench.loss(t)(answer)})


@IDENTITIES.add("repeats")
def _repeats(bench: MethodBench) -> float:
    """The same step again, of the same random numbers, gives the same update, to the bit."""
    net, batch = bench.net(), bench.batch()
    return gap(bench.updates(net, *batch), bench.updates(net, *batch))


@IDENTITIES.add("adds up", ROUNDING)
def _adds_up(bench: MethodBench) -> float:
    """Updates add up in .grad, as those of backward() do."""
    net, (x, t) = bench.net(), bench.batch()
    once = bench.updates(net, x, t)
    seed(3)
    bench.method(net, bench.loss(t), x, loss_terms=bench.terms)
    return gap(taken(net), {key: 2 * update for key, update in once.items()})


@IDENTITIES.add("frozen", ROUNDING)
def _frozen(bench: MethodBench) -> float:
    """A frozen layer gets no update, and no other layer gets another one."""
    net, batch = bench.net(), bench.batch()
    expected = bench.updates(net, *batch)
    for name in ("weight", "bias"):
        net[2].get_parameter(name).requires_grad_(False)
        del expected[f"2.{name}"]
    return gap(bench.updates(net, *batch), expected)


@IDENTITIES.add("one layer", ROUNDING)
def _one_layer(bench: MethodBench) -> float | None:
    """The update of a network of one weight layer is backprop's."""
    if bench.method.estimates:
        return None
    expected = bench.backprop(bench.plain()[:1])
    net = bench.attach(bench.plain()[:1])
    found, names = bench.updates(net, *bench.batch()), bench.names(net)
    return gap({name: update for name, update in found.items() if name in names}, expected)


@IDENTITIES.add("no pull", CANCELLED)
def _no_pull(bench: MethodBench) -> float:
    """Where the loss pulls nowhere no weight is updated: over the update where it pulls."""
    net, (x, t) = bench.net(), bench.batch()
    names = bench.names(net)
    rest, moved = (
        {name: update for name, update in found.items() if name in names}
        for found in (
            bench.step(net, loss, x, method=bench.settled())
            for loss in (lambda output: 0 * output.sum(), bench.loss(t))
        )
    )
    return largest(rest) / max(largest(moved), 1e-300)


@IDENTITIES.add("summed loss", CANCELLED)
def _summed_loss(bench: MethodBench) -> float:
    """A loss summed over N terms, with loss_terms=1, gives N times the mean's update."""
    net, (x, t) = bench.net(), bench.batch()
    mean = bench.updates(net, x, t)
    summed = bench.step(net, bench.loss(t, "sum"), x, loss_terms=1)
    return gap(summed, {key: t.numel() * update for key, update in mean.items()})


@IDENTITIES.add("samples apart", CANCELLED)
def _samples_apart(bench: MethodBench) -> float | None:
    """A batch's update is the mean of its samples' own, where no random number moves it."""
    net, (x, t) = bench.net(), bench.batch()
    whole = bench.steady(net, x, t)
    if not whole:
        return None
    ones = [bench.updates(net, x[i : i + 1], t[i : i + 1]) for i in range(len(x))]
    return gap({key: torch.stack([one[key] for one in ones]).mean(0) for key in whole}, whole)


@IDENTITIES.add("one draw", ROUNDING)
def _one_draw(bench: MethodBench) -> float | None:
    """Dropout draws once a step: the update is that for what it has left of the input."""
    x, t = bench.batch()
    net = nn.Sequential(nn.Dropout(), *bench.plain())
    try:
        found = bench.updates(bench.attach(net), x, t)
    except MethodError:  # it may be defined on fewer networks
        return None
    seed(3)
    left = F.dropout(x)
    expected = bench.steady(bench.net(), left, t)
    if not expected:
        return None
    names = [name for name, _ in bench.net().named_parameters()]  # without the dropout in front
    renamed = dict(zip(names, found.values(), strict=True))
    return gap({name: renamed[name] for name in expected}, expected)


@IDENTITIES.add("deepcopy")
def _deepcopy(bench: MethodBench) -> float:
    """A copy of an attached network trains like it, to the bit."""
    batch = bench.batch()
    return gap_of_copy(bench.net(), lambda model: bench.updates(model, *batch))


@IDENTITIES.add("config")
def _config(bench: MethodBench) -> float:
    """The method comes back from its config in JSON: fields that differ."""
    return differing(
        Method.from_config(json.loads(json.dumps(bench.method.to_config()))), bench.method
    )


@IDENTITIES.add("pickle")
def _pickle(bench: MethodBench) -> float:
    """The method comes back from its pickle: fields that differ."""
    return differing(pickle.loads(pickle.dumps(bench.method)), bench.method)
