"""The verdict on a run's diagnoses: the layers with useless updates, and a remedy."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lra.crossing import TargetDifference
from lra.inits import Mirror
from lra.lab.diagnoses import Row
from lra.methods import Method
from lra.rules import Rule
from lra.torch.diagnose import Arrival, LayerKind
from lra.wiring import Chain

AWAY = 90.0
"""The angle to backprop's gradient, in degrees, beyond which an update points away from it."""
VANISHED = 1e-8
"""An update below this multiple of its weights has vanished. Adam's epsilon is of this size."""
EXPLODED = 1e2
"""An update above this multiple of its weights has exploded."""
RATIO = 1e-3
"""Both require that the update is also this much smaller, or larger, than backprop's gradient."""


def _away(row: Row) -> bool:
    return row["step"] > 0 and row["angle"] is not None and row["angle"] > AWAY


def _vanished(row: Row) -> bool:
    relative, gradient = row["update_relative"], row["gradient"]
    if relative is None or not math.isfinite(relative) or row["arrival"] == Arrival.NOTHING:
        return False
    return relative < VANISHED and (gradient is None or row["update"] <= RATIO * gradient)


def _exploded(row: Row) -> bool:
    relative, gradient = row["update_relative"], row["gradient"]
    if row["arrival"] == Arrival.NOT_FINITE or not math.isfinite(row["update"] or 0):
        return True
    large = relative is not None and relative > EXPLODED
    return large and (not gradient or row["update"] * RATIO >= gradient)


@dataclass(frozen=True)
class _Problem:
    """A kind of useless update: its test for one row, and its description."""

    applies: Callable[[Row], bool]
    description: str


_PROBLEMS = {
    "vanish": _Problem(
        _vanished, f"vanish (below {VANISHED:g} of the weights, and {RATIO:g} of backprop's)"
    ),
    "explode": _Problem(_exploded, f"explode (over {EXPLODED:g} times the weights, or not finite)"),
    "away": _Problem(_away, "point away from backprop's gradient (more than 90 degrees)"),
}


def verdict(rows: Iterable[Row], rule: Rule | Method) -> str | None:
    """Return a sentence about weight layers whose updates were useless throughout an epoch.

    That is in every diagnosis of the epoch. Angles before the first step of the run do not count,
    since they depend on the initial feedback alone.

    Args:
        rows: the run's diagnoses.
        rule: the run's rule or method.

    Returns:
        The sentence, with a remedy; None if there is no such layer.
    """
    weight_rows = [row for row in rows if row["kind"] == LayerKind.WEIGHTS]
    total = len({row["layer"] for row in weight_rows})
    clauses = []
    for name, problem in _PROBLEMS.items():
        layers, epochs = _affected(weight_rows, problem.applies)
        if layers:
            clauses.append(
                f"{epochs} the updates of {len(layers)} of {total} weight layers "
                f"({_abbreviate(layers)}) {problem.description}: {_remedy(name, rule)}"
            )
    if not clauses:
        return None
    sentence = "; ".join(clauses)
    return f"diagnosis: {sentence[0].upper()}{sentence[1:]}."


def _affected(rows: list[Row], applies: Callable[[Row], bool]) -> tuple[list[str], str]:
    """Return the layers to which a problem applies throughout an epoch, and these epochs."""
    epochs: dict[tuple[str, int], list[bool]] = {}
    for row in rows:
        if row["step"] > 0 or applies(row):
            epochs.setdefault((row["layer"], row["epoch"]), []).append(applies(row))
    affected = [key for key, results in epochs.items() if all(results)]
    numbers = sorted({epoch for _, epoch in affected})
    if not numbers:
        return [], ""
    last = max(row["epoch"] for row in rows)
    if len(numbers) > 1 and len(numbers) == numbers[-1] - numbers[0] + 1:
        listed = f"epochs {numbers[0]} to {numbers[-1]}"
    else:
        listed = f"epoch{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
    layers = dict.fromkeys(row["layer"] for row in rows)  # in forward order
    return [name for name in layers if name in dict(affected)], f"in {listed} of {last}"


def _remedy(problem: str, rule: Rule | Method) -> str:
    if isinstance(rule, Method):
        return f"try other settings of {rule.name}, or another rule"
    crossing, mirrors = rule.crossing, isinstance(getattr(rule.feedback, "init", None), Mirror)
    targets = crossing if isinstance(crossing, TargetDifference) else None
    if problem == "vanish" and targets and not targets.normalized:
        return "keep errors at their scale with --normalized or --rule mirrored-lra"
    if rule.wiring != Chain():  # mirroring needs a weight between the two layers
        return "send errors layer by layer with --rule mirrored-lra"
    if not mirrors:
        return "mirror the weights with --rule mirrored-lra or lra.mirror(model)"
    if targets and problem == "vanish":
        return f"try a larger --beta than {targets.beta:g}, or another --init"
    if targets:
        return f"try a smaller --beta than {targets.beta:g}, or call lra.mirror(model) again"
    return "call lra.mirror(model) again, or try a smaller --lr"


def _abbreviate(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
