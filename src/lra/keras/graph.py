"""The graph of a Keras model, nested models opened: which layer is called after which."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True)
class Call:
    """One call of a layer or an operation; a shared layer has several.

    Attributes:
        layer: the layer, or one of Keras's operations, such as `ops.add`'s.
        path: its name, behind those of the models around it: "encoder/dense".
        before: the indices of the calls whose results it takes.
    """

    layer: Any
    path: str
    before: frozenset[int]


@dataclass(frozen=True)
class Graph:
    """All calls of a model, in the order in which they run.

    Attributes:
        calls: the calls.
        outputs: the indices of those that give the model's outputs.
        models: the nested models by their paths.
    """

    calls: list[Call]
    outputs: frozenset[int]
    models: dict[str, Any]

    def upstream(self, marked: Callable[[Any], bool]) -> list[bool]:
        """Tell for every call whether a marked layer comes before it."""
        found: list[bool] = []
        for call in self.calls:
            found.append(any(found[i] or marked(self.calls[i].layer) for i in call.before))
        return found

    def downstream(self, marked: Callable[[Any], bool]) -> list[bool]:
        """Tell for every call whether a marked layer comes after it."""
        found = [False] * len(self.calls)
        for i in reversed(range(len(self.calls))):
            for source in self.calls[i].before:
                found[source] |= found[i] or marked(self.calls[i].layer)
        return found

    def last(self, transparent: Callable[[Any], bool]) -> frozenset[int]:
        """Give the calls that reach an output directly, or through transparent layers only."""
        last: set[int] = set()
        waiting = list(self.outputs)
        while waiting:
            i = waiting.pop()
            if i not in last:
                last.add(i)
                waiting += self.calls[i].before if transparent(self.calls[i].layer) else ()
        return frozenset(last)


def is_model(layer: Any) -> bool:
    """Tell whether a layer is a model that can be opened: Sequential or Functional."""
    return isinstance(layer, keras.Sequential) or is_functional(layer)


def is_functional(layer: Any) -> bool:
    """Tell whether a layer is a model made of inputs and outputs."""
    return isinstance(layer, keras.Model) and hasattr(layer, "_nodes_by_depth")


def trace(model: Any) -> Graph:
    """Follow a Sequential or Functional model's calls from its inputs to its outputs."""
    calls: list[Call] = []
    models: dict[str, Any] = {}
    count = 1 if isinstance(model, keras.Sequential) else len(model.inputs)
    outputs = _follow(model, "", [frozenset()] * count, calls, models)
    return Graph(calls, _union(outputs), models)


Sources = frozenset[int]


def _union(sources: Sequence[Sources]) -> Sources:
    return frozenset().union(*sources)


def _follow(
    model: Any, prefix: str, inputs: list[Sources], calls: list[Call], models: dict[str, Any]
) -> list[Sources]:
    """Add a model's calls, and give the calls that each of its outputs comes from."""

    def step(layer: Any, arrived: list[Sources]) -> list[Sources] | None:
        path = f"{prefix}{layer.name}"
        if is_model(layer):
            models[path] = layer
            return _follow(layer, f"{path}/", arrived, calls, models)
        calls.append(Call(layer, path, _union(arrived)))
        return None  # all its outputs come from this one call

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
