"""Testing: hold a rule, ours or a user's, to the identities that every rule must keep."""

import copy
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.axis import Axis
from lra.crossing import Crossing, Derivative, Relative, Squared, TargetDifference
from lra.errors import OptionError, RuleError
from lra.feedback import Stored, Transpose
from lra.loss_terms import LossTerms, check_terms
from lra.rules import Rule
from lra.torch.convert import convert, restore
from lra.torch.layers import LocalWeights
from lra.wiring import Chain

M = TypeVar("M", bound=nn.Module)
Updates = dict[str, Tensor]

_ROUNDING = 1e-12  # relative, in float64
_CANCELLED = 1e-7  # the same where z - y of a small beta has cancelled most digits


@dataclass(frozen=True)
class Outcome:
    """How far a rule is from one identity.

    Attributes:
        identity: its name.
        says: what it says.
        deviation: the number measured; infinite where the rule raised an error, None where the
            identity does not apply to the rule.
        allowed: the largest deviation that is allowed.
        note: the error that the rule raised, if it did.
    """

    identity: str
    says: str
    deviation: float | None
    allowed: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the identity holds, or does not apply."""
        return self.deviation is None or self.deviation <= self.allowed  # never so for a nan

    def __str__(self) -> str:
        if self.deviation is None:
            return f"n/a   {self.identity}: {self.says}"
        measured = f"{self.deviation:.2g}, allowed {self.allowed:.2g}"
        verdict = "ok   " if self.passed else "FAILS"
        note = f"; {self.note}" if self.note else ""
        return f"{verdict} {self.identity}: {self.says} ({measured}{note})"


@dataclass(frozen=True)
class RuleReport:
    """The identities a rule was held to; as text, a line each."""

    rule: Rule
    outcomes: tuple[Outcome, ...]

    def __str__(self) -> str:
        return "\n".join((f"check_rule: {self.rule}", *(f"  {each}" for each in self.outcomes)))


def check_rule(rule: Rule, *, loss_terms: LossTerms | str = LossTerms.BATCH) -> RuleReport:
    """Hold a rule to the identities that every rule must keep, on small networks in float64.

    Runs for any value of the three axes, so for users' own feedback, crossing, local loss or
    initialisation as well; `IDENTITIES` is the table. A rule that draws at random gets the same
    random numbers in passes that are compared.

    Args:
        rule: the rule.
        loss_terms: what the losses are means over: "batch" for data of shape (batch, features),
            "tokens" for (batch, tokens, features).

    Returns:
        What was measured, if all hold.

    Raises:
        RuleError: listing every identity that fails, with the number measured and the allowed.
        OptionError: for anything but a rule, or other loss terms.
    """
    if not isinstance(rule, Rule):
        raise OptionError(f"check_rule: expected a rule such as lra.LRAE(), got {rule!r}")
    terms = check_terms(loss_terms)
    if not isinstance(terms, LossTerms):
        raise OptionError(f"check_rule: loss_terms must be 'batch' or 'tokens', got {loss_terms!r}")
    bench = Bench(rule, terms)
    # Whatever the caller has set; inference_mode(False) enables gradients too.
    with torch.random.fork_rng([]), torch.inference_mode(False), torch.device("cpu"):
        report = RuleReport(rule, tuple(identity.measure(bench) for identity in IDENTITIES))
    failed = [outcome for outcome in report.outcomes if not outcome.passed]
    if failed:
        raise RuleError(
            f"check_rule: {rule} breaks {len(failed)} of {len(IDENTITIES)} identities:\n"
            + "\n".join(f"  - {outcome}" for outcome in failed)
        )
    return report


@dataclass(frozen=True)
class Bench:
    """What an identity is measured with: networks, data, and updates under the rule."""

    rule: Rule
    terms: LossTerms

    def plain(self) -> nn.Sequential:
        """Build a perceptron with smooth nonlinearities; layers 2 and 4 send errors down."""
        _seed(0)
        layers = nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 3)
        return nn.Sequential(*layers).double()

    def plain_convolutional(self) -> nn.Sequential:
        """Build a small convolutional network, for inputs of shape (batch, 2, 5, 5)."""
        _seed(0)
        layers = nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Flatten()
        return nn.Sequential(*layers).double()

    def convert(self, model: M, rule: Rule | None = None, **options: Any) -> M:
        """Convert a model, to the rule under test if to no other; drawn alike every time."""
        rule = rule or self.rule
        if not isinstance(rule.wiring, Chain):  # which learns the layers' order from an example
            images = isinstance(next(iter(model.children())), nn.Conv2d)
            options["example"] = self.images() if images else self.batch()[0]
        _seed(1)
        return convert(model, rule, **{"loss_terms": self.terms} | options)

    def net(self) -> nn.Sequential:
        """Build the converted perceptron, the same every time."""
        return self.convert(self.plain())

    def batch(self) -> tuple[Tensor, Tensor]:
        """Draw inputs and labels, the same every time."""
        _seed(2)
        shape = (6,) if self.terms is LossTerms.BATCH else (6, 3)
        return torch.randn(*shape, 5, dtype=torch.float64), torch.randint(3, shape)

    def images(self) -> Tensor:
        """Draw inputs of the convolutional network, the same every time."""
        _seed(2)
        return torch.randn(4, 2, 5, 5, dtype=torch.float64)

    def updates(self, model: nn.Module, x: Tensor, t: Tensor, reduction: str = "mean") -> Updates:
        """Give each parameter's update for the cross-entropy; drawn alike every time."""
        _seed(3)
        logits = model(x).flatten(0, -2)
        return _backward(model, F.cross_entropy(logits, t.flatten(), reduction=reduction))

    def transported(self, crossing: Crossing) -> Updates:
        """Give the updates under the rule with another crossing, and with E = W."""
        rule = Rule(Transpose(), crossing)
        return self.updates(self.convert(self.plain(), rule), *self.batch())


