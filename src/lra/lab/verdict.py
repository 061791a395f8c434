"""The verdict on a run's diagnoses: which layers' updates were of no use, and what helps."""

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
"""Beyond this angle to backprop's gradient, in degrees, an update leads away from it."""
VANISHED = 1e-8
"""An update smaller than this share of its weights moves nothing; Adam's epsilon is as small."""
EXPLODED = 1e2
"""An update larger than so many times its weights replaces them."""
BESIDE = 1e-3
"""Both only where it is so much smaller, or larger, than backprop's gradient at the same place."""


def _away(row: Row) -> bool:
    return row["step"] > 0 and row["angle"] is not None and row["angle"] > AWAY


def _vanished(row: Row) -> bool:
    relative, gradient = row["update_relative"], row["gradient"]
    if relative is None or not math.isfinite(relative) or row["arrival"] == Arrival.NOTHING:
        return False
    return relative < VANISHED and (gradient is None or row["update"] <= BESIDE * gradient)


def _exploded(row: Row) -> bool:
    relative, gradient = row["update_relative"], row["gradient"]
    if row["arrival"] == Arrival.NOT_FINITE or not math.isfinite(row["update"] or 0):
        return True
    far = relative is not None and relative > EXPLODED
    return far and (not gradient or row["update"] * BESIDE >= gradient)


@dataclass(frozen=True)
class _Trouble:
    is_so: Callable[[Row], bool]
    says: str


_TROUBLES = {
    "vanish": _Trouble(
        _vanished, f"vanish (below {VANISHED:g} of the weights, and {BESIDE:g} of backprop's)"
    ),
    "explode": _Trouble(_exploded, f"explode (over {EXPLODED:g} times the weights, or not finite)"),
    "away": _Trouble(_away, "point away from backprop's gradient (more than 90 degrees)"),
}


def verdict(rows: Iterable[Row], rule: Rule | Method) -> str | None:
    """Say in a sentence which weight layers' updates were of no use throughout an epoch.

    Throughout: in every diagnosis of the epoch, but for that before the first step of the run,
    whose angles tell of the drawn feedback alone.

    Args:
        rows: of a run's diagnoses.
        rule: the run's rule or method.

    Returns:
        The sentence with the remedy; None where there is nothing to say.
    """
    counted = [row for row in rows if row["kind"] == LayerKind.WEIGHTS]
    total = len({row["layer"] for row in counted})
    clauses = []
    for name, trouble in _TROUBLES.items():
        where, when = _throughout(counted, trouble.is_so)
        if where:
            clauses.append(
                f"{when} the updates of {len(where)} of {total} weight layers ({_some(where)}) "
                f"{trouble.says}: {_remedy(name, rule)}"
            )
    if not clauses:
        return None
    said = "; ".join(clauses)
    return f"diagnosis: {said[0].upper()}{said[1:]}."


def _throughout(rows: list[Row], is_so: Callable[[Row], bool]) -> tuple[list[str], str]:
    """Name the layers of which something is so in a whole epoch, and these epochs."""
    epochs: dict[tuple[str, int], list[bool]] = {}
    for row in rows:
        if row["step"] > 0 or is_so(row):
            epochs.setdefault((row["layer"], row["epoch"]), []).append(is_so(row))
    found = [key for key, each in epochs.items() if all(each)]
    numbers = sorted({epoch for _, epoch in found})
    if not numbers:
        return [], ""
    last = max(row["epoch"] for row in rows)
    if len(numbers) > 1 and len(numbers) == numbers[-1] - numbers[0] + 1:
        told = f"epochs {numbers[0]} to {numbers[-1]}"
    else:
        told = f"epoch{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
    layers = dict.fromkeys(row["layer"] for row in rows)  # in forward order
    return [name for name in layers if name in dict(found)], f"in {told} of {last}"


def _remedy(trouble: str, rule: Rule | Method) -> str:
    if isinstance(rule, Method):
        return f"try other settings of {rule.name}, or another rule"
    crossing, mirrors = rule.crossing, isinstance(getattr(rule.feedback, "init", None), Mirror)
    targets = crossing if isinstance(crossing, TargetDifference) else None
    if trouble == "vanish" and targets and not targets.normalized:
        return "normalised targets keep errors at their scale, --normalized or --rule mirrored-lra"
    if rule.wiring != Chain():  # between layers there is no weight to mirror
        return "errors that cross layer by layer come nearer, --rule mirrored-lra"
    if not mirrors:
        return "let the feedback mirror the weights, --rule mirrored-lra or lra.mirror(model)"
    if targets and trouble == "vanish":
        return f"try a larger --beta than {targets.beta:g}, or another --init"
    if targets:
        return f"try a smaller --beta than {targets.beta:g}, or mirror anew: lra.mirror(model)"
    return "mirror anew, lra.mirror(model), or try a smaller --lr"


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
