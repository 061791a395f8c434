"""Equilibrium propagation for torch: states that units give, and two equilibria of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.pooling import _MaxPoolNd

from lra.errors import MethodError, Refusal
from lra.loss_terms import LossTerms
from lra.methods import EquilibriumPropagation, Loss
from lra.torch.methods.chain import take_apart
from lra.torch.methods.runs import Runs, exact, refuse, terms_of

MONOTONE = (
    *(nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.ReLU, nn.ReLU6, nn.LeakyReLU),
    *(nn.ELU, nn.CELU, nn.SELU, nn.Softplus, nn.Softsign, nn.LogSigmoid),
)
"""Units that never fall: their states are those of an energy."""


@dataclass
class Place:
    """Where a state stands: after a unit, or after the max pool that follows it.

    A unit that never falls and a pool can change places; before the unit the pool is no part of the
    state's own, which would jump between the units that it pools.
    """

    unit: nn.Module
    pool: nn.Module | None = None

    @property
    def end(self) -> nn.Module:
        """The module whose output the state replaces."""
        return self.pool or self.unit

    def pooled(self, h: Tensor) -> Tensor:
        """Give what the state is compared with, past the hooks."""
        m: Tensor = h if self.pool is None else type(self.pool).forward(self.pool, h)
        return m

    def value(self, h: Tensor) -> Tensor:
        """Give phi(h), past the hooks."""
        z: Tensor = type(self.unit).forward(self.unit, h.clone())
        return z


def places(method: EquilibriumPropagation, model: nn.Module) -> tuple[list[Place], bool]:
    """Give the places of a model's states, and whether the last one gives the output.

    Raises:
        MethodError: for anything but a chain with a weight layer between each two states.
    """
    kinds = ", ".join(cls.__name__ for cls in MONOTONE)
    chain = take_apart(method, model, _is_activation, f"units ({kinds})").segments
    found: list[Place] = []
    refused: list[Refusal] = []
    for segment in chain:
        here = [at for at, module in enumerate(segment.rest) if _is_activation(module)]
        kind, last = type(segment.layer).__name__, segment is chain[-1]
        if len(here) != 1 and not (last and not here):
            reason = f"{len(here)} units follow it before the next weight layer"
            refused.append(Refusal(segment.path, kind, reason))
        elif here:
            unit, *rest = segment.rest[here[0] :]
            pools = isinstance(rest[0], _MaxPoolNd) if rest else False
            found.append(Place(unit, rest[0] if pools else None))
            if last and rest[pools:]:
                refused.append(
                    Refusal(segment.path, kind, "something follows the model's last unit")
                )
    refuse(method, refused, "one unit between two weight layers, and at most one at the end")
    return found, len(found) == len(chain)


def _is_activation(module: nn.Module) -> bool:
    return type(module) in MONOTONE


class _Network(Runs):
    """Runs with given states, and Phi of the last one.

    Attributes:
        phi: sum_k <s_k, g_k(s_(k-1))>.
    """

    def __init__(self, method: EquilibriumPropagation, model: nn.Module, x: Tensor) -> None:
        super().__init__(method, model, x)
        self.method = method
        if torch.is_autocast_enabled(x.device.type):
            raise MethodError(
                "EquilibriumPropagation: differences between equilibria are lost in 16 bits; call "
                "it outside torch.autocast"
            )
        self._places, ends_in_unit = places(method, model)
        self._linear_output = not ends_in_unit
        self._states: Sequence[Tensor] = ()
        self._h: list[Tensor] = []
        self._z: list[Tensor] = []
        self.watch([place.unit for place in self._places], self._arrive)
        self.replace([m for place in self._places for m in (place.unit, place.end)], self._leave)

    def _arrive(self, unit: nn.Module, h: Tensor) -> Tensor:
        self._h.append(self._places[len(self._h)].pooled(h))
        return h.clone() if getattr(unit, "inplace", False) else h

    def _leave(self, module: nn.Module, z: Tensor) -> Tensor:
        at = len(self._z)
        if module is not self._places[at].end:
            return z
        self._z.append(z)
        return self._states[at].to(z.dtype) if self._states else z

    def start(self) -> list[Tensor]:
        """Give the states of the ordinary forward pass."""
        self._states, self._h, self._z = (), [], []
        with torch.no_grad():
            output = self()
        found = [*self._z, output] if self._linear_output else self._z
        return [exact(s) for s in found]

    def phi(self, states: Sequence[Tensor], *, last: bool = False) -> Tensor:
        """Give Phi at states."""
        self._states, self._h, self._z = states, [], []
        output = self(last=last)
        arrived = [*self._h, output] if self._linear_output else self._h
        pairs = zip(states, arrived, strict=True)
        return torch.stack([(s * h.to(s.dtype)).sum() for s, h in pairs]).sum()

    def settle(self, states: Sequence[Tensor], steps: int, push: Any = None) -> list[Tensor]:
        """Let the states settle: s <- s + step (phi(d(Phi - push(s_K))/ds) - s)."""
        for _ in range(steps):
            free = [s.detach().requires_grad_() for s in states]
            Phi = self.phi(free)
            if push is not None:
                Phi = Phi - push(free[-1])
            grads = torch.autograd.grad(Phi, free)
            with torch.no_grad():
                asked = [place.value(g) for place, g in zip(self._places, grads, strict=False)]
                asked += grads[len(asked) :]  # an output without a unit is what it is asked to be
                states = [
                    s.detach().lerp(new, self.method.step)
                    for s, new in zip(free, asked, strict=True)
                ]
        return [s.detach() for s in states]


def output(method: EquilibriumPropagation, model: nn.Module, x: Tensor) -> Tensor:
    """Give the output of the free equilibrium."""
    with torch.enable_grad(), _Network(method, model, x.detach()) as network:
        return network.settle(network.start(), method.free_steps)[-1]


def step(
    method: EquilibriumPropagation,
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    loss_terms: LossTerms | str | float,
) -> Tensor:
    """Find the equilibria, and leave the estimate of the gradient in `.grad`."""
    beta = method.beta
    with _Network(method, model, x) as network:
        free = network.settle(network.start(), method.free_steps)
        with torch.no_grad():
            answer = loss(free[-1]).detach().clone()
        N = terms_of(loss_terms, free[-1])

        def nudged(strength: float) -> list[Tensor]:
            return network.settle(
                free, method.nudged_steps, lambda output: strength * N * loss(output)
            )

        pushed, other = nudged(beta), nudged(-beta) if method.symmetric else free
        difference = network.phi(other) - network.phi(pushed, last=True)
        (difference / ((2 if method.symmetric else 1) * beta * N)).backward()  # type: ignore[no-untyped-call]
    return answer
