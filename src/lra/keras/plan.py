"""What a conversion will do: every layer's part in it, and all that stands in its way."""

from dataclasses import dataclass
from typing import Any

import keras

from lra.axis import unknown
from lra.crossing import Derivative
from lra.errors import ConversionError
from lra.feedback import Transpose
from lra.inits import Mirror
from lra.keras.backend import BACKENDS
from lra.keras.graph import Graph, is_model, trace
from lra.keras.layers import ACTIVATIONS, KEPT, REFUSED, WEIGHT_LAYERS, Local, bends, crossable
from lra.rules import Rule
from lra.wiring import Chain

_MOVING = ("Reshape", "Flatten", "Permute", "Identity")
"""Layers that only move elements, so that what comes before them still is the output."""

_OPERATION = "a nonlinearity of keras.ops; write it as a keras.layers.Activation(function)"
_FLOAT16 = (
    "float16 needs a scaled loss, whose factor changes while it trains, and N with it; use "
    "mixed_bfloat16 or float32"
)


@dataclass(frozen=True)
class Plan:
    """The ids of the layers to convert, and of those with a special part."""

    weights: frozenset[int]
    nonlinearities: frozenset[int]
    input_layers: frozenset[int]
    output_layers: frozenset[int]


def check_model(model: Any, verb: str, *, subclassed: bool = False) -> None:
    """Refuse what is no Keras model, or none whose layers can be seen.

    Raises:
        ConversionError: saying what to do instead.
    """
    if not isinstance(model, keras.Model):
        raise ConversionError(
            f"{verb}: expected a keras.Model, got {type(model).__name__}; for a torch.nn.Module "
            f"there is lra.{verb}"
        )
    if subclassed:
        return
    if keras.backend.backend() not in BACKENDS:
        raise ConversionError(
            f"{verb}: Keras's {keras.backend.backend()} backend does not train; set KERAS_BACKEND "
            f"to one of {', '.join(BACKENDS)}"
        )
    why = _unseen(model)
    if why:
        raise ConversionError(f"{verb}: {type(model).__name__} is {why}")


def _unseen(model: Any) -> str:
    """Say why a model's layers cannot be seen, or nothing."""
    remedy = (
        "build it with keras.Sequential or keras.Model(inputs, outputs), or write the layers of "
        "lra.keras.layers in it, such as LocalDense(..., rule=rule) for Dense(...)"
    )
    if isinstance(model, keras.Sequential):
        if type(model) is keras.Sequential:
            return ""
        return f"a subclass of keras.Sequential, whose steps may differ from it; {remedy}"
    if not is_model(model):
        return f"a subclassed model, whose forward pass cannot be seen; {remedy}"
    functional: Any = next(cls for cls in type(model).__mro__ if cls.__name__ == "Functional")
    if type(model).call is not functional.call:
        return f"a functional model with a call of its own; {remedy}"
    if "__init__" in vars(type(model)) and type(model).train_step is not functional.train_step:
        return f"a model with an __init__ and a train_step of its own; {remedy}"
    return ""


def plan(
    model: Any, rule: Rule, skip: tuple[str, ...], input_layers: tuple[str, ...] | None
) -> Plan:
    """Decide for every layer, and refuse once for all that stands in the way."""
    if not isinstance(rule.wiring, Chain):
        raise ConversionError(f"convert: {rule.wiring} has no form in Keras; use Chain()")
    if isinstance(getattr(rule.feedback, "init", None), Mirror):
        raise ConversionError(
            "convert: Mirror has no form in Keras yet, where feedback is drawn before the weights "
            "are at hand; use LikeWeights() or FanIn()"
        )
    graph = trace(model)
    paths = {call.path: call.layer for call in graph.calls} | graph.models
    for name in skip:
        if name not in paths:
            raise unknown("layer in skip", name, paths)
    converted = [path for path, layer in paths.items() if isinstance(layer, Local)]
    if converted:
        raise ConversionError(
            f"convert: already converted: {', '.join(map(repr, converted[:8]))}. "
            "Call lra.keras.restore(model) first"
        )
    cut = [f"{name}/" for name in skip]
    taken = {path: layer for path, layer in paths.items() if not f"{path}/".startswith(tuple(cut))}
    _refuse(model, rule, taken)
    weights = {path: layer for path, layer in taken.items() if type(layer) in WEIGHT_LAYERS}
    if not weights:
        raise ConversionError(
            f"convert: this {type(model).__name__} has no layer to convert; a rule needs at least "
            f"one of {', '.join(sorted(cls.__name__ for cls in WEIGHT_LAYERS))}"
        )
    last = _output_layers(graph)
    return Plan(
        weights=frozenset(map(id, weights.values())),
        nonlinearities=frozenset(
            id(layer)
            for layer in taken.values()
            if type(layer) in ACTIVATIONS and _nonlinear(layer, rule) and id(layer) not in last
        ),
        input_layers=_input_layers(graph, rule, weights, input_layers),
        output_layers=last,
    )