Deviation = Callable[[Bench], float | None]


@dataclass(frozen=True)
class Identity:
    """One identity: its name, and a function whose docstring says it and which measures it."""

    name: str
    allowed: float
    deviation: Deviation

    def measure(self, bench: Bench) -> Outcome:
        """Measure a rule's deviation; an error that it raises is a failure."""
        try:
            deviation, note = self.deviation(bench), ""
        except Exception as error:  # a user's rule may raise anything
            deviation, note = math.inf, f"{type(error).__name__}: {error}"
        says = (self.deviation.__doc__ or "").rstrip(".")
        return Outcome(self.name, says, deviation, self.allowed, note)


IDENTITIES: list[Identity] = []
"""The identities, in the order in which they are reported."""


def identity(name: str, allowed: float = 0.0) -> Callable[[Deviation], Deviation]:
    """List a function among the identities; it returns None where it does not apply.

    Args:
        name: what reports call it.
        allowed: the largest deviation allowed; 0 for "to the bit".
    """

    def listed(deviation: Deviation) -> Deviation:
        IDENTITIES.append(Identity(name, allowed, deviation))
        return deviation

    return listed


@identity("forward")
def _forward(bench: Bench) -> float:
    """Conversion leaves the forward pass as it is, to the bit."""
    gaps = []
    for net, x in (
        (bench.plain(), bench.batch()[0]),
        (bench.plain_convolutional(), bench.images()),
    ):
        with torch.no_grad():
            before = net(x)
        gaps.append(_gap({"h": bench.convert(net)(x)}, {"h": before}))
    return max(gaps)


@identity("shape")
def _shape(bench: Bench) -> float:
    """Every layer's feedback weights have the shape and type of W: layers where not."""
    nets = bench.plain(), bench.plain_convolutional()
    layers = [m for net in nets for m in bench.convert(net, input_layers=()).modules()]
    passes = [(m.weight, m.place()[1][2]) for m in layers if isinstance(m, LocalWeights)]
    return sum(E is None or E.shape != W.shape or E.dtype != W.dtype for W, E in passes)


