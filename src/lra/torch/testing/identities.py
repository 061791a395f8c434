"""The networks and data that identities of rules and methods are measured with, and gaps."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lra import identities
from lra.loss_terms import LossTerms

Updates = dict[str, Tensor]


@dataclass(frozen=True)
class Bench:
    """The network and data that identities are measured with, the same every time."""

    terms: LossTerms

    def plain(self) -> nn.Sequential:
        """Build a perceptron with smooth activations. Layers 2 and 4 send errors down."""
        seed(0)
        layers = nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 3)
        return nn.Sequential(*layers).double()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Draw inputs and labels."""
        seed(2)
        shape = (6,) if self.terms is LossTerms.BATCH else (6, 3)
        return torch.randn(*shape, 5, dtype=torch.float64), torch.randint(3, shape)


def seed(number: int) -> None:
    """Seed the CPU's random numbers."""
    torch.default_generator.manual_seed(number)  # torch.manual_seed would seed GPUs too


def grads_of(model: nn.Module) -> Updates:
    """Copy each parameter's .grad, where it has one."""
    grads = {name: p.grad for name, p in model.named_parameters()}
    return {name: grad.clone() for name, grad in grads.items() if grad is not None}


def by_backward(model: nn.Module, loss: Tensor) -> Updates:
    """Compute the updates of a loss by its backward pass."""
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return grads_of(model)


def largest(updates: Updates) -> float:
    """Return the largest absolute value of all updates."""
    return max((float(update.abs().max()) for update in updates.values()), default=0.0)


def gap(found: Updates, expected: Updates) -> float:
    """Return the largest difference, relative to the largest value of the same tensor."""
    return identities.gap(*({k: u.detach() for k, u in each.items()} for each in (found, expected)))


def gap_of_copy(net: nn.Module, updates: Callable[[nn.Module], Updates]) -> float:
    """Train a network and a copy of it for three steps, and return their gap."""
    other = copy.deepcopy(net)
    for model in (net, other):
        for _ in range(3):
            found = updates(model)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.sub_(found[name], alpha=0.1)
    return gap(other.state_dict(), net.state_dict())


def contents(model: nn.Module) -> Iterator[list[Any]]:
    """List each module's class and attributes, flat. Tensors are listed as objects."""
    for module in model.modules():
        own: list[Any] = [type(module)]
        for name, value in vars(module).items():
            parts = [*value.keys(), *value.values()] if isinstance(value, dict) else [value]
            own += [name, *parts]
        own += [p.requires_grad for p in module.parameters(recurse=False)]
        yield own


def same_contents(a: list[Any], b: list[Any]) -> bool:
    """Return whether two such lists have the same objects, or equal names and numbers."""
    return len(a) == len(b) and all(
        one is other or (isinstance(one, (str, int)) and one == other)
        for one, other in zip(a, b, strict=True)
    )
