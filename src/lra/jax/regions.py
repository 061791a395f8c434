"""Activations: the largest elementwise parts of a graph that depend on one value.

    z = phi(h)

h is the root of such a part and z its end. Parts that normalise (softmax, layer norm, ...) are not
activations: they use statistics of several numbers, and stay with automatic differentiation.
"""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp

from lra.jax.analysis import Flow, Level
from lra.jax.graph import Op, Value, read
from lra.jax.primitives import LINEAR, MOVES, NONLINEAR, REDUCTIONS, STEPS


@dataclass(frozen=True, eq=False)
class Region:
    """An activation z = phi(h) in a graph.

    Attributes:
        root: h.
        end: z.
        ops: the ops from h to z, in the order in which they run.
        parameters: what the ops read of the parameters, such as a learned slope.
    """

    root: Value
    end: Value
    ops: tuple[Op, ...]
    parameters: frozenset[Value] = frozenset()

    @cached_property
    def others(self) -> list[Value]:
        """What the ops read besides h, such as a slope; none of it derives from data."""
        inside = {self.root, *(v for op in self.ops for v in op.outputs)}
        read = {v: None for op in self.ops for v in op.inputs}
        return [v for v in read if v not in inside and not v.is_constant]

    @cached_property
    def name(self) -> str:
        """The function that computes it, or its primitives."""
        functions = [op.function for op in self.ops if op.function != op.name]
        primitives = [op.name for op in self.ops if op.name not in LINEAR]
        return functions[-1] if functions else "+".join(dict.fromkeys(primitives))

    @property
    def where(self) -> str:
        """The line of the user's code that computes z, or where h comes from if that is unknown."""
        known = [op.where for op in reversed(self.ops) if op.where != "?"]
        if known or self.root.op is None:
            return known[0] if known else "?"
        return f"after {self.root.op.where}"

    @cached_property
    def is_flat(self) -> bool:
        """Whether phi is a step function: no slope reaches z from h."""
        sloped = {self.root}
        for op in self.ops:
            read = op.inputs[1:] if op.name == "select_n" else op.inputs
            if op.name not in STEPS and op.outputs[0].is_float and any(v in sloped for v in read):
                sloped.update(op.outputs)
        return self.end not in sloped

    def run(self, h: Any, others: dict[Value, Any]) -> Any:
        """Compute z = phi(h), in h's floating-point type."""
        env = {**others, self.root: h}
        for op in self.ops:
            arrays = [read(env, v) for v in op.inputs]
            env.update(zip(op.outputs, self.bind(op, arrays, h.dtype), strict=True))
        return env[self.end]

    def bind(self, op: Op, arrays: list[Any], dtype: Any) -> list[Any]:
        """Compute one op, in a floating-point type that the function itself may not use."""
        if dtype == self.root.aval.dtype:
            return op.bind(arrays)
        exact = [x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in arrays]
        if op.bodies:
            (body,) = op.bodies
            env = dict(zip(body.inputs, exact, strict=True))
            for inner in body.ops:
                outs = self.bind(inner, [read(env, v) for v in inner.inputs], dtype)
                env.update(zip(inner.outputs, outs, strict=True))
            return [read(env, v) for v in body.outputs]
        if op.name == "convert_element_type" and op.outputs[0].is_float:
            return [exact[0].astype(dtype)]
        return op.bind(exact)


def activations(flow: Flow) -> dict[Value, Region]:
    """Return the activations whose errors travel on to a weight layer, by the value of each end."""
    if "activations" not in flow.cache:
        flow.cache["activations"] = _activations(flow)
    found: dict[Value, Region] = flow.cache["activations"]
    return found


def needed(flow: Flow, regions: Mapping[Value, Region]) -> list[Op]:
    """Return the ops to run; what only activations read is left to these."""
    found = {op for op in flow.level.graph.ops if op.eqn.effects}
    queue = [*flow.level.graph.outputs, *(v for op in found for v in op.inputs)]
    while queue:
        value = queue.pop()
        if value.op is not None and value.op not in found:
            found.add(value.op)
            region = regions.get(value)
            queue += value.op.inputs if region is None else [region.root, *region.others]
    return [op for op in flow.level.graph.ops if op in found]


def _activations(flow: Flow) -> dict[Value, Region]:
    level, graph = flow.level, flow.level.graph
    roots, curved = _roots(level)
    statistics = _statistics(level)
    found = {}
    for end in (v for op in graph.ops for v in op.outputs if v in curved):
        inside = all(roots.get(op.outputs[0]) is roots[end] for op in end.users)
        if end not in flow.feeds or (inside and end not in graph.outputs):
            continue
        root = roots[end]
        end = _without_linear_tail(level, end, curved)
        ops = _between(root, end, level)
        parameters = frozenset(v for op in ops for v in op.inputs if level.kind(v).is_weight)
        region = Region(root, end, ops, parameters)
        overrides = {op.override for op in region.ops}
        ordinary = end in statistics and "activation" not in overrides
        if not ordinary and "ordinary" not in overrides and end.is_float and root.is_float:
            found[end] = region
    read = {*needed(flow, found)}  # an activation inside another one is no longer read
    return {end: region for end, region in found.items() if end.op in read}


