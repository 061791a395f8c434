"""Observation: where one looks at what the places of a pass are given, and what they send back."""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from lra.torch.ops.ops import Gradients, Op


class Watcher(Protocol):
    """Hears of every place that a pass runs, and of every error that crosses one."""

    def name(self, layer: Any, name: str) -> None:
        """Say what the next place is in a layer's own forward: a function, or a weight."""

    def forward(self, op: Op, x: Tensor, parameters: tuple[Tensor | None, ...]) -> None:
        """See a place with what it is given, before it runs."""

    def backward(self, op: Op, saved: tuple[Tensor, ...], error: Tensor, sent: Gradients) -> None:
        """See an error that crossed a place, and what the place sent down and to its parameters."""

    def apart(self) -> contextlib.AbstractContextManager[None]:
        """Draw at random what the plain model does not draw."""


watcher: Watcher | None = None
"""Who looks; nobody, but for a diagnosis."""


@contextlib.contextmanager
def watching(by: Watcher) -> Iterator[None]:
    """Have somebody look."""
    global watcher
    before, watcher = watcher, by
    try:
        yield
    finally:
        watcher = before
