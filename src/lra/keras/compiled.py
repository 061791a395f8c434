"""Checks that a compiled model's loss has the scale that its rule assumes."""

import functools
from typing import Any

import keras

from lra.errors import OptionError
from lra.keras.layers import Local
from lra.loss_terms import LossTerms


def watch_compile(model: Any) -> None:
    """Check a converted model now, and after every `compile`."""
    original = model.compile

    @functools.wraps(original)
    def compile(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        check_compiled(model)

    model.compile = compile
    check_compiled(model)


def check_compiled(model: Any) -> None:
    """Check that the loss is not summed or scaled where N is counted.

    Raises:
        OptionError: naming what scales the loss, and the remedy. The model is then marked as not
            compiled.
    """
    if not model.compiled:
        return
    converted = [layer for layer in model._flatten_layers() if isinstance(layer, Local)]
    nonlinear = [x for x in converted if x.rule.crossing.needs_terms]
    counted = any(isinstance(layer.loss_terms, LossTerms) for layer in nonlinear)
    optimizer, trouble = model.optimizer, ""
    if nonlinear and isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        trouble = (
            "a LossScaleOptimizer multiplies the loss by a factor that changes during training; "
            "compile with its inner optimizer, in float32 or mixed_bfloat16"
        )
    elif counted and (factor := getattr(optimizer, "loss_scale_factor", None)) not in (None, 1):
        trouble = (
            f"the optimizer multiplies the loss by {factor}, so the counted N is that many times "
            "too large; leave loss_scale_factor out, or call "
            f"lra.keras.set_loss_terms(model, N / {factor}) with N the size of a batch"
        )
    elif counted and _summed(model.loss):
        trouble = (
            "the loss is a sum, not a mean; call lra.keras.set_loss_terms(model, 1), or compile "
            "with reduction='sum_over_batch_size'"
        )
    if trouble:
        model.compiled = False
        raise OptionError(
            f"compile: {trouble}. A target is beta N d away, with N what the loss divides by"
        )


def _summed(loss: Any) -> bool:
    losses = keras.tree.flatten(loss)
    return any(getattr(one, "reduction", None) == "sum" for one in losses)
