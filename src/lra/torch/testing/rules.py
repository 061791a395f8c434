"""The identities that every rule must keep."""

import json
import pickle
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.crossing import Crossing, Derivative, Relative, Squared, TargetDifference
from lra.differences import known
from lra.feedback import Stored, Transpose
from lra.identities import CANCELLED, ROUNDING, Identities, differing
from lra.rules import Rule
from lra.torch.convert import convert, restore
from lra.torch.layers import LocalWeights
from lra.torch.testing.identities import (
    Bench,
    Updates,
    by_backward,
    gap,
    gap_of_copy,
    largest,
    seed,
)
from lra.wiring import Chain

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class RuleBench(Bench):
    """The networks, data and updates under the rule that identities are measured with."""

    rule: Rule

    def plain_convolutional(self) -> nn.Sequential:
        """Build a small convolutional network, for inputs of shape (batch, 2, 5, 5)."""
        seed(0)
        layers = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Flatten()
        return nn.Sequential(*layers).double()

    def convert(self, model: M, rule: Rule | None = None, **options: Any) -> M:
        """Convert a model, by default to the rule under test, with the same random numbers."""
        rule = rule or self.rule
        if not isinstance(rule.wiring, Chain):  # the order of the layers comes from an example
            images = isinstance(next(iter(model.children())), nn.Conv2d)
            options["example"] = self.images() if images else self.batch()[0]
        seed(1)
        return convert(model, rule, **{"loss_terms": self.terms} | options)

    def net(self) -> nn.Sequential:
        """Build the converted perceptron, the same every time."""
        return self.convert(self.plain())

    def images(self) -> Tensor:
        """Draw inputs of the convolutional network, the same every time."""
        seed(2)
        return torch.randn(4, 2, 5, 5, dtype=torch.float64)

    def updates(self, model: nn.Module, x: Tensor, t: Tensor, reduction: str = "mean") -> Updates:
        """Compute each parameter's update for the cross-entropy, with the same random numbers."""
        seed(3)
        logits = model(x).flatten(0, -2)
        return by_backward(model, F.cross_entropy(logits, t.flatten(), reduction=reduction))

    def transported(self, crossing: Crossing) -> Updates:
        """Compute the updates under the rule with another crossing and with E = W."""
        rule = Rule(Transpose(), crossing)
        return self.updates(self.convert(self.plain(), rule), *self.batch())


IDENTITIES: Identities[RuleBench] = Identities()
"""The identities, in the order in which they are reported."""


@IDENTITIES.add("forward")
def _forward(bench: RuleBench) -> float:
    """Conversion preserves the forward pass, to the bit."""
    gaps = []
    for net, x in (
        (bench.plain(), bench.batch()[0]),
        (bench.plain_convolutional(), bench.images()),
    ):
        with torch.no_grad():
            before = net(x)
        gaps.append(gap({"h": bench.convert(net)(x)}, {"h": before}))
    return max(gaps)


@IDENTITIES.add("shape")
def _shape(bench: RuleBench) -> float:
    """Every layer's feedback weights have the shape and type of W: layers where not."""
    nets = bench.plain(), bench.plain_convolutional()
    layers = [m for net in nets for m in bench.convert(net, input_layers=()).modules()]
    passes = [(m.weight, m.op()[1][2]) for m in layers if isinstance(m, LocalWeights)]
    return sum(E is None or E.shape != W.shape or E.dtype != W.dtype for W, E in passes)


@IDENTITIES.add("one layer", ROUNDING)
def _one_layer(bench: RuleBench) -> float:
    """The update of a network of one layer is autograd's."""
    net = bench.plain()[:1]
    expected = bench.updates(net, *bench.batch())
    updates = bench.updates(bench.convert(net, input_layers=()), *bench.batch())
    return gap({key: updates[key] for key in expected}, expected)


@IDENTITIES.add("top layer", ROUNDING)
def _top_layer(bench: RuleBench) -> float:
    """The update of a deep network's last layer is autograd's."""
    updates = bench.updates(bench.net(), *bench.batch())
    expected = bench.updates(bench.plain(), *bench.batch())
    top = "4.weight", "4.bias"
    return gap({key: updates[key] for key in top}, {key: expected[key] for key in top})


@IDENTITIES.add("restore")
def _restore(bench: RuleBench) -> float:
    """After a pass, restore returns plain classes, with autograd's gradient to the bit."""
    plain, net, batch = bench.plain(), bench.net(), bench.batch()
    bench.updates(net, *batch)
    changed = sum(type(a) is not type(b) for a, b in zip(plain, restore(net), strict=True))
    return changed + gap(bench.updates(net, *batch), bench.updates(plain, *batch))


@IDENTITIES.add("zero error")
def _zero_error(bench: RuleBench) -> float:
    """Without an error there is no update: d = 0 gives e = 0."""
    net = bench.net()
    updates = by_backward(net, 0 * net(bench.batch()[0]).sum())
    return largest(updates)


@IDENTITIES.add("order", CANCELLED)
def _order(bench: RuleBench) -> float:
    """The order of the samples does not matter."""
    x, t = bench.batch()
    return gap(bench.updates(bench.net(), x.flip(0), t.flip(0)), bench.updates(bench.net(), x, t))