def _roots(level: Level) -> tuple[dict[Value, Value], set[Value]]:
    """Find the root of each value that an elementwise op computes, and which are not linear in it.

    Adding a bias or multiplying by a gain begins a new region, unless the result meets the same
    root again in an op that is not linear: the learned slope of a PReLU is part of an activation.
    """
    roots: dict[Value, Value] = {}
    below: dict[Value, Value] = {}  # from each value to the root of what computes it
    curved: set[Value] = set()

    def chain(value: Value) -> list[Value]:
        """Return the root of a value, and those below it through biases and gains."""
        found = [roots.get(value, value)]
        while found[-1] in below:
            found.append(below[found[-1]])
        return found

    for op in level.graph.ops:
        data = level.data(op)
        if not op.elementwise or not data:
            continue
        own = {roots.get(v, v) for v in data}
        (first, *others) = map(chain, data)
        root = next((v for v in first if all(v in other for other in others)), None)
        out = op.outputs[0]
        if root is None or root.aval.shape != out.aval.shape or not level.kind(root).leaves:
            continue
        curves = _curves(op, data)
        is_curved = curves or any(v in curved for v in data)
        reads_parameter = any(level.kind(v).is_weight for v in op.inputs)
        below[out] = root
        if curves if reads_parameter else (is_curved or len(own) == 1):
            roots[out] = root
            if is_curved:
                curved.add(out)
    return roots, curved


def _curves(op: Op, data: list[Value]) -> bool:
    """Return whether an elementwise op is not linear in the data that it reads."""
    if op.name == "mul":
        return len(data) > 1
    if op.name == "div":
        return len(data) > 1 or op.inputs[1] in data
    if op.name == "select_n":
        return op.inputs[0] in data
    return op.name in NONLINEAR or op.name not in LINEAR


def _without_linear_tail(level: Level, end: Value, curved: set[Value]) -> Value:
    """Leave out what scales or shifts an activation's output, unless it is part of a function."""
    while end.op is not None and end.op.name in LINEAR | {"div"} and end.op.function == end.op.name:
        data = level.data(end.op)
        if len(data) != 1 or data[0] not in curved or len(data[0].users) != 1:
            break
        end = data[0]
    return end


def _between(root: Value, end: Value, level: Level) -> tuple[Op, ...]:
    """Return the ops that compute one value from another."""
    found: set[Op] = set()
    queue = [end]
    while queue:
        value = queue.pop()
        if value is not root and value.op is not None and value.op not in found:
            found.add(value.op)
            queue += level.data(value.op)
    return tuple(sorted(found, key=lambda op: op.index))


def _statistics(level: Level) -> set[Value]:
    """Find the values that normalise.

    They enter a reduction, or come out of it, whose result meets a value that the reduction was
    made of: x and mean(x) in a layer norm, exp(x) and its sum in a softmax.
    """
    found: set[Value] = set()
    for op in level.graph.ops:
        if op.name not in REDUCTIONS:
            continue
        a = op.inputs[2 if op.name.startswith("scatter") else 0]
        if not level.kind(a).is_learned_data:
            continue
        above = _above(level, a)
        results = {op.outputs[0]}
        for reader in _readers(results):
            meets = [v for v in level.data(reader) if v not in results]
            met = [v for v in meets if not above.isdisjoint(_above(level, v))]
            if not met or reader.outputs[0].aval.size < a.aval.size:
                results.update(reader.outputs)  # still a statistic
                continue
            for v in met:
                found |= (above - _above(level, v)) | results
                if v is a and reader.name in ("div", "mul"):
                    found.add(a)
    return found


def _is_light(op: Op) -> bool:
    return op.elementwise or op.name in MOVES


def _readers(results: set[Value]) -> Iterator[Op]:
    """Yield the elementwise ops that read one of a growing set of values, in their order."""
    seen: set[Op] = set()
    queue: list[tuple[int, Op]] = []
    known: set[Value] = set()
    while True:
        for value in results - known:
            for op in value.users:
                if _is_light(op) and op not in seen:
                    seen.add(op)
                    heapq.heappush(queue, (op.index, op))
        known |= results
        if not queue:
            return
        yield heapq.heappop(queue)[1]


def _above(level: Level, value: Value) -> set[Value]:
    """Return the values that elementwise ops and reductions make a value of, and itself."""
    found: set[Value] = set()
    queue = [value]
    while queue:
        value = queue.pop()
        if value in found:
            continue
        found.add(value)
        if value.op is not None and (_is_light(value.op) or value.op.name in REDUCTIONS):
            queue += level.data(value.op)
    return found
