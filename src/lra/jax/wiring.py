"""From which layer the input of each layer gets its error, where errors skip layers."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from lra.errors import ConversionError
from lra.jax.analysis import Flow, Level
from lra.jax.graph import Op, Value
from lra.wiring import Wiring

_MOST = 2**30
"""The largest number of feedback weights between two layers."""


@dataclass(frozen=True, eq=False)
class Link:
    """From which layer the input of a layer receives its error.

    Attributes:
        name: of its feedback weights: the path of the lower layer's parameter.
        site: the lower layer, which reads the input z.
        side: which of its operands z is.
        source: the layer whose error z receives.
        tokens: whether both have the same positions before the last dimension, so that one E serves
            all positions.
    """

    name: str
    site: Op
    side: int
    source: Op
    tokens: bool

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the feedback weights: (outputs, units)."""
        return self._size(self.source.outputs[0]), self._size(self.z)

    @property
    def z(self) -> Value:
        """The input of the lower layer."""
        return self.site.inputs[self.side]

    def rows(self, x: Any) -> Any:
        """Return h, an error or z as rows that E multiplies."""
        return x.reshape(-1, x.shape[-1]) if self.tokens else x.reshape(len(x), -1)

    def _size(self, value: Value) -> int:
        shape = value.aval.shape
        return int(shape[-1] if self.tokens else value.aval.size // max(1, shape[0]))


@dataclass(frozen=True)
class Routes:
    """Where the errors of a function come from.

    Attributes:
        links: the links, by the layer whose error they carry.
        chained: the layers whose error goes down to their own input, through their own E.
    """

    links: dict[Op, list[Link]]
    chained: frozenset[Op] | None = None

    @property
    def each(self) -> list[Link]:
        """All links."""
        return [link for links in self.links.values() for link in links]

    def is_chained(self, op: Op) -> bool:
        """Return whether a layer's error goes down to its own input."""
        return self.chained is None or op in self.chained


CHAIN = Routes({})
"""Every error goes down to its layer's own input."""


def find_routes(flow: Flow, wiring: Wiring) -> Routes:
    """Return where errors come from under a wiring.

    Raises:
        ConversionError: where errors start at several layers, where a layer is inside a loop or a
            branch, or where there can be no feedback weights between two layers.
    """
    if wiring.reach == 1:
        return CHAIN
    level = flow.level
    _refuse_bodies(level, wiring)
    below, order, reached = _below(level)
    above = _above(below, order, reached)
    heads = [op for op, ops in above.items() if ops == {op}]
    if len(heads) > 1:
        raise ConversionError(
            f"plan: errors start at several weight layers ({', '.join(h.where for h in heads)}); "
            f"wiring={type(wiring).__name__}() needs one output layer above all others; use "
            "lra.wiring.Chain()"
        )
    sources = {}
    for op in above:
        top = float("inf") if wiring.reach is None else order[op] + wiring.reach - 1
        able = [other for other in above[op] if order[other] <= top]
        sources[op] = max(able, key=order.__getitem__)
    chained = frozenset(op for op, source in sources.items() if op is source)
    names = Counter(path for op in chained for path in _leaves(level, op))
    links: dict[Op, list[Link]] = {}
    for op, source in sources.items():
        if op not in chained:
            links.setdefault(source, []).append(_link(level, op, source, names))
    return Routes(links, chained)


def _refuse_bodies(level: Level, wiring: Wiring) -> None:
    for op, bodies in level.bodies.items():
        if any(_has_layers(body) for body in bodies):
            raise ConversionError(
                f"plan: {op.name} ({op.where}) has weight layers inside it, and "
                f"wiring={type(wiring).__name__}() sends errors between layers that run once, one "
                "after another; use lra.wiring.Chain(), or write the loop out in Python"
            )


def _has_layers(level: Level) -> bool:
    own = any(level.weight_side(op) is not None for op in level.graph.ops)
    return own or any(_has_layers(body) for bodies in level.bodies.values() for body in bodies)


def _leaves(level: Level, op: Op) -> frozenset[str]:
    side = level.weight_side(op)
    assert side is not None
    return level.kind(op.inputs[side]).leaves


def _input(level: Level, op: Op) -> Value:
    side = level.weight_side(op)
    assert side is not None
    return op.inputs[1 - side]


def _below(level: Level) -> tuple[dict[Op, set[Op]], dict[Op, int], set[Op]]:
    """Return which layers each layer's input is made of, the longest path to it, and the loss's."""
    made: dict[Value, set[Op]] = {}
    below: dict[Op, set[Op]] = {}
    order: dict[Op, int] = {}
    for op in level.graph.ops:
        if level.weight_side(op) is not None and level.kind(_input(level, op)).leaves:
            below[op] = made.get(_input(level, op), set())
            order[op] = 1 + max((order[other] for other in below[op]), default=0)
            results = {op}
        else:
            results = set().union(*(made.get(v, set()) for v in op.inputs))
        made.update(dict.fromkeys(op.outputs, results))
    return below, order, made.get(level.graph.outputs[0], set())


def _above(below: dict[Op, set[Op]], order: dict[Op, int], reached: set[Op]) -> dict[Op, set[Op]]:
    """Return for each layer that the loss depends on the layers above it, and itself."""
    reached = set(reached)
    above: dict[Op, set[Op]] = {op: {op} for op in order}
    for op in reversed(order):
        if op in reached:
            reached |= below[op]
            for other in below[op]:
                above[other] |= above[op]
    return {op: ops for op, ops in above.items() if op in reached}


def _link(level: Level, op: Op, source: Op, names: Counter[str]) -> Link:
    side = level.weight_side(op)
    assert side is not None
    name = min(_leaves(level, op))
    names[name] += 1
    name += f" #{names[name]}" if names[name] > 1 else ""
    z, h = op.inputs[1 - side].aval, source.outputs[0].aval
    tokens = z.ndim > 2 and z.shape[:-1] == h.shape[:-1] and _reads_last(op, 1 - side)
    link = Link(name, op, 1 - side, source, tokens)
    where = f"{name} ({op.where}) reads {z.shape} and would receive its error from {source.where}"
    if z.ndim < 1 or h.ndim < 1 or z.shape[:1] != h.shape[:1]:
        raise ConversionError(
            f"plan: {where}, which returns {h.shape}. Both need the batch as their first "
            "dimension; use lra.wiring.Chain()"
        )
    outputs, units = link.shape
    if outputs * units > _MOST:
        raise ConversionError(
            f"plan: {where}, through {outputs * units:,} feedback weights, more than {_MOST:,}. "
            "Use lra.wiring.Direct(), whose output layer is small, or lra.wiring.Chain()"
        )
    return link


def _reads_last(op: Op, side: int) -> bool:
    """Return whether a product sums over the last dimension of an operand."""
    if op.name != "dot_general":
        return False
    contracted = op.params["dimension_numbers"][0][side]
    return tuple(contracted) == (op.inputs[side].aval.ndim - 1,)
