"""Predictive coding for torch: a free state at the input of each weight layer."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lra.errors import Refusal
from lra.loss_terms import LossTerms
from lra.methods import Method, PredictiveCoding
from lra.methods.base import Loss
from lra.torch.audit.classify import Kind
from lra.torch.convert.forward_scan import escapes
from lra.torch.methods.runs import (
    Runs,
    check_model,
    check_states,
    count_loss_terms,
    detached_copy,
    raise_if_refused,
    size,
    without_ddp,
)
from lra.torch.registry import INTERCEPTED, WEIGHT_LAYERS

_REMEDY = "Use a shorter step or smaller weights"


def find_weight_layers(method: Method, model: nn.Module) -> list[nn.Module]:
    """List the weight layers of a model, each of which reads a state.

    Raises:
        MethodError: for a model that is converted, compiled or sharded, or that also multiplies
            with weights elsewhere, where errors would cross as in backprop, without a state.
    """
    check_model(method, model)
    found: list[nn.Module] = []
    refused: list[Refusal] = []
    for path, module in without_ddp(model).named_modules():
        kind = type(module)
        if isinstance(module, (nn.Linear, _ConvNd)) or kind in WEIGHT_LAYERS:
            found.append(module)
        elif isinstance(module, INTERCEPTED) and kind.__module__.startswith("torch."):
            if any(p.dim() > 1 for p in module.parameters(recurse=False)):
                reason = "it multiplies with several weights in one kernel; write it with nn.Linear"
                refused.append(Refusal(path, kind.__name__, reason))
        elif not kind.__module__.startswith("torch."):
            calls = [each.name for each in escapes(module) if each.kind is Kind.WEIGHTS]
            if calls:
                reason = (
                    f"its forward calls {', '.join(calls)}; write it with nn.Linear or a "
                    "convolution, or register it as a weight layer: "
                    f"lra.register_weight_layer({kind.__name__}, ...)"
                )
                refused.append(Refusal(path, kind.__name__, reason))
    raise_if_refused(method, refused, "its states are the inputs of weight layers")
    return found


class StateRuns(Runs):
    """Runs of a model that replace the inputs of weight layers by states.

    Attributes:
        count: the number of states, known after the first run.
    """

    def __init__(self, method: Method, model: nn.Module, x: Tensor) -> None:
        super().__init__(method, model, x)
        self.count = 0
        self._calls: list[int | None] = []  # the index of the state that each call reads
        self._first = True
        self._seen: dict[tuple[int, int], tuple[Tensor, int, Tensor]] = {}
        self._call = 0
        self.replace_inputs(find_weight_layers(method, model), self._replace_input)

    def __call__(self, *, last: bool = False) -> object:
        """Run the model with its states."""
        self._seen, self._call = {}, 0
        output = super().__call__(last=last)
        self._first = False
        self._seen = {}
        return output

    def state(self, at: int, z: Tensor) -> Tensor:
        """Return the state with an index, for its prediction z, of z's shape and type."""
        raise NotImplementedError

    def _replace_input(self, module: nn.Module, z: Tensor) -> Tensor:
        if self._first:
            self._calls.append(self._state_index(z))
        at, self._call = self._calls[self._call], self._call + 1
        if at is None:
            return z
        if _key(z) not in self._seen:  # with z, so that no other tensor gets its id
            self._seen[_key(z)] = z, at, self.state(at, z)
        return self._seen[_key(z)][2]

    def _state_index(self, z: Tensor) -> int | None:
        """Return the index of z's state, or None if z depends on no trainable parameter."""
        if not z.requires_grad:
            return None
        if _key(z) in self._seen:
            return self._seen[_key(z)][1]
        self.count += 1
        return self.count - 1


def _key(z: Tensor) -> tuple[int, int]:
    """Return a key of a tensor's identity and version: an in-place change makes another state."""
    return id(z), z._version


class _States(StateRuns):
    """Runs with free states.

    Attributes:
        states: x_l, in the order of the first run.
        energy: sum |x_l - z_l|^2 / 2 of the last run.
    """

    def __init__(self, method: PredictiveCoding, model: nn.Module, x: Tensor) -> None:
        self.states: list[Tensor] = []
        self.energy = torch.zeros((), device=x.device)
        super().__init__(method, model, x)

    def __call__(self, *, last: bool = False) -> object:
        self.energy = torch.zeros_like(self.energy)
        return super().__call__(last=last)

    def state(self, at: int, z: Tensor) -> Tensor:
        """Return the state for its prediction z, and add their distance to the energy."""
        if at == len(self.states):
            self.states.append(detached_copy(z).requires_grad_())
        x = self.states[at]
        self.energy = self.energy + (x - z.to(x.dtype)).square().sum() / 2
        return x.to(z.dtype)

    def move(self, F: Tensor, step: float) -> Tensor:
        """Step the states by x <- x - step dF/dx, and return the size of the step."""
        grads = torch.autograd.grad(F, self.states)
        self.place(x.detach() - step * g for x, g in zip(self.states, grads, strict=True))
        return step * size(grads)

    def place(self, states: Iterable[Tensor]) -> None:
        """Replace the states, without their graph, by others."""
        self.states = [state.detach().requires_grad_() for state in states]

    def hold(self) -> None:
        """Let the states take no more steps."""
        self.states = [state.detach() for state in self.states]


def step(
    method: PredictiveCoding,
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    loss_terms: LossTerms | str | float,
) -> Tensor:
    """Step the states down the energy, and add the gradient of the energy to `.grad`."""
    with _States(method, model, x) as run:
        output = run()
        N = count_loss_terms(loss_terms, output)
        value = loss(output)
        answer = value.detach().clone()
        nudges = (method.beta, -method.beta) if method.symmetric else (method.beta,)
        forward, total = run.states, torch.zeros_like(answer)
        for nudge in nudges:
            if nudge < 0:
                run.place(forward)
                value = loss(run())
            F = nudge * value + run.energy / N
            start, moves = F.detach(), []
            steps = method.steps if run.states else 1
            for t in range(steps):
                if run.states:
                    moves.append(run.move(F, method.step * N))
                if t + 1 == steps:
                    run.hold()
                last = t + 1 == steps and nudge == nudges[-1]
                F = nudge * loss(run(last=last)) + run.energy / N
            if moves:
                check_states(method, run.states, moves, _REMEDY, (start, F))
            total = total + F / (nudge * len(nudges))
        total.backward()  # type: ignore[no-untyped-call]
    return answer
