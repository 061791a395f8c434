"""Run a traced function with a rule's backward pass built in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lra.crossing import Derivative, crossing_at
from lra.jax.analysis import Flow, Kind
from lra.jax.graph import Op, Value
from lra.jax.ops import activation, link, mirrored_layer, weight_layer
from lra.jax.primitives import REMAT
from lra.jax.regions import Region, activations, needed
from lra.jax.registry import ACTIVATIONS, WEIGHT_LAYERS
from lra.jax.wiring import CHAIN, Routes
from lra.loss_terms import LossTerms
from lra.rules import Rule

Pair = tuple[Any, Any]
"""An array, and the same derivation run on feedback weights; None where there is none."""


@dataclass(frozen=True)
class Pass:
    """What a run of a function is for.

    Attributes:
        rule: the rule.
        terms: N, or how to count it.
        routes: where errors come from.
        feedback: the feedback weights, by name.
        key: of the noise, in a run that mirrors weights; None in all others.
        uses: whether such a run counts how often each weight is used.
    """

    rule: Rule
    terms: LossTerms | float = 1.0
    routes: Routes = CHAIN
    feedback: Mapping[str, Any] = field(default_factory=dict)
    key: Any = None
    uses: bool = False

    def folded(self, number: Any) -> "Pass":
        """Return the pass with another key for its noise."""
        return self if self.key is None else replace(self, key=jax.random.fold_in(self.key, number))


def run(flow: Flow, inputs: Sequence[Pair], this: Pass) -> list[Pair]:
    """Run a graph on pairs.

    Args:
        flow: the graph.
        inputs: a pair for each input.
        this: what the run is for.

    Returns:
        A pair for each output.
    """
    env: dict[Value, Pair] = dict(zip(flow.level.graph.inputs, inputs, strict=True))
    by_autodiff = type(this.rule.crossing) is Derivative  # a subclass has an error of its own
    regions = {} if by_autodiff else activations(flow)
    for op in needed(flow, regions):
        if op.outputs and op.outputs[0] in regions:
            env[op.outputs[0]] = _run_region(regions[op.outputs[0]], env, this), None
            continue
        results = _run_op(flow, op, [_read(env, v) for v in op.inputs], this.folded(op.index))
        for each in this.routes.links.get(op, ()):
            z, E = env[each.z][0], this.feedback[each.name]
            results = [(link(each.rows, this.rule.feedback, results[0][0], z, E), None)]
        env.update(zip(op.outputs, results, strict=True))
    return [_read(env, v) for v in flow.level.graph.outputs]


def _read(env: dict[Value, Pair], value: Value) -> Pair:
    return (value.constant, None) if value.is_constant else env[value]


def _run_region(region: Region, env: dict[Value, Pair], this: Pass) -> Any:
    """Run an activation, whose error crosses as the rule says."""
    marks = [ACTIVATIONS[op.params["name"]] for op in region.ops if op.mark]
    surrogate = marks[0].surrogate if marks else None
    crossing = crossing_at(this.rule.crossing, surrogate, region.is_flat)
    others = {v: env[v][0] for v in region.others}
    return activation(region, crossing, this.terms, env[region.root][0], others)


def _run_op(flow: Flow, op: Op, pairs: list[Pair], this: Pass) -> list[Pair]:
    """Run one op on pairs."""
    level = flow.level
    if level.weight_side(op) is not None:
        return [(_run_product(flow, op, pairs, this), None)]
    if op in flow.bodies and any(k.data for k in level.kinds(op.inputs)):
        run_body = {"scan": _run_scan, "cond": _run_cond}.get(op.name, _run_remat)
        return run_body(flow, op, pairs, this)
    results = op.bind([array for array, _ in pairs])
    shadows = [None] * len(results)
    if level.kind(op.outputs[0]).is_weight and any(shadow is not None for _, shadow in pairs):
        shadows = op.bind([_shadow(pair) for pair in pairs])
    return list(zip(results, shadows, strict=True))


def _run_product(flow: Flow, op: Op, pairs: list[Pair], this: Pass) -> Any:
    """Run a weight layer. Its error goes down through E; without E, through its own weights."""
    level = flow.level
    side = level.weight_side(op)
    assert side is not None
    x, (W, E) = pairs[1 - side][0], pairs[side]
    rest = [array for array, _ in pairs[2:]]
    registered = WEIGHT_LAYERS.get(op.params.get("name", "")) if op.mark else None

    def forward(x: Any, W: Any, *rest: Any) -> Any:
        return op.bind([W, x, *rest] if side == 0 else [x, W, *rest])[0]

    f = registered.adjoint if registered and registered.adjoint else forward
    if not this.routes.is_chained(op):
        x, E = lax.stop_gradient(x), None  # its error comes from another layer
    if E is None or not level.kind(op.inputs[1 - side]).leaves:
        if f is forward:
            return forward(x, W, *rest)
        E = lax.stop_gradient(W)  # W gets dW alone, also where feedback is learned
    if this.key is not None:
        return mirrored_layer(f, forward, this.uses, this.key, x, W, E, *rest)
    return weight_layer(f, forward, this.rule.feedback, x, W, E, *rest)


def _matching(pairs: Sequence[Pair], kinds: Sequence[Kind]) -> list[Pair]:
    """Return pairs in which each weight has a shadow, and nothing else has one."""
    return [
        (pair[0], _shadow(pair) if kind.is_weight else None)
        for pair, kind in zip(pairs, kinds, strict=True)
    ]


def _shadow(pair: Pair) -> Any:
    """Return an array's shadow; without one, the array itself, to which E's update does not go."""
    array, shadow = pair
    return lax.stop_gradient(array) if shadow is None else shadow


def _run_scan(flow: Flow, op: Op, pairs: list[Pair], this: Pass) -> list[Pair]:
    params, kinds = op.params, flow.level.carried[op]
    body = flow.bodies[op][0]
    n, m = params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, xs = pairs[:n], _matching(pairs[n:m], kinds[n:m]), pairs[m:]

    def step(carry: list[Pair], each: tuple[list[Pair], Any]) -> tuple[list[Pair], list[Pair]]:
        xs, t = each
        results = run(body, [*consts, *carry, *xs], this.folded(t))
        return _matching(results[: m - n], kinds[n:m]), results[m - n :]

    settings = {
        k: params[k] for k in ("length", "reverse", "unroll", "_split_transpose") if k in params
    }
    carry, ys = lax.scan(step, carry, (xs, jnp.arange(params["length"])), **settings)
    return [*carry, *ys]


def _run_cond(flow: Flow, op: Op, pairs: list[Pair], this: Pass) -> list[Pair]:
    kinds = flow.level.kinds(op.outputs)

    def branch(body: Flow) -> Any:
        return lambda *pairs: _matching(run(body, pairs, this), kinds)

    results: list[Pair] = lax.switch(pairs[0][0], list(map(branch, flow.bodies[op])), *pairs[1:])
    return results


def _run_remat(flow: Flow, op: Op, pairs: list[Pair], this: Pass) -> list[Pair]:
    (body,) = flow.bodies[op]
    assert op.name in REMAT
    settings = {name: op.params[name] for name in ("prevent_cse", "policy")}
    results: list[Pair] = jax.checkpoint(lambda *pairs: run(body, pairs, this), **settings)(*pairs)
    return results
