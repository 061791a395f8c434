"""The graph of a Keras model, including nested models: which layer takes which results."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True)
class Call:
    """One call of a layer or an operation; a shared layer has several.

    Attributes:
        layer: the layer, or a Keras operation such as that of `ops.add`.
        path: its name, after those of the models around it: "encoder/dense".
        sources: the indices of the calls whose results it takes.
    """

    layer: Any
    path: str
    sources: frozenset[int]


@dataclass(frozen=True)
class Graph:
    """All calls of a model, in the order in which they run.

    Attributes:
        calls: the calls.
        outputs: the indices of the calls that compute the model's outputs.
        models: the nested models by path.
    """

    calls: list[Call]
    outputs: frozenset[int]
    models: dict[str, Any]

    def upstream(self, marked: Callable[[Any], bool]) -> list[bool]:
        """Return for every call whether a marked layer comes before it."""
        found: list[bool] = []
        for call in self.calls:
            found.append(any(found[i] or marked(self.calls[i].layer) for i in call.sources))
        return found

    def downstream(self, marked: Callable[[Any], bool]) -> list[bool]:
        """Return for every call whether a marked layer comes after it."""
        found = [False] * len(self.calls)
        for i in reversed(range(len(self.calls))):
            for source in self.calls[i].sources:
                found[source] |= found[i] or marked(self.calls[i].layer)
        return found

    def last(self, transparent: Callable[[Any], bool]) -> frozenset[int]:
        """Return the calls that reach an output directly, or through transparent layers only."""
        last: set[int] = set()
        waiting = list(self.outputs)
        while waiting:
            i = waiting.pop()
            if i not in last:
                last.add(i)
                waiting += self.calls[i].sources if transparent(self.calls[i].layer) else ()
        return frozenset(last)


def is_model(layer: Any) -> bool:
    """Return whether a layer is a model whose layers can be read: Sequential or Functional."""
    return isinstance(layer, keras.Sequential) or is_functional(layer)


def is_functional(layer: Any) -> bool:
    """Return whether a layer is a model made from inputs and outputs."""
    return isinstance(layer, keras.Model) and hasattr(layer, "_nodes_by_depth")


def trace(model: Any) -> Graph:
    """Build the graph of a Sequential or Functional model."""
    calls: list[Call] = []
    models: dict[str, Any] = {}
    count = 1 if isinstance(model, keras.Sequential) else len(model.inputs)
    outputs = _add_calls(model, "", [frozenset()] * count, calls, models)
    return Graph(calls, _union(outputs), models)


Sources = frozenset[int]


def _union(sources: Sequence[Sources]) -> Sources:
    return frozenset().union(*sources)


def _add_calls(
    model: Any, prefix: str, inputs: list[Sources], calls: list[Call], models: dict[str, Any]
) -> list[Sources]:
    """Append a model's calls, and return for each of its outputs the calls that compute it."""

    def step(layer: Any, arrived: list[Sources]) -> list[Sources] | None:
        path = f"{prefix}{layer.name}"
        if is_model(layer):
            models[path] = layer
            return _add_calls(layer, f"{path}/", arrived, calls, models)
        calls.append(Call(layer, path, _union(arrived)))
        return None  # this one call computes all its outputs

    if isinstance(model, keras.Sequential):
        current = inputs
        for layer in model.layers:
            current = step(layer, current) or [frozenset((len(calls) - 1,))]
        return current
    known: dict[int, Sources] = {id(x): s for x, s in zip(model.inputs, inputs, strict=True)}
    for node in _nodes(model):
        if all(id(x) in known for x in node.output_tensors):
            continue  # an input
        results = step(node.operation, [known[id(x)] for x in node.input_tensors])
        if results is None:
            results = [frozenset((len(calls) - 1,))] * len(node.output_tensors)
        known.update({id(x): s for x, s in zip(node.output_tensors, results, strict=True)})
    return [known[id(x)] for x in model.outputs]


def _nodes(model: Any) -> Iterator[Any]:
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from model._nodes_by_depth[depth]
