"""The wiring axis: the path an error takes through the network."""

from dataclasses import dataclass

from lra.axis import Axis, count


@dataclass(frozen=True)
class Wiring(Axis):
    """Base of the wiring axis."""

    @property
    def reach(self) -> int | None:
        """How many weight layers an error crosses at once; None for as many as there are."""
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
    """From the output layer straight to what every other layer reads: d = e E.

    E has the shape (outputs, units), e is the error at the output layer, and d arrives at the z
    that a layer reads. Errors cross no weight layer but the last.

    Source: Nøkland, Direct feedback alignment provides learning in deep neural networks, NeurIPS
    2016.
    """

    @property
    def reach(self) -> None:
        """All layers."""
        return None


@dataclass(frozen=True)
class Skip(Wiring):
    """From each layer to what is read some layers below: d = e E, with E (its units, units there).

    What layer l reads hears layer l + every - 1, or the output layer where that is nearer. So 1 is
    the chain, and as many as there are layers is `Direct`.

    Args:
        every: how many weight layers an error crosses at once.

    Source: after Ororbia, Mali, Kohan, Millidge and Salvatori, Backpropagation-free deep learning
    with recursive local representation alignment, AAAI 2023.
    """

    every: int = 2

    def __post_init__(self) -> None:
        count(self, "every")

    @property
    def reach(self) -> int:
        """As many layers as it says."""
        return self.every
