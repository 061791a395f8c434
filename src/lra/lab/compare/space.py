"""What a search may choose from: ranges of numbers, and lists of values, each by a name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lra.errors import OptionError


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, evenly by themselves or by their logarithms."""

    name: str
    low: float
    high: float
    log: bool = False

    def at(self, share: float) -> float:
        """Give the number at a share of the way, 0 to 1."""
        if self.log:
            return self.low * math.exp(share * math.log(self.high / self.low))
        return self.low + (self.high - self.low) * share

    def __str__(self) -> str:
        scale = ", by logarithm" if self.log else ""
        return f"{self.name} from {self.low:g} to {self.high:g}{scale}"


@dataclass(frozen=True)
class Choice:
    """Values as words."""

    name: str
    values: tuple[str, ...]

    def at(self, share: float) -> str:
        """Give the value at a share of the way, 0 to 1."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]

    def __str__(self) -> str:
        return f"{self.name} of {', '.join(self.values)}"


Dimension = Range | Choice


def read_dimension(text: str) -> Dimension:
    """Read lr=1e-4..1e-1:log, beta=0.1..2, or gamma=0,0.1,1.

    Raises:
        OptionError: for anything else.
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
        found = Range(name, float(low), float(high), bool(colon))
    except ValueError as error:
        raise wrong from error
    if colon and scale != "log":
        raise wrong
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low < found.high):
        raise OptionError(f"search {text!r}: LOW must be below HIGH, and both finite")
    if found.log and found.low <= 0:
        raise OptionError(f"search {text!r}: by logarithm LOW must be above 0")
    return found


def even_point(dimensions: Sequence[Dimension], index: int) -> dict[str, float | str]:
    """Give the index-th of points that cover a space evenly; the first is its middle.

    Coordinate j of point i is frac(1/2 + i g^-(j+1)), with g^(d+1) = g + 1 for d dimensions.

    Source: M. Roberts, The unreasonable effectiveness of quasirandom sequences, 2018.
    """
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (len(dimensions) + 1))
    return {
        one.name: one.at((0.5 + index * root ** -(j + 1)) % 1) for j, one in enumerate(dimensions)
    }
