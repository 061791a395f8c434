"""A rule: one value on each axis. The named rules, and the table that lists them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
from lra.errors import OptionError
from lra.feedback import Feedback, Learned, Magnitude, Random, SignSymmetric, Transpose
from lra.inits import FanIn, Init, LikeWeights, Mirror
from lra.methods import METHODS, Method
from lra.wiring import Chain, Direct, Skip, Wiring


@dataclass(frozen=True)
class Rule(Axis):
    """How errors travel back through a network: across weights, nonlinearities, and the whole.

    Any combination is a rule, published or not; the default one is backprop.

    Args:
        feedback: the tensor that carries an error across a weight layer.
        crossing: how an error crosses a nonlinearity.
        wiring: the path through the network.
    """

    feedback: Feedback = field(default_factory=Transpose)
    crossing: Crossing = field(default_factory=Derivative)
    wiring: Wiring = field(default_factory=Chain)

    def __post_init__(self) -> None:
        for name, base in (("feedback", Feedback), ("crossing", Crossing), ("wiring", Wiring)):
            instance(self, name, base)
        if isinstance(self.wiring, (Direct, Skip)):
            self._check_between()

    def _check_between(self) -> None:
        """Refuse feedback that only a layer's own weight can give, where layers are skipped."""
        computed = type(self.feedback).effective is not Feedback.effective
        mirrored = isinstance(getattr(self.feedback, "init", None), Mirror)
        if computed or mirrored:
            what = "Mirror()" if mirrored else f"{type(self.feedback).__name__}()"
            raise OptionError(
                f"Rule: {what} takes feedback from a layer's own weight, and under "
                f"{type(self.wiring).__name__} errors skip layers, between which there is none; "
                "use Random(LikeWeights()) or Learned(), or wiring=Chain()"
            )


def LRAE(
    beta: float = 0.1,
    gamma: float = 1.0,
    gain: float = 1.0,
    local_loss: LocalLoss = Squared(),
    through: Surrogate | None = None,
    init: Init = LikeWeights(),
    *,
    normalized: bool = False,
    two_sided: bool = False,
    relative: Relative | str | None = None,
) -> Rule:
    """Build LRA-E, error-driven local representation alignment.

    d = e E, y = phi(h - beta d), e = gain (z - y), dE = gamma dW.

    Args:
        beta: how far a target moves from its pre-activation.
        gamma: the step of the feedback weights E relative to that of W.
        gain: the factor of the local error; 1/beta makes the rule normalised.
        local_loss: the loss between a layer's output and its target.
        through: a surrogate to take the target through where phi is flat.
        init: how E is drawn.
        normalized: take gain / beta for the factor, so that errors keep their scale.
        two_sided: compare a target on either side of h, instead of one with the output.
        relative: take beta as a length, relative to the largest error of a "unit", a "sample" or
            the "batch".

    Source: Ororbia and Mali, Biologically motivated algorithms for propagating local target
    representations, AAAI 2019.
    """
    sides = {"normalized": normalized, "two_sided": two_sided, "relative": relative}
    crossing = TargetDifference(beta, gain, local_loss, through, **sides)  # type: ignore[arg-type]
    return Rule(Learned(gamma, init), crossing)


def MirroredLRA(
    beta: float = 1.0,
    gamma: float = 1.0,
    samples: int = 10_000,
    *,
    local_loss: LocalLoss = Squared(),
    through: Surrogate | None = None,
    relative: Relative | str | None = Relative.BATCH,
) -> Rule:
    """Build LRA-E with feedback that mirrors its weights, and targets on two sides.

    d = e E, m = beta d / s, e = (s / 2 beta) (phi(h + m) - phi(h - m)), dE = gamma dW, with s the
    largest |d| of the batch; at units that are flat but for steps (`lra.Sign`), |d| itself. E
    starts as what noise sent through a layer tells of its W. A relative of LRA-E, not the published
    rule: that is `LRAE`.

    Args:
        beta: how far targets are from the pre-activation, in its own units.
        gamma: the step of the feedback weights E relative to that of W; 1 keeps E beside W.
        samples: how many times each layer fires to mirror its weights.
        local_loss: the loss between the two targets.
        through: a surrogate to take the targets through.
        relative: what s is the largest error of, where units have slopes. Over the "batch", samples
            that are right already take small steps, but a sample's update depends on its batch;
            over a "sample", or each "unit" by itself, it does not; None takes 1/N for s.
    """
    crossing = TargetDifference(
        beta, 1.0, local_loss, through, normalized=True, two_sided=True,
        relative=relative, where_flat=Relative.UNIT,  # type: ignore[arg-type]
    )  # fmt: skip
    return Rule(Learned(gamma, Mirror(samples)), crossing)


def Backprop() -> Rule:
    """Build backpropagation of errors: e = phi'(h) (e W)."""
    return Rule()


def FeedbackAlignment(init: Init = LikeWeights()) -> Rule:
    """Build feedback alignment: e = phi'(h) (e E) with E fixed and random.

    Source: Lillicrap et al., Random synaptic feedback weights support error backpropagation
    for deep learning, Nature Communications 2016.
    """
    return Rule(Random(init))


