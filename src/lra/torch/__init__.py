"""The rules for torch: convert a module, restore it, look at what a rule reaches."""

from lra.torch.convert import (
    convert,
    feedback_parameters,
    is_converted,
    restore,
    set_loss_terms,
)

__all__ = ["convert", "feedback_parameters", "is_converted", "restore", "set_loss_terms"]
