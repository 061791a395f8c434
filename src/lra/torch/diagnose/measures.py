"""The measurements of one layer in one pass: angles, norms, errors, targets, dead units."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lra.torch.diagnose.report import Arrival, LayerKind, LayerReport
from lra.torch.diagnose.update_report import UpdateReport

FLAT = 0.05
"""The share of an activation's steepest slope below which it counts as flat."""

_STEP = 0.05  # the distance on either side of h over which a slope is measured
_STEP_IF_FLAT = 1.0  # the same for step functions


def angle_between(a: Tensor, b: Tensor) -> float | None:
    """Compute the angle between two tensors in degrees; None if one is zero or not finite.

    With a' and b' the tensors divided by their norms, it is 2 atan2(norm(a' - b'), norm(a' + b')),
    which is exact for small angles too.
    """
    a, b = (t.detach().flatten().double() for t in (a, b))
    norms = a.norm(), b.norm()
    if not all(0 < float(norm) < math.inf for norm in norms):
        return None
    a, b = a / norms[0], b / norms[1]
    return math.degrees(2 * math.atan2(float((a - b).norm()), float((a + b).norm())))


def norm_of(t: Tensor) -> float:
    """Compute the norm of a tensor."""
    return float(t.detach().double().norm())


def rms_of(t: Tensor) -> float:
    """Compute the root mean square of a tensor's nonzero numbers; 0 if there are none."""
    t = t.detach().double()
    t = t[t != 0]
    if not t.numel():
        return 0.0
    largest = t.abs().max()  # without it, the square of a small float64 would underflow
    return float(largest * (t / largest).square().mean().sqrt())


def compare(
    name: str, W: Tensor, dW: Tensor | None, gradient: Tensor | None, *, feedback: bool,
    eps: float | None,
) -> UpdateReport:  # fmt: skip
    """Compare a parameter's update with backprop's gradient.

    Args:
        name: the parameter's qualified name.
        W: the parameter.
        dW: its update; None for zero.
        gradient: backprop's gradient, if it has one.
        feedback: whether the parameter is a feedback weight.
        eps: what the optimizer adds to the size of the update.
    """
    dW = torch.zeros_like(W) if dW is None else dW
    size, own = norm_of(dW), norm_of(W)
    return UpdateReport(
        name,
        size,
        size / own if own else None,
        None if gradient is None else norm_of(gradient),
        None if gradient is None else angle_between(dW, gradient),
        feedback,
        rms_of(dW),
        eps,
        torch.finfo(W.dtype).tiny,
    )


@dataclass
class LayerRecord:
    """The measurements of one layer so far.

    Attributes:
        name: its qualified name.
        kind: its role under the rule.
        type: its class or function.
        records_errors: whether errors are recorded; if not, the arrival depends on the updates.
        calls: the number of calls.
        errors: norm, largest number and smallest normal number of each error.
        feedback_angles: the angle between E and W of each call.
        moves: norms of each m = h - (h - beta d) and its h.
        flat_shares: the share of flat numbers in each call, and their count.
        dead_shares: the share of dead units in each call, and their count.
        target_lost: whether rounding lost the difference between a target and the output.
        updates: those of its parameters.
    """

    name: str
    kind: LayerKind
    type: str
    records_errors: bool = True
    calls: int = 0
    errors: list[tuple[float, float, float]] = field(default_factory=list)
    feedback_angles: list[float] = field(default_factory=list)
    moves: list[tuple[float, float]] = field(default_factory=list)
    flat_shares: list[tuple[float, int]] = field(default_factory=list)
    dead_shares: list[tuple[float, int]] = field(default_factory=list)
    target_lost: bool = False
    updates: list[UpdateReport] = field(default_factory=list)

    def add_error(self, error: Tensor) -> None:
        """Record an error that arrives."""
        if error.numel():
            largest = float(error.abs().max())
            self.errors.append((norm_of(error), largest, torch.finfo(error.dtype).tiny))

    def add_move(self, m: Tensor, h: Tensor, *, subtracts: bool) -> None:
        """Record the distance of targets.

        Args:
            m: the distance of each target from h.
            h: pre-activations, of m's shape.
            subtracts: whether the difference of outputs is computed by subtraction, which rounds.
        """
        self.moves.append((norm_of(m), norm_of(h)))
        rounding = torch.finfo(h.dtype).eps * norm_of(h)
        self.target_lost |= subtracts and 0 < norm_of(m) < rounding

    def measure_activation(
        self, phi: Callable[[Tensor], Tensor], h: Tensor, is_step_function: bool
    ) -> None:
        """Evaluate phi around h to find flat numbers, and units that are equal for all samples."""
        if h.dtype in (torch.float16, torch.bfloat16):
            h = h.float()
        if not h.numel() or not bool(torch.isfinite(h).all()):
            return
        step = _STEP_IF_FLAT if is_step_function else _STEP

        def slope(v: Tensor) -> Tensor:
            return (phi(v + step) - phi(v - step)).abs()

        at_h = slope(h)
        rms = h.square().mean().sqrt()
        at_usual_scale = slope(h / rms) if rms else at_h  # where phi is steep, if it is anywhere
        steepest = torch.maximum(at_h.max(), at_usual_scale.max())
        if steepest > 0:
            flat = at_h < FLAT * steepest
            self.flat_shares.append((float(flat.double().mean()), h.numel()))
        if h.dim() > 1 and len(h) > 1:
            z = phi(h.clone())
            dead = (z == z[:1]).all(0)
            self.dead_shares.append((float(dead.double().mean()), dead.numel()))

    @property
    def arrival(self) -> Arrival:
        """Whether the errors are usable, or the updates where no errors are recorded."""
        if not self.records_errors:
            sizes = [update.size for update in self.updates]
            if not all(map(math.isfinite, sizes)):
                return Arrival.NOT_FINITE
            return Arrival.USABLE if any(sizes) or not sizes else Arrival.ZERO
        if not self.errors:
            return Arrival.NOTHING
        largest = max(largest for _, largest, _ in self.errors)
        if not all(math.isfinite(norm) for norm, _, _ in self.errors):
            return Arrival.NOT_FINITE
        if largest == 0:
            return Arrival.ZERO
        if self.target_lost or largest < max(tiny for _, _, tiny in self.errors):
            return Arrival.UNDERFLOW
        return Arrival.USABLE

    def report(self) -> LayerReport:
        """Summarize the measurements of all calls."""
        moved = _combined_norm([m for m, _ in self.moves])
        at = _combined_norm([h for _, h in self.moves])
        angles = self.feedback_angles
        return LayerReport(
            *(self.name, self.kind, self.type, self.calls),
            _combined_norm([norm for norm, _, _ in self.errors]),
            self.arrival,
            sum(angles) / len(angles) if angles else None,
            moved,
            moved / at if moved is not None and at else None,
            _weighted_mean(self.flat_shares),
            _weighted_mean(self.dead_shares),
            tuple(self.updates),
        )


def _combined_norm(norms: list[float]) -> float | None:
    return math.hypot(*norms) if norms else None


def _weighted_mean(shares: list[tuple[float, int]]) -> float | None:
    total = sum(count for _, count in shares)
    return sum(share * count for share, count in shares) / total if total else None
