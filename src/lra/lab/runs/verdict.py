"""The verdict on a run's diagnoses: the layers with useless updates, and a remedy."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lra.crossing import TargetDifference
from lra.inits import Mirror
from lra.lab.runs.diagnoses import Row
from lra.methods import Method
from lra.rules import Rule
from lra.torch.diagnose import Arrival, LayerKind
from lra.torch.diagnose.notes import abbreviate
from lra.torch.diagnose.plot import AWAY
from lra.wiring import Chain

VANISHED = 1e-8
"""An update below this multiple of its weights has vanished."""
EXPLODED = 1e2
"""An update above this multiple of its weights has exploded."""
RATIO = 1e-3
"""Small and large updates must also be this much smaller, or larger, than backprop's gradient."""
HALF = 0.5
"""The share of a step below which the optimizer's eps holds a layer back."""
SUBNORMAL = 2.0**-126
"""Float32's smallest normal number."""


def _away(row: Row) -> bool:
    return row["step"] > 0 and row["angle"] is not None and row["angle"] > AWAY


def _vanished(row: Row) -> bool:
    relative = row["update_relative"]
    if relative is None or not math.isfinite(relative) or row["arrival"] == Arrival.NOTHING:
        return False
    return relative < VANISHED and _below_backprop(row)


def _below_eps(row: Row) -> bool:
    return row["step_scale"] is not None and row["step_scale"] < HALF and _below_backprop(row)


def _subnormal(row: Row) -> bool:
    return (
        row["update_rms"] is not None and 0 < row["update_rms"] < SUBNORMAL and _below_backprop(row)
    )


def _below_backprop(row: Row) -> bool:
    gradient = row["gradient"]
    return gradient is None or row["update"] <= RATIO * gradient


def _exploded(row: Row) -> bool:
    relative, gradient = row["update_relative"], row["gradient"]
    if row["arrival"] == Arrival.NOT_FINITE or not math.isfinite(row["update"] or 0):
        return True
    large = relative is not None and relative > EXPLODED
    return large and (not gradient or row["update"] * RATIO >= gradient)


@dataclass(frozen=True)
class _Problem:
    """A kind of useless update.

    Attributes:
        applies: the test for one row.
        description: what the updates do.
        too_small: whether larger errors are the remedy.
    """

    applies: Callable[[Row], bool]
    description: str
    too_small: bool = False


_PROBLEMS = (
    _Problem(
        _vanished,
        f"vanish (below {VANISHED:g} of the weights, and {RATIO:g} of backprop's)",
        too_small=True,
    ),
    _Problem(
        _below_eps,
        "are below the optimizer's eps, which cuts their steps to less than half",
        too_small=True,
    ),
    _Problem(
        _subnormal,
        f"are below float32's smallest normal number ({SUBNORMAL:.2g}), which is slow on many "
        "CPUs, or flushed to zero",
        too_small=True,
    ),
    _Problem(_exploded, f"explode (over {EXPLODED:g} times the weights, or not finite)"),
    _Problem(_away, "point away from backprop's gradient (more than 90 degrees)"),
)


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
    clauses: dict[str, list[str]] = {}
    for problem in _PROBLEMS:
        layers, epochs = _affected(weight_rows, problem.applies)
        if layers:
            clauses.setdefault(_remedy(problem, rule), []).append(
                f"{epochs} the updates of {len(layers)} of {total} weight layers "
                f"({abbreviate(layers, 4)}) {problem.description}"
            )
    if not clauses:
        return None
    sentence = "; ".join(f"{', and '.join(found)}: {remedy}" for remedy, found in clauses.items())
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


def _remedy(problem: _Problem, rule: Rule | Method) -> str:
    if isinstance(rule, Method):
        return f"try other settings of {rule.name}, or another rule"
    crossing, mirrors = rule.crossing, isinstance(getattr(rule.feedback, "init", None), Mirror)
    targets = crossing if isinstance(crossing, TargetDifference) else None
    if problem.too_small and targets and not targets.normalized:
        return "keep errors at their scale with normalized=true in --rule, or --rule mirrored-lra"
    if rule.wiring != Chain():  # mirroring needs a weight between the two layers
        return "send errors layer by layer with --rule mirrored-lra"
    if not mirrors:
        return "mirror the weights with --rule mirrored-lra or lra.mirror(model)"
    if targets and problem.too_small:
        return f"try a larger beta than {targets.beta:g} in --rule, or another init in --model"
    if targets:
        return (
            f"try a smaller beta than {targets.beta:g} in --rule, or call lra.mirror(model) again"
        )
    return "call lra.mirror(model) again, or try a smaller --lr"
