"""`jax.value_and_grad` by a learning rule."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from lra.errors import OptionError
from lra.feedback import Magnitude, SignSymmetric, Stored
from lra.jax.feedback import shadows
from lra.jax.interpret import Pass, run
from lra.jax.trace import check_function, trace
from lra.jax.wiring import find_routes
from lra.loss_terms import LossTerms, check_terms
from lra.rules import Rule, require_rule


def value_and_grad(
    fn: Callable[..., Any],
    rule: Rule,
    *,
    has_aux: bool = False,
    loss_terms: LossTerms | str | float = LossTerms.BATCH,
    overrides: Mapping[str, str] | None = None,
) -> Callable[..., Any]:
    """Return a function that computes fn and a rule's updates, as `jax.value_and_grad` does.

    The result traces fn in each call. Put it under `jax.jit`, which traces it once. It also works
    under `jax.vmap`, inside `jax.lax.scan`, and over sharded arrays.

    Args:
        fn: a function `fn(params, *args)` that returns a scalar loss, or (loss, aux).
        rule: the rule.
        has_aux: whether fn returns (loss, aux).
        loss_terms: the number of terms N that the loss is a mean over: "batch" for the first
            dimension of the first array after the parameters, "tokens" for all dimensions of an
            activation but the last, or N itself; 1 for a sum.
        overrides: as in `lra.jax.plan`.

    Returns:
        A function `step(params, feedback, *args)`, with feedback from `lra.jax.init`. It returns
        (value, (grads, feedback_grads)), with value fn's result. Both are in the sense of a
        gradient: an optimizer subtracts them. grads is a pytree like params, with None for leaves
        that are not arrays of floating-point numbers. feedback_grads is a dict like feedback for
        rules that learn it, and empty for others.

    Raises:
        OptionError: for an option out of range; when called, for feedback that does not fit fn.
        ConversionError: when called, for a function that a rule cannot follow.

    >>> def loss(params, x, y):
    ...     return jnp.mean((jnp.tanh(x @ params["a"]) @ params["b"] - y) ** 2)
    >>> params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    >>> x, y = jnp.ones((5, 3)), jnp.zeros((5, 2))
    >>> rule = lra.LRAE()
    >>> E = lra.jax.init(lra.jax.plan(loss, params, x, y), rule, params, jax.random.key(0))
    >>> step = jax.jit(lra.jax.value_and_grad(loss, rule))
    >>> value, (grads, feedback_grads) = step(params, E, x, y)
    >>> grads["a"].shape, feedback_grads["['b']"].shape
    ((3, 4), (4, 2))
    """
    check_function(fn, "value_and_grad")
    _check_rule(require_rule(rule, "value_and_grad"))
    terms = check_terms(loss_terms)
    learned = rule.feedback.stored is Stored.LEARNED

    def step(params: Any, feedback: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        traced = trace(fn, params, args, kwargs, overrides)
        routes = find_routes(traced.flow, rule.wiring)
        n = float(traced.batch) if terms is LossTerms.BATCH else terms

        def loss(leaves: list[Any], feedback: Mapping[str, Any]) -> Any:
            own = dataclasses.replace(traced.params, leaves=leaves)
            with_leaves = dataclasses.replace(traced, params=own)
            pairs = list(zip(leaves, shadows(rule, with_leaves, routes, feedback), strict=True))
            pairs += [(array, None) for array in traced.data]
            results = run(traced.flow, pairs, Pass(rule, n, routes, feedback))
            return traced.restore([array for array, _ in results])

        by = (0, 1) if learned else (0,)
        value, grads = jax.value_and_grad(loss, by, has_aux)(traced.params.leaves, dict(feedback))
        return value, (traced.params.join(grads[0], None), grads[1] if learned else {})

    return step


def _check_rule(rule: Rule) -> None:
    """Refuse what a pure function cannot do."""
    if isinstance(rule.feedback, SignSymmetric) and rule.feedback.magnitude is Magnitude.BATCH:
        raise OptionError(
            "value_and_grad: SignSymmetric('batch') draws magnitudes in every pass, and a function "
            "of JAX has no random state; use SignSymmetric('fixed') or SignSymmetric('uniform')"
        )
