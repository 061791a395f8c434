"""Tracing a user's function: its arrays as inputs of a graph, all else held fixed."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lra.axis import unknown
from lra.errors import ConversionError, OptionError, Refusal
from lra.jax.analysis import Flow, Kind, Level, level_of
from lra.jax.graph import Graph, graph_of

OVERRIDES = ("activation", "ordinary")


def is_array(leaf: Any) -> bool:
    """Return whether a leaf of a pytree is an array, a traced array, or the shape of one."""
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def is_inexact(leaf: Any) -> bool:
    """Return whether a leaf is an array of real or complex floating-point numbers."""
    return is_array(leaf) and bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


@dataclass(frozen=True)
class Split:
    """A pytree as some of its leaves, and a way to put others in their place.

    Attributes:
        leaves: the leaves that were chosen.
        paths: their paths.
        structure: the pytree's structure.
        fixed: all leaves, with None where one was chosen.
        chosen: which were chosen.
    """

    leaves: list[Any]
    paths: list[str]
    structure: Any
    fixed: list[Any]
    chosen: list[bool]

    def join(self, leaves: Sequence[Any], fixed: Any = ...) -> Any:
        """Return the pytree with other leaves; `fixed` replaces all that were not chosen."""
        given = iter(leaves)
        merged = [
            next(given) if chosen else (other if fixed is ... else fixed)
            for chosen, other in zip(self.chosen, self.fixed, strict=True)
        ]
        return jax.tree.unflatten(self.structure, merged)


def split(tree: Any, choose: Callable[[Any], bool]) -> Split:
    """Split the leaves of a pytree into those that are chosen and all others."""
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree)
    chosen = [choose(leaf) for _, leaf in pairs]
    picked = [pair for pair, on in zip(pairs, chosen, strict=True) if on]
    paths = [jax.tree_util.keystr(path) for path, _ in picked]
    fixed = [None if on else leaf for (_, leaf), on in zip(pairs, chosen, strict=True)]
    return Split([leaf for _, leaf in picked], paths, structure, fixed, chosen)


@dataclass(frozen=True)
class Traced:
    """A user's function, traced.

    Attributes:
        graph: its graph: the parameters first, then all other arrays.
        params: the split parameters.
        data: the arrays among the other arguments.
        restore: makes the function's result from the graph's outputs.
        batch: the first dimension of the first array among the other arguments, or 1.
    """

    graph: Graph
    params: Split
    data: list[Any]
    restore: Callable[[Sequence[Any]], Any]
    batch: int

    @property
    def level(self) -> Level:
        """The graph with the kinds of its values."""
        kinds = [Kind(frozenset({path})) for path in self.params.paths]
        return level_of(self.graph, [*kinds, *[Kind(data=True)] * len(self.data)])

    @property
    def flow(self) -> Flow:
        """The graph with the values through which errors travel."""
        return self.level.flow([False] * len(self.graph.outputs))


def trace(
    fn: Callable[..., Any],
    params: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    overrides: Mapping[str, str] | None = None,
) -> Traced:
    """Trace fn(params, *args, **kwargs).

    Raises:
        ConversionError: listing every op that a rule cannot follow.
        OptionError: for an override that is unknown, or that fits no op.
    """
    own, rest = split(params, is_inexact), split((args, dict(kwargs)), is_array)
    results: list[Split] = []

    def flat(*arrays: Any) -> list[Any]:
        inner_args, inner_kwargs = rest.join(arrays[len(own.leaves) :])
        out = fn(own.join(arrays[: len(own.leaves)]), *inner_args, **inner_kwargs)
        results.append(split(out, is_array))
        return results[-1].leaves

    graph = graph_of(jax.make_jaxpr(flat)(*own.leaves, *rest.leaves))
    _override(graph, overrides or {})
    traced = Traced(graph, own, rest.leaves, results[-1].join, _batch(rest.leaves))
    _refuse(traced.level)
    return traced


def _batch(leaves: Sequence[Any]) -> int:
    """Return the first dimension of the first array that is not a key of random numbers."""
    for leaf in leaves:
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        raw_key = leaf.dtype == np.uint32 and leaf.shape == (2,)
        if leaf.ndim and not key and not raw_key:
            return int(leaf.shape[0])
    return 1


def _override(graph: Graph, overrides: Mapping[str, str]) -> None:
    """Mark the ops that the user speaks of by line or by name."""
    found: set[str] = set()
    for op in graph.everything() if overrides else ():
        for name in (op.where, op.function):
            if name in overrides:
                found.add(name)
                op.override = overrides[name]
    for name, value in overrides.items():
        if value not in OVERRIDES:
            raise unknown(f"override of {name!r}", value, OVERRIDES)
        if name not in found:
            known = sorted({n for op in graph.everything() for n in (op.where, op.function)})
            raise unknown("line or function in overrides", name, known)


def _refuse(level: Level) -> None:
    """Raise one error for all that a rule cannot follow."""
    refused = tuple(_refusals(level))
    if refused:
        listed = "".join(f"\n  - {refusal}" for refusal in refused)
        raise ConversionError(f"plan: a rule cannot follow this function:{listed}", refused)


def _refusals(level: Level) -> list[Refusal]:
    found = []
    for op, reason in level.refused.items():
        paths = sorted(
            frozenset().union(*(k.leaves for k in level.kinds(op.inputs) if k.is_weight))
        )
        name = op.function if op.mark else op.name
        found.append(Refusal(", ".join(paths), f"{name}, {op.where}", reason))
    for bodies in level.bodies.values():
        for body in bodies:
            found += [refusal for refusal in _refusals(body) if refusal not in found]
    return found


def check_function(fn: Any, what: str) -> None:
    """Refuse what is not a function.

    Raises:
        OptionError: naming what was given.
    """
    if not callable(fn) or inspect.isclass(fn):
        raise OptionError(f"{what}: expected a function loss(params, ...), got {fn!r}")
