"""Random states: torch's, NumPy's and Python's, for passes that must leave or repeat them."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class RandomStates:
    """The random states that a computation may change: torch's, NumPy's and Python's.

    Args:
        *of: tensors, or modules with tensors, whose devices have random states.
    """

    def __init__(self, *of: nn.Module | Tensor) -> None:
        tensors = [
            t
            for each in of
            for t in (
                (each,) if isinstance(each, Tensor) else (*each.parameters(), *each.buffers())
            )
        ]
        self._cuda = sorted({t.device.index for t in tensors if t.device.type == "cuda"})
        self._mps = any(t.device.type == "mps" for t in tensors)

    def take(self) -> tuple[Any, ...]:
        """Return the current states."""
        cuda = [torch.cuda.get_rng_state(i) for i in self._cuda]
        mps = torch.mps.get_rng_state() if self._mps else None
        return torch.get_rng_state(), cuda, mps, np.random.get_state(), random.getstate()

    def put(self, states: tuple[Any, ...]) -> None:
        """Set the states."""
        cpu, cuda, mps, numpy, python = states
        torch.set_rng_state(cpu)
        for i, state in zip(self._cuda, cuda, strict=True):
            torch.cuda.set_rng_state(state, i)
        if mps is not None:
            torch.mps.set_rng_state(mps)
        np.random.set_state(numpy)
        random.setstate(python)

    def seed(self, seed: int) -> None:
        """Set all of them by a seed."""
        torch.default_generator.manual_seed(seed)
        for i in self._cuda:
            with torch.cuda.device(i):
                torch.cuda.manual_seed(seed)
        if self._mps:
            torch.mps.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)

    @contextlib.contextmanager
    def preserved(self) -> Iterator[None]:
        """Restore the states at the end of the context."""
        before = self.take()
        try:
            yield
        finally:
            self.put(before)


def with_current_noise(f: Callable[[Tensor], Tensor], h: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a random function with the noise that it would draw now, in every evaluation.

    Args:
        f: the function, which draws noise by a shape on a device.
        h: a tensor on this device.
    """
    states = RandomStates(h)
    now = states.take()

    def repeated(v: Tensor) -> Tensor:
        with states.preserved():
            states.put(now)
            return f(v)

    return repeated
