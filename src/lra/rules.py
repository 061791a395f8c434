"""A rule is one value on each axis. This file has the named rules and their table."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from lra.axis import Axis, instance, unknown
from lra.crossing import (
    Crossing,
    Derivative,
    LocalLoss,
    Mixed,
    Relative,
    Squared,
    Surrogate,
    TargetDifference,
)
from lra.errors import ConversionError, OptionError
from lra.feedback import Feedback, Learned, Magnitude, Random, SignSymmetric, Transpose
from lra.inits import FanIn, Init, LikeWeights, Mirror
from lra.methods import METHODS, Method
from lra.wiring import Chain, Direct, Stride, Wiring


@dataclass(frozen=True)
class Rule(Axis):
    """Combine a feedback, a crossing and a wiring into a learning rule.

    They say how errors cross weights, activations, and the network as a whole. Any combination is a
    rule, published or not. The default is backprop.

    Args:
        feedback: the tensor that carries an error across a weight layer.
        crossing: how an error crosses an activation.
        wiring: which layer each error comes from.
        name: its name in scripts and reports. Comparisons ignore it.

    Raises:
        OptionError: for a value of another type, and for feedback that is derived from a layer's
            own weight where errors skip layers.

    >>> rule = lra.Rule(lra.feedback.Learned(), lra.crossing.TargetDifference(beta=0.1))
    >>> rule == lra.LRAE(beta=0.1)
    True
    >>> print(lra.Rule(feedback=lra.feedback.Random()))
    Rule(feedback=Random())
    """

    feedback: Feedback = field(default_factory=Transpose)
    crossing: Crossing = field(default_factory=Derivative)
    wiring: Wiring = field(default_factory=Chain)
    name: str = field(default="custom", compare=False)

    def __post_init__(self) -> None:
        for name, base in (("feedback", Feedback), ("crossing", Crossing), ("wiring", Wiring)):
            instance(self, name, base)
        if not isinstance(self.name, str):
            raise OptionError(f"Rule: name must be a string, got {self.name!r}")
        if isinstance(self.wiring, (Direct, Stride)):
            self._check_between()

    def _check_between(self) -> None:
        """Refuse feedback that needs a layer's own weight, where errors skip layers."""
        computed = type(self.feedback).effective is not Feedback.effective
        mirrored = isinstance(getattr(self.feedback, "init", None), Mirror)
        if computed or mirrored:
            what = "Mirror()" if mirrored else f"{type(self.feedback).__name__}()"
            raise OptionError(
                f"Rule: {what} derives feedback from a layer's own weight, but under "
                f"{type(self.wiring).__name__} errors skip layers, between which there is no "
                "weight; use Random(LikeWeights()) or Learned(), or wiring=Chain()"
            )


def require_rule(rule: object, by: str = "convert") -> Rule:
    """Return what a function was given, if it is a rule.

    Args:
        rule: what it was given.
        by: the function's name.

    Raises:
        ConversionError: it is something else, such as a function that builds a rule.
    """
    if not isinstance(rule, Rule):
        call = f"; call it: {rule.__name__}()" if isinstance(rule, FunctionType) else ""
        raise ConversionError(f"{by}: expected a rule such as lra.LRAE(), got {rule!r}{call}")
    return rule


def LRAE(
    beta: float = 0.1,
    gamma: float = 1.0,
    gain: float = 1.0,
    local_loss: LocalLoss = Squared(),
    surrogate: Surrogate | None = None,
    init: Init = LikeWeights(),
    *,
    normalized: bool = False,
    two_sided: bool = False,
    relative: Relative | str | None = None,
    wiring: Wiring = Chain(),
) -> Rule:
    """Build LRA-E, error-driven local representation alignment.

        d = e E
        y = phi(h - beta d)
        e = gain (z - y)
        dE = gamma dW

    With `wiring=Direct()`, e is the error at the output layer and E has the shape (outputs, units).

    Args:
        beta: the distance of a target from its pre-activation, per unit of error.
        gamma: the step of the feedback weights E relative to that of W.
        gain: the factor of the local error.
        local_loss: the loss between a layer's output and its target.
        surrogate: a function to take targets through instead of phi, where phi is flat.
        init: how E is drawn.
        normalized: use gain / beta as the factor, so that errors keep their scale.
        two_sided: compare targets on both sides of h, instead of one target with the output.
        relative: divide by the largest error of each "unit", "sample" or "batch", so that beta is
            a distance in units of h.
        wiring: which layer each error comes from.

    Source: Ororbia and Mali, Biologically motivated algorithms for propagating local target
    representations, AAAI 2019. For dE with direct wiring: Webster et al., Learning the connections
    in direct feedback alignment, 2020.

    >>> print(lra.LRAE(beta=0.2))
    Rule(feedback=Learned(), crossing=TargetDifference(beta=0.2))
    """
    crossing = TargetDifference(
        beta, gain, local_loss, surrogate,
        normalized=normalized, two_sided=two_sided, relative=relative,  # type: ignore[arg-type]
    )  # fmt: skip
    name = "direct-lra" if isinstance(wiring, Direct) else "lra-e"
    return Rule(Learned(gamma, init), crossing, wiring, name)


