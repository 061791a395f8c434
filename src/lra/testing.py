"""Test your own rule or method against the identities that each must keep."""

from lra.torch.testing import Identity, Outcome, RuleReport, check_rule

__all__ = ["Identity", "Outcome", "RuleReport", "check_rule"]
