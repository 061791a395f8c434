"""Convert a Keras model to a rule and back: plan the whole, check the whole, then rebuild it."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import keras
import numpy as np

from lra.errors import ConversionError
from lra.keras.compiled import check_compiled, watch_compile
from lra.keras.graph import is_model
from lra.keras.layers import ACTIVATIONS, WEIGHT_LAYERS, Local, LocalWeights
from lra.keras.plan import Plan, check_model, plan
from lra.loss_terms import LossTerms, check_terms
from lra.rules import Rule


def convert(
    model: Any,
    rule: Rule,
    *,
    skip: Sequence[str] = (),
    input_layers: Sequence[str] | None = None,
    loss_terms: LossTerms | str | float = LossTerms.BATCH,
) -> Any:
    """Build a model's twin that learns by a rule: in `fit`, its gradients are the rule's updates.

    Across weights d = e E instead of e W; across a nonlinearity e = gain (z - phi(h - beta d))
    instead of phi'(h) d; what lies between keeps its own derivative. The weights are copied and
    the predictions are the same. Activations are converted as layers and as the `activation`
    inside a layer, except those that give the model's outputs, which belong to the loss.

    Args:
        model: a Sequential or Functional model, with other such models in it or not. It stays as
            it is. Where it is compiled, the twin is too, with an optimizer that starts anew, unless
            a loss or metric of your own stands in the way: then compile the twin yourself.
        rule: how errors travel, such as `lra.LRAE(beta=0.1)`.
        skip: names of layers or nested models to leave, with all they hold, on backprop; for one
            in a nested model, "model/layer".
        input_layers: names of the weight layers that see only the raw input, which no error has to
            cross and which get no feedback weights. By default those with nothing trainable
            between an input and them.
        loss_terms: the number N of terms that the loss is a mean over. "batch": dimension 0
            of each nonlinearity's input; "tokens": all but its last dimension; or a number: 1 for
            a summed loss, the sum of the weights for a mean over weighted samples. Replicas that
            share a batch are counted.

    Returns:
        The new model.

    Raises:
        ConversionError: naming every layer that cannot be converted, with the remedy; or for a
            model that is converted already or has nothing to convert.
        OptionError: for a name in `skip` or `input_layers` that the model does not have; and from
            here on by the new model's `compile`, for a loss that is summed or scaled where N is
            counted.

    Source: Ororbia and Mali, AAAI 2019.
    """
    check_model(model, "convert")
    if not isinstance(rule, Rule):
        raise ConversionError(f"convert: expected a rule such as lra.LRAE(), got {rule!r}")
    terms = check_terms(loss_terms)
    inputs = None if input_layers is None else _names(input_layers)
    what = plan(model, rule, _names(skip), inputs)
    twin = _rebuild(model, lambda layer: _local(layer, what, rule, terms))
    watch_compile(twin)
    return twin


def restore(model: Any) -> Any:
    """Undo `convert`: build the plain model again, without feedback weights.

    Returns:
        A new model with the weights as trained; the converted one stays as it is.

    Raises:
        ConversionError: for a model in which nothing is converted.
    """
    _require_converted(model, "restore")
    return _rebuild(model, _plain)


def is_converted(model: Any) -> bool:
    """Tell whether any layer of the model follows a rule that `convert` swapped in."""
    return any(isinstance(layer, Local) for layer in _layers(model))


def feedback_parameters(model: Any) -> list[Any]:
    """List the feedback weights that the rule learns, as Keras variables.

    Raises:
        ConversionError: for a model in which nothing is converted.
    """
    _require_converted(model, "feedback_parameters")
    found = [layer.feedback for layer in _layers(model) if isinstance(layer, LocalWeights)]
    return [E for E in found if E is not None and E.trainable]


def set_loss_terms(model: Any, loss_terms: LossTerms | str | float) -> None:
    """Say anew what the loss is a mean over, as `convert`'s argument of this name.

    Raises:
        ConversionError: for a model in which nothing is converted.
        OptionError: for anything but "batch", "tokens" or a positive number, or where the model
            was compiled with a loss that is summed or scaled and N is to be counted.
    """
    _require_converted(model, "set_loss_terms")
    terms = check_terms(loss_terms)
    for layer in _layers(model):
        if isinstance(layer, Local):
            layer.loss_terms = terms
    check_compiled(model)
    model.train_function = None  # so that `fit` traces the step anew


def _layers(model: Any) -> list[Any]:
    found = model._flatten_layers(include_self=True)
    return list({id(layer): layer for layer in found}.values())


def _require_converted(model: Any, verb: str) -> None:
    check_model(model, verb, subclassed=True)
    if not is_converted(model):
        raise ConversionError(
            f"{verb}: no layer of this {type(model).__name__} is converted; "
            "call lra.keras.convert(model, rule) first"
        )


def _names(names: Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _local(layer: Any, what: Plan, rule: Rule, terms: LossTerms | float) -> Any:
    """Give a layer's twin, under the rule where the plan says so."""
    added: dict[str, Any] = {"rule": rule, "loss_terms": terms}
    if id(layer) in what.weights:
        added["sees_input"] = id(layer) in what.input_layers
        added["crosses_activation"] = id(layer) not in what.output_layers
        added["activation"] = layer.activation
        return WEIGHT_LAYERS[type(layer)].from_config(layer.get_config() | added)
    if id(layer) in what.nonlinearities:
        return ACTIVATIONS[type(layer)].from_config(layer.get_config() | added)
    return _plain(layer)