def MirroredLRA(
    beta: float = 1.0,
    gamma: float = 1.0,
    samples: int = 10_000,
    *,
    local_loss: LocalLoss = Squared(),
    surrogate: Surrogate | None = None,
    relative: Relative | str | None = Relative.BATCH,
) -> Rule:
    """Build LRA-E with mirrored feedback and two-sided relative targets.

        d = e E
        m = beta d / s
        e = s/(2 beta) (phi(h + m) - phi(h - m))
        dE = gamma dW

    s is the largest abs(d) of the batch; at step functions such as `lra.activations.Sign` it is
    abs(d) itself. E starts as the correlation of noise with the layer's answer to it, whose mean is
    W. This is a relative of LRA-E; the published rule is `LRAE`.

    Args:
        beta: the largest distance of a target from its pre-activation, in units of h.
        gamma: the step of the feedback weights E relative to that of W. With 1, E stays near W.
        samples: the number of noise samples per layer.
        local_loss: the loss between the two targets.
        surrogate: a function to take targets through instead of phi.
        relative: what s is the largest error of: the "batch", a "sample" or a "unit". Over the
            batch, samples that are already right take small steps. None uses 1 / N for s.

    Source: after Ororbia and Mali, AAAI 2019, with the mirror of Akrout et al., Deep learning
    without weight transport, NeurIPS 2019.

    >>> lra.MirroredLRA().feedback
    Learned(gamma=1.0, init=Mirror(samples=10000))
    """
    crossing = TargetDifference(
        beta, 1.0, local_loss, surrogate, normalized=True, two_sided=True,
        relative=relative, relative_if_flat=Relative.UNIT,  # type: ignore[arg-type]
    )  # fmt: skip
    return Rule(Learned(gamma, Mirror(samples)), crossing, name="mirrored-lra")


def Backprop() -> Rule:
    """Build backpropagation of errors.

        d = e W
        e = phi'(h) d

    >>> lra.Backprop() == lra.Rule()
    True
    """
    return Rule(name="backprop")


def FeedbackAlignment(init: Init = LikeWeights()) -> Rule:
    """Build feedback alignment, with E fixed and random.

        d = e E
        e = phi'(h) d

    Args:
        init: how E is drawn.

    Source: Lillicrap et al., Random synaptic feedback weights support error backpropagation
    for deep learning, Nature Communications 2016.

    >>> lra.FeedbackAlignment().feedback
    Random(init=LikeWeights(scale=1.0))
    """
    return Rule(Random(init), name="feedback-alignment")


def KolenPollack(gamma: float = 1.0, init: Init = LikeWeights()) -> Rule:
    """Build Kolen and Pollack's rule, which learns E beside W.

        d = e E
        e = phi'(h) d
        dE = gamma dW

    E and W align when both decay: use weight decay on both.

    Args:
        gamma: the step of E relative to that of W.
        init: how E is drawn.

    Source: Kolen and Pollack, Backpropagation without weight transport, ICNN 1994; Akrout et
    al., Deep learning without weight transport, NeurIPS 2019.

    >>> print(lra.KolenPollack(gamma=0.5))
    Rule(feedback=Learned(gamma=0.5))
    """
    return Rule(Learned(gamma, init), name="kolen-pollack")


