"""What a conversion will do: the role of every layer, and every reason to refuse."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from lra.axis import unknown
from lra.crossing import Derivative
from lra.errors import ConversionError, OptionError, Refusal
from lra.feedback import Transpose
from lra.keras.backend import BACKENDS
from lra.keras.closed_forms import own_difference
from lra.keras.graph import Graph, ends_of_functions, is_functional, is_model, trace
from lra.keras.layers import (
    ACTIVATIONS,
    DIFFERENTIATED,
    REFUSED,
    WEIGHT_LAYERS,
    Local,
    crosses_by_rule,
    is_nonlinear,
)
from lra.rules import Rule

_MOVING = ("Reshape", "Flatten", "Permute", "Identity")
"""Layers that only move elements: the layer before them still computes the output."""

Selector = str | type[Any]
"""The name of a layer, operation or nested model, a pattern of names, or a class."""

_OPERATION = (
    "a nonlinear function of keras.ops, or the end of one of several operations; use "
    "keras.layers.Activation(function)"
)
_FLOAT16 = (
    "float16 needs a scaled loss, whose factor, and so N, changes during training; use "
    "mixed_bfloat16 or float32"
)
_OWN_ACTIVATION = (
    "its activation is a layer whose call cannot be inspected; use a function, or give the layer a "
    "method difference(h, delta, xp)"
)


@dataclass(frozen=True)
class Plan:
    """The ids of the layers to convert, and of those at the inputs and outputs."""

    weights: frozenset[int]
    activations: frozenset[int]
    input_layers: frozenset[int]
    output_layers: frozenset[int]


def check_model(model: Any, verb: str, *, subclassed: bool = False) -> None:
    """Check that this is a Keras model whose layers can be inspected.

    Args:
        model: the object to check.
        verb: the name of the calling function, for messages.
        subclassed: whether any keras.Model is allowed.

    Raises:
        ConversionError: it is not; the message states the alternative.
    """
    if not isinstance(model, keras.Model):
        raise ConversionError(
            f"{verb}: expected a keras.Model, got {type(model).__name__}; for a torch.nn.Module "
            f"use lra.{verb}"
        )
    if subclassed:
        return
    if keras.backend.backend() not in BACKENDS:
        raise ConversionError(
            f"{verb}: Keras's {keras.backend.backend()} backend does not train; set KERAS_BACKEND "
            f"to one of {', '.join(BACKENDS)}"
        )
    why = _hidden_layers(model)
    if why:
        raise ConversionError(f"{verb}: {type(model).__name__} is {why}")


def _hidden_layers(model: Any) -> str:
    """Return why a model's layers cannot be inspected; "" if they can be."""
    remedy = (
        "build it with keras.Sequential or keras.Model(inputs, outputs), or use layers of "
        "lra.keras.layers in it, such as LocalDense(..., rule=rule) instead of Dense(...)"
    )
    if isinstance(model, keras.Sequential):
        if type(model) is keras.Sequential:
            return ""
        return f"a subclass of keras.Sequential, whose call may differ; {remedy}"
    if not is_model(model):
        return f"a subclassed model, whose forward pass cannot be inspected; {remedy}"
    functional: Any = next(cls for cls in type(model).__mro__ if cls.__name__ == "Functional")
    if type(model).call is not functional.call:
        return f"a functional model that overrides call; {remedy}"
    if "__init__" in vars(type(model)) and type(model).train_step is not functional.train_step:
        return f"a model that overrides __init__ and train_step; {remedy}"
    return ""


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
            and _is_crossed(layer, rule)
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
        if (trouble := _OPERATION if id(layer) in nonlinear else _trouble(layer, rule))
    ]
    if not refused and model.dtype_policy.compute_dtype == "float16":
        refused.append(Refusal("", type(model).__name__, _FLOAT16))
    if refused:
        raise ConversionError(
            "convert: these layers cannot follow the rule, and would silently stay on backprop:\n"
            + "\n".join(f"  - {refusal}" for refusal in refused)
            + "\nFix them as described, or leave them on backprop with skip=(their names)",
            tuple(refused),
        )