@identity("one layer", _ROUNDING)
def _one_layer(bench: Bench) -> float:
    """The update of a network of one layer is autograd's."""
    net = bench.plain()[:1]
    expected = bench.updates(net, *bench.batch())
    updates = bench.updates(bench.convert(net, input_layers=()), *bench.batch())
    return _gap({key: updates[key] for key in expected}, expected)


@identity("top layer", _ROUNDING)
def _top_layer(bench: Bench) -> float:
    """The update of a deep network's last layer is autograd's."""
    updates = bench.updates(bench.net(), *bench.batch())
    expected = bench.updates(bench.plain(), *bench.batch())
    top = "4.weight", "4.bias"
    return _gap({key: updates[key] for key in top}, {key: expected[key] for key in top})


@identity("restore")
def _restore(bench: Bench) -> float:
    """After a pass, restore gives plain classes, and autograd's gradient to the bit."""
    plain, net, batch = bench.plain(), bench.net(), bench.batch()
    bench.updates(net, *batch)
    changed = sum(type(a) is not type(b) for a, b in zip(plain, restore(net), strict=True))
    return changed + _gap(bench.updates(net, *batch), bench.updates(plain, *batch))


@identity("zero error")
def _zero_error(bench: Bench) -> float:
    """Where no error arrives nothing is updated: d = 0 gives e = 0."""
    net = bench.net()
    updates = _backward(net, 0 * net(bench.batch()[0]).sum())
    return float(torch.stack([update.abs().max() for update in updates.values()]).max())


@identity("order", _CANCELLED)
def _order(bench: Bench) -> float:
    """The order of the samples does not matter."""
    x, t = bench.batch()
    return _gap(bench.updates(bench.net(), x.flip(0), t.flip(0)), bench.updates(bench.net(), x, t))


@identity("duplicates", _CANCELLED)
def _duplicates(bench: Bench) -> float:
    """A batch with every sample twice gives the same update."""
    x, t = bench.batch()
    twice = bench.updates(bench.net(), torch.cat([x, x]), torch.cat([t, t]))
    return _gap(twice, bench.updates(bench.net(), x, t))


@identity("samples apart", _CANCELLED)
def _samples_apart(bench: Bench) -> float | None:
    """A batch's update is the mean of its samples' own."""
    if getattr(bench.rule.crossing, "relative", None) is Relative.BATCH:
        return None
    x, t = bench.batch()
    whole = bench.updates(bench.net(), x, t)
    ones = [bench.updates(bench.net(), x[i : i + 1], t[i : i + 1]) for i in range(len(x))]
    return _gap({key: torch.stack([one[key] for one in ones]).mean(0) for key in whole}, whole)


@identity("summed loss", _CANCELLED)
def _summed_loss(bench: Bench) -> float:
    """A loss summed over N terms, with loss_terms=1, gives N times the mean's update."""
    batch = bench.batch()
    mean = bench.updates(bench.net(), *batch)
    summed = bench.updates(bench.convert(bench.plain(), loss_terms=1), *batch, reduction="sum")
    return _gap(summed, {key: batch[1].numel() * update for key, update in mean.items()})


@identity("learned feedback")
def _learned_feedback(bench: Bench) -> float | None:
    """Learned feedback moves by the feedback's update of dW, to the bit."""
    net = bench.net()
    if bench.rule.feedback.stored is not Stored.LEARNED:
        return None
    updates = bench.updates(net, *bench.batch())
    chain = (2, 4) if isinstance(bench.rule.wiring, Chain) else (4,)  # layers that use their own E
    dW = {f"{i}.feedback": updates[f"{i}.weight"] for i in chain}
    expected = {key: bench.rule.feedback.update(dW[key]) for key in dW}
    return _gap({key: updates[key] for key in expected}, expected)


