"""Which values of a traced function are weights, and through which of them errors must travel.

`Level` goes forward through a graph: from which parameters each value derives, and whether from
data. `Flow` goes back: which values feed the data side of a weight layer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from lra.jax.graph import Graph, Op, Value
from lra.jax.primitives import KNOWN, PRODUCTS, REMAT


class Kind(NamedTuple):
    """From what a value derives.

    Attributes:
        leaves: the paths of parameters.
        data: whether it derives from arguments other than the parameters.
    """

    leaves: frozenset[str] = frozenset()
    data: bool = False

    @property
    def is_weight(self) -> bool:
        """Whether it derives from parameters alone."""
        return bool(self.leaves) and not self.data

    @property
    def is_learned_data(self) -> bool:
        """Whether it derives from parameters and data."""
        return bool(self.leaves) and self.data


def join(kinds: Sequence[Kind]) -> Kind:
    """Return the kind of a value that derives from several."""
    return Kind(frozenset().union(*(k.leaves for k in kinds)), any(k.data for k in kinds))


Kinds = tuple[Kind, ...]
Flags = tuple[bool, ...]


def level_of(graph: Graph, kinds: Sequence[Kind]) -> "Level":
    """Return the level of a graph for some kinds of its inputs; each is computed once."""
    key = tuple(kinds)
    if key not in graph.cache:
        graph.cache[key] = Level(graph, key)
    found: Level = graph.cache[key]
    return found


class Level:
    """A graph with the kinds of its values.

    Attributes:
        graph: the graph.
        bodies: the levels of the functions that an op calls.
        carried: for each scan, the kinds of its inputs when its carry has all that it ever has.
        refused: the ops that a rule cannot follow, with the reason of each.
    """

    def __init__(self, graph: Graph, kinds: Kinds) -> None:
        self.graph = graph
        self.bodies: dict[Op, list[Level]] = {}
        self.carried: dict[Op, Kinds] = {}
        self.refused: dict[Op, str] = {}
        self._kinds = dict(zip(graph.inputs, kinds, strict=True))
        self._flows: dict[Flags, Flow] = {}
        for op in graph.ops:
            self._kinds.update(zip(op.outputs, self._outputs(op), strict=True))

    def kind(self, value: Value) -> Kind:
        """Return the kind of a value; a constant's is empty."""
        return self._kinds.get(value, Kind())

    def kinds(self, values: Sequence[Value]) -> Kinds:
        """Return the kinds of several values."""
        return tuple(map(self.kind, values))

    @property
    def outputs(self) -> Kinds:
        """The kinds of the graph's outputs."""
        return self.kinds(self.graph.outputs)

    def flow(self, flags: Sequence[bool]) -> "Flow":
        """Return the flow for some flags of the outputs; each is computed once."""
        key = tuple(flags)
        if key not in self._flows:
            self._flows[key] = Flow(self, key)
        return self._flows[key]

    def weight_side(self, op: Op) -> int | None:
        """Return which operand of a product with data is the weight: 0, 1, or None."""
        if (op.name not in PRODUCTS and op.mark != "weight_layer") or op.override == "ordinary":
            return None
        a, b = self.kinds(op.inputs[:2])
        if b.is_weight and a.data:
            return 1
        return 0 if a.is_weight and b.data and op.name in PRODUCTS else None

    def data(self, op: Op) -> list[Value]:
        """Return the inputs of an op that derive from data."""
        return [v for v in op.inputs if self.kind(v).data]

    def _outputs(self, op: Op) -> Kinds:
        """Compute the kinds of an op's outputs."""
        kinds = self.kinds(op.inputs)
        if op.name == "scan":
            return self._scan(op, kinds)
        if op.name == "cond":
            return self._cond(op, kinds)
        if op.name in REMAT:
            self.bodies[op] = [level_of(op.bodies[0], kinds)]
            return self.bodies[op][0].outputs
        reason = self._reason(op, kinds)
        if reason:
            self.refused[op] = reason
        return (join(kinds),) * len(op.outputs)

    def _scan(self, op: Op, kinds: Kinds) -> Kinds:
        consts, carries = op.params["num_consts"], op.params["num_carry"]
        while True:  # until the carry's kinds no longer change
            body = level_of(op.bodies[0], kinds)
            carry = kinds[consts : consts + carries]
            new = tuple(join(pair) for pair in zip(carry, body.outputs, strict=False))
            if new == carry:
                break
            kinds = (*kinds[:consts], *new, *kinds[consts + carries :])
        self.bodies[op], self.carried[op] = [body], kinds
        return (*new, *body.outputs[carries:])

    def _cond(self, op: Op, kinds: Kinds) -> Kinds:
        self.bodies[op] = [level_of(body, kinds[1:]) for body in op.bodies]
        chosen = Kind(data=kinds[0].data)  # the branch, and so each output, depends on it
        each = zip(*(level.outputs for level in self.bodies[op]), strict=True)
        return tuple(join((*branches, chosen)) for branches in each)

    def _reason(self, op: Op, kinds: Kinds) -> str:
        """Return why a rule cannot follow an op, or ""."""
        if not any(k.is_weight for k in kinds) or not any(k.data for k in kinds):
            return ""
        if op.mark == "weight_layer" and self.weight_side(op) is None and not op.override:
            return (
                "a registered weight layer takes the data first and the parameter second, "
                "f(x, W, ...): change the order of its arguments"
            )
        if op.mark or op.name in KNOWN:
            return ""
        if op.bodies:
            unknown = any(inner.name not in KNOWN and not inner.bodies for inner in _inside(op))
            if not op.multiplies and not unknown:
                return ""
            what = "a product inside it" if op.multiplies else "a primitive inside it"
            return (
                f"{what} combines the parameter with data, where a rule cannot replace the "
                f"backward pass: {_REMEDY.get(op.name, _OTHERWISE)}"
            )
        return (
            f"lra does not know how this primitive combines the parameter with data: {_OTHERWISE}"
        )


