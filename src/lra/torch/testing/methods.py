"""The identities that every method must keep."""

import copy
import json
import pickle
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.errors import MethodError
from lra.identities import CANCELLED, ROUNDING, Identities, differing
from lra.loss_terms import LossTerms
from lra.methods.base import Loss, Method
from lra.torch.testing.identities import (
    Bench,
    Updates,
    by_backward,
    contents,
    gap,
    gap_of_copy,
    grads_of,
    largest,
    same_contents,
    seed,
)


@dataclass(frozen=True)
class MethodBench(Bench):
    """The networks, data and steps of the method that identities are measured with."""

    method: Method

    def attach(self, model: nn.Module) -> nn.Sequential:
        """Attach the method to a model, with the same random numbers every time."""
        seed(1)
        return cast(nn.Sequential, self.method.attach(model, self.batch()[0]))

    def net(self) -> nn.Sequential:
        """Build the perceptron with the method attached, the same every time."""
        return self.attach(self.plain())

    def loss(self, t: Tensor, reduction: str = "mean") -> Loss:
        """Return the cross-entropy as a function of the output."""
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
        """Compute each parameter's update, with the random numbers of the seed `draw`."""
        model.zero_grad()
        seed(draw)
        (method or self.method)(model, loss, x, loss_terms=loss_terms or self.terms)
        return grads_of(model)

    def updates(self, model: nn.Module, x: Tensor, t: Tensor, **options: Any) -> Updates:
        """Compute each parameter's update for the cross-entropy."""
        return self.step(model, self.loss(t), x, **options)

    def backprop(self, model: nn.Module) -> Updates:
        """Compute backprop's updates for the batch."""
        x, t = self.batch()
        return by_backward(model, self.loss(t)(model(x)))

    def deterministic(self, model: nn.Module, x: Tensor, t: Tensor) -> Updates:
        """Compute the updates that are the same with other random numbers of the method."""
        found, other = self.updates(model, x, t), self.updates(model, x, t, draw=4)
        return {key: found[key] for key in found if torch.equal(found[key], other[key])}

    def names(self, model: nn.Module) -> set[str]:
        """Return the names of the parameters that `attach` has not added."""
        added = {id(p) for p in self.method.feedback_parameters(model)}
        return {name for name, p in model.named_parameters() if id(p) not in added}


IDENTITIES: Identities[MethodBench] = Identities()
"""The identities, in the order in which they are reported."""


@IDENTITIES.add("forward")
def _forward(bench: MethodBench) -> float:
    """Attaching preserves the forward pass, to the bit."""
    net, (x, _) = bench.plain(), bench.batch()
    with torch.no_grad():
        before = net(x)
        return gap({"h": bench.attach(net)(x)}, {"h": before})


@IDENTITIES.add("detach")
def _detach(bench: MethodBench) -> float:
    """After a step, detach returns the plain model, to the bit."""
    plain, net = bench.plain(), bench.net()
    bench.updates(net, *bench.batch())
    net = cast(nn.Sequential, bench.method.detach(net))
    types = [[type(m) for m in model.modules()] for model in (plain, net)]
    return (types[0] != types[1]) + gap(net.state_dict(), plain.state_dict())


@IDENTITIES.add("unchanged")
def _unchanged(bench: MethodBench) -> float:
    """A step changes no weights, mode, classes, hooks and attributes: modules changed."""
    net = bench.net()
    before, weights = list(contents(net)), copy.deepcopy(net.state_dict())
    bench.updates(net, *bench.batch())
    after = list(contents(net))
    changed = abs(len(before) - len(after)) + sum(
        not same_contents(a, b) for a, b in zip(before, after, strict=False)
    )
    return changed + gap(net.state_dict(), weights)


@IDENTITIES.add("buffers")
def _buffers(bench: MethodBench) -> float | None:
    """A step updates the buffers of a normalisation layer as one forward pass does, to the bit."""
    x, t = bench.batch()
    plain = nn.Sequential(nn.BatchNorm1d(x.shape[1], affine=False).double(), *bench.plain())
    net = copy.deepcopy(plain)
    plain(x)
    try:
        bench.updates(bench.attach(net), x, t)
    except MethodError:  # a method may support fewer networks
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
    """A step returns the loss of the method's own answer, without a graph."""
    net, (x, t) = bench.net(), bench.batch()
    seed(3)
    value = bench.method(net, bench.loss(t), x, loss_terms=bench.terms)
    seed(3)
    answer = bench.method.output(net, x)
    graphs = value.requires_grad + answer.requires_grad
    return graphs + gap({"loss": value}, {"loss": bench.loss(t)(answer)})


