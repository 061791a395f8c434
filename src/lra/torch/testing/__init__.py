"""Test a rule or a method against the identities that every rule or method must keep."""

import torch

from lra.errors import OptionError
from lra.identities import Identity, Outcome, RuleReport
from lra.loss_terms import LossTerms, check_terms
from lra.methods import Method
from lra.rules import Rule
from lra.torch.testing import methods, rules

__all__ = ["Identity", "Outcome", "RuleReport", "check_rule"]


def check_rule(rule: Rule | Method, *, loss_terms: LossTerms | str = LossTerms.BATCH) -> RuleReport:
    """Test a rule or a method against its identities, on small networks in float64.

    Takes any `lra.Rule`, including your own feedback, crossing, local loss or initialisation, and
    any `lra.methods.Method`. `IDENTITIES` of `lra.torch.testing.rules` and of
    `lra.torch.testing.methods` list the identities. Passes that are compared draw the same random
    numbers.

    Args:
        rule: the rule, or the method.
        loss_terms: what the losses are means over: "batch" for data of shape (batch, features),
            "tokens" for (batch, tokens, features).

    Returns:
        The measured deviations, if all identities hold.

    Raises:
        RuleError: with every identity that fails, its deviation and the deviation allowed.
        OptionError: for anything but a rule or a method, or for other loss terms.

    >>> lra.check_rule(lra.MirroredLRA())
    <RuleReport of mirrored-lra: ...>
    """
    if not isinstance(rule, (Rule, Method)):
        raise OptionError(
            "check_rule: expected a rule such as lra.LRAE(), or a method such as "
            f"lra.methods.PredictiveCoding(), got {rule!r}"
        )
    terms = check_terms(loss_terms)
    if not isinstance(terms, LossTerms):
        raise OptionError(f"check_rule: loss_terms must be 'batch' or 'tokens', got {loss_terms!r}")
    # inference_mode(False) enables gradients too.
    with torch.random.fork_rng([]), torch.inference_mode(False), torch.device("cpu"):
        if isinstance(rule, Rule):
            return rules.IDENTITIES.check(rule, rules.RuleBench(terms, rule))
        return methods.IDENTITIES.check(rule, methods.MethodBench(terms, rule))
