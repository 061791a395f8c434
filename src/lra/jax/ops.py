"""What replaces JAX's backward pass: weight layers, activations, and links between layers.

Each op is a `jax.custom_vjp`. What its backward pass reads is an argument, since the function may
run inside a scan, where nothing of the body's trace may be captured.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lra.crossing import Crossing
from lra.differences import ROOMS, Phi, Room
from lra.feedback import Feedback, Stored
from lra.jax.differences import CHEAP, NUMPY, Triple, difference_of
from lra.jax.graph import Op, Value, read
from lra.jax.numbers import numbers_of, with_numbers
from lra.jax.regions import Region
from lra.jax.registry import ACTIVATIONS
from lra.loss_terms import LossTerms, count_terms

Product = Callable[..., Any]
"""A function (x, W, ...), linear in x and in W."""


def weight_layer(
    f: Product, run: Product, feedback: Feedback, x: Any, W: Any, E: Any, *rest: Any
) -> Any:
    """Compute h = f(x, W); the error goes down through E.

        d = f*(e; E),  dW = f*(x; e),  dE = feedback.update(dW)

    Args:
        f: the layer's arithmetic, whose adjoints are used.
        run: what runs forward; f itself, or a device that computes it.
        feedback: the feedback axis.
        x: the input.
        W: the weights, as the parameters make them.
        E: the feedback weights, made in the same way.
        *rest: more arguments of f, without an error.
    """

    @jax.custom_vjp
    def layer(numbers: Any, x: Any, W: Any, E: Any, *rest: Any) -> Any:
        return run(x, W, *rest)

    def forward(numbers: Any, x: Any, W: Any, E: Any, *rest: Any) -> tuple[Any, Any]:
        return run(x, W, *rest), (numbers, x, E, rest)

    def backward(saved: Any, e: Any) -> tuple[Any, ...]:
        numbers, x, E, rest = saved
        # d depends on E alone, and dW on x alone.
        d, dW = jax.vjp(lambda x, W: f(x, W, *rest), x, E)[1](e)
        return None, d, dW, _feedback_update(feedback, numbers, dW), *[None] * len(rest)

    layer.defvjp(forward, backward)
    return layer(numbers_of(feedback), x, W, E, *rest)


def _feedback_update(feedback: Feedback, numbers: dict[str, Any], dW: Any) -> Any:
    """Compute dE; zeros where E is not learned."""
    if feedback.stored is not Stored.LEARNED:
        return jnp.zeros_like(dW)
    return with_numbers(feedback, numbers).update(dW)


def mirrored_layer(
    f: Product, run: Product, uses: bool, key: Any, x: Any, W: Any, E: Any, *rest: Any
) -> Any:
    """Compute h = f(x, W); what noise shows of W goes back to E, and no error goes to x.

        f*(n; f(n, W)) - f*(1; 1) E,  n ~ N(0, 1)

    Args:
        f: the layer's arithmetic.
        run: what runs forward.
        uses: send f*(1; 1) E instead.
        key: of the noise n.
        x: the input.
        W: the weights.
        E: the present feedback weights.
        *rest: more arguments of f.
    """
    # JAX 0.6 cannot save a key in a branch, only its numbers.
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    impl = jax.random.key_impl(key) if typed else None

    @jax.custom_vjp
    def layer(seed: Any, x: Any, W: Any, E: Any, *rest: Any) -> Any:
        return run(x, W, *rest)

    def forward(seed: Any, x: Any, W: Any, E: Any, *rest: Any) -> tuple[Any, Any]:
        return run(x, W, *rest), (seed, x, W, E, rest)

    def backward(saved: Any, e: Any) -> tuple[Any, ...]:
        seed, x, W, E, rest = saved

        def correlation(n: Any, answer: Any) -> Any:
            return jax.vjp(lambda W: f(n, W, *rest), W)[1](answer)[0]

        sent = correlation(jnp.ones_like(x), jnp.ones_like(e)) * E
        if not uses:
            key = jax.random.wrap_key_data(seed, impl=impl) if typed else seed
            noise = jax.random.normal(key, x.shape, x.dtype)
            sent = correlation(noise, run(noise, W, *rest)) - sent
        return None, jnp.zeros_like(x), jnp.zeros_like(W), sent, *[None] * len(rest)

    layer.defvjp(forward, backward)
    return layer(jax.random.key_data(key) if typed else key, x, W, E, *rest)


def activation(
    region: Region, crossing: Crossing, terms: LossTerms | float, h: Any, others: dict[Value, Any]
) -> Any:
    """Compute z = phi(h); the error crosses as the crossing axis says.

    Args:
        region: the activation.
        crossing: the crossing axis, as it applies here.
        terms: N, or how to count it.
        h: the pre-activation.
        others: what the region reads besides h.
    """
    kept = list(others)

    @jax.custom_vjp
    def unit(numbers: Any, h: Any, *given: Any) -> Any:
        return region.run(h, dict(zip(kept, given, strict=True)))

    def forward(numbers: Any, h: Any, *given: Any) -> tuple[Any, Any]:
        return unit(numbers, h, *given), (numbers, h, given)

    def backward(saved: Any, d: Any) -> tuple[Any, ...]:
        numbers, h, given = saved
        phi = phi_of(region, dict(zip(kept, given, strict=True)))
        exact = h.astype(jnp.promote_types(h.dtype, jnp.float32))  # 16 bits are too few
        arrived, d = d, d.astype(exact.dtype)
        n = count_terms(terms, h.shape)
        e = with_numbers(crossing, numbers).error(phi, exact, phi(exact), d, n, NUMPY)
        if not _LIMITED.isdisjoint(op.name for op in _flat(region.ops)):
            # A target outside the domain of an inner function: take the derivative there.
            e = jnp.where(jnp.isfinite(e), e, jax.vjp(phi, exact)[1](d)[0])
        return None, e.astype(h.dtype), *_parameter_updates(region, kept, h, given, arrived)

    unit.defvjp(forward, backward)
    return unit(numbers_of(crossing), h, *others.values())


def _parameter_updates(
    region: Region, others: list[Value], h: Any, given: Any, d: Any
) -> list[Any]:
    """Compute the updates of an activation's parameters by its derivative; None for constants."""
    if not region.parameters:
        return [None] * len(others)
    env = dict(zip(others, given, strict=True))
    own = [v for v in others if v in region.parameters]

    def phi(arrays: list[Any]) -> Any:
        return region.run(h, env | dict(zip(own, arrays, strict=True)))

    updates = dict(zip(own, jax.vjp(phi, [env[v] for v in own])[1](d)[0], strict=True))
    return [updates.get(v) for v in others]


