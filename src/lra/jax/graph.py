"""A traced function as a graph of values and ops, with nested calls opened."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np

from lra.jax.primitives import CALLS, ELEMENTWISE, PRODUCTS

MARK = "lra_"
"""The first letters of the names of jitted functions that `register_...` marks."""

_LIBRARIES = ("jax", "flax", "equinox", "haiku", "optax", "lra.jax", "contextlib", "functools")
"""The modules whose lines are not the user's code."""


def _is_library(file: str) -> bool:
    """Return whether a file belongs to one of `_LIBRARIES`."""
    for name in _LIBRARIES:
        home = getattr(sys.modules.get(name), "__file__", None)
        if home is not None:
            package = PurePath(home).name == "__init__.py"
            if file == home or (package and PurePath(home).parent in PurePath(file).parents):
                return True
    return False


@dataclass(eq=False, slots=True)
class Value:
    """An array of a traced function.

    Attributes:
        aval: its shape and type.
        op: the op that computes it; None for inputs and constants.
        users: the ops that read it.
        constant: its value, where it is a constant.
    """

    aval: Any
    op: "Op | None" = None
    users: "list[Op]" = field(default_factory=list)
    constant: Any = None

    @property
    def is_constant(self) -> bool:
        """Whether its value is known when the function is traced."""
        return self.constant is not None

    @property
    def is_float(self) -> bool:
        """Whether it holds real floating-point numbers."""
        return bool(jax.numpy.issubdtype(self.aval.dtype, jax.numpy.floating))


@dataclass(eq=False)
class Op:
    """One call of a primitive.

    Attributes:
        eqn: the equation of the jaxpr.
        inputs: what it reads.
        outputs: what it computes.
        bodies: the functions that it calls, such as the body of a scan.
        index: its position in the graph.
        override: "activation" or "ordinary", where the user says so.
        callers: the equations of the calls that it is inside, the innermost first.
    """

    eqn: Any
    inputs: list[Value]
    outputs: list[Value]
    bodies: "tuple[Graph, ...]" = ()
    index: int = 0
    override: str = ""
    callers: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return str(self.eqn.primitive.name)

    @property
    def params(self) -> dict[str, Any]:
        """The settings of the primitive."""
        found: dict[str, Any] = self.eqn.params
        return found

    @cached_property
    def mark(self) -> str:
        """How the function is registered: "activation", "weight_layer", or ""."""
        name = str(self.params.get("name", "")) if self.name in CALLS else ""
        return name.removeprefix(MARK).partition("__")[0] if name.startswith(MARK) else ""

    @cached_property
    def elementwise(self) -> bool:
        """Whether each number of the output depends on the same number of each input alone."""
        if self.name in ELEMENTWISE or self.mark == "activation":
            return len(self.outputs) == 1
        inner = self.name in ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
        return inner and len(self.outputs) == 1 and all(b.elementwise for b in self.bodies)

    @cached_property
    def multiplies(self) -> bool:
        """Whether it is or contains a product."""
        return self.name in PRODUCTS or any(op.multiplies for b in self.bodies for op in b.ops)

    @cached_property
    def frames(self) -> list[tuple[str, str, int]]:
        """The function, file and line of each frame of the call, the innermost first."""
        # A compiled function of JAX may not know its caller.
        tracebacks = [eqn.source_info.traceback for eqn in (self.eqn, *self.callers)]
        frames = [frame for traceback in tracebacks if traceback for frame in traceback.frames]
        return [(f.function_name, f.file_name, f.line_num) for f in frames]

    @cached_property
    def where(self) -> str:
        """The file and line of the user's code, such as "model.py:12"."""
        for _, file, line in self.frames:
            if not _is_library(file):
                return f"{PurePath(file).name}:{line}"
        return "?"

    @cached_property
    def function(self) -> str:
        """The function of `jax.nn` that called the primitive, or the primitive's name."""
        if self.mark:
            return str(self.params["name"]).partition("__")[2]
        named = [name for name, file, _ in self.frames if re.search(r"nn[/\\]functions\.py$", file)]
        if named:
            return named[-1].rpartition(".")[2]
        inner = self.params.get("call_jaxpr")  # of a custom_jvp or a custom_vjp
        return str(inner.jaxpr.debug_info.func_name) if inner is not None else self.name

    def bind(self, arrays: Sequence[Any]) -> list[Any]:
        """Compute the outputs."""
        given = self.eqn.primitive.get_bind_params(self.params)
        functions, params = given if isinstance(given, tuple) else ((), given)
        with self.eqn.ctx.manager:
            out = self.eqn.primitive.bind(*functions, *arrays, **params)
        return list(out) if self.eqn.primitive.multiple_results else [out]


