"""Convert a Keras model to a rule and back: plan and check everything, then rebuild the model."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import keras
import numpy as np

from lra.errors import ConversionError
from lra.keras.graph import is_model
from lra.keras.layers import ACTIVATIONS, WEIGHT_LAYERS, Local, LocalActivation, LocalWeights
from lra.keras.layers.base import check_rule
from lra.keras.loss_checks import recheck
from lra.keras.plan import Plan, Selector, plan
from lra.keras.reasons import check_model
from lra.loss_terms import LossTerms, check_terms
from lra.rules import Rule


def convert(
    model: Any,
    rule: Rule,
    *,
    skip: Selector | Sequence[Selector] = (),
    input_layers: Sequence[str] | None = None,
    loss_terms: LossTerms | str | float = LossTerms.BATCH,
) -> Any:
    """Build a copy of a model whose gradients are a rule's updates.

    Errors cross weights as d = e E instead of e W, and an activation by the rule's crossing, such
    as e = gain (z - phi(h - beta d)), instead of phi'(h) d. Everything else keeps its own
    derivative. The weights are copied and the predictions are the same. Activations are converted
    as layers and as the `activation` of a layer. Those that compute the model's outputs belong to
    the loss and are left alone.

    Args:
        model: a Sequential or Functional model, which may contain others. It is not changed. If it
            is compiled, the copy is too, with a new optimizer. A custom loss or metric without a
            config prevents that: then compile the copy yourself.
        rule: the rule, such as `lra.LRAE(beta=0.1)`.
        skip: layers, operations or nested models to leave on backprop with all that they contain:
            names, patterns of names such as `"block*"`, or classes. In a nested model, a layer's
            name is "model/layer".
        input_layers: names of the weight layers that see only the raw input. No error crosses
            them, so they get no feedback weights. By default, those with nothing trainable between
            an input and them.
        loss_terms: the number N of terms that the loss is a mean over. "batch": dimension 0 of
            each activation's input; "tokens": all dimensions but the last; or a number, which is 1
            for a summed loss and the sum of the weights for a mean over weighted samples. Replicas
            that share a batch are counted.

    Returns:
        The new model.

    Raises:
        ConversionError: naming every layer that cannot be converted, with the remedy; `refused`
            lists them as data. Or the model is converted already, or has nothing to convert.
        OptionError: a name in `skip` or `input_layers` is not in the model.

    Source: Ororbia and Mali, AAAI 2019.

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]
    ... )
    >>> model = lra.keras.convert(model, lra.MirroredLRA())
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile("adam", loss)
    >>> x, t = np.random.default_rng(0).normal(size=(32, 4)), np.arange(32) % 3
    >>> history = model.fit(x, t, verbose=0)
    """
    check_model(model, "convert")
    check_rule(rule)
    terms = check_terms(loss_terms)
    inputs = None if input_layers is None else _listed(input_layers)
    planned = plan(model, rule, _listed(skip), inputs)
    converted = _rebuild(model, lambda layer: _local(layer, planned, rule, terms))
    for layer in local_weights(converted):
        if layer.feedback_slot is not None:
            layer.feedback_slot.redraw()  # for the weights that were copied
    return converted


def restore(model: Any) -> Any:
    """Build the plain model again, without feedback weights.

    Args:
        model: a converted model. It is not changed.

    Returns:
        A new model with the trained weights.

    Raises:
        ConversionError: nothing in the model is converted.

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]
    ... )
    >>> converted = lra.keras.convert(model, lra.LRAE())
    >>> lra.keras.is_converted(lra.keras.restore(converted))
    False
    """
    require_converted(model, "restore")
    return _rebuild(model, _plain)


def is_converted(model: Any) -> bool:
    """Return whether any layer of a model is converted.

    Args:
        model: any Keras model.

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]
    ... )
    >>> lra.keras.is_converted(model)
    False
    """
    return any(isinstance(layer, Local) for layer in _layers(model))


def feedback_parameters(model: Any) -> list[Any]:
    """List the feedback weights that the rule learns, as Keras variables.

    Args:
        model: a converted model.

    Returns:
        The variables, each of its kernel's shape.

    Raises:
        ConversionError: nothing in the model is converted.

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]
    ... )
    >>> converted = lra.keras.convert(model, lra.LRAE())
    >>> [tuple(E.shape) for E in lra.keras.feedback_parameters(converted)]
    [(8, 3)]
    """
    require_converted(model, "feedback_parameters")
    found = [layer.feedback for layer in local_weights(model)]
    return [E for E in found if E is not None and E.trainable]


def set_loss_terms(model: Any, loss_terms: LossTerms | str | float) -> None:
    """Change what the loss is a mean over.

    Args:
        model: a converted model.
        loss_terms: as in `convert`.

    Raises:
        ConversionError: nothing in the model is converted.
        OptionError: this is not "batch", "tokens" or a positive number.

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]
    ... )
    >>> converted = lra.keras.convert(model, lra.LRAE())
    >>> lra.keras.set_loss_terms(converted, 1)  # for a summed loss
    """
    require_converted(model, "set_loss_terms")
    terms = check_terms(loss_terms)
    for layer in _layers(model):
        if isinstance(layer, Local):
            layer.loss_terms = terms
    recheck(model)


def _layers(model: Any) -> list[Any]:
    found = model._flatten_layers(include_self=True)
    return list({id(layer): layer for layer in found}.values())


def local_weights(model: Any) -> list[LocalWeights]:
    """List the converted weight layers."""
    return [layer for layer in _layers(model) if isinstance(layer, LocalWeights)]


def require_converted(model: Any, verb: str) -> None:
    """Raise a ConversionError if nothing in the model is converted."""
    check_model(model, verb, subclassed=True)
    if not is_converted(model):
        raise ConversionError(
            f"{verb}: no layer of this {type(model).__name__} is converted; "
            "call lra.keras.convert(model, rule) first"
        )


def _listed(selected: Any) -> tuple[Any, ...]:
    return (selected,) if isinstance(selected, (str, type)) else tuple(selected)


def _local(layer: Any, planned: Plan, rule: Rule, terms: LossTerms | float) -> Any:
    """Build a copy of a layer, converted to the rule if that is planned."""
    added: dict[str, Any] = {"rule": rule, "loss_terms": terms}
    if id(layer) in planned.weights:
        added["sees_input"] = id(layer) in planned.input_layers
        added["crosses_activation"] = id(layer) not in planned.output_layers
        return WEIGHT_LAYERS[type(layer)].from_config(_config(layer) | added)
    if id(layer) not in planned.activations:
        return _plain(layer)
    if type(layer) in ACTIVATIONS:
        return ACTIVATIONS[type(layer)].from_config(_config(layer) | added)
    return LocalActivation(_plain(layer), name=layer.name, dtype=layer.dtype_policy, **added)


def _plain(layer: Any) -> Any:
    """Build a copy of a layer without a rule."""
    if isinstance(layer, keras.layers.Lambda):
        return layer  # it has no state to copy, and its function no config
    if isinstance(layer, LocalActivation) and getattr(layer.activation, "name", "") == layer.name:
        layer = layer.activation  # a custom layer, as `_local` wrapped it
    cls = layer.plain if isinstance(layer, Local) else type(layer)
    return cls.from_config(_config(layer))


def _config(layer: Any) -> dict[str, Any]:
    """Return the settings of the plain layer, with the activation itself instead of its config."""
    describe = layer.plain_config if isinstance(layer, Local) else layer.get_config
    activation = getattr(layer, "activation", None)
    if isinstance(activation, keras.layers.Layer):
        return dict(describe()) | {"activation": activation}
    if "activation" not in vars(layer):
        return dict(describe())
    layer.activation = keras.activations.linear  # Keras describes no lambda or partial
    try:
        return dict(describe()) | {"activation": activation}
    finally:
        layer.activation = activation


def _rebuild(model: Any, copy: Callable[[Any], Any]) -> Any:
    """Clone a model, with each layer copied by a function, and copy the weights."""
    copies: list[tuple[Any, Any]] = []

    def clone(layer: Any) -> Any:
        made = copy(layer)
        copies.append((layer, made))
        return made

    with _uncompiled(model):
        rebuilt = keras.models.clone_model(model, clone_function=clone, recursive=True)
    if model.built and not rebuilt.built:
        rebuilt.build(model.input_shape)
    for old, new in copies:
        if isinstance(old, keras.layers.Layer):
            new.trainable = old.trainable
            _copy_weights(old, new)
    for old, new in zip(_models(model), _models(rebuilt), strict=True):
        if not old.trainable:
            new.trainable = False
    if model.compiled:
        _compile_like(model, rebuilt)
    return rebuilt


@contextmanager
def _uncompiled(model: Any) -> Iterator[None]:
    """Mark a model as not compiled: `clone_model` would clone its settings, and not all can be."""
    compiled = [part for part in _models(model) if part.compiled]
    for part in compiled:
        part.compiled = False
    try:
        yield
    finally:
        for part in compiled:
            part.compiled = True


def _compile_like(model: Any, rebuilt: Any) -> None:
    """Compile a clone with the model's settings, if these are Keras's own or registered."""
    with suppress(TypeError, ValueError), warnings.catch_warnings(action="ignore"):
        rebuilt.compile_from_config(model.get_compile_config())


def _models(model: Any) -> list[Any]:
    return [layer for layer in _layers(model) if is_model(layer)]


def _copy_weights(old: Any, new: Any) -> None:
    """Copy all variables but the feedback weights, through NumPy so that no memory is shared."""
    pairs = zip(_forward_variables(old), _forward_variables(new), strict=True)
    for source, target in pairs:
        target.assign(np.array(keras.ops.convert_to_numpy(source.value)))


def _forward_variables(layer: Any) -> list[Any]:
    if not isinstance(layer, LocalWeights) or layer.feedback_slot is None:
        return list(layer.variables)
    added = layer.feedback_slot.variables
    return [v for v in layer.variables if all(v is not own for own in added)]
