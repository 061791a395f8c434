"""Hold a rule or a method, ours or a user's, to the identities that each must keep."""

import torch

from lra.errors import OptionError, RuleError
from lra.loss_terms import LossTerms, check_terms
from lra.methods import Method
from lra.rules import Rule
from lra.torch.testing import limits, methods, rules  # noqa: F401 - limits adds its identities
from lra.torch.testing.identities import Identity, Outcome, RuleReport

__all__ = ["Identity", "Outcome", "RuleReport", "check_rule"]


def check_rule(rule: Rule | Method, *, loss_terms: LossTerms | str = LossTerms.BATCH) -> RuleReport:
    """Hold a rule or a method to the identities that each must keep, on small networks in float64.

    Runs for any value of a rule's three axes, so for users' own feedback, crossing, local loss or
    initialisation as well, and for any `lra.methods.Method`; `IDENTITIES` of `lra.torch.testing.rules` and of
    `lra.torch.testing.methods` are the tables. What draws at random gets the same
    random numbers in passes that are compared.

    Args:
        rule: the rule, or the method.
        loss_terms: what the losses are means over: "batch" for data of shape (batch, features),
            "tokens" for (batch, tokens, features).

    Returns:
        What was measured, if all hold.

    Raises:
        RuleError: listing every identity that fails, with the number measured and the allowed.
        OptionError: for anything but a rule or a method, or other loss terms.
    """
    if not isinstance(rule, (Rule, Method)):
        raise OptionError(
            "check_rule: expected a rule such as lra.LRAE(), or a method such as "
            f"lra.methods.PredictiveCoding(), got {rule!r}"
        )
    terms = check_terms(loss_terms)
    if not isinstance(terms, LossTerms):
        raise OptionError(f"check_rule: loss_terms must be 'batch' or 'tokens', got {loss_terms!r}")
    # Whatever the caller has set; inference_mode(False) enables gradients too.
    with torch.random.fork_rng([]), torch.inference_mode(False), torch.device("cpu"):
        if isinstance(rule, Rule):
            outcomes = rules.IDENTITIES.measure(rules.RuleBench(terms, rule))
        else:
            outcomes = methods.IDENTITIES.measure(methods.MethodBench(terms, rule))
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if failed:
        raise RuleError(
            f"check_rule: {rule} breaks {len(failed)} of {len(outcomes)} identities:\n"
            + "\n".join(f"  - {outcome}" for outcome in failed)
        )
    return RuleReport(rule, outcomes)
