"""Initialisations: how feedback weights are drawn before training."""

import math
from dataclasses import dataclass
from typing import Any, Protocol, cast

from lra.axis import Axis, count, finite
from lra.errors import OptionError


class Draw(Protocol):
    """Describe a weight layer as an initialisation sees it. Each framework implements it."""

    @property
    def fan_in(self) -> int:
        """The number of inputs that each unit of the layer reads."""

    @property
    def fan_out(self) -> int:
        """The number of units that read each input: in a convolution, those at all offsets."""

    @property
    def rms(self) -> float:
        """The root mean square of the layer's weights W: a float, or a positive traced array."""

    def __call__(self, kind: str, scale: float, rank: int = 0) -> Any:
        """Draw an array of W's shape.

        Args:
            kind: "normal", "uniform", "orthogonal" or "low-rank".
            scale: the standard deviation, the bound, the factor, or the root mean square.
            rank: the rank, for "low-rank".

        Raises:
            OptionError: for a rank above that of a matrix of W's shape.
        """


class RunnableDraw(Draw, Protocol):
    """Describe a weight layer that can also be run on noise."""

    def noise_correlation(self, samples: int) -> tuple[Any, Any]:
        """Run the layer without its bias on noise x ~ N(0, 1), y = f(x, W).

        Args:
            samples: the number of noise samples.

        Returns:
            The correlation f*(x; y) of input and output, of W's shape, where f* is the layer's
            adjoint in W; and f*(1; 1), how often each weight was used.
        """


@dataclass(frozen=True)
class Init(Axis):
    """Define how E is drawn, of the shape of the layer's weight W: base of the initialisations.

    A subclass defines `draw`. It is a frozen dataclass, whose fields are its settings.
    """

    def draw(self, draw: Draw) -> Any:
        """Draw E for a layer.

        Args:
            draw: the layer, and the source of random numbers.

        Returns:
            An array of W's shape.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class LikeWeights(Init):
    """Draw E uniformly, as large as the layer's own weights.

        E ~ U(-b, b),  b = scale sqrt(3) rms(W)

    E is drawn as by `FanIn` where W is all zeros, or holds no values as on a meta device.

    Args:
        scale: the size of E relative to W.

    Raises:
        OptionError: for a scale that is not positive.

    >>> net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64))
    >>> net = lra.convert(net, lra.LRAE(init=lra.inits.LikeWeights(scale=2.0)))
    >>> round((net[2].feedback.std() / net[2].weight.std()).item(), 1)
    2.0
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        finite(self, "scale", above=0.0)

    def draw(self, draw: Draw) -> Any:
        """Draw E uniformly, with scale times the root mean square of W."""
        known, rms = _has_size(draw), draw.rms
        return draw("uniform", self.scale * (math.sqrt(3) * rms if known else draw.fan_in**-0.5))


def _has_size(draw: Draw) -> bool:
    """Return whether W holds numbers other than zeros."""
    rms = draw.rms
    return not isinstance(rms, float) or (math.isfinite(rms) and rms > 0.0)


@dataclass(frozen=True)
class FanIn(Init):
    """Draw E uniformly by the number of inputs: with scale 1, how torch draws W itself.

        E ~ U(-b, b),  b = scale / sqrt(fan_in)

    Args:
        scale: the factor of the bound.

    Raises:
        OptionError: for a scale that is not positive.

    >>> net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64))
    >>> net = lra.convert(net, lra.LRAE(init=lra.inits.FanIn(scale=4.0)))
    >>> round(net[2].feedback.max().item(), 1)
    0.5
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        finite(self, "scale", above=0.0)

    def draw(self, draw: Draw) -> Any:
        """Draw E uniformly, within scale / sqrt(fan_in)."""
        return draw("uniform", self.scale / math.sqrt(draw.fan_in))


@dataclass(frozen=True)
class Normal(Init):
    """Draw E from a normal distribution, whatever the layer's size.

        E ~ N(0, std^2)

    Args:
        std: the standard deviation.

    Raises:
        OptionError: for a std that is not positive.

    >>> net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64))
    >>> net = lra.convert(net, lra.LRAE(init=lra.inits.Normal(std=0.5)))
    >>> round(net[2].feedback.std().item(), 1)
    0.5
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        finite(self, "std", above=0.0)

    def draw(self, draw: Draw) -> Any:
        """Draw E from the normal distribution."""
        return draw("normal", self.std)


