"""The observer: a diagnosis sees the inputs of every op and the errors that it sends."""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from lra.torch.ops.ops import Gradients, Op


class Observer(Protocol):
    """What is called for every op of a forward pass, and for every error that crosses one."""

    def name_next(self, layer: Any, name: str) -> None:
        """Name the next op, a function or a weight, within an intercepted module's forward."""

    def forward(self, op: Op, x: Tensor, parameters: tuple[Tensor | None, ...]) -> None:
        """Receive an op and its inputs before it runs."""

    def backward(self, op: Op, saved: tuple[Tensor, ...], error: Tensor, sent: Gradients) -> None:
        """Receive an error that arrived at an op, and what the op sent on."""

    def separate_random(self) -> contextlib.AbstractContextManager[None]:
        """Draw random numbers without moving the random states of the plain model."""


current: Observer | None = None
"""The observer, during a diagnosis."""


@contextlib.contextmanager
def observing(by: Observer) -> Iterator[None]:
    """Call an observer for every op within the context."""
    global current
    before, current = current, by
    try:
        yield
    finally:
        current = before
