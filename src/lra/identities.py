"""Identities of rules and methods: how they are listed, measured and reported."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from lra.axis import Axis
from lra.display import as_html, printable
from lra.errors import RuleError
from lra.methods import Method
from lra.rules import Rule

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


B = TypeVar("B")
"""What identities are measured with: networks and data."""

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

    def check(self, rule: Rule | Method, bench: B) -> RuleReport:
        """Measure all of them.

        Args:
            rule: the rule or the method.
            bench: the networks and data to measure them with.

        Returns:
            The measured deviations, if all identities hold.

        Raises:
            RuleError: with every identity that fails, its deviation and the deviation allowed.
        """
        outcomes = tuple(identity.measure(bench) for identity in self)
        failed = [outcome for outcome in outcomes if not outcome.passed]
        if failed:
            raise RuleError(
                f"check_rule: {rule} breaks {len(failed)} of {len(outcomes)} identities:\n"
                + "\n".join(f"  - {outcome}" for outcome in failed)
            )
        return RuleReport(rule, outcomes)


def gap(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Return the largest difference, relative to the largest value of the same array."""
    if found.keys() != expected.keys():
        return math.inf
    gaps = [0.0]
    for name, b in expected.items():
        if found[name].shape != b.shape:
            return math.inf
        distance = float(abs(found[name] - b).max())
        gaps.append(distance and distance / max(float(abs(b).max()), 1e-300))
    return max(gaps, key=lambda each: math.inf if math.isnan(each) else each)


def differing(a: Any, b: Any) -> float:
    """Count the attributes in which two values differ, including those that == ignores."""
    if type(a) is not type(b):
        return 1
    if not isinstance(b, Axis):
        return float(a != b)
    names = {f.name for f in fields(b)} | getattr(b, "__dict__", {}).keys()
    return sum(differing(getattr(a, name, None), getattr(b, name, None)) for name in names)
