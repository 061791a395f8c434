"""The dimensions of a search: named ranges of numbers and lists of values."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lra.errors import OptionError


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, on a linear or a logarithmic scale."""

    name: str
    low: float
    high: float
    log: bool = False

    def at(self, fraction: float) -> float:
        """Return the number at a fraction of the range, from 0 to 1."""
        if self.log:
            return self.low * math.exp(fraction * math.log(self.high / self.low))
        return self.low + (self.high - self.low) * fraction

    def __str__(self) -> str:
        scale = " on a log scale" if self.log else ""
        return f"{self.name} from {self.low:g} to {self.high:g}{scale}"


@dataclass(frozen=True)
class Choice:
    """A list of values, each as text."""

    name: str
    values: tuple[str, ...]

    def at(self, fraction: float) -> str:
        """Return the value at a fraction of the list, from 0 to 1."""
        return self.values[min(int(fraction * len(self.values)), len(self.values) - 1)]

    def __str__(self) -> str:
        return f"{self.name} of {', '.join(self.values)}"


Dimension = Range | Choice


def read_dimension(text: str) -> Dimension:
    """Parse a dimension: lr=1e-4..1e-1:log, beta=0.1..2, or gamma=0,0.1,1.

    Raises:
        OptionError: if the text is none of these forms.
    """
    name, equals, rest = text.partition("=")
    wrong = OptionError(
        f"search {text!r}: expected NAME=LOW..HIGH, NAME=LOW..HIGH:log, or NAME=VALUE,VALUE"
    )
    if not (name and equals and rest):
        raise wrong
    if ".." not in rest:
        values = tuple(rest.split(","))
        if len(set(values)) != len(values) or not all(values):
            raise wrong
        return Choice(name, values)
    span, colon, scale = rest.partition(":")
    low, _, high = span.partition("..")
    try:
        dimension = Range(name, float(low), float(high), bool(colon))
    except ValueError as error:
        raise wrong from error
    if colon and scale != "log":
        raise wrong
    if not -math.inf < dimension.low < dimension.high < math.inf:
        raise OptionError(f"search {text!r}: LOW must be below HIGH, and both finite")
    if dimension.log and dimension.low <= 0:
        raise OptionError(f"search {text!r}: LOW must be above 0 on a log scale")
    return dimension


def even_point(dimensions: Sequence[Dimension], index: int) -> dict[str, float | str]:
    """Return point number `index` of a sequence that covers a space evenly from its middle on.

    Coordinate j of point i is frac(1/2 + i g^-(j+1)), with g^(d+1) = g + 1 for d dimensions.

    Source: M. Roberts, The unreasonable effectiveness of quasirandom sequences, 2018.
    """
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (len(dimensions) + 1))
    return {
        one.name: one.at((0.5 + index * root ** -(j + 1)) % 1) for j, one in enumerate(dimensions)
    }


def edges(
    dimensions: Sequence[Dimension],
    best: Mapping[str, Any],
    trials: Sequence[tuple[Mapping[str, Any], float | None]],
) -> tuple[str, ...]:
    """Return the ranges whose best value is the lowest or highest one tried, as "the lowest lr".

    A range counts if trials on that side of the middle value score better than those on the other
    in more pairs than worse, so that chance in a setting without effect counts half as often.

    Args:
        dimensions: the dimensions of the search.
        best: the settings of the best trial.
        trials: the settings and the score of each trial (None: diverged or stopped early).
    """
    found = []
    for name in (one.name for one in dimensions if isinstance(one, Range)):
        values = [settings[name] for settings, _ in trials]
        if not values or min(values) < best[name] < max(values):
            continue
        middle = statistics.median(values)
        sides: dict[bool, list[float]] = {True: [], False: []}
        for value, (_, score) in zip(values, trials, strict=True):
            if value != middle:
                same_side = (value < middle) == (best[name] < middle)
                sides[same_side].append(-math.inf if score is None else score)
        pairs = list(itertools.product(sides[True], sides[False]))
        if sum(a > b for a, b in pairs) > sum(a < b for a, b in pairs):
            found.append(f"the {'lowest' if best[name] < middle else 'highest'} {name}")
    return tuple(found)