def _refuse(model: Any, rule: Rule, taken: dict[str, Any]) -> None:
    """Raise one error for all the layers that cannot follow the rule."""
    if rule == Rule():
        return  # all that stays on backprop is as asked
    troubles = [
        f"{path} ({type(layer).__name__}): {trouble}"
        for path, layer in taken.items()
        if (trouble := _trouble(layer, rule))
    ]
    if not troubles and model.dtype_policy.compute_dtype == "float16":
        troubles.append(f"{model.name} (the model itself): {_FLOAT16}")
    if troubles:
        raise ConversionError(
            "convert: these layers cannot follow the rule, and would silently stay on backprop:\n"
            + "\n".join(f"  - {trouble}" for trouble in troubles)
            + "\nMend them as said, or leave them on backprop on purpose with skip=(their names)"
        )


def _trouble(layer: Any, rule: Rule) -> str:
    """Say why a layer or an operation cannot follow the rule, or nothing."""
    if not isinstance(layer, keras.layers.Layer):
        if isinstance(rule.crossing, Derivative):
            return ""
        return _OPERATION if any(map(bends, layer._inbound_nodes)) else ""
    if isinstance(layer, keras.Model):
        return _unseen(layer)
    for base, why in REFUSED.items():
        if isinstance(layer, base):
            return why
    if _reversed(layer):
        return "called in reverse it multiplies by its embeddings; write that as a Dense layer"
    known = type(layer) in WEIGHT_LAYERS or type(layer) in ACTIVATIONS
    if known:
        return _setting_trouble(layer)
    for base in (*WEIGHT_LAYERS, *ACTIVATIONS):
        if isinstance(layer, base):
            return f"a subclass of keras.layers.{base.__name__}, whose call may differ from it"
    if not type(layer).__module__.startswith("keras."):
        return "a layer of your own, whose call cannot be seen; write it with layers and keras.ops"
    if layer.trainable_weights and not isinstance(layer, KEPT):
        return "its weights have no local form here"
    return ""


def _reversed(layer: Any) -> bool:
    """Tell whether an embedding is also called in reverse, as the layer that gives the logits."""
    if type(layer).__name__ != "ReversibleEmbedding":
        return False
    return any(node.arguments.kwargs.get("reverse") for node in layer._inbound_nodes)


def _setting_trouble(layer: Any) -> str:
    """Say which setting of a layer of the tables stands in the way, or nothing."""
    if layer.dtype_policy.compute_dtype == "float16":
        return _FLOAT16
    if getattr(layer, "lora_enabled", False) or getattr(layer, "lora_rank", None):
        return "LoRA splits its kernel; convert the model before lora is enabled, and go without it"
    if getattr(layer, "quantization_mode", None):
        return "its kernel is quantized; rules work on floating-point weights"
    phi = getattr(layer, "activation", None)
    if isinstance(phi, keras.layers.Layer) and (phi.weights or type(phi) in (keras.layers.PReLU,)):
        return "its activation has weights of its own; write it as a layer after this one"
    given = [x for node in layer._inbound_nodes for x in node.input_tensors]
    # Keras calls sparse what it multiplies by an array, too; an input is so only if told.
    if any(x.sparse and type(x._keras_history.operation) is keras.layers.InputLayer for x in given):
        return "its input is sparse; make it dense first"
    return ""


def _nonlinear(layer: Any, rule: Rule) -> bool:
    """Tell whether errors cross an activation layer by the rule."""
    if type(layer) is keras.layers.Activation:
        return crossable(layer.activation, rule)
    return not isinstance(rule.crossing, Derivative)


def _output_layers(graph: Graph) -> frozenset[int]:
    """Give the ids of the layers whose results are only the model's outputs.

    An activation there belongs to the loss, whose derivative is the error that LRA starts from.
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
    """Give the ids of the weight layers that see only the raw input."""
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
    """Tell whether a layer has weights that training moves, or will have when it is built."""
    if getattr(layer, "trainable_weights", ()):
        return True
    weighty = type(layer) in WEIGHT_LAYERS or isinstance(layer, KEPT)
    return weighty and not layer.built and layer.trainable