def KolenPollack(gamma: float = 1.0, init: Init = LikeWeights()) -> Rule:
    """Build Kolen and Pollack's rule: e = phi'(h) (e E), dE = gamma dW.

    E and W align when both decay: train with weight decay on both.

    Source: Kolen and Pollack, Backpropagation without weight transport, ICNN 1994; Akrout et
    al., Deep learning without weight transport, NeurIPS 2019.
    """
    return Rule(Learned(gamma, init))


def SignSymmetry(magnitude: Magnitude = Magnitude.UNIFORM, init: Init = FanIn()) -> Rule:
    """Build sign symmetry: e = phi'(h) (e E) with E = |M| sign(W).

    Args:
        magnitude: M constant (uSF), drawn once (frSF), or drawn for every batch (brSF).
        init: how M is drawn.

    Source: Liao, Leibo and Poggio, How important is weight symmetry in backpropagation?, AAAI
    2016; Moskovitz et al., Feedback alignment in deep convolutional networks, 2018.
    """
    return Rule(SignSymmetric(magnitude, init))


def DirectFeedbackAlignment(init: Init = LikeWeights()) -> Rule:
    """Build direct feedback alignment: e = phi'(h) (e_out E) with E fixed and random.

    e_out is the error at the output layer, and E has the shape (outputs, units).

    Source: Nøkland, Direct feedback alignment provides learning in deep neural networks, NeurIPS
    2016.
    """
    return Rule(Random(init), Derivative(), Direct())


def DirectLRA(
    beta: float = 0.1,
    gamma: float = 1.0,
    gain: float = 1.0,
    local_loss: LocalLoss = Squared(),
    through: Surrogate | None = None,
    init: Init = LikeWeights(),
    *,
    normalized: bool = False,
    two_sided: bool = False,
    relative: Relative | str | None = None,
) -> Rule:
    """Build LRA-E whose errors come straight from the output layer: d = e_out E.

    Each target is made as LRA-E makes it, y = phi(h - beta d), but hears no layer between. E, of
    (outputs, units), learns by dE = gamma e_out^T z. A relative of LRA-E; arguments as `LRAE`'s.

    Source of dE: Webster et al., Learning the connections in direct feedback alignment, 2020.
    """
    chain = LRAE(
        *(beta, gamma, gain, local_loss, through, init),
        normalized=normalized, two_sided=two_sided, relative=relative,
    )  # fmt: skip
    return replace(chain, wiring=Direct())


def RecLRA(
    every: int = 2,
    beta: float = 0.1205,
    gamma: float = 0.1524,
    alpha: float = 1.0,
    init: Init = LikeWeights(),
) -> Rule:
    """Build LRA-E with errors that skip layers, after recursive local representation alignment.

    d = e E from the layer `every` further up, y = phi(h - beta d), e = alpha (z - y) + (1 - alpha)
    sign(z - y), dE = gamma e^T z. What is known of the published settings is second-hand, from a
    port by others: beta and gamma as here by default; an alpha of 0.24 for neighbours and 0.19 for
    skips; updates projected to a ball (`torch.nn.utils.clip_grad_norm_`); noise of 0.1 at the
    input. So this is not claimed to be the published algorithm in all its parts. alpha is 1 by
    default since with signs, which are as large for samples that are right already, small networks
    learned little.

    Args:
        every: how many weight layers an error crosses at once.
        beta: how far a target moves from its pre-activation.
        gamma: the step of E relative to that of W.
        alpha: the share of the difference in the error; the rest is its sign.
        init: how E is drawn.

    Source: after Ororbia, Mali, Kohan, Millidge and Salvatori, Backpropagation-free deep learning
    with recursive local representation alignment, AAAI 2023.
    """
    crossing = TargetDifference(beta, local_loss=Mixed(alpha))
    return Rule(Learned(gamma, init), crossing, Skip(every))


RULES: dict[str, Callable[..., Rule]] = {
    "backprop": Backprop,
    "lra-e": LRAE,
    "mirrored-lra": MirroredLRA,
    "feedback-alignment": FeedbackAlignment,
    "kolen-pollack": KolenPollack,
    "sign-symmetry": SignSymmetry,
    "direct-feedback-alignment": DirectFeedbackAlignment,
    "direct-lra": DirectLRA,
    "rec-lra": RecLRA,
}
"""The named rules, for scripts and the command line."""


def named(name: str, **options: Any) -> Rule | Method:
    """Build a rule of `RULES`, or a method of `METHODS`, by its name.

    Raises:
        OptionError: for an unknown name, or an option that this one does not have.
    """
    table: dict[str, Callable[..., Rule | Method]] = {**RULES, **METHODS}
    if name not in table:
        raise unknown("rule", name, table)
    known = inspect.signature(table[name]).parameters
    for option in options.keys() - known:
        if not known:
            raise OptionError(f"rule {name!r} has no options, got {option!r}")
        raise unknown(f"option of rule {name!r}", option, known)
    return table[name](**options)


def name_of(rule: Rule | Method) -> str:
    """Give the tables' name for a rule of this kind, or "custom" where it has none."""
    if isinstance(rule, Method):
        return next((name for name, cls in METHODS.items() if cls is type(rule)), "custom")
    kinds = {_kind(build()): name for name, build in RULES.items()}
    return kinds.get(_kind(rule), "custom")


def _kind(rule: Rule) -> tuple[Any, ...]:
    mirrored = isinstance(getattr(rule.feedback, "init", None), Mirror)
    return type(rule.feedback), type(rule.crossing), type(rule.wiring), mirrored
