"""What is measured of one layer in one pass: angles, lengths, flat and dead units, errors."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lra.torch.diagnose.report import Arrival, LayerKind, LayerReport, UpdateReport

FLAT = 0.05
"""Less than this share of the steepest slope of a unit counts as flat."""

_STEP = 0.05  # on either side of h, for the slope of a chord
_LEVEL = 1.0  # the same at units that are flat but for steps


def angle_between(a: Tensor, b: Tensor) -> float | None:
    """Give the angle of two tensors in degrees; None where one is zero or not finite.

    2 atan2(|a' - b'|, |a' + b'|) with a' = a / |a|, which is exact for small angles too.
    """
    a, b = (t.detach().flatten().double() for t in (a, b))
    lengths = a.norm(), b.norm()
    if not all(0 < float(length) < math.inf for length in lengths):
        return None
    a, b = a / lengths[0], b / lengths[1]
    return math.degrees(2 * math.atan2(float((a - b).norm()), float((a + b).norm())))


def length(t: Tensor) -> float:
    """Give |t|."""
    return float(t.detach().double().norm())


def compare(name: str, W: Tensor, dW: Tensor | None, gradient: Tensor | None) -> UpdateReport:
    """Hold an update against backprop's gradient, which is None where there is none."""
    dW = torch.zeros_like(W) if dW is None else dW
    own = length(W)
    return UpdateReport(
        name,
        length(dW),
        length(dW) / own if own else None,
        None if gradient is None else length(gradient),
        None if gradient is None else angle_between(dW, gradient),
    )


@dataclass
class Seen:
    """What was seen of one layer so far, its calls added up."""

    name: str
    kind: LayerKind
    type: str
    calls: int = 0
    errors: list[tuple[float, float, float]] = field(default_factory=list)
    feedback: list[float] = field(default_factory=list)
    moves: list[tuple[float, float]] = field(default_factory=list)
    flat: list[tuple[float, int]] = field(default_factory=list)
    dead: list[tuple[float, int]] = field(default_factory=list)
    lost: bool = False
    deaf: bool = False
    updates: list[UpdateReport] = field(default_factory=list)

    def arrive(self, error: Tensor) -> None:
        """Note an error that arrives."""
        if error.numel():
            largest = float(error.abs().max())
            self.errors.append((length(error), largest, torch.finfo(error.dtype).tiny))

    def move(self, m: Tensor, h: Tensor) -> None:
        """Note how far targets are from h."""
        self.moves.append((length(m), length(h)))
        self.lost |= 0 < length(m) < torch.finfo(h.dtype).eps * length(h)

    def unit(self, phi: Callable[[Tensor], Tensor], h: Tensor, steps: bool) -> None:
        """Find by evaluating phi where it is flat, and which units are the same for all samples."""
        if h.dtype in (torch.float16, torch.bfloat16):
            h = h.float()
        if not h.numel() or not bool(torch.isfinite(h).all()):
            return
        step = _LEVEL if steps else _STEP

        def slope(v: Tensor) -> Tensor:
            return (phi(v + step) - phi(v - step)).abs()

        here = slope(h)
        rms = h.square().mean().sqrt()
        usual = slope(h / rms) if rms else here  # where phi is steep, if it is so anywhere
        steepest = torch.maximum(here.max(), usual.max())
        if steepest > 0:
            self.flat.append((float((here < FLAT * steepest).double().mean()), h.numel()))
        if h.dim() > 1 and len(h) > 1:
            z = phi(h.clone())
            self.dead.append((float((z == z[:1]).all(0).double().mean()), z[0].numel()))

    @property
    def arrival(self) -> Arrival:
        """What became of the errors, or of the updates where none are heard."""
        if self.deaf:
            sizes = [update.size for update in self.updates]
            if not all(map(math.isfinite, sizes)):
                return Arrival.NOT_FINITE
            return Arrival.USABLE if any(sizes) or not sizes else Arrival.ZERO
        if not self.errors:
            return Arrival.NOTHING
        largest = max(largest for _, largest, _ in self.errors)
        if not all(math.isfinite(size) for size, _, _ in self.errors):
            return Arrival.NOT_FINITE
        if largest == 0:
            return Arrival.ZERO
        if self.lost or largest < max(tiny for _, _, tiny in self.errors):
            return Arrival.UNDERFLOW
        return Arrival.USABLE

    def report(self) -> LayerReport:
        """Give all that was seen."""
        moved = _together([m for m, _ in self.moves])
        at = _together([h for _, h in self.moves])
        return LayerReport(
            *(self.name, self.kind, self.type, self.calls),
            _together([size for size, _, _ in self.errors]),
            self.arrival,
            sum(self.feedback) / len(self.feedback) if self.feedback else None,
            moved,
            moved / at if moved is not None and at else None,
            _mean(self.flat),
            _mean(self.dead),
            tuple(self.updates),
        )


def _together(lengths: list[float]) -> float | None:
    return math.hypot(*lengths) if lengths else None


def _mean(shares: list[tuple[float, int]]) -> float | None:
    total = sum(count for _, count in shares)
    return sum(share * count for share, count in shares) / total if total else None