def _inside(op: Op) -> list[Op]:
    return [inner for body in op.bodies for inner in body.everything()]


_OTHERWISE = (
    "call it through lra.jax.register_weight_layer(f), or pass the parameter as data with "
    "jax.lax.stop_gradient"
)
_REMEDY = {
    "while": "use jax.lax.scan, or a fori_loop with a fixed number of steps",
    "shard_map": "call shard_map around the whole step instead",
    "custom_vjp_call": "call it through lra.jax.register_weight_layer(f)",
    "custom_vjp_call_jaxpr": "call it through lra.jax.register_weight_layer(f)",
}


class Flow:
    """A level with the values through which errors must travel.

    Attributes:
        level: the level.
        inputs: for each input of the graph, whether it feeds the data side of a weight layer.
        bodies: the flows of the functions that an op calls.
        cache: what other modules find out about it.
    """

    def __init__(self, level: Level, flags: Flags) -> None:
        self.level = level
        self.bodies: dict[Op, list[Flow]] = {}
        self.feeds: set[Value] = set()
        self.cache: dict[str, Any] = {}
        graph = level.graph
        self._mark(graph.outputs, flags)
        for op in reversed(graph.ops):
            self._mark(op.inputs, self._inputs(op, tuple(v in self.feeds for v in op.outputs)))
        self.inputs = tuple(v in self.feeds for v in graph.inputs)

    def _mark(self, values: Sequence[Value], flags: Sequence[bool]) -> None:
        pairs = zip(values, flags, strict=True)
        self.feeds.update(v for v, on in pairs if on and self.level.kind(v).data)

    def _inputs(self, op: Op, outputs: Flags) -> Sequence[bool]:
        """Compute which inputs of an op feed a weight layer."""
        level = self.level
        side = level.weight_side(op)
        if side is not None:
            return [i != side for i in range(len(op.inputs))]
        bodies = level.bodies.get(op)
        if not bodies:
            return [any(outputs)] * len(op.inputs)
        if op.name == "scan":
            return self._scan(op, bodies[0], outputs)
        self.bodies[op] = flows = [body.flow(outputs) for body in bodies]
        each = [any(flags) for flags in zip(*(f.inputs for f in flows), strict=True)]
        return [False, *each] if op.name == "cond" else each

    def _scan(self, op: Op, body: Level, outputs: Flags) -> Flags:
        consts, carries = op.params["num_consts"], op.params["num_carry"]
        while True:  # until the carry's flags no longer change
            flow = body.flow(outputs)
            below = flow.inputs[consts : consts + carries]
            new = tuple(a or b for a, b in zip(outputs, below, strict=False))
            if new == outputs[:carries]:
                self.bodies[op] = [flow]
                return flow.inputs
            outputs = (*new, *outputs[carries:])
