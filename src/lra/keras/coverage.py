"""Coverage: the share of a converted model's weights and activations that follow its rule."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from lra.keras.convert import require_converted
from lra.keras.graph import Call, Graph, is_model, trace
from lra.keras.layers import DIFFERENTIATED, Local, LocalWeights
from lra.keras.plan import nonlinear_operations, output_layers
from lra.keras.reasons import passes_on


@dataclass(frozen=True)
class Coverage:
    """Report how much of a model follows its rule, as it is now.

    Attributes:
        weights: the number of weights under the rule, by class. Weights that no error has to cross
            count as well: those that read the raw input, embeddings, biases and scales.
        left: the number of weights on backprop, by class, such as those excluded with `skip=`.
        activations: the number of activations under the rule, by class.
        escaped: the names of layers and operations that errors cross by the derivative of a
            nonlinear function, though they do not compute the outputs.
        passes: layers and operations without weights that keep their own derivative by design, with
            numbers of calls: pooling, softmax, sums, reshapes.
        verified: whether the graph of the model is known: it is Sequential or Functional, and
            contains only such models.
    """

    weights: dict[str, int]
    left: dict[str, int]
    activations: dict[str, int]
    escaped: tuple[str, ...]
    passes: dict[str, int]
    verified: bool

    @property
    def share(self) -> float:
        """The share of weights under the rule."""
        followed, left = sum(self.weights.values()), sum(self.left.values())
        return followed / (followed + left) if followed + left else 1.0

    @property
    def full(self) -> bool:
        """Whether every weight and activation follows the rule, and the graph is known."""
        return self.verified and not self.left and not self.escaped

    def __str__(self) -> str:
        kinds = sorted({*self.weights, *self.left, *self.activations})
        width = max(map(len, ("layer", *kinds)))
        lines = [
            f"{'layer':{width}}  {'by the rule':>13}  {'by backprop':>13}  {'activations':>11}"
        ]
        for kind in kinds:
            counts = [x.get(kind, 0) for x in (self.weights, self.left, self.activations)]
            lines.append("{:{}}  {:>13,}  {:>13,}  {:>11,}".format(kind, width, *counts))
        lines.append(f"{self.share:.1%} of the weights follow the rule")
        if self.escaped:
            lines.append(f"activations on backprop: {', '.join(self.escaped)}")
        if self.verified:
            passes = ", ".join(f"{name} ({calls})" for name, calls in self.passes.items())
            lines.append(f"passed on by their own derivative, by design: {passes or 'nothing'}")
        else:
            lines.append("not verified: the call of a subclassed model cannot be inspected")
        return "\n".join(lines)


def coverage(model: Any) -> Coverage:
    """Count the weights and activations of a converted model that follow its rule.

    Args:
        model: a converted model, which is built.

    Returns:
        The counts. `print` shows them as a table.

    Raises:
        ConversionError: no layer of the model is converted.

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]
    ... )
    >>> lra.keras.coverage(lra.keras.convert(model, lra.LRAE())).share
    1.0
    """
    require_converted(model, "coverage")
    weights: Counter[str] = Counter()
    left: Counter[str] = Counter()
    activations: Counter[str] = Counter()
    passes: Counter[str] = Counter()
    escaped: list[str] = []
    verified = is_model(model)
    graph = trace(model) if verified else Graph(list(_leaves(model)), frozenset(), {})
    rule = next(call.layer.rule for call in graph.calls if isinstance(call.layer, Local))
    last = output_layers(graph)
    nonlinear = nonlinear_operations(model, graph, rule, last)
    times = Counter(id(call.layer) for call in graph.calls)
    for call in {id(call.layer): call for call in graph.calls}.values():
        layer = call.layer
        kind, own = type(layer).__name__, _weights(layer)
        followed = isinstance(layer, (Local, *DIFFERENTIATED))
        (weights if followed else left)[kind] += sum(math.prod(v.shape) for v in own)
        if isinstance(layer, Local) and layer.crosses_activation:
            activations[kind] += 1
        elif id(layer) in nonlinear or not (
            followed or id(layer) in last or passes_on(layer, rule)
        ):
            escaped.append(call.path)
        elif not own and kind != "InputLayer":
            passes[kind] += times[id(layer)]
    return Coverage(
        dict(+weights), dict(+left), dict(activations), tuple(escaped), dict(passes), verified
    )


def _weights(layer: Any) -> list[Any]:
    """List a layer's weights, without feedback weights."""
    slot = layer.feedback_slot if isinstance(layer, LocalWeights) else None
    added = {id(variable) for variable in slot.variables} if slot is not None else set()
    return [v for v in getattr(layer, "weights", ()) if id(v) not in added]


def _leaves(model: Any) -> Iterator[Call]:
    """Yield the layers of a subclassed model, which calls them in ways unknown."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield Call(layer, layer.name, frozenset())