@identity("fused", _ROUNDING)
def _fused(bench: Bench) -> float:
    """A Sequential, fused, gives the updates of its layers called one after the other."""
    batch = bench.batch()
    apart = bench.updates(_Apart(*bench.net()), *batch)
    return _gap(bench.updates(bench.net(), *batch), apart)


@identity("config")
def _config(bench: Bench) -> float:
    """The rule comes back from its config in JSON: fields that differ."""
    return _differing(Rule.from_config(json.loads(json.dumps(bench.rule.to_config()))), bench.rule)


@identity("pickle")
def _pickle(bench: Bench) -> float:
    """The rule comes back from its pickle: fields that differ."""
    return _differing(pickle.loads(pickle.dumps(bench.rule)), bench.rule)


@identity("deepcopy")
def _deepcopy(bench: Bench) -> float:
    """A copy of a converted network trains like it, to the bit."""
    net, batch = bench.net(), bench.batch()
    twin = copy.deepcopy(net)
    for model in (net, twin):
        for _ in range(3):
            updates = bench.updates(model, *batch)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.sub_(updates[name], alpha=0.1)
    return _gap(twin.state_dict(), net.state_dict())


@identity("NumPy", _CANCELLED)
def _numpy(bench: Bench) -> float | None:
    """The crossing gives the same on NumPy's arrays as on torch's."""
    crossing = bench.rule.crossing
    if isinstance(crossing, Derivative):
        return None
    _seed(4)
    h, d = torch.randn(2, 6, 4, dtype=torch.float64)
    e = crossing.error(torch.tanh, h, torch.tanh(h), d / 6, 6, torch)
    arrays = h.numpy(), np.tanh(h.numpy()), d.numpy() / 6
    return _gap({"e": torch.as_tensor(crossing.error(np.tanh, *arrays, 6, np))}, {"e": e})


@identity("weight transport", _ROUNDING)
def _weight_transport(bench: Bench) -> float | None:
    """With E = W, a crossing by the derivative is backprop."""
    if not isinstance(bench.rule.crossing, Derivative):
        return None
    return _gap(
        bench.transported(bench.rule.crossing), bench.updates(bench.plain(), *bench.batch())
    )


@identity("limit", 0.12)
def _limit(bench: Bench) -> float | None:
    """With E = W and gain = 1/beta, the gap to backprop shrinks like beta: at 1e-4 over at 1e-3."""
    crossing = bench.rule.crossing
    if not isinstance(crossing, TargetDifference) or crossing.through is not None:
        return None
    if crossing.local_loss != Squared():
        return None
    backprop = bench.updates(bench.plain(), *bench.batch())
    nearer, near = (
        _gap(bench.transported(replace(crossing, beta=beta, gain=1.0, normalized=True)), backprop)
        for beta in (1e-4, 1e-3)
    )
    return nearer / near


class _Apart(nn.Sequential):
    """Calls converted layers one by one, as torch's own Sequential does."""


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs' too


def _backward(model: nn.Module, loss: Tensor) -> Updates:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    grads = {name: p.grad for name, p in model.named_parameters()}
    return {name: grad.clone() for name, grad in grads.items() if grad is not None}


def _gap(found: Updates, expected: Updates) -> float:
    """Give the largest difference, relative to the largest number of the same tensor."""
    if found.keys() != expected.keys():
        return math.inf
    gaps = [0.0]
    for key, b in expected.items():
        if found[key].shape != b.shape:
            return math.inf
        gap = float((found[key] - b).detach().abs().max())
        gaps.append(gap and gap / max(float(b.detach().abs().max()), 1e-300))
    return max(gaps, key=lambda gap: math.inf if math.isnan(gap) else gap)


def _differing(a: Any, b: Any) -> float:
    """Count the attributes in which two values differ, also those that == does not look at."""
    if type(a) is not type(b):
        return 1
    if not isinstance(b, Axis):
        return float(a != b)
    names = {f.name for f in fields(b)} | getattr(b, "__dict__", {}).keys()
    return sum(_differing(getattr(a, name, None), getattr(b, name, None)) for name in names)
