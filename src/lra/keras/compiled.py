"""What a compiled model says of its loss's scale, held against the N that its rule counts."""

import functools
from typing import Any

import keras

from lra.errors import OptionError
from lra.keras.layers import Local
from lra.loss_terms import LossTerms


def watch_compile(model: Any) -> None:
    """Have every `compile` of a converted model checked, this one's included."""
    plain = model.compile

    @functools.wraps(plain)
    def compile(*args: Any, **kwargs: Any) -> None:
        plain(*args, **kwargs)
        check_compiled(model)

    model.compile = compile
    check_compiled(model)


def check_compiled(model: Any) -> None:
    """Refuse a loss whose scale is plainly another than the rule takes it to have.

    Raises:
        OptionError: naming what scales the loss, and what to say or do; the model counts as not
            compiled then.
    """
    if not model.compiled:
        return
    converted = [layer for layer in model._flatten_layers() if isinstance(layer, Local)]
    nonlinear = [x for x in converted if x.rule.crossing.needs_terms]
    counted = any(isinstance(layer.loss_terms, LossTerms) for layer in nonlinear)
    optimizer, trouble = model.optimizer, ""
    if nonlinear and isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        trouble = (
            "a LossScaleOptimizer multiplies the loss by a factor that changes while it trains; "
            "compile with the optimizer inside it, and with float32 or mixed_bfloat16"
        )
    elif counted and (factor := getattr(optimizer, "loss_scale_factor", None)) not in (None, 1):
        trouble = (
            f"the optimizer multiplies the loss by {factor}, so the N terms counted are that many "
            "times too many; leave loss_scale_factor out, or say "
            f"lra.keras.set_loss_terms(model, N / {factor}) with N the size of a batch"
        )
    elif counted and _summed(model.loss):
        trouble = (
            "the loss is a sum, no mean; say lra.keras.set_loss_terms(model, 1), or compile with "
            "reduction='sum_over_batch_size'"
        )
    if trouble:
        model.compiled = False
        raise OptionError(
            f"compile: {trouble}. A target moves by beta N d: N must be what the loss divides by"
        )


def _summed(loss: Any) -> bool:
    losses = keras.tree.flatten(loss)
    return any(getattr(one, "reduction", None) == "sum" for one in losses)