@IDENTITIES.add("repeats")
def _repeats(bench: MethodBench) -> float:
    """A second step with the same random numbers gives the same update, to the bit."""
    net, batch = bench.net(), bench.batch()
    return gap(bench.updates(net, *batch), bench.updates(net, *batch))


@IDENTITIES.add("adds up", ROUNDING)
def _adds_up(bench: MethodBench) -> float:
    """Updates add up in .grad, as those of backward() do."""
    net, (x, t) = bench.net(), bench.batch()
    once = bench.updates(net, x, t)
    seed(3)
    bench.method(net, bench.loss(t), x, loss_terms=bench.terms)
    return gap(grads_of(net), {key: 2 * update for key, update in once.items()})


@IDENTITIES.add("frozen", ROUNDING)
def _frozen(bench: MethodBench) -> float:
    """A frozen layer gets no update and changes no other layer's update."""
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


@IDENTITIES.add("zero gradient", CANCELLED)
def _zero_gradient(bench: MethodBench) -> float | None:
    """A loss with zero gradient updates no weight: relative to the cross-entropy's update."""
    net, (x, t) = bench.net(), bench.batch()
    names = bench.names(net)
    usual = bench.step(net, bench.loss(t), x, method=bench.method.settled())
    try:
        zero = bench.step(net, lambda output: 0 * output.sum(), x, method=bench.method.settled())
    except MethodError:  # a method may support the cross-entropy alone
        return None
    zero, usual = ({name: each[name] for name in each if name in names} for each in (zero, usual))
    return largest(zero) / max(largest(usual), 1e-300)


@IDENTITIES.add("summed loss", CANCELLED)
def _summed_loss(bench: MethodBench) -> float:
    """A loss summed over N terms, with loss_terms=1, gives N times the mean's update."""
    net, (x, t) = bench.net(), bench.batch()
    mean = bench.updates(net, x, t)
    summed = bench.step(net, bench.loss(t, "sum"), x, loss_terms=1)
    return gap(summed, {key: t.numel() * update for key, update in mean.items()})


@IDENTITIES.add("mean of samples", CANCELLED)
def _mean_of_samples(bench: MethodBench) -> float | None:
    """A batch's update is the mean of its samples' updates, where it is deterministic."""
    net, (x, t) = bench.net(), bench.batch()
    whole = bench.deterministic(net, x, t)
    if not whole:
        return None
    ones = [bench.updates(net, x[i : i + 1], t[i : i + 1]) for i in range(len(x))]
    return gap({key: torch.stack([one[key] for one in ones]).mean(0) for key in whole}, whole)


@IDENTITIES.add("one draw", ROUNDING)
def _one_draw(bench: MethodBench) -> float | None:
    """Dropout draws once a step: the update is that for the input after dropout."""
    x, t = bench.batch()
    net = nn.Sequential(nn.Dropout(), *bench.plain())
    try:
        found = bench.updates(bench.attach(net), x, t)
    except MethodError:  # a method may support fewer networks
        return None
    seed(3)
    dropped = F.dropout(x)
    expected = bench.deterministic(bench.net(), dropped, t)
    if not expected:
        return None
    names = [name for name, _ in bench.net().named_parameters()]  # of the network without dropout
    renamed = dict(zip(names, found.values(), strict=True))
    return gap({name: renamed[name] for name in expected}, expected)


@IDENTITIES.add("deepcopy")
def _deepcopy(bench: MethodBench) -> float:
    """A copy of an attached network trains like it, to the bit."""
    batch = bench.batch()
    return gap_of_copy(bench.net(), lambda model: bench.updates(model, *batch))


@IDENTITIES.add("config")
def _config(bench: MethodBench) -> float:
    """The method survives a round trip through its config in JSON: fields that differ."""
    return differing(
        Method.from_config(json.loads(json.dumps(bench.method.to_config()))), bench.method
    )


@IDENTITIES.add("pickle")
def _pickle(bench: MethodBench) -> float:
    """The method survives a round trip through pickle: fields that differ."""
    return differing(pickle.loads(pickle.dumps(bench.method)), bench.method)
