"""What a rule does with a function: weight layers, activations, and what stays with autodiff."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lra.display import as_text, plural
from lra.jax.analysis import Flow, Level
from lra.jax.graph import Op, Value
from lra.jax.primitives import LINEAR, MOVES, PRODUCTS, SUMS
from lra.jax.regions import activations
from lra.jax.trace import Traced, check_function, trace
from lra.jax.wiring import CHAIN, Routes


@dataclass(frozen=True)
class Weight:
    """A parameter that weight layers use.

    Attributes:
        path: its path in the parameters.
        shape: its shape.
        fan_in: the number of inputs that each unit reads.
        has_error: whether a layer that uses it sends errors down; without, the layers read only
            data.
        linear: whether the layers' weights are a linear function of it.
        where: the lines at which layers use it.
    """

    path: str
    shape: tuple[int, ...]
    fan_in: int
    has_error: bool
    linear: bool
    where: tuple[str, ...]


@dataclass(frozen=True)
class Activation:
    """An activation through which errors cross as the rule says.

    Attributes:
        name: its function, or its primitives.
        shape: the shape of its input.
        flat: whether it is a step function.
        where: the line that computes it.
    """

    name: str
    shape: tuple[int, ...]
    flat: bool
    where: str


@dataclass(frozen=True)
class Ordinary:
    """An op on the errors' way down that stays with automatic differentiation.

    Attributes:
        name: its function or primitive.
        where: the line that computes it.
    """

    name: str
    where: str


@dataclass(frozen=True)
class Plan:
    """What a rule does with a function.

    Attributes:
        weights: the parameters that weight layers use.
        activations: the activations.
        ordinary: the other ops on the errors' way that are not linear in what they read, such as
            normalisations, and those that multiply data by data or by a parameter.
        others: the paths of the parameters that no weight layer uses; the error that arrives at
            them is the rule's.
        batch: N, the first dimension of the first array after the parameters.
    """

    weights: tuple[Weight, ...]
    activations: tuple[Activation, ...]
    ordinary: tuple[Ordinary, ...]
    others: tuple[str, ...]
    batch: int
    traced: Traced = field(repr=False, compare=False)

    def __str__(self) -> str:
        layers = sum(len(w.where) for w in self.weights)
        parts = [
            f"{plural(layers, 'weight layer')}, {plural(len(self.activations), 'activation')}, "
            f"N = {self.batch}"
        ]
        rows = [
            (w.path, str(w.shape), "error goes down" if w.has_error else "reads data", at)
            for w in self.weights
            for at in w.where
        ]
        parts.append(as_text(("weights", "shape", "", "line"), rows, left=4) if rows else "")
        units = Counter(
            (a.name + " (step)" * a.flat, str(a.shape), a.where) for a in self.activations
        )
        parts.append(_counted(("activations", "shape", "line"), units))
        left = Counter((o.name, o.where) for o in self.ordinary)
        parts.append(_counted(("left to automatic differentiation", "line"), left))
        if self.others:
            parts.append("in no weight layer: " + ", ".join(self.others))
        return "\n\n".join(filter(None, parts))


def _counted(header: tuple[str, ...], rows: Mapping[Any, int]) -> str:
    """Return a table with a column of counts, or ""."""
    lines = [(*row, f"{n}x" if n > 1 else "") for row, n in rows.items()]
    return as_text((*header, ""), lines, left=len(header)) if lines else ""


def plan(
    fn: Callable[..., Any],
    params: Any,
    *args: Any,
    overrides: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> Plan:
    """Find what a rule does with `fn(params, *args, **kwargs)`, without running it.

    Args:
        fn: a function that JAX can trace, such as a loss.
        params: its parameters: a pytree. Leaves that are not arrays of floating-point numbers are
            held fixed.
        *args: its other arguments; arrays may be given as `jax.ShapeDtypeStruct`. Estimating
            feedback from noise runs the function on them.
        overrides: a dict from a line, such as "model.py:12", or a function, such as "gelu", to
            "activation" or "ordinary", where the plan takes something for what it is not.
        **kwargs: its keyword arguments.

    Returns:
        The plan. Print it.

    Raises:
        ConversionError: for parameters that meet data where a rule cannot follow, each by its path,
            the primitive and the line.
        OptionError: for an unknown override.

    >>> def loss(params, x):
    ...     return jnp.sum(jnp.tanh(x @ params["a"]) @ params["b"])
    >>> params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    >>> plan = lra.jax.plan(loss, params, jnp.ones((5, 3)))
    >>> [weight.path for weight in plan.weights]
    ["['a']", "['b']"]
    >>> plan.activations[0].name, plan.batch
    ('tanh', 5)
    """
    check_function(fn, "plan")
    return plan_of(trace(fn, params, args, kwargs, overrides))


def plan_of(traced: Traced) -> Plan:
    """Build the plan of a traced function."""
    weights = weights_of(traced)
    found: list[Activation] = []
    ordinary: list[Ordinary] = []
    for flow in _flows(traced.flow):
        regions = activations(flow).values()
        found += [Activation(r.name, r.root.aval.shape, r.is_flat, r.where) for r in regions]
        inside = {op for region in regions for op in region.ops}
        ordinary += [
            Ordinary(op.function, op.where)
            for op in flow.level.graph.ops
            if op not in inside and is_ordinary(flow, op)
        ]
    used = {w.path for w in weights}
    others = tuple(path for path in traced.params.paths if path not in used)
    return Plan(tuple(weights), tuple(found), tuple(ordinary), others, traced.batch, traced)


def _flows(flow: Flow) -> Iterator[Flow]:
    """Yield a flow and those of its bodies."""
    yield flow
    for bodies in flow.bodies.values():
        for body in bodies:
            yield from _flows(body)


def is_ordinary(flow: Flow, op: Op, below_layers: bool = True) -> bool:
    """Return whether errors cross an op by automatic differentiation that is not just linear.

    Args:
        flow: the graph.
        op: the op.
        below_layers: whether to leave out the ops above the last weight layer.
    """
    level = flow.level
    if op in flow.bodies or level.weight_side(op) is not None or not op.outputs:
        return False
    if not any(level.kind(v).is_learned_data for v in op.inputs):
        return False
    if below_layers and op.outputs[0] not in flow.feeds:
        return False
    if op.name == "mul":
        return sum(bool(level.kind(v).leaves) for v in op.inputs) > 1
    if op.name == "div":
        return bool(level.kind(op.inputs[1]).leaves)
    return op.name not in LINEAR | MOVES | SUMS and op.outputs[0].is_float


def weights_of(traced: Traced, routes: Routes = CHAIN) -> list[Weight]:
    """Return the parameters that weight layers use; layers that are not chained have no error."""
    own = traced.params
    shapes = {path: tuple(W.shape) for path, W in zip(own.paths, own.leaves, strict=True)}
    curved, _ = _curved(traced.level)
    found: dict[str, Weight] = {}
    for level, op in _layers(traced.level):
        side = level.weight_side(op)
        assert side is not None
        has_error = bool(level.kind(op.inputs[1 - side]).leaves) and routes.is_chained(op)
        for path in _matrices(level.kind(op.inputs[side]).leaves, shapes):
            new = Weight(
                path, shapes[path], _fan_in(op, side), has_error, path not in curved, (op.where,)
            )
            if path in found:
                before = found[path]
                where = tuple(dict.fromkeys((*before.where, op.where)))
                new = replace(before, has_error=has_error or before.has_error, where=where)
            found[path] = new
    return list(found.values())


def _layers(level: Level) -> Iterator[tuple[Level, Op]]:
    """Yield the weight layers of a level and of its bodies."""
    for op in level.graph.ops:
        if level.weight_side(op) is not None:
            yield level, op
        for body in level.bodies.get(op, ()):
            yield from _layers(body)


def _matrices(leaves: frozenset[str], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return those of a weight's parameters that get an E of their own: the gains do not."""
    matrices = [path for path in leaves if len(shapes[path]) >= 2]
    return sorted(matrices or leaves)


