"""The options of the command line that make up a rule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

import lra
from lra.axis import unknown
from lra.crossing import Relative
from lra.feedback import Magnitude
from lra.lab.options import (
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
    """The learning rule, and its own options."""

    rule: MaybeName = None
    """By default the recipe's, else lra-e; or mirrored-lra, backprop, feedback-alignment,
    kolen-pollack, sign-symmetry, direct-feedback-alignment, direct-lra, rec-lra, predictive-coding,
    equilibrium-propagation, dtp."""
    beta: MaybeFloat = None
    """lra-e, mirrored-lra, direct-lra, rec-lra, equilibrium-propagation: how far targets are from
    pre-activations, or how hard the loss pushes; by default 0.1, 1, 0.1, 0.1205 and 0.1."""
    gamma: MaybeFloat = None
    """lra-e, mirrored-lra, kolen-pollack, direct-lra, rec-lra: step of feedback over the weights';
    by default 1, and 0.1524 of rec-lra."""
    gain: MaybeFloat = None
    """lra-e, direct-lra: factor of the local error; by default 1."""
    normalized: bool = False
    """lra-e, direct-lra: take gain / beta for the factor, so that errors keep their scale."""
    two_sided: bool = False
    """lra-e, direct-lra: compare targets on either side of the pre-activation."""
    relative: MaybeRelative = None
    """lra-e, mirrored-lra, direct-lra: beta in units of the largest error of this; by default
    batch of mirrored-lra."""
    samples: MaybeInt = None
    """mirrored-lra: how often each layer fires to mirror its weights; by default 10,000."""
    local_loss: MaybeName = None
    """lra-e, mirrored-lra, direct-lra: squared, absolute, cauchy or mixed."""
    surrogate: MaybeName = None
    """lra-e, mirrored-lra, direct-lra: surrogate for targets: identity, tanh, hardtanh or
    sigmoid."""
    magnitude: MaybeMagnitude = None
    """sign-symmetry: where the magnitudes of the feedback come from."""
    feedback_init: Annotated[InitText | None, optional(INIT_METAVAR)] = None
    """lra-e, feedback-alignment, kolen-pollack, sign-symmetry, direct-feedback-alignment,
    direct-lra, rec-lra: how feedback weights are drawn."""
    every: MaybeInt = None
    """rec-lra: how many weight layers an error crosses at once; by default 2."""
    alpha: MaybeFloat = None
    """rec-lra: share of the difference in an error, the rest is its sign; by default 1."""
    steps: MaybeInt = None
    """predictive-coding: how often the states move; by default 20."""
    step: MaybeFloat = None
    """predictive-coding, equilibrium-propagation: how far states move; by default 0.1 and 0.5."""
    free_steps: MaybeInt = None
    """equilibrium-propagation: how long the free equilibrium is waited for; by default 30."""
    nudged_steps: MaybeInt = None
    """equilibrium-propagation: how long each nudged equilibrium is waited for; by default 10."""
    one_sided: bool = False
    """equilibrium-propagation: push the states in one direction only."""
    eta: MaybeFloat = None
    """dtp: how far the last hidden layer's target lies along the gradient; by default 0.1."""
    sigma: MaybeFloat = None
    """dtp: standard deviation of the noise that inverses learn with; by default 0.1."""

    def build(self, base: str, options: dict[str, Any]) -> lra.Rule | lra.methods.Method:
        """Build the rule or method, over a recipe's options where it is the recipe's rule.

        Raises:
            OptionError: for an unknown name, or an option that the rule does not have.
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


def _lookup(what: str, name: str, table: Mapping[str, Callable[[], Any]]) -> Any:
    if name not in table:
        raise unknown(what, name, table)
    return table[name]()
