"""Equilibrium propagation for torch: the states at activations, and their equilibria."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.pooling import _MaxPoolNd

from lra.errors import MethodError, Refusal
from lra.loss_terms import LossTerms
from lra.methods import EquilibriumPropagation
from lra.methods.base import Loss
from lra.torch.methods.chain import split_into_segments
from lra.torch.methods.runs import (
    Runs,
    check_states,
    count_loss_terms,
    detached_copy,
    raise_if_refused,
    size,
)

MONOTONE = (
    *(nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.ReLU, nn.ReLU6, nn.LeakyReLU),
    *(nn.ELU, nn.CELU, nn.SELU, nn.Softplus, nn.Softsign, nn.LogSigmoid),
)
"""Non-decreasing activations: only their states have an energy."""

_REMEDY = (
    "With large weights, states of unbounded activations have no equilibrium: use nn.Hardsigmoid, "
    "nn.Tanh or smaller weights"
)


@dataclass
class StateLocation:
    """The location of a state: after an activation, or after the max pool that follows it.

    A non-decreasing activation and a max pool commute, so the pool is computed first. A state that
    a max pool read would jump between the units of a window.
    """

    activation: nn.Module
    pool: nn.Module | None = None

    @property
    def last(self) -> nn.Module:
        """The module whose output the state replaces."""
        return self.pool or self.activation

    def pre_activation(self, h: Tensor) -> Tensor:
        """Pool the activation's input, if there is a pool, without calling hooks."""
        m: Tensor = h if self.pool is None else type(self.pool).forward(self.pool, h)
        return m

    def activate(self, h: Tensor) -> Tensor:
        """Compute phi(h) without calling hooks."""
        z: Tensor = type(self.activation).forward(self.activation, h.clone())
        return z


def locate_states(
    method: EquilibriumPropagation, model: nn.Module
) -> tuple[list[StateLocation], bool]:
    """Find the locations of a model's states.

    Returns:
        The locations, and whether the last one is the model's output.

    Raises:
        MethodError: for anything but a chain with one weight layer between any two states.
    """
    kinds = ", ".join(cls.__name__ for cls in MONOTONE)
    chain = split_into_segments(method, model, _is_activation, f"activations ({kinds})").segments
    found: list[StateLocation] = []
    refused: list[Refusal] = []
    for segment in chain:
        here = [at for at, module in enumerate(segment.rest) if _is_activation(module)]
        kind, last = type(segment.layer).__name__, segment is chain[-1]
        if len(here) != 1 and not (last and not here):
            reason = f"{len(here)} activations follow it before the next weight layer"
            refused.append(Refusal(segment.path, kind, reason))
        elif here:
            activation, *rest = segment.rest[here[0] :]
            pools = isinstance(rest[0], _MaxPoolNd) if rest else False
            found.append(StateLocation(activation, rest[0] if pools else None))
            if last and rest[pools:]:
                reason = "other modules follow the model's last activation"
                refused.append(Refusal(segment.path, kind, reason))
    raise_if_refused(
        method,
        refused,
        "it needs one activation between two weight layers, and at most one at the end",
    )
    return found, len(found) == len(chain)


def _is_activation(module: nn.Module) -> bool:
    return type(module) in MONOTONE


class _Network(Runs):
    """Runs of a model in which the states replace the outputs of activations."""

    def __init__(self, method: EquilibriumPropagation, model: nn.Module, x: Tensor) -> None:
        super().__init__(method, model, x)
        self.method = method
        if torch.is_autocast_enabled(x.device.type):
            raise MethodError(
                "EquilibriumPropagation: autocast is on, and 16 bits lose the small differences "
                "between equilibria; call the method outside torch.autocast"
            )
        self._locations, ends_in_activation = locate_states(method, model)
        self._linear_output = not ends_in_activation
        self._states: Sequence[Tensor] = ()
        self._h: list[Tensor] = []
        self._z: list[Tensor] = []
        self.replace_inputs([at.activation for at in self._locations], self._save_input)
        outputs = [m for at in self._locations for m in (at.activation, at.last)]
        self.replace_outputs(outputs, self._replace_output)

    def _save_input(self, activation: nn.Module, h: Tensor) -> Tensor:
        self._h.append(self._locations[len(self._h)].pre_activation(h))
        return h.clone() if getattr(activation, "inplace", False) else h

    def _replace_output(self, module: nn.Module, z: Tensor) -> Tensor:
        at = len(self._z)
        if module is not self._locations[at].last:
            return z
        self._z.append(z)
        return self._states[at].to(z.dtype) if self._states else z

    def start(self) -> list[Tensor]:
        """Return the states of a forward pass."""
        self._states, self._h, self._z = (), [], []
        with torch.no_grad():
            output = self()
        found = [*self._z, output] if self._linear_output else self._z
        return [detached_copy(s) for s in found]

    def phi(self, states: Sequence[Tensor], *, last: bool = False) -> Tensor:
        """Compute Phi = sum_k <s_k, g_k(s_(k-1))>."""
        self._states, self._h, self._z = states, [], []
        output = self(last=last)
        g = [*self._h, output] if self._linear_output else self._h
        pairs = zip(states, g, strict=True)
        return torch.stack([(s * h.to(s.dtype)).sum() for s, h in pairs]).sum()

    def settle(
        self, states: Sequence[Tensor], steps: int, nudge: Callable[[Tensor], Tensor] | None = None
    ) -> list[Tensor]:
        """Step the states by s <- s + step (phi(d(Phi - nudge(s_K))/ds) - s).

        Raises:
            Diverged: for states that are not finite at the end.
        """
        moves = []
        for t in range(steps):
            free = [s.detach().requires_grad_() for s in states]
            Phi = self.phi(free)
            if nudge is not None:
                Phi = Phi - nudge(free[-1])
            grads = torch.autograd.grad(Phi, free)
            with torch.no_grad():
                targets = [at.activate(g) for at, g in zip(self._locations, grads, strict=False)]
                targets += grads[len(targets) :]  # an output without an activation
                states = [
                    s.detach().lerp(target, self.method.step)
                    for s, target in zip(free, targets, strict=True)
                ]
                if t in (0, steps - 1):
                    moves.append(size(s - old for s, old in zip(states, free, strict=True)))
        check_states(self.method, states, moves, _REMEDY)
        return [s.detach() for s in states]


def output(method: EquilibriumPropagation, model: nn.Module, x: Tensor) -> Tensor:
    """Compute the output at the free equilibrium."""
    with torch.enable_grad(), _Network(method, model, x.detach()) as network:
        return network.settle(network.start(), method.free_steps)[-1]


def step(
    method: EquilibriumPropagation,
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    loss_terms: LossTerms | str | float,
) -> Tensor:
    """Compute the equilibria, and add the estimate of the gradient to `.grad`."""
    beta = method.beta
    with _Network(method, model, x) as network:
        free = network.settle(network.start(), method.free_steps)
        with torch.no_grad():
            answer = loss(free[-1]).detach().clone()
        N = count_loss_terms(loss_terms, free[-1])

        def nudged(strength: float) -> list[Tensor]:
            return network.settle(
                free, method.nudged_steps, lambda output: strength * N * loss(output)
            )

        positive, other = nudged(beta), nudged(-beta) if method.symmetric else free
        difference = network.phi(other) - network.phi(positive, last=True)
        (difference / ((2 if method.symmetric else 1) * beta * N)).backward()  # type: ignore[no-untyped-call]
    return answer
