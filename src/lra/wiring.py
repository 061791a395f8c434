"""The wiring axis: which layer an error comes from."""

from dataclasses import dataclass

from lra.axis import Axis, count


@dataclass(frozen=True)
class Wiring(Axis):
    """Define which layer an error comes from: base of the wiring axis."""

    @property
    def reach(self) -> int | None:
        """The number of weight layers that an error crosses at once; None for all of them."""
        raise NotImplementedError


@dataclass(frozen=True)
class Chain(Wiring):
    """Send errors layer by layer, back along the path of the forward pass.

    >>> lra.LRAE().wiring
    Chain()
    """

    @property
    def reach(self) -> int:
        """One layer."""
        return 1


@dataclass(frozen=True)
class Direct(Wiring):
    """Send the error at the output layer directly to the input of every other layer.

        d = e_out E

    e_out is the error at the output layer, E has the shape (outputs, units), and d arrives at the z
    that a layer reads. Errors cross no weight layer but the last.

    Source: Nøkland, Direct feedback alignment provides learning in deep neural networks, NeurIPS
    2016.

    >>> layers = nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 2)
    >>> net = nn.Sequential(*layers)
    >>> rule = lra.LRAE(wiring=lra.wiring.Direct())
    >>> net = lra.convert(net, rule, example=torch.zeros(1, 8))
    >>> [tuple(E.shape) for E in lra.feedback_parameters(net)]
    [(2, 16), (2, 4)]
    """

    @property
    def reach(self) -> None:
        """All layers."""
        return None


@dataclass(frozen=True)
class Stride(Wiring):
    """Send the error of each layer to the input of a layer further down.

        d = e E

    E lies between the two layers. The input of layer l receives its error from layer l + every - 1,
    or from the output layer if that is nearer. 1 is `Chain`, and the number of layers is `Direct`.

    Args:
        every: the number of weight layers that an error crosses at once.

    Raises:
        OptionError: for a number below 1.

    Source: after Ororbia, Mali, Kohan, Millidge and Salvatori, Backpropagation-free deep learning
    with recursive local representation alignment, AAAI 2023.

    >>> print(lra.LRAE(wiring=lra.wiring.Stride(3)).wiring)
    Stride(every=3)
    """

    every: int = 2

    def __post_init__(self) -> None:
        count(self, "every")

    @property
    def reach(self) -> int:
        """The number of layers given."""
        return self.every
