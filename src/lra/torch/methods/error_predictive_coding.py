"""Predictive coding in error form for torch: an error at the input of each weight layer."""

import torch
from torch import Tensor, nn

from lra.loss_terms import LossTerms
from lra.methods import ErrorPredictiveCoding
from lra.methods.base import Loss
from lra.torch.methods.predictive_coding import StateRuns, find_weight_layers
from lra.torch.methods.runs import check_states, count_loss_terms, size

__all__ = ["find_weight_layers", "step"]

_REMEDY = "Use a shorter step, a larger precision, or smaller weights"


class _Errors(StateRuns):
    """Runs in which the states are s_l = z_l + eps_l.

    Attributes:
        errors: eps_l, in the order of the first run; empty before the first step.
        states: s_l of the last run, with their graph.
        local: sum <-eps_l, z_l> of the last pass, in which states are detached.
    """

    def __init__(self, method: ErrorPredictiveCoding, model: nn.Module, x: Tensor) -> None:
        self.errors: list[Tensor] = []
        self.states: list[Tensor] = []
        self.local = torch.zeros((), device=x.device)
        self._last = False
        super().__init__(method, model, x)

    def __call__(self, *, last: bool = False) -> object:
        self.states, self._last = [], last
        return super().__call__(last=last)

    def state(self, at: int, z: Tensor) -> Tensor:
        """Add the error to the prediction z."""
        s = z + self.errors[at].to(z.dtype) if self.errors else z
        if self._last:
            error = self.errors[at]
            self.local = self.local - (error * z.to(error.dtype)).sum()
            s = s.detach()
        self.states.append(s)
        return s

    def move(self, loss: Tensor, step: float) -> Tensor:
        """Step the errors by eps <- eps - step (eps + dloss/ds); return the size of the step."""
        grads = [g.float() if g.itemsize < 4 else g for g in torch.autograd.grad(loss, self.states)]
        if not self.errors:
            self.errors = [-step * g for g in grads]
            return size(self.errors)
        moves = [step * (e + g) for e, g in zip(self.errors, grads, strict=True)]
        self.errors = [e - move for e, move in zip(self.errors, moves, strict=True)]
        return size(moves)


def step(
    method: ErrorPredictiveCoding,
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    loss_terms: LossTerms | str | float,
) -> Tensor:
    """Step the errors down the energy, and add the update to `.grad`."""
    with _Errors(method, model, x) as run:
        output = run()
        N = count_loss_terms(loss_terms, output)
        value = loss(output)
        answer = value.detach().clone()
        if not run.count:  # there is no state between layers
            value.backward()  # type: ignore[no-untyped-call]
            return answer
        weight = N / (run.count if method.precision is None else method.precision)
        moves = []
        for t in range(method.steps):
            if t:
                value = loss(run())
            moves.append(run.move(weight * value, method.step))
        value = loss(run(last=True))
        energy = sum((e.square().sum() / 2 for e in run.errors), weight * value.detach())
        check_states(method, run.errors, moves, _REMEDY, (weight * answer, energy))
        (value + run.local / weight).backward()  # type: ignore[no-untyped-call]
    return answer
