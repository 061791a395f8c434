"""The wiring axis: which layer an error comes from."""

from dataclasses import dataclass

from lra.axis import Axis, count


@dataclass(frozen=True)
class Wiring(Axis):
    """Base of the wiring axis."""

    @property
    def reach(self) -> int | None:
        """The number of weight layers that an error crosses at once; None for all of them."""
        raise NotImplementedError


@dataclass(frozen=True)
class Chain(Wiring):
    """Layer by layer, back along the path of the forward pass."""

    @property
    def reach(self) -> int:
        """One layer."""
        return 1


@dataclass(frozen=True)
class Direct(Wiring):
    """From the output layer directly to the input of every other layer: d = e E.

    e is the error at the output layer, E has the shape (outputs, units), and d arrives at the z
    that a layer reads. Errors cross no weight layer but the last.

    Source: Nøkland, Direct feedback alignment provides learning in deep neural networks, NeurIPS
    2016.
    """

    @property
    def reach(self) -> None:
        """All layers."""
        return None


@dataclass(frozen=True)
class Stride(Wiring):
    """From each layer to the input of a layer further down: d = e E, with E between the two.

    The input of layer l receives its error from layer l + every - 1, or from the output layer if
    that is nearer. 1 is `Chain`, and the number of layers is `Direct`.

    Args:
        every: the number of weight layers that an error crosses at once.

    Source: after Ororbia, Mali, Kohan, Millidge and Salvatori, Backpropagation-free deep learning
    with recursive local representation alignment, AAAI 2023.
    """

    every: int = 2

    def __post_init__(self) -> None:
        count(self, "every")

    @property
    def reach(self) -> int:
        """The number of layers given."""
        return self.every
