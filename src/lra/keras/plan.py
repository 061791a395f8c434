"""What a conversion will do: the role of every layer."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from lra.axis import unknown
from lra.crossing import Derivative
from lra.errors import ConversionError, OptionError, Refusal
from lra.feedback import Transpose
from lra.keras.graph import Graph, ends_of_functions, is_functional, trace
from lra.keras.layers import (
    ACTIVATIONS,
    DIFFERENTIATED,
    REFUSED,
    WEIGHT_LAYERS,
    Local,
    is_nonlinear,
)
from lra.keras.reasons import FLOAT16, is_crossed, reason_to_refuse
from lra.rules import Rule

_MOVING = ("Reshape", "Flatten", "Permute", "Identity")
"""Layers that only move elements: the layer before them still computes the output."""

Selector = str | type[Any]
"""The name of a layer, operation or nested model, a pattern of names, or a class."""

_OPERATION = (
    "a nonlinear function of keras.ops, or the end of one of several operations; use "
    "keras.layers.Activation(function)"
)


@dataclass(frozen=True)
class Plan:
    """The ids of the layers to convert, and of those at the inputs and outputs."""

    weights: frozenset[int]
    activations: frozenset[int]
    input_layers: frozenset[int]
    output_layers: frozenset[int]


def plan(
    model: Any, rule: Rule, skip: Sequence[Selector], input_layers: Sequence[str] | None
) -> Plan:
    """Decide the role of every layer.

    Args:
        model: a Sequential or Functional model.
        rule: the rule to convert to.
        skip: layers and nested models to leave on backprop.
        input_layers: paths of the weight layers that see the raw input; None to find them.

    Raises:
        ConversionError: naming every layer that cannot follow the rule.
        OptionError: for an unknown name.
    """
    graph = trace(model)
    paths = {call.path: call.layer for call in graph.calls} | graph.models
    skipped = tuple(f"{path}/" for path in _selected(paths, skip))
    converted = [path for path, layer in paths.items() if isinstance(layer, Local)]
    if converted:
        raise ConversionError(
            f"convert: already converted: {', '.join(map(repr, converted[:8]))}. "
            "Call lra.keras.restore(model) first"
        )
    taken = {path: layer for path, layer in paths.items() if not f"{path}/".startswith(skipped)}
    last = output_layers(graph)
    _refuse(model, rule, taken, nonlinear_operations(model, graph, rule, last))
    weights = {path: layer for path, layer in taken.items() if type(layer) in WEIGHT_LAYERS}
    if not weights:
        raise ConversionError(
            f"convert: this {type(model).__name__} has no layer to convert; a rule needs at least "
            f"one of {', '.join(sorted(cls.__name__ for cls in WEIGHT_LAYERS))}"
        )
    return Plan(
        weights=frozenset(map(id, weights.values())),
        activations=frozenset(
            id(layer)
            for layer in taken.values()
            if type(layer) not in WEIGHT_LAYERS
            and is_crossed(layer, rule)
            and id(layer) not in last
        ),
        input_layers=_input_layers(graph, rule, weights, input_layers),
        output_layers=last,
    )


def _selected(paths: dict[str, Any], skip: Sequence[Selector]) -> set[str]:
    """Return the paths that names, patterns and classes select.

    Raises:
        OptionError: for a selector that matches nothing.
    """
    found: set[str] = set()
    for each in skip:
        if isinstance(each, str):
            chosen = {path for path in paths if fnmatch.fnmatchcase(path, each)}
            if not chosen:
                raise unknown("layer in skip", each, paths)
        elif isinstance(each, type):
            chosen = {path for path, layer in paths.items() if isinstance(layer, each)}
            if not chosen:
                classes = {type(layer).__name__ for layer in paths.values()}
                raise unknown("class in skip", each.__name__, classes)
        else:
            raise OptionError(f"convert: skip takes names, patterns and classes, got {each!r}")
        found |= chosen
    return found


def nonlinear_operations(
    model: Any, graph: Graph, rule: Rule, last: frozenset[int]
) -> frozenset[int]:
    """Return the ids of operations that errors would cross by the derivative of a nonlinearity.

    Args:
        model: a Sequential or Functional model.
        graph: its graph.
        rule: the rule.
        last: the ids of the layers that compute the outputs.
    """
    if isinstance(rule.crossing, Derivative):
        return frozenset()
    found: set[int] = set()
    for each in (model, *graph.models.values()):
        if is_functional(each):
            found |= ends_of_functions(each, _is_free, _is_nonlinear)
    reached = graph.upstream(_learns)
    crossed = {id(call.layer) for call, learns in zip(graph.calls, reached, strict=True) if learns}
    return frozenset(found & crossed) - last


def _is_free(operation: Any) -> bool:
    """Return whether an operation, or a layer of Keras without weights, keeps its derivative."""
    if not isinstance(operation, keras.layers.Layer):
        return True
    if operation.weights or isinstance(operation, (keras.Model, *REFUSED, *ACTIVATIONS, Local)):
        return False
    return type(operation).__module__.startswith("keras.")


def _is_nonlinear(f: Any, shape: Any) -> bool:
    try:
        return is_nonlinear(f, shape)
    except Exception:
        return False  # it takes arrays of other sizes only, so it is not elementwise


def _refuse(model: Any, rule: Rule, taken: dict[str, Any], nonlinear: frozenset[int]) -> None:
    """Raise one error for all layers that cannot follow the rule."""
    if rule == Rule():
        return  # backprop everywhere, as requested
    refused = [
        Refusal(path, type(layer).__name__, trouble)
        for path, layer in taken.items()
        if (trouble := _OPERATION if id(layer) in nonlinear else reason_to_refuse(layer, rule))
    ]
    if not refused and model.dtype_policy.compute_dtype == "float16":
        refused.append(Refusal("", type(model).__name__, FLOAT16))
    if refused:
        raise ConversionError(
            "convert: these layers cannot follow the rule, and would silently stay on backprop:\n"
            + "\n".join(f"  - {refusal}" for refusal in refused)
            + "\nFix them as described, or leave them on backprop with skip=(their names)",
            tuple(refused),
        )


def output_layers(graph: Graph) -> frozenset[int]:
    """Return the ids of the layers that compute the model's outputs and nothing else.

    An activation there belongs to the loss, whose derivative is the first error.
    """

    def transparent(layer: Any) -> bool:
        name = type(layer).__name__
        linear = getattr(layer, "activation", None) is keras.activations.linear
        return name in _MOVING or (name == "Activation" and linear)

    last = graph.last(transparent)
    inner = graph.downstream(lambda layer: type(layer) in WEIGHT_LAYERS)
    calls = list(enumerate(graph.calls))
    hidden = {id(call.layer) for i, call in calls if i not in last or inner[i]}
    return frozenset(id(call.layer) for _, call in calls) - hidden


def _input_layers(
    graph: Graph, rule: Rule, weights: dict[str, Any], named: Sequence[str] | None
) -> frozenset[int]:
    """Return the ids of the weight layers that see only the raw input."""
    if named is not None:
        for name in named:
            if name not in weights:
                raise unknown("weight layer in input_layers", name, weights)
        return frozenset(id(weights[name]) for name in named)
    if isinstance(rule.feedback, Transpose):
        return frozenset()
    crossed = graph.upstream(_learns)
    fed = {id(call.layer) for i, call in enumerate(graph.calls) if crossed[i]}
    return frozenset(map(id, weights.values())) - fed


def _learns(layer: Any) -> bool:
    """Return whether a layer has trainable weights, or will have when it is built."""
    if getattr(layer, "trainable_weights", ()):
        return True
    has_weights = type(layer) in WEIGHT_LAYERS or isinstance(layer, DIFFERENTIATED)
    return has_weights and not layer.built and layer.trainable