@IDENTITIES.add("duplicates", CANCELLED)
def _duplicates(bench: RuleBench) -> float:
    """A batch with every sample twice gives the same update."""
    x, t = bench.batch()
    twice = bench.updates(bench.net(), torch.cat([x, x]), torch.cat([t, t]))
    return gap(twice, bench.updates(bench.net(), x, t))


@IDENTITIES.add("mean of samples", CANCELLED)
def _mean_of_samples(bench: RuleBench) -> float | None:
    """A batch's update is the mean of its samples' updates."""
    if getattr(bench.rule.crossing, "relative", None) is Relative.BATCH:
        return None
    x, t = bench.batch()
    whole = bench.updates(bench.net(), x, t)
    ones = [bench.updates(bench.net(), x[i : i + 1], t[i : i + 1]) for i in range(len(x))]
    return gap({key: torch.stack([one[key] for one in ones]).mean(0) for key in whole}, whole)


@IDENTITIES.add("summed loss", CANCELLED)
def _summed_loss(bench: RuleBench) -> float:
    """A loss summed over N terms, with loss_terms=1, gives N times the mean's update."""
    batch = bench.batch()
    mean = bench.updates(bench.net(), *batch)
    summed = bench.updates(bench.convert(bench.plain(), loss_terms=1), *batch, reduction="sum")
    return gap(summed, {key: batch[1].numel() * update for key, update in mean.items()})


@IDENTITIES.add("learned feedback")
def _learned_feedback(bench: RuleBench) -> float | None:
    """Learned feedback gets the feedback's update for dW, to the bit."""
    net = bench.net()
    if bench.rule.feedback.stored is not Stored.LEARNED:
        return None
    updates = bench.updates(net, *bench.batch())
    chain = (2, 4) if isinstance(bench.rule.wiring, Chain) else (4,)  # layers with their own E
    dW = {f"{i}.feedback": updates[f"{i}.weight"] for i in chain}
    expected = {key: bench.rule.feedback.update(dW[key]) for key in dW}
    return gap({key: updates[key] for key in expected}, expected)


@IDENTITIES.add("fused", ROUNDING)
def _fused(bench: RuleBench) -> float:
    """A fused Sequential has the updates of its layers called one after the other."""
    batch = bench.batch()
    separate = bench.updates(_PlainSequential(*bench.net()), *batch)
    return gap(bench.updates(bench.net(), *batch), separate)


@IDENTITIES.add("config")
def _config(bench: RuleBench) -> float:
    """The rule survives a round trip through its config in JSON: fields that differ."""
    return differing(Rule.from_config(json.loads(json.dumps(bench.rule.to_config()))), bench.rule)


@IDENTITIES.add("pickle")
def _pickle(bench: RuleBench) -> float:
    """The rule survives a round trip through pickle: fields that differ."""
    return differing(pickle.loads(pickle.dumps(bench.rule)), bench.rule)


@IDENTITIES.add("deepcopy")
def _deepcopy(bench: RuleBench) -> float:
    """A copy of a converted network trains like it, to the bit."""
    batch = bench.batch()
    return gap_of_copy(bench.net(), lambda model: bench.updates(model, *batch))


@IDENTITIES.add("NumPy", CANCELLED)
def _numpy(bench: RuleBench) -> float | None:
    """The crossing computes the same with NumPy's arrays as with torch's."""
    crossing = bench.rule.crossing
    if isinstance(crossing, Derivative):
        return None
    seed(4)
    h, d = torch.randn(2, 6, 4, dtype=torch.float64)
    e = crossing.error(known("tanh", torch.tanh), h, torch.tanh(h), d / 6, 6, torch)
    arrays = h.numpy(), np.tanh(h.numpy()), d.numpy() / 6
    of_arrays = crossing.error(known("tanh", np.tanh), *arrays, 6, np)
    return gap({"e": torch.as_tensor(of_arrays)}, {"e": e})


@IDENTITIES.add("weight transport", ROUNDING)
def _weight_transport(bench: RuleBench) -> float | None:
    """With E = W, a crossing by the derivative is backprop."""
    if not isinstance(bench.rule.crossing, Derivative):
        return None
    return gap(bench.transported(bench.rule.crossing), bench.updates(bench.plain(), *bench.batch()))


@IDENTITIES.add("limit", 0.12)
def _limit(bench: RuleBench) -> float | None:
    """With E = W and gain = 1/beta, the gap to backprop shrinks like beta: at 1e-4 over at 1e-3."""
    crossing = bench.rule.crossing
    if not isinstance(crossing, TargetDifference) or crossing.surrogate is not None:
        return None
    if crossing.local_loss != Squared():
        return None
    backprop = bench.updates(bench.plain(), *bench.batch())
    nearer, near = (
        gap(bench.transported(replace(crossing, beta=beta, gain=1.0, normalized=True)), backprop)
        for beta in (1e-4, 1e-3)
    )
    return nearer / near


class _PlainSequential(nn.Sequential):
    """A Sequential that calls converted layers one by one."""
