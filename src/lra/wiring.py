"""The wiring axis: the path an error takes through the network."""

from dataclasses import dataclass

from lra.axis import Axis


@dataclass(frozen=True)
class Wiring(Axis):
    """Base of the wiring axis."""


@dataclass(frozen=True)
class Chain(Wiring):
    """Layer by layer, back along the path of the forward pass."""
