"""Identities of rules and methods: how they are listed, measured and reported."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from lra.axis import Axis
from lra.display import as_html, printable
from lra.loss_terms import LossTerms
from lra.methods import Method
from lra.rules import Rule

Updates = dict[str, Tensor]

ROUNDING = 1e-12  # relative, in float64
CANCELLED = 1e-7  # the same, after a small difference has cancelled most digits


@dataclass(frozen=True)
class Outcome:
    """Report the deviation of a rule or a method from one identity.

    Attributes:
        identity: the identity's name.
        statement: the identity in words.
        deviation: the measured number; infinite if the rule raised an error, None if the identity
            does not apply to the rule.
        allowed: the largest deviation allowed.
        note: the error that the rule raised, or "".
    """

    identity: str
    statement: str
    deviation: float | None
    allowed: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the identity holds, or does not apply."""
        return self.deviation is None or self.deviation <= self.allowed  # never so for a nan

    @property
    def result(self) -> str:
        """One of "n/a", "ok" and "FAILS"."""
        return "n/a" if self.deviation is None else "ok" if self.passed else "FAILS"

    def __str__(self) -> str:
        text = f"{self.result:<5} {self.identity}: {self.statement}"
        if self.deviation is None:
            return text
        note = f"; {self.note}" if self.note else ""
        return f"{text} ({self.deviation:.2g}, allowed {self.allowed:.2g}{note})"


@dataclass(frozen=True, repr=False)
class RuleReport:
    """Report the deviations of a rule or a method from its identities.

    As text, it has one line for each. Notebooks show a table.

    Attributes:
        rule: the rule or the method.
        outcomes: the result for each identity.
    """

    rule: Rule | Method
    outcomes: tuple[Outcome, ...]

    def __str__(self) -> str:
        return "\n".join((f"check_rule: {self.rule}", *(f"  {each}" for each in self.outcomes)))

    def __repr__(self) -> str:
        results = Counter(outcome.result for outcome in self.outcomes)
        counts = ", ".join(f"{count} {result}" for result, count in results.items())
        return f"<RuleReport of {printable(self.rule.name)}: {counts}>"

    def _repr_html_(self) -> str:
        header = "identity", "statement", "result", "deviation", "allowed"
        rows = [
            [each.identity, each.statement, each.result]
            + (["-", "-"] if each.deviation is None else
               [f"{each.deviation:.2g}", f"{each.allowed:.2g}"])
            for each in self.outcomes
        ]  # fmt: skip
        return as_html(f"check_rule: {self.rule}", header, rows, left=3)


@dataclass(frozen=True)
class Bench:
    """The network and data that identities are measured with, the same every time."""

    terms: LossTerms

    def plain(self) -> nn.Sequential:
        """Build a perceptron with smooth activations. Layers 2 and 4 send errors down."""
        seed(0)
        layers = nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 3)
        return nn.Sequential(*layers).double()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Draw inputs and labels."""
        seed(2)
        shape = (6,) if self.terms is LossTerms.BATCH else (6, 3)
        return torch.randn(*shape, 5, dtype=torch.float64), torch.randint(3, shape)


B = TypeVar("B", bound=Bench)
Deviation = Callable[[B], float | None]


@dataclass(frozen=True)
class Identity(Generic[B]):
    """Define one identity.

    Attributes:
        name: its name in reports.
        allowed: the largest deviation allowed; 0 for "to the bit".
        deviation: a function that measures the deviation, and has the identity as its docstring.
    """

    name: str
    allowed: float
    deviation: Deviation[B]

    def measure(self, bench: B) -> Outcome:
        """Measure the deviation. It is infinite if an error is raised.

        Args:
            bench: the networks and data to measure it with.
        """
        try:
            deviation, note = self.deviation(bench), ""
        except Exception as error:  # a user's rule may raise anything
            deviation, note = math.inf, f"{type(error).__name__}: {error}"
        statement = (self.deviation.__doc__ or "").rstrip(".")
        return Outcome(self.name, statement, deviation, self.allowed, note)


class Identities(list[Identity[B]]):
    """A table of identities, in the order in which they are reported."""

    def add(self, name: str, allowed: float = 0.0) -> Callable[[Deviation[B]], Deviation[B]]:
        """Return a decorator that adds a function, which returns None where it does not apply.

        Args:
            name: the identity's name in reports.
            allowed: the largest deviation allowed; 0 for "to the bit".
        """

        def append(deviation: Deviation[B]) -> Deviation[B]:
            self.append(Identity(name, allowed, deviation))
            return deviation

        return append

    def measure(self, bench: B) -> tuple[Outcome, ...]:
        """Measure all of them."""
        return tuple(identity.measure(bench) for identity in self)


def seed(number: int) -> None:
    """Seed the CPU's random numbers."""
    torch.default_generator.manual_seed(number)  # torch.manual_seed would seed GPUs too


def grads_of(model: nn.Module) -> Updates:
    """Copy each parameter's .grad, where it has one."""
    grads = {name: p.grad for name, p in model.named_parameters()}
    return {name: grad.clone() for name, grad in grads.items() if grad is not None}


def by_backward(model: nn.Module, loss: Tensor) -> Updates:
    """Compute the updates of a loss by its backward pass."""
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return grads_of(model)


def largest(updates: Updates) -> float:
    """Return the largest absolute value of all updates."""
    return max((float(update.abs().max()) for update in updates.values()), default=0.0)


def gap(found: Updates, expected: Updates) -> float:
    """Return the largest difference, relative to the largest value of the same tensor."""
    if found.keys() != expected.keys():
        return math.inf
    gaps = [0.0]
    for key, b in expected.items():
        if found[key].shape != b.shape:
            return math.inf
        distance = float((found[key] - b).detach().abs().max())
        gaps.append(distance and distance / max(float(b.detach().abs().max()), 1e-300))
    return max(gaps, key=lambda each: math.inf if math.isnan(each) else each)


def gap_of_copy(net: nn.Module, updates: Callable[[nn.Module], Updates]) -> float:
    """Train a network and a copy of it for three steps, and return their gap."""
    other = copy.deepcopy(net)
    for model in (net, other):
        for _ in range(3):
            found = updates(model)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.sub_(found[name], alpha=0.1)
    return gap(other.state_dict(), net.state_dict())


def differing(a: Any, b: Any) -> float:
    """Count the attributes in which two values differ, including those that == ignores."""
    if type(a) is not type(b):
        return 1
    if not isinstance(b, Axis):
        return float(a != b)
    names = {f.name for f in fields(b)} | getattr(b, "__dict__", {}).keys()
    return sum(differing(getattr(a, name, None), getattr(b, name, None)) for name in names)


def contents(model: nn.Module) -> Iterator[list[Any]]:
    """List each module's class and attributes, flat. Tensors are listed as objects."""
    for module in model.modules():
        own: list[Any] = [type(module)]
        for name, value in vars(module).items():
            parts = [*value.keys(), *value.values()] if isinstance(value, dict) else [value]
            own += [name, *parts]
        own += [p.requires_grad for p in module.parameters(recurse=False)]
        yield own


def same_contents(a: list[Any], b: list[Any]) -> bool:
    """Return whether two such lists have the same objects, or equal names and numbers."""
    return len(a) == len(b) and all(
        one is other or (isinstance(one, (str, int)) and one == other)
        for one, other in zip(a, b, strict=True)
    )
