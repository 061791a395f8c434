"""Ops across networks: one op of K networks of one architecture, batched by `torch.vmap`.

Tensors have the networks in dimension 0, and so do the numbers in which their rules differ, such as
beta or gamma.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lra.axis import Axis
from lra.torch.ops import autograd
from lra.torch.ops.ops import Gradients, Op

Numbers = Mapping[str, Tensor]
"""The numbers that differ among the networks' rules, (K,), by their paths: "crossing.beta"."""


@contextlib.contextmanager
def batched_ops(numbers: Numbers) -> Iterator[None]:
    """Run ops across networks in this context, each network with its own numbers."""

    def run(ops: tuple[Op, ...], x: Tensor, *parameters: Tensor | None) -> Tensor:
        result: Tensor = _BatchedFunction.apply((ops, numbers), x, *parameters)  # type: ignore[no-untyped-call]
        return result

    before, autograd.run_batched = autograd.run_batched, run
    try:
        yield
    finally:
        autograd.run_batched = before


class _BatchedFunction(Function):
    """A chain of ops. Under `torch.vmap` over networks, torch calls its `vmap`."""

    @staticmethod
    def forward(chain: tuple[tuple[Op, ...], Numbers], x: Tensor, *parameters: Any) -> Tensor:
        """Run the ops for one network."""
        for op in chain[0]:
            own, parameters = parameters[: op.parameters], parameters[op.parameters :]
            x = op.forward(x, *own)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save nothing: the node that `vmap` builds saves what it needs."""

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, chain: tuple[tuple[Op, ...], Numbers], *tensors: Any
    ) -> tuple[Tensor, int]:
        """Run the ops across networks as one node outside vmap."""
        K = info.batch_size
        first = [
            t if t is None or d == 0 else t.expand(K, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip(tensors, in_dims[1:], strict=True)
        ]
        ops, numbers = chain
        across = tuple(Across(op, numbers) for op in ops)
        return autograd.ChainFunction.apply(across, *first), 0  # type: ignore[no-untyped-call]


def with_numbers(axis: Axis, given: Numbers) -> Any:
    """Return an axis value, or a rule, with tensors instead of some of its numbers.

    The numbers were checked when each network's rule was built.
    """
    changed = copy.copy(axis)
    for path, value in given.items():
        name, _, rest = path.partition(".")
        inner = with_numbers(getattr(changed, name), {rest: value}) if rest else value
        object.__setattr__(changed, name, inner)
    return changed


@dataclass(frozen=True)
class Across:
    """An op of K networks: `torch.vmap` over one network's op.

    Attributes:
        op: the op, with the numbers of one of the networks.
        numbers: the numbers that differ.
    """

    op: Op
    numbers: Numbers

    @property
    def parameters(self) -> int:
        """The number of tensors that the op takes after its input."""
        return self.op.parameters

    def forward(self, x: Tensor, *parameters: Any) -> Tensor:
        """Compute the plain layers' outputs."""
        return _for_each(self.op.forward, x, *parameters)  # type: ignore[no-any-return]

    def save(
        self, x: Tensor, out: Tensor, output_escapes: bool, *parameters: Any
    ) -> tuple[Tensor, ...]:
        """Return the tensors that the op saves."""

        def save(x: Tensor, out: Tensor, *parameters: Any) -> tuple[Tensor, ...]:
            return self.op.save(x, out, output_escapes, *parameters)

        return _for_each(save, x, out, *parameters)  # type: ignore[no-any-return]

    def backward(
        self, saved: tuple[Tensor, ...], error: Tensor, needs: tuple[bool, ...]
    ) -> Gradients:
        """Send each network's error across, with its own numbers."""
        dtype = torch.promote_types(error.dtype, torch.float32)
        given = {
            path: values.to(error.device, dtype)
            for path, values in self.numbers.items()
            if hasattr(self.op, path.partition(".")[0])
        }
        present: list[bool] = []

        def backward(given: Numbers, error: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
            gradients = _op_with_numbers(self.op, given).backward(saved, error, needs)
            present[:] = [gradient is not None for gradient in gradients]
            return tuple(gradient for gradient in gradients if gradient is not None)

        found = iter(_for_each(backward, given, error, *saved))
        return tuple(next(found) if given else None for given in present)


def _op_with_numbers(op: Any, given: Numbers) -> Any:
    """Return an op whose axes have the numbers given."""
    axes: dict[str, dict[str, Tensor]] = {}
    for path, value in given.items():
        axis, _, rest = path.partition(".")
        axes.setdefault(axis, {})[rest] = value
    changed = {name: with_numbers(getattr(op, name), own) for name, own in axes.items()}
    return replace(op, **changed)


def _for_each(f: Callable[..., Any], *tensors: Any) -> Any:
    """Map f over the networks. Arguments that are None stay None."""
    return torch.vmap(f, tuple(None if t is None else 0 for t in tensors))(*tensors)
