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
        predictions: z_l of the last run.
        states: s_l of the last run; without their graph if it was the last of all.
    """

    def __init__(self, method: ErrorPredictiveCoding, model: nn.Module, x: Tensor) -> None:
        self.errors: list[Tensor] = []
        self.predictions: list[Tensor] = []
        self.states: list[Tensor] = []
        self._last = False
        super().__init__(method, model, x)

    def __call__(self, *, last: bool = False) -> object:
        self.predictions, self.states, self._last = [], [], last
        return super().__call__(last=last)

    def state(self, at: int, z: Tensor) -> Tensor:
        """Add the error to the prediction z."""
        s = z + self.errors[at].to(z.dtype) if self.errors else z
        if self._last:
            s = s.detach()
        self.predictions.append(z)
        self.states.append(s)
        return s

    def move(self, loss: Tensor, step: float) -> Tensor:
        """Step the errors by eps <- eps - step (eps + dloss/ds); return the size of the step."""
        found = torch.autograd.grad(loss, self.states, allow_unused=True, materialize_grads=True)
        grads = [g.float() if g.itemsize < 4 else g for g in found]
        moves = torch._foreach_add(grads, self.errors) if self.errors else grads
        moves = torch._foreach_mul(moves, -step)
        self.errors = list(torch._foreach_add(self.errors, moves) if self.errors else moves)
        return size(moves)

    def update(self, value: Tensor, weight: float) -> None:
        """Add the updates: each error goes down to the weights below its prediction."""
        scaled = torch._foreach_mul(self.errors, -1 / weight)
        pairs = [(value, torch.ones_like(value))]
        pairs += [(z, e.to(z.dtype)) for z, e in zip(self.predictions, scaled, strict=True)]
        roots = [pair for pair in pairs if pair[0].requires_grad]  # not below frozen weights
        torch.autograd.backward([root for root, _ in roots], [error for _, error in roots])


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
        run.update(value, weight)
    return answer
