"""Checks that the loss of a model has the scale that its rule assumes."""

import functools
import warnings
import weakref
from typing import Any

import keras
import numpy as np
from keras import ops

from lra.errors import LraWarning, OptionError, one_line
from lra.keras.backend import is_compiled_by_torch, outside_graph
from lra.keras.layers import Local
from lra.loss_terms import LossTerms

_CHECKED: weakref.WeakKeyDictionary[Any, dict[bool, tuple[Any, Any]]] = weakref.WeakKeyDictionary()
"""The losses found to be right with weights (True) or without them: the tensors they compared."""


def install() -> None:
    """Let all models, also those that are loaded, check their loss when it is first computed.

    `fit` computes it for the shapes alone before the first step, so a refusal changes nothing.
    """
    original = keras.Model.compute_loss

    @functools.wraps(original)
    def compute_loss(
        self: Any,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        if self._compile_loss is not None and not is_compiled_by_torch():
            checked = _CHECKED.setdefault(self._compile_loss, {})
            weighted = sample_weight is not None
            if weighted not in checked:
                labels, outputs = keras.tree.map_structure(_described, (y, y_pred))
                check_loss(self, labels, outputs, weighted)
                checked[weighted] = labels, outputs
        return original(self, x, y, y_pred, sample_weight, training)

    keras.Model.compute_loss = compute_loss


def _described(x: Any) -> Any:
    """Return a KerasTensor of a tensor's shape and type; None for one of unknown rank."""
    try:
        return keras.KerasTensor(tuple(x.shape), keras.backend.standardize_dtype(x.dtype))
    except Exception:
        return None


def recheck(model: Any) -> None:
    """Check a loss again, for other terms."""
    checked = _CHECKED.pop(model._compile_loss, {}) if model.compiled else {}
    for weighted, (y, y_pred) in checked.items():
        check_loss(model, y, y_pred, weighted)
        _CHECKED.setdefault(model._compile_loss, {})[weighted] = y, y_pred
    model.train_function = None  # `fit` has to trace the step again


def check_loss(model: Any, y: Any, y_pred: Any, weighted: bool) -> None:
    """Check that the loss is not summed or scaled where N is counted.

    Args:
        model: a compiled model.
        y: the labels of a batch, as KerasTensors.
        y_pred: the predictions, likewise.
        weighted: whether the samples have weights.

    Raises:
        OptionError: naming what scales the loss, and the remedy.

    Warns:
        LraWarning: the loss has weights, is a mean over more than is counted, or cannot be checked.
    """
    converted = [layer for layer in model._flatten_layers() if isinstance(layer, Local)]
    nonlinear = [layer for layer in converted if layer.rule.crossing.needs_terms]
    counted = {x.loss_terms for x in nonlinear if isinstance(x.loss_terms, LossTerms)}
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
    elif counted:
        trouble = _check_terms(model, y, y_pred, tokens=LossTerms.TOKENS in counted)
        weights = keras.tree.flatten(model._compile_loss._user_loss_weights)
        if weighted or any(w not in (None, 1) for w in weights):
            _warn(
                "weights of samples, classes or losses scale the errors, and so the distances of "
                "the targets. Divide them by their mean, or use relative targets, such as "
                "lra.MirroredLRA()"
            )
    if trouble:
        raise OptionError(
            f"loss: {trouble}. A target is beta N d away, with N what the loss divides by"
        )


def _check_terms(model: Any, y: Any, y_pred: Any, tokens: bool) -> str:
    """Evaluate the loss on a batch and on the batch doubled; return what is wrong, or "".

    A mean over a dimension keeps its value where this is doubled, and a sum doubles.
    """
    try:
        units = min(len(p.shape) for p in keras.tree.flatten(y_pred)) - 1
        batch, *more = (_growth(model, y, y_pred, axis) for axis in range(max(units, 1)))
    except Exception as error:
        _warn(
            f"the loss could not be evaluated on drawn labels ({one_line(error)}), so it is "
            "unknown whether it is a mean over the batch. If it is not, call "
            "lra.keras.set_loss_terms(model, N) with N what it divides by"
        )
        return ""
    if not np.isclose(batch, 1, rtol=1e-3):
        what = "a sum, not a mean" if np.isclose(batch, 2, rtol=1e-3) else "not a mean"
        return (
            f"the loss is {what}: it is {batch:.2f} times as large for a batch that is doubled. "
            "Call lra.keras.set_loss_terms(model, 1) for a sum, or compile with "
            "reduction='sum_over_batch_size'"
        )
    wrong = 2 if tokens else 1
    if more and all(np.isclose(growth, wrong, rtol=1e-3) for growth in more):
        over = "the batch alone" if tokens else "steps or pixels too"
        counted, right = ("tokens", "batch") if tokens else ("batch", "tokens")
        _warn(
            f"the loss is a mean over {over}, but N is counted as {counted!r}; call "
            f"lra.keras.set_loss_terms(model, {right!r})"
        )
    return ""


def _growth(model: Any, y: Any, y_pred: Any, axis: int) -> float:
    """Return how many times as large the loss is with a dimension of all arrays doubled."""
    rng = np.random.default_rng(0)

    def shape_of(x: Any) -> tuple[int, ...]:
        return (4, *(3 if size is None else size for size in x.shape[1:]))

    def label(x: Any) -> Any:
        return None if x is None else rng.integers(0, 2, shape_of(x)).astype(x.dtype)

    def output(x: Any) -> Any:
        return rng.uniform(0.1, 0.9, shape_of(x)).astype("float32")

    def doubled(x: Any) -> Any:
        return np.concatenate([x, x], axis) if axis < x.ndim else x

    once = [keras.tree.map_structure(label, y), keras.tree.map_structure(output, y_pred)]
    given, values = model._compile_loss, []
    with outside_graph():
        for arrays in (once, keras.tree.map_structure(doubled, once)):
            loss = type(given)(model.loss, output_names=given.output_names)
            values.append(float(loss(*keras.tree.map_structure(ops.convert_to_tensor, arrays))))
    growth = values[1] / values[0]
    if not np.isfinite(growth):
        raise ValueError(f"its values are {values[0]} and {values[1]}")
    return growth


def _warn(message: str) -> None:
    warnings.warn(f"loss: {message}", LraWarning, stacklevel=2)
