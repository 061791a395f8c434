"""The command-line options of a rule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

import lra
from lra.axis import unknown
from lra.crossing import Relative
from lra.feedback import Magnitude
from lra.lab.settings.options import (
    INIT_METAVAR,
    SURROGATES,
    InitText,
    MaybeFloat,
    MaybeInt,
    MaybeName,
    optional,
)
from lra.rules import named

LOCAL_LOSSES = {
    "squared": lra.crossing.Squared,
    "absolute": lra.crossing.Absolute,
    "cauchy": lra.crossing.Cauchy,
    "mixed": lra.crossing.Mixed,
}
"""The local losses by name."""

MaybeMagnitude = Annotated[
    tyro.conf.EnumChoicesFromValues[Magnitude | None], optional("|".join(Magnitude))
]
MaybeRelative = Annotated[
    tyro.conf.EnumChoicesFromValues[Relative | None], optional("|".join(Relative))
]


@dataclass(frozen=True)
class RuleOptions:
    """The learning rule and its options."""

    rule: MaybeName = None
    """By default the recipe's, else lra-e; or mirrored-lra, backprop, feedback-alignment,
    kolen-pollack, sign-symmetry, direct-feedback-alignment, direct-lra, rec-lra, predictive-coding,
    equilibrium-propagation, dtp."""
    beta: MaybeFloat = None
    """lra-e, mirrored-lra, direct-lra, rec-lra, equilibrium-propagation:
    distance of targets, or strength of the nudge; by default 0.1, 1, 0.1, 0.1205 and 0.1."""
    gamma: MaybeFloat = None
    """lra-e, mirrored-lra, kolen-pollack, direct-lra, rec-lra:
    step of the feedback weights relative to the weights'; by default 1, and 0.1524 for rec-lra."""
    gain: MaybeFloat = None
    """lra-e, direct-lra: factor of the local error; by default 1."""
    normalized: bool = False
    """lra-e, direct-lra: use gain / beta as the factor, so that errors keep their scale."""
    two_sided: bool = False
    """lra-e, direct-lra: compare targets on both sides of the pre-activation."""
    relative: MaybeRelative = None
    """lra-e, mirrored-lra, direct-lra: divide errors by the largest one of each of these;
    by default batch for mirrored-lra."""
    samples: MaybeInt = None
    """mirrored-lra: noise samples per layer for mirroring the weights; by default 10,000."""
    local_loss: MaybeName = None
    """lra-e, mirrored-lra, direct-lra: squared, absolute, cauchy or mixed."""
    surrogate: MaybeName = None
    """lra-e, mirrored-lra, direct-lra: function that targets are taken through:
    identity, tanh, hardtanh or sigmoid."""
    magnitude: MaybeMagnitude = None
    """sign-symmetry: source of the magnitudes of the feedback weights."""
    feedback_init: Annotated[InitText | None, optional(INIT_METAVAR)] = None
    """lra-e, feedback-alignment, kolen-pollack, sign-symmetry, direct-feedback-alignment,
    direct-lra, rec-lra: initialisation of the feedback weights."""
    every: MaybeInt = None
    """rec-lra: number of weight layers that an error crosses at once; by default 2."""
    alpha: MaybeFloat = None
    """rec-lra: share of the difference in an error, the rest is its sign; by default 1."""
    steps: MaybeInt = None
    """predictive-coding: number of updates of the states; by default 20."""
    step: MaybeFloat = None
    """predictive-coding, equilibrium-propagation: step size of the states; by default 0.1, 0.5."""
    free_steps: MaybeInt = None
    """equilibrium-propagation: number of steps to the free equilibrium; by default 30."""
    nudged_steps: MaybeInt = None
    """equilibrium-propagation: number of steps to each nudged equilibrium; by default 10."""
    one_sided: bool = False
    """equilibrium-propagation: nudge the states in one direction only."""
    eta: MaybeFloat = None
    """dtp: distance of the last hidden layer's target along the gradient; by default 0.1."""
    sigma: MaybeFloat = None
    """dtp: standard deviation of the noise for training the inverses; by default 0.1."""

    def build(self, base: str, options: dict[str, Any]) -> lra.Rule | lra.methods.Method:
        """Build the rule or method.

        Args:
            base: the recipe's rule, used if no rule is given.
            options: the recipe's options, used as defaults for the recipe's rule.

        Raises:
            OptionError: the name is unknown, or the rule lacks an option.
        """
        name = self.rule or base
        given: dict[str, Any] = {
            "beta": self.beta,
            "gamma": self.gamma,
            "gain": self.gain,
            "normalized": self.normalized or None,
            "two_sided": self.two_sided or None,
            "relative": self.relative,
            "samples": self.samples,
            "magnitude": self.magnitude,
            "init": self.feedback_init,
            "every": self.every,
            "alpha": self.alpha,
            "steps": self.steps,
            "step": self.step,
            "free_steps": self.free_steps,
            "nudged_steps": self.nudged_steps,
            "symmetric": False if self.one_sided else None,
            "eta": self.eta,
            "sigma": self.sigma,
        }
        if self.local_loss is not None:
            given["local_loss"] = _lookup("local loss", self.local_loss, LOCAL_LOSSES)
        if self.surrogate is not None:
            given["surrogate"] = _lookup("surrogate", self.surrogate, SURROGATES)
        given = {key: value for key, value in given.items() if value is not None}
        return named(name, **(options if name == base else {}) | given)


def _lookup(kind: str, name: str, table: Mapping[str, Callable[[], Any]]) -> Any:
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]()