def _fan_in(op: Op, side: int) -> int:
    """Return the number of inputs that each unit of a weight layer reads."""
    shape = op.inputs[side].aval.shape
    if op.mark:
        return max(1, int(op.inputs[0].aval.shape[-1]))
    if op.name == "conv_general_dilated":
        specs = op.params["dimension_numbers"]
        units = int(shape[(specs.lhs_spec, specs.rhs_spec)[side][0]])
        return max(1, math.prod(map(int, shape)) // units)
    numbers = op.params.get("dimension_numbers")
    if numbers is None:
        numbers = op.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    return max(1, math.prod(int(shape[axis]) for axis in numbers[0][side]))


def _curved(level: Level) -> tuple[set[str], set[Value]]:
    """Return the parameters from which weights derive by nonlinear ops.

    The second result holds the inputs of the graph from which weights derive.
    """
    curved: set[str] = set()
    queue: list[Value] = []
    for op in level.graph.ops:
        side = level.weight_side(op)
        if side is not None:
            queue.append(op.inputs[side])
        for body in level.bodies.get(op, ()):
            inner, inputs = _curved(body)
            curved |= inner
            given = op.inputs[1:] if op.name == "cond" else op.inputs
            pairs = zip(given, body.graph.inputs, strict=True)
            queue += [value for value, own in pairs if own in inputs]
    seen: set[Value] = set()
    while queue:
        value = queue.pop()
        if value in seen or not level.kind(value).is_weight:
            continue
        seen.add(value)
        if value.op is not None:
            if not _is_linear(level, value.op):
                curved |= level.kind(value).leaves
            queue += value.op.inputs
    return curved, seen


def _is_linear(level: Level, op: Op) -> bool:
    """Return whether an op is linear in all parameters that it reads, together."""
    weights = sum(level.kind(v).is_weight for v in op.inputs)
    if op.name in PRODUCTS | {"mul"}:
        return weights == 1
    if op.name == "div":
        return not level.kind(op.inputs[1]).is_weight
    return op.name in LINEAR | MOVES | SUMS