@dataclass(frozen=True)
class Xavier(Init):
    """Draw E uniformly by the numbers of inputs and of units.

        E ~ U(-b, b),  b = gain sqrt(6 / (fan_in + fan_out))

    Args:
        gain: the factor of the bound.

    Raises:
        OptionError: for a gain that is not positive.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
    networks, AISTATS 2010.

    >>> net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 32))
    >>> net = lra.convert(net, lra.LRAE(init=lra.inits.Xavier(gain=2.0)))
    >>> round(net[2].feedback.max().item(), 1)
    0.5
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        finite(self, "gain", above=0.0)

    def draw(self, draw: Draw) -> Any:
        """Draw E uniformly, within gain sqrt(6 / (fan_in + fan_out))."""
        return draw("uniform", self.gain * math.sqrt(6 / (draw.fan_in + draw.fan_out)))


@dataclass(frozen=True)
class LowRank(Init):
    """Draw E as a product of two thin matrices, as large as the layer's own weights.

        E = rms(W) Q P / sqrt(rank),  Q ~ N(0, 1),  P ~ N(0, 1)

    Q is (units, rank), and P (rank, inputs of a unit). Where W is all zeros, or holds no values as
    on a meta device, E is as large as one that `FanIn` draws.

    Args:
        rank: the rank of E, at most the smaller of its two sizes.

    Raises:
        OptionError: for a rank below 1; in drawing, for one that is too large.

    Source: Hanut and Kadmon, Training large neural networks with low-dimensional error feedback,
    2025 (arXiv 2502.20580), where both matrices are learned; here they are fixed.

    >>> net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64))
    >>> net = lra.convert(net, lra.FeedbackAlignment(init=lra.inits.LowRank(4)))
    >>> torch.linalg.matrix_rank(net[2].feedback)
    tensor(4)
    """

    rank: int

    def __post_init__(self) -> None:
        count(self, "rank")

    def draw(self, draw: Draw) -> Any:
        """Draw both matrices and multiply them."""
        size = draw.rms if _has_size(draw) else (3 * draw.fan_in) ** -0.5
        return draw("low-rank", size, self.rank)


def check_rank(rank: int, rows: int, columns: int) -> None:
    """Check the rank of a matrix.

    Raises:
        OptionError: it is above the smaller of the two sizes.
    """
    if rank > min(rows, columns):
        raise OptionError(
            f"LowRank: rank must be at most {min(rows, columns)} for a matrix of {rows} x {columns}"
            f", got {rank}"
        )


@dataclass(frozen=True)
class Orthogonal(Init):
    """Draw E orthogonal.

        E = gain Q,  Q Q^T = 1

    Where E has more rows than columns, Q^T Q = 1.

    A row belongs to one unit. Errors sent down through a square E keep their length, times gain.

    Args:
        gain: the factor of Q.

    Source: Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks, ICLR 2014.

    >>> net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64))
    >>> net = lra.convert(net, lra.LRAE(init=lra.inits.Orthogonal()))
    >>> E = net[2].feedback
    >>> torch.allclose(E @ E.T, torch.eye(64), atol=1e-5)
    True
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        finite(self, "gain", above=0.0)

    def draw(self, draw: Draw) -> Any:
        """Draw Q uniformly and multiply it by gain."""
        return draw("orthogonal", self.gain)


@dataclass(frozen=True)
class Mirror(Init):
    """Estimate W from the layer's answer to noise, without reading W.

        E = f*(x; f(x, W)) / f*(1; 1),  x ~ N(0, 1)

    The layer runs on noise, and E is the correlation of its input and output, divided by how often
    each weight was used. f* is the layer's own dW. The mean of E is W. The angle between the two is
    about atan(sqrt(fan_in / samples)).

    Args:
        samples: the number of noise samples.

    Raises:
        OptionError: for samples below 1; in drawing, for a layer that cannot be run.

    Source: Akrout et al., Deep learning without weight transport, NeurIPS 2019.

    >>> net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64))
    >>> net = lra.convert(net, lra.LRAE(init=lra.inits.Mirror(samples=10_000)))
    >>> F.cosine_similarity(net[2].feedback.flatten(), net[2].weight.flatten(), dim=0) > 0.99
    tensor(True)
    """

    samples: int = 10_000

    def __post_init__(self) -> None:
        count(self, "samples")

    def draw(self, draw: Draw) -> Any:
        """Correlate noise with the layer's answer to it."""
        if not hasattr(draw, "noise_correlation"):
            raise OptionError(
                "Mirror: only layers that can be run mirror their weights; use FanIn()"
            )
        layer = cast(RunnableDraw, draw)
        total: Any = 0
        uses: Any = 0
        at_once = max(1, 2**22 // max(1, draw.fan_in))  # some megabytes of noise
        for done in range(0, self.samples, at_once):
            more, used = layer.noise_correlation(min(at_once, self.samples - done))
            total, uses = total + more, uses + used
        return total / (uses + (uses == 0))  # an unused weight carries no error


def check_mirror(step: float, decay: float | None) -> tuple[float, float]:
    """Return the step and the decay of a mirror; the default of the decay is the step.

    Raises:
        OptionError: if one is out of range.
    """
    decay = step if decay is None else decay
    for name, value, good in (("step", step, "above 0"), ("decay", decay, "0 or more")):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and 0 <= value <= 1 and (value or name == "decay")):
            raise OptionError(f"mirror: {name} must be {good} and at most 1, got {value!r}")
    return float(step), float(decay)