@dataclass(eq=False)
class Graph:
    """A traced function.

    Attributes:
        inputs: its arguments.
        outputs: its results.
        ops: its ops, in the order in which they run.
    """

    inputs: list[Value]
    outputs: list[Value]
    ops: list[Op]
    cache: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def elementwise(self) -> bool:
        """Whether each number of the outputs depends on the same number of each input alone."""
        scalars = {v for op in self.ops if op.name == "broadcast_in_dim" for v in op.inputs}
        return all(op.elementwise or op.name == "broadcast_in_dim" for op in self.ops) and all(
            v.aval.shape == () for v in scalars
        )

    def everything(self) -> Iterator[Op]:
        """Yield all ops, those of bodies included."""
        for op in self.ops:
            yield op
            for body in op.bodies:
                yield from body.everything()

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Compute the outputs from the inputs."""
        env = dict(zip(self.inputs, arrays, strict=True))
        for op in self.ops:
            env.update(zip(op.outputs, op.bind([read(env, v) for v in op.inputs]), strict=True))
        return [read(env, v) for v in self.outputs]


def read(env: dict[Value, Any], value: Value) -> Any:
    """Return the array of a value."""
    return value.constant if value.is_constant else env[value]


def graph_of(closed: Any, callers: tuple[Any, ...] = ()) -> Graph:
    """Build the graph of a jaxpr, closed or not, that some equations call."""
    jaxpr = getattr(closed, "jaxpr", closed)
    graph = Graph([Value(v.aval) for v in jaxpr.invars], [], [])
    graph.outputs = _open(graph, closed, graph.inputs, callers)
    for i, op in enumerate(graph.ops):
        op.index = i
        for value in {*op.inputs}:
            value.users.append(op)
    return graph


def _open(
    graph: Graph, closed: Any, arguments: list[Value], callers: tuple[Any, ...]
) -> list[Value]:
    """Add the ops of a jaxpr to a graph, and return its outputs."""
    jaxpr = getattr(closed, "jaxpr", closed)
    env = dict(zip(jaxpr.invars, arguments, strict=True))
    for variable, constant in zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True):
        env[variable] = Value(variable.aval, constant=constant)

    def value(atom: Any) -> Value:
        return (
            Value(atom.aval, constant=_literal(atom))
            if isinstance(atom, jex.Literal)
            else env[atom]
        )

    for eqn in jaxpr.eqns:
        inputs = [value(v) for v in eqn.invars]
        op = Op(eqn, inputs, [], callers=callers)
        if eqn.primitive.name in CALLS and not op.mark:
            (inner,) = _jaxprs(eqn.params)
            outputs = _open(graph, inner, inputs, (eqn, *callers))
        else:
            op.bodies = tuple(graph_of(j, (eqn, *callers)) for j in _jaxprs(eqn.params))
            op.outputs = outputs = [Value(v.aval, op) for v in eqn.outvars]
            graph.ops.append(op)
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [value(v) for v in jaxpr.outvars]


def _literal(atom: Any) -> Any:
    return np.asarray(atom.val, atom.aval.dtype) if atom.aval.shape == () else atom.val


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    """Return the jaxprs among the settings of a primitive."""
    flat = [p for v in params.values() for p in (v if isinstance(v, (tuple, list)) else (v,))]
    return [p for p in flat if hasattr(p, "eqns") or (hasattr(p, "jaxpr") and hasattr(p, "consts"))]
