"""The graph of a Keras model, including nested models: which layer takes which results."""

import functools
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


# ------------------------------------------------------------------ functions of several operations


def ends_of_functions(
    model: Any, free: Callable[[Any], bool], marked: Callable[[Callable[[Any], Any], Any], bool]
) -> set[int]:
    """Return the ids of operations that end a marked function of one tensor.

    The function may consist of several operations, as `where(h > 0, h, 0.1 * h)` does. It starts at
    the last tensor that all its paths lead through, and only the last of its operations is
    returned.

    Args:
        model: a Functional model, without those nested in it.
        free: whether an operation may belong to such a function.
        marked: whether a function of one array, and of the shape of its input, is marked.
    """
    order = list(_nodes(model))
    rank = {id(x): i for i, node in enumerate(order) for x in node.output_tensors}
    found: dict[int, set[int]] = {}
    for i, node in enumerate(order):
        if not node.input_tensors or not free(node.operation):
            continue
        inside, start = {i}, {id(x): x for x in node.input_tensors}
        while len(start) > 1 or not keras.backend.is_float_dtype(_only(start).dtype):
            last = max(start, key=lambda key: rank[key])
            below = order[rank[last]]
            if not below.input_tensors or not free(below.operation):
                break
            del start[last]
            inside.add(rank[last])
            start |= {id(x): x for x in below.input_tensors}
        else:
            nodes = [order[j] for j in sorted(inside)]
            if marked(functools.partial(_run, nodes, _only(start)), _only(start).shape):
                found[i] = inside - {i}
    inner = frozenset().union(*found.values())
    return {id(order[i].operation) for i in found.keys() - inner}


def _only(tensors: dict[int, Any]) -> Any:
    return next(iter(tensors.values()))


def _run(nodes: Sequence[Any], start: Any, x: Any) -> Any:
    """Compute the first output of the last node, with the value x of the tensor `start`."""
    values = {id(start): x}
    for node in nodes:
        args, kwargs = node.arguments.fill_in({id(t): values[id(t)] for t in node.input_tensors})
        out = keras.tree.flatten(node.operation(*args, **kwargs))
        values |= {id(t): value for t, value in zip(node.output_tensors, out, strict=True)}
    return values[id(nodes[-1].output_tensors[0])]