def phi_of(region: Region, others: dict[Value, Any]) -> Phi:
    """Return an activation as rules see it, with its exact difference."""

    def difference(h: Any, delta: Any, xp: Any) -> Any:
        env = {**others, region.root: Triple(h, h - delta, delta)}
        found = _walk(region, region.ops, env, h.dtype)[region.end]
        return found.D

    reads_h = (_room(op, region) for op in region.ops if region.root in op.inputs)
    rooms = [limit for limit in reads_h if limit is not None]

    def room(h: Any, xp: Any) -> Any:
        return functools.reduce(xp.minimum, [each(h, xp) for each in rooms])

    cheap = all(op.name in CHEAP for op in _flat(region.ops))
    return Phi(lambda h: region.run(h, others), difference, room if rooms else None, cheap)


def _walk(region: Region, ops: Iterable[Op], env: dict[Value, Any], dtype: Any) -> Any:
    """Compute values and exact differences op by op: a `Triple` for all that depends on h."""
    for op in ops:
        operands = [read(env, v) for v in op.inputs]
        (out,) = op.outputs
        at, below = ([getattr(x, side, x) for x in operands] for side in ("a", "b"))
        if not any(isinstance(x, Triple) for x in operands):
            (env[out],) = region.bind(op, operands, dtype)
        elif op.mark and (difference := ACTIVATIONS[op.params["name"]].difference):
            (a,), (b,) = op.bind(at), op.bind(below)
            env[out] = Triple(a, b, difference(operands[0].a, operands[0].D, NUMPY))
        elif op.bodies:
            (body,) = op.bodies
            inner = dict(zip(body.inputs, operands, strict=True))
            env[out] = read(_walk(region, body.ops, inner, dtype), body.outputs[0])
        else:
            (a,), (b,) = region.bind(op, at, dtype), region.bind(op, below, dtype)
            env[out] = Triple(a, b, difference_of(op.name, op.params, operands, (a, b)))
    return env


def _flat(ops: Iterable[Op]) -> Iterator[Op]:
    """Yield ops, with the ops of a body in place of an op that has one."""
    for op in ops:
        yield from _flat(op.bodies[0].ops) if op.bodies else (op,)


def _room(op: Op, region: Region) -> Room | None:
    """Return how far it is from h to the end of the domain of an op that reads it."""
    if op.name == "div":
        return ROOMS["reciprocal"] if op.inputs[1] is region.root else None
    if op.name == "integer_pow":
        return ROOMS["reciprocal"] if op.params["y"] < 0 else None
    return ROOMS.get("log" if op.name == "pow" else op.name)


_LIMITED = frozenset(
    ["log", "log1p", "sqrt", "rsqrt", "asin", "acos", "acosh", "atanh", "div", "pow"]
)
"""The primitives that are not defined everywhere."""


@jax.custom_vjp
def wire(x: Any) -> Any:
    """Return zeros of x's shape; the error that arrives at them goes to x."""
    return jnp.zeros_like(x)


wire.defvjp(lambda x: (wire(x), None), lambda _, d: (d,))


def link(rows: Callable[[Any], Any], feedback: Feedback, h: Any, z: Any, E: Any) -> Any:
    """Return h; its error e also goes to z, the input of a lower layer, through E.

        d = e E,  dE = feedback.update(e^T z)

    Args:
        rows: takes e and z as rows that E multiplies.
        feedback: the feedback axis.
        h: the output of the layer whose error goes to z.
        z: the input.
        E: feedback weights of shape (outputs, units).
    """

    @jax.custom_vjp
    def joint(numbers: Any, h: Any, zeros: Any, z: Any, E: Any) -> Any:
        return h

    def forward(numbers: Any, h: Any, zeros: Any, z: Any, E: Any) -> tuple[Any, Any]:
        return h, (numbers, z, E)

    def backward(saved: Any, error: Any) -> tuple[Any, ...]:
        numbers, z, E = saved
        e = rows(error)
        d = (e @ E).reshape(z.shape).astype(z.dtype)
        dE = _feedback_update(feedback, numbers, e.T @ rows(z))
        return None, error, d, jnp.zeros_like(z), dE.astype(E.dtype)

    joint.defvjp(forward, backward)
    return joint(numbers_of(feedback), h, wire(z), lax.stop_gradient(z), E)
