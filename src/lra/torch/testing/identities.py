"""Identities: what is measured of a rule or a method, how it is listed, and how it is reported."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from lra.axis import Axis
from lra.loss_terms import LossTerms
from lra.methods import Method
from lra.rules import Rule

Updates = dict[str, Tensor]

ROUNDING = 1e-12  # relative, in float64
CANCELLED = 1e-7  # the same where a small difference has cancelled most digits


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
    """The identities a rule or a method was held to; as text, a line each."""

    rule: Rule | Method
    outcomes: tuple[Outcome, ...]

    def __str__(self) -> str:
        return "\n".join((f"check_rule: {self.rule}", *(f"  {each}" for each in self.outcomes)))


@dataclass(frozen=True)
class Bench:
    """What every identity is measured with: a network and data, the same every time."""

    terms: LossTerms

    def plain(self) -> nn.Sequential:
        """Build a perceptron with smooth nonlinearities; layers 2 and 4 send errors down."""
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
    """One identity: its name, and a function whose docstring says it and which measures it."""

    name: str
    allowed: float
    deviation: Deviation[B]

    def measure(self, bench: B) -> Outcome:
        """Measure the deviation; an error that is raised is a failure."""
        try:
            deviation, note = self.deviation(bench), ""
        except Exception as error:  # a user's rule may raise anything
            deviation, note = math.inf, f"{type(error).__name__}: {error}"
        says = (self.deviation.__doc__ or "").rstrip(".")
        return Outcome(self.name, says, deviation, self.allowed, note)


class Identities(list[Identity[B]]):
    """A table of identities, in the order in which they are reported."""

    def add(self, name: str, allowed: float = 0.0) -> Callable[[Deviation[B]], Deviation[B]]:
        """List a function among the identities; it returns None where it does not apply.

        Args:
            name: what reports call it.
            allowed: the largest deviation allowed; 0 for "to the bit".
        """

        def listed(deviation: Deviation[B]) -> Deviation[B]:
            self.append(Identity(name, allowed, deviation))
            return deviation

        return listed

    def measure(self, bench: B) -> tuple[Outcome, ...]:
        """Measure all of them."""
        return tuple(identity.measure(bench) for identity in self)


def seed(number: int) -> None:
    """Start the random numbers anew."""
    torch.default_generator.manual_seed(number)  # torch.manual_seed would reach the GPUs' too


def taken(model: nn.Module) -> Updates:
    """Give each parameter's .grad, where it has one."""
    grads = {name: p.grad for name, p in model.named_parameters()}
    return {name: grad.clone() for name, grad in grads.items() if grad is not None}


def by_backward(model: nn.Module, loss: Tensor) -> Updates:
    """Give what a loss's own backward leaves."""
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return taken(model)


def largest(updates: Updates) -> float:
    """Give the largest number of all updates."""
    return max((float(update.abs().max()) for update in updates.values()), default=0.0)


def gap(found: Updates, expected: Updates) -> float:
    """Give the largest difference, relative to the largest number of the same tensor."""
    if found.keys() != expected.keys():
        return math.inf
    gaps = [0.0]
    for key, b in expected.items():
        if found[key].shape != b.shape:
            return math.inf
        apart = float((found[key] - b).detach().abs().max())
        gaps.append(apart and apart / max(float(b.detach().abs().max()), 1e-300))
    return max(gaps, key=lambda each: math.inf if math.isnan(each) else each)


def gap_of_copy(net: nn.Module, updates: Callable[[nn.Module], Updates]) -> float:
    """Train a network and a copy of it for three steps, and give how far apart they end."""
    twin = copy.deepcopy(net)
    for model in (net, twin):
        for _ in range(3):
            found = updates(model)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.sub_(found[name], alpha=0.1)
    return gap(twin.state_dict(), net.state_dict())


def differing(a: Any, b: Any) -> float:
    """Count the attributes in which two values differ, also those that == does not look at."""
    if type(a) is not type(b):
        return 1
    if not isinstance(b, Axis):
        return float(a != b)
    names = {f.name for f in fields(b)} | getattr(b, "__dict__", {}).keys()
    return sum(differing(getattr(a, name, None), getattr(b, name, None)) for name in names)


def held(model: nn.Module) -> Iterator[list[Any]]:
    """Give what each module is and holds, in a flat list; of tensors themselves, not numbers."""
    for module in model.modules():
        own: list[Any] = [type(module)]
        for name, value in vars(module).items():
            parts = [*value.keys(), *value.values()] if isinstance(value, dict) else [value]
            own += [name, *parts]
        own += [p.requires_grad for p in module.parameters(recurse=False)]
        yield own


def same(a: list[Any], b: list[Any]) -> bool:
    """Tell whether two such lists hold the same objects; names and numbers may be equal."""
    return len(a) == len(b) and all(
        one is other or (isinstance(one, (str, int)) and one == other)
        for one, other in zip(a, b, strict=True)
    )