def _plain(layer: Any) -> Any:
    """Give a layer's twin without a rule."""
    if isinstance(layer, keras.layers.Lambda):
        return layer  # it has no state to copy, and its function no config
    cls, config = type(layer), layer.get_config()
    if isinstance(layer, Local):
        cls, config = layer.plain, layer.plain_config()
    if callable(getattr(layer, "activation", None)) and "activation" in config:
        config["activation"] = layer.activation  # a function of the user's own has no config
    return cls.from_config(config)


def _rebuild(model: Any, twin: Callable[[Any], Any]) -> Any:
    """Clone a model with a twin in each layer's place, and copy the weights."""
    twins: list[tuple[Any, Any]] = []

    def clone(layer: Any) -> Any:
        made = twin(layer)
        twins.append((layer, made))
        return made

    with _uncompiled(model):
        rebuilt = keras.models.clone_model(model, clone_function=clone, recursive=True)
    if model.built and not rebuilt.built:
        rebuilt.build(model.input_shape)
    for old, new in twins:
        if isinstance(old, keras.layers.Layer):
            new.trainable = old.trainable
            _copy_weights(old, new)
    for old, new in zip(_models(model), _models(rebuilt), strict=True):
        if not old.trainable:
            new.trainable = False
    if model.compiled:
        _compile_alike(model, rebuilt)
    return rebuilt


@contextmanager
def _uncompiled(model: Any) -> Iterator[None]:
    """Keep a clone from being compiled as the model is: not all settings can be cloned."""
    compiled = [part for part in _models(model) if part.compiled]
    for part in compiled:
        part.compiled = False
    try:
        yield
    finally:
        for part in compiled:
            part.compiled = True


def _compile_alike(model: Any, rebuilt: Any) -> None:
    """Compile a clone with the model's settings, where they are Keras's own or registered."""
    with suppress(TypeError, ValueError), warnings.catch_warnings(action="ignore"):
        rebuilt.compile_from_config(model.get_compile_config())


def _models(model: Any) -> list[Any]:
    return [layer for layer in _layers(model) if is_model(layer)]


def _copy_weights(old: Any, new: Any) -> None:
    """Copy all variables but the feedback weights, through NumPy: no backend shares the memory."""
    pairs = zip(_forward_variables(old), _forward_variables(new), strict=True)
    for source, target in pairs:
        target.assign(np.array(keras.ops.convert_to_numpy(source.value)))


def _forward_variables(layer: Any) -> list[Any]:
    if not isinstance(layer, LocalWeights):
        return list(layer.variables)
    kept = [layer.feedback, getattr(layer.seed_generator, "state", None)]
    return [v for v in layer.variables if all(v is not own for own in kept)]