def SignSymmetry(magnitude: Magnitude = Magnitude.UNIFORM, init: Init = FanIn()) -> Rule:
    """Build sign symmetry, where E shares the sign of W.

        E = |M| sign(W)
        d = e E
        e = phi'(h) d

    Args:
        magnitude: M constant (uSF), drawn once (frSF), or drawn for every batch (brSF).
        init: how M is drawn.

    Source: Liao, Leibo and Poggio, How important is weight symmetry in backpropagation?, AAAI
    2016; Moskovitz et al., Feedback alignment in deep convolutional networks, 2018.

    >>> print(lra.SignSymmetry("batch"))
    Rule(feedback=SignSymmetric(magnitude='batch'))
    """
    return Rule(SignSymmetric(magnitude, init), name="sign-symmetry")


def DirectFeedbackAlignment(init: Init = LikeWeights()) -> Rule:
    """Build direct feedback alignment, with E fixed and random.

        d = e_out E
        e = phi'(h) d

    e_out is the error at the output layer, and E has the shape (outputs, units).

    Args:
        init: how E is drawn.

    Source: Nøkland, Direct feedback alignment provides learning in deep neural networks, NeurIPS
    2016.

    >>> print(lra.DirectFeedbackAlignment())
    Rule(feedback=Random(), wiring=Direct())
    """
    return Rule(Random(init), Derivative(), Direct(), "direct-feedback-alignment")


def RecLRA(
    every: int = 2,
    beta: float = 0.1205,
    gamma: float = 0.1524,
    alpha: float = 1.0,
    init: Init = LikeWeights(),
) -> Rule:
    """Build LRA-E with errors that skip layers, after recursive local representation alignment.

        d = e E
        y = phi(h - beta d)
        e = alpha (z - y) + (1 - alpha) sign(z - y)
        dE = gamma e^T z

    The e in d is that of the layer `every` further up.

    The published settings are known second-hand, from another group's port: beta and gamma as
    here, alpha 0.24 for neighbours and 0.19 for skips, updates projected to a ball
    (`torch.nn.utils.clip_grad_norm_`), input noise of 0.1. This is therefore not claimed to be the
    published algorithm. alpha is 1 by default: with signs, small networks learned little, since a
    sign is as large for samples that are already right.

    Args:
        every: the number of weight layers that an error crosses at once.
        beta: the distance of a target from its pre-activation, per unit of error.
        gamma: the step of E relative to that of W.
        alpha: the share of the difference in the error; the rest is its sign.
        init: how E is drawn.

    Source: after Ororbia, Mali, Kohan, Millidge and Salvatori, Backpropagation-free deep learning
    with recursive local representation alignment, AAAI 2023.

    >>> lra.RecLRA(every=3).wiring
    Stride(every=3)
    """
    crossing = TargetDifference(beta, local_loss=Mixed(alpha))
    return Rule(Learned(gamma, init), crossing, Stride(every), "rec-lra")


RULES: dict[str, Callable[..., Rule]] = {
    "backprop": Backprop,
    "lra-e": LRAE,
    "mirrored-lra": MirroredLRA,
    "feedback-alignment": FeedbackAlignment,
    "kolen-pollack": KolenPollack,
    "sign-symmetry": SignSymmetry,
    "direct-feedback-alignment": DirectFeedbackAlignment,
    "direct-lra": functools.partial(LRAE, wiring=Direct()),
    "rec-lra": RecLRA,
}
"""Functions that build the named rules, by name, for scripts and the command line."""


def named(name: str, **options: Any) -> Rule | Method:
    """Build a rule of `RULES`, or a method of `lra.methods.METHODS`, by its name and options.

    Args:
        name: a key of either table, such as "lra-e" or "dtp".
        **options: arguments of the rule or method.

    Raises:
        OptionError: for an unknown name or option, listing the known ones.

    >>> lra.named("lra-e", beta=0.2) == lra.LRAE(beta=0.2)
    True
    >>> sorted(lra.RULES)[:3]
    ['backprop', 'direct-feedback-alignment', 'direct-lra']
    """
    table: dict[str, Callable[..., Rule | Method]] = {**RULES, **METHODS}
    if name not in table:
        raise unknown("rule", name, table)
    known = inspect.signature(table[name]).parameters
    for option in options.keys() - known:
        if not known:
            raise OptionError(f"rule {name!r} has no options; got {option!r}")
        raise unknown(f"option of rule {name!r}", option, known)
    return table[name](**options)