def _trouble(layer: Any, rule: Rule) -> str:
    """Return why a layer or an operation cannot follow the rule; "" if it can."""
    if not isinstance(layer, keras.layers.Layer):
        return ""
    if isinstance(layer, keras.Model):
        return _hidden_layers(layer)
    for base, why in REFUSED.items():
        if isinstance(layer, base):
            return why
    if _reversed(layer):
        return "called in reverse it multiplies by its embeddings; use a Dense layer there"
    if type(layer) in WEIGHT_LAYERS or type(layer) in ACTIVATIONS or _is_custom_activation(layer):
        return _setting_trouble(layer) or _activation_trouble(layer, rule)
    for base in (*WEIGHT_LAYERS, *ACTIVATIONS):
        if isinstance(layer, base):
            return f"a subclass of keras.layers.{base.__name__}, whose call may differ"
    if not type(layer).__module__.startswith("keras."):
        return (
            f"a layer of {type(layer).__module__}, whose call cannot be inspected; use layers of "
            "Keras and keras.ops instead, or derive a class from it that is elementwise, has no "
            "weights, and defines difference(h, delta, xp)"
        )
    if layer.trainable_weights and not isinstance(layer, DIFFERENTIATED):
        return "no rule is defined for its weights"
    return ""


def _reversed(layer: Any) -> bool:
    """Return whether an embedding is also called in reverse, to compute the logits."""
    if type(layer).__name__ != "ReversibleEmbedding":
        return False
    return any(node.arguments.kwargs.get("reverse") for node in layer._inbound_nodes)


def _setting_trouble(layer: Any) -> str:
    """Return which setting of a supported layer is not supported; "" if all are."""
    if layer.dtype_policy.compute_dtype == "float16":
        return _FLOAT16
    if getattr(layer, "lora_enabled", False) or getattr(layer, "lora_rank", None):
        return "LoRA splits its kernel; convert a model without LoRA"
    if getattr(layer, "quantization_mode", None):
        return "its kernel is quantized; use floating-point weights"
    phi = getattr(layer, "activation", None)
    if isinstance(phi, keras.layers.Layer) and (phi.weights or type(phi) in (keras.layers.PReLU,)):
        return "its activation has weights; use it as a layer after this one"
    given = [x for node in layer._inbound_nodes for x in node.input_tensors]
    # Keras also marks products with an array as sparse; an input is sparse only if declared.
    if any(x.sparse and type(x._keras_history.operation) is keras.layers.InputLayer for x in given):
        return "its input is sparse; make it dense"
    return ""


def _activation_trouble(layer: Any, rule: Rule) -> str:
    """Return why errors cannot cross a layer's own activation; "" if they can."""
    phi = getattr(layer, "activation", None)
    if isinstance(rule.crossing, Derivative):
        return ""
    if isinstance(phi, keras.layers.Layer):
        hidden = isinstance(phi, tuple(REFUSED)) or not type(phi).__module__.startswith("keras.")
        return _OWN_ACTIVATION if hidden and not own_difference(phi) else ""
    try:
        _is_crossed(layer, rule)
    except ConversionError as error:
        return str(error)
    return ""


def passes_on(layer: Any, rule: Rule) -> bool:
    """Return whether a layer that is not converted should keep its own derivative."""
    return not (_trouble(layer, rule) or _is_crossed(layer, rule))


def _is_crossed(layer: Any, rule: Rule) -> bool:
    """Return whether errors cross a layer, or the activation of a weight layer, by the rule."""
    if type(layer) is keras.layers.Activation or type(layer) in WEIGHT_LAYERS:
        nodes = layer._inbound_nodes
        if not nodes:
            return not isinstance(rule.crossing, Derivative)  # it finds out when it is built
        shape = layer.compute_output_shape(nodes[-1].input_tensors[0].shape)
        return crosses_by_rule(layer.activation, rule, shape)
    known = type(layer) in ACTIVATIONS or _is_custom_activation(layer)
    return known and not isinstance(rule.crossing, Derivative)


def _is_custom_activation(layer: Any) -> bool:
    """Return whether this is a layer of the user without weights that has a `difference`."""
    if not isinstance(layer, keras.layers.Layer) or type(layer).__module__.startswith("keras."):
        return False
    final = layer.built or type(layer).build is keras.layers.Layer.build  # `build` adds no weights
    return own_difference(layer) is not None and final and not layer.weights


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
    graph: Graph, rule: Rule, weights: dict[str, Any], named: tuple[str, ...] | None
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
