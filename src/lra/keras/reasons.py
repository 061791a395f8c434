"""Why a layer cannot follow a rule, and how errors cross the layers that keep their derivative."""

from typing import Any

import keras

from lra.crossing import Derivative
from lra.errors import ConversionError
from lra.keras.backend import BACKENDS
from lra.keras.closed_forms import own_difference
from lra.keras.graph import is_model
from lra.keras.layers import (
    ACTIVATIONS,
    DIFFERENTIATED,
    REFUSED,
    WEIGHT_LAYERS,
    crosses_by_rule,
)
from lra.rules import Rule

FLOAT16 = (
    "float16 needs a scaled loss, whose factor, and so N, changes during training; use "
    "mixed_bfloat16 or float32"
)
_OWN_ACTIVATION = (
    "its activation is a layer whose call cannot be inspected; use a function, or give the layer a "
    "method difference(h, delta, xp)"
)


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


def reason_to_refuse(layer: Any, rule: Rule) -> str:
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
        return FLOAT16
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
        is_crossed(layer, rule)
    except ConversionError as error:
        return str(error)
    return ""


def passes_on(layer: Any, rule: Rule) -> bool:
    """Return whether a layer that is not converted should keep its own derivative."""
    return not (reason_to_refuse(layer, rule) or is_crossed(layer, rule))


def is_crossed(layer: Any, rule: Rule) -> bool:
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
