"""The rules for torch: convert a module, restore it, look at what a rule reaches."""

from lra.torch.audit import Audit, audit
from lra.torch.check import RuleReport, check_rule
from lra.torch.convert import (
    convert,
    feedback_parameters,
    is_converted,
    restore,
    set_loss_terms,
)
from lra.torch.diagnose import Diagnosis, diagnose

__all__ = [
    "Audit",
    "Diagnosis",
    "RuleReport",
    "audit",
    "check_rule",
    "convert",
    "diagnose",
    "feedback_parameters",
    "is_converted",
    "restore",
    "set_loss_terms",
]
