"""Places across networks: one place of K networks of one architecture, run as one.

Tensors have the networks in dimension 0. A network's numbers, its beta or gamma, are among them.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lra.axis import Axis
from lra.torch.ops.ops import Gradients, Op

Numbers = Mapping[str, Tensor]
"""The numbers of a rule that differ among networks, (K,), by their paths: "crossing.beta"."""

numbers: Numbers | None = None
"""Those of the networks that run together; None where none do."""


@contextlib.contextmanager
def networks(of: Numbers) -> Iterator[None]:
    """Have places run across networks, each with its numbers."""
    global numbers
    before, numbers = numbers, of
    try:
        yield
    finally:
        numbers = before


def put(axis: Axis, given: Numbers) -> Any:
    """Give an axis value, or a rule, with tensors in the place of some of its numbers.

    A user's numbers were checked when each network's rule was built; these are the same ones.
    """
    changed = copy.copy(axis)
    for path, value in given.items():
        name, _, rest = path.partition(".")
        inner = put(getattr(changed, name), {rest: value}) if rest else value
        object.__setattr__(changed, name, inner)
    return changed


@dataclass(frozen=True)
class Across:
    """A place of K networks: what the place does for one, by `torch.vmap` for all.

    Attributes:
        place: the place, with the numbers of one of the networks.
        numbers: those that differ.
    """

    op: Op
    numbers: Numbers

    @property
    def parameters(self) -> int:
        """How many tensors the place takes after its input."""
        return self.op.parameters

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Compute what the plain layers compute."""
        return _for_each(self.op.forward, x, *parameters)  # type: ignore[no-any-return]

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Keep what the place keeps."""

        def save(x: Tensor, out: Tensor, *parameters: Any) -> tuple[Tensor, ...]:
            return self.op.save(x, out, output_escapes, *parameters)

        return _for_each(save, x, out, *parameters)  # type: ignore[no-any-return]

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Send each network's error across by its own numbers."""
        exact = torch.promote_types(error.dtype, torch.float32)
        given = {
            path: values.to(error.device, exact)
            for path, values in self.numbers.items()
            if hasattr(self.op, path.partition(".")[0])
        }
        there: list[bool] = []

        def backward(given: Numbers, error: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
            gradients = _put_into(self.op, given).backward(saved, error, needs)
            there[:] = [gradient is not None for gradient in gradients]
            return tuple(gradient for gradient in gradients if gradient is not None)

        found = iter(_for_each(backward, given, error, *saved))
        return tuple(next(found) if is_there else None for is_there in there)


def _put_into(op: Any, given: Numbers) -> Any:
    """Give a place whose axes have the numbers given."""
    axes: dict[str, dict[str, Tensor]] = {}
    for path, value in given.items():
        axis, _, rest = path.partition(".")
        axes.setdefault(axis, {})[rest] = value
    return replace(op, **{name: put(getattr(op, name), own) for name, own in axes.items()})


def _for_each(f: Callable[..., Any], *tensors: Any) -> Any:
    """Run f for each network; what is None is so for all."""
    return torch.vmap(f, tuple(None if t is None else 0 for t in tensors))(*tensors)
