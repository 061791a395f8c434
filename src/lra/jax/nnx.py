"""The same for Flax NNX: functions whose first argument is a module.

plan = lra.jax.nnx.plan(loss, model, x, y)
feedback = lra.jax.nnx.init(plan, rule, model, key)
step = nnx.jit(lra.jax.nnx.value_and_grad(loss, rule))
value, (grads, feedback_grads) = step(model, feedback, x, y)
"""

from collections.abc import Callable, Mapping
from typing import Any

from lra.jax import feedback as feedbacks
from lra.jax import gradients
from lra.jax import plan as plans
from lra.jax.trace import check_function
from lra.loss_terms import LossTerms
from lra.rules import Rule


def plan(
    fn: Callable[..., Any],
    model: Any,
    *args: Any,
    overrides: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> plans.Plan:
    """Find what a rule does with `fn(model, *args, **kwargs)`, as `lra.jax.plan`.

    Args:
        fn: a function of a module, such as a loss.
        model: a `flax.nnx.Module`, whose parameters are its `nnx.Param` variables. It stays
            unchanged.
        *args: its other arguments.
        overrides: as in `lra.jax.plan`.
        **kwargs: its keyword arguments.

    Returns:
        The plan.

    Raises:
        ConversionError: as `lra.jax.plan`.
        OptionError: as `lra.jax.plan`.
    """
    check_function(fn, "nnx.plan")
    graph, params, rest = _split(model)
    return plans.plan(_pure(fn, graph), params, args, kwargs, rest, overrides=overrides)


def init(plan: plans.Plan, rule: Rule, model: Any, key: Any) -> dict[str, Any]:
    """Draw the feedback weights of a function of a module: `lra.jax.init` for a module.

    Args:
        plan: from `plan`.
        rule: the rule.
        model: the module.
        key: a key of random numbers.

    Returns:
        A dict of the feedback weights by the path of each parameter.

    Raises:
        ConversionError: as `lra.jax.init`.
    """
    return feedbacks.init(plan, rule, _split(model)[1], key)


def value_and_grad(
    fn: Callable[..., Any],
    rule: Rule,
    *,
    has_aux: bool = False,
    loss_terms: LossTerms | str | float = LossTerms.BATCH,
    overrides: Mapping[str, str] | None = None,
) -> Callable[..., Any]:
    """Return a function that computes fn and a rule's updates, as `nnx.value_and_grad` does.

    Put it under `nnx.jit`. Other state of the module, such as batch statistics and the counts of
    its random numbers, is updated in place.

    Args:
        fn: a function `fn(model, *args)` that returns a scalar loss, or (loss, aux).
        rule: the rule.
        has_aux: whether fn returns (loss, aux).
        loss_terms: as in `lra.jax.value_and_grad`.
        overrides: as in `lra.jax.plan`.

    Returns:
        A function `step(model, feedback, *args)`. It returns (value, (grads, feedback_grads)), with
        grads an `nnx.State` like that of the parameters, for `nnx.Optimizer`.

    Raises:
        OptionError: as `lra.jax.value_and_grad`.
        ConversionError: when called, for a function that a rule cannot follow.

    >>> from flax import nnx
    >>> class Net(nnx.Module):
    ...     def __init__(self, rngs):
    ...         self.a, self.b = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)
    ...     def __call__(self, x):
    ...         return self.b(nnx.tanh(self.a(x)))
    >>> def loss(model, x):
    ...     return jnp.mean(model(x) ** 2)
    >>> model, x, rule = Net(nnx.Rngs(0)), jnp.ones((5, 3)), lra.LRAE()
    >>> plan = lra.jax.nnx.plan(loss, model, x)
    >>> E = lra.jax.nnx.init(plan, rule, model, jax.random.key(0))
    >>> step = nnx.jit(lra.jax.nnx.value_and_grad(loss, rule))
    >>> value, (grads, feedback_grads) = step(model, E, x)
    >>> len(feedback_grads)
    1
    """
    check_function(fn, "nnx.value_and_grad")
    settings: dict[str, Any] = {"loss_terms": loss_terms, "overrides": overrides}
    gradients.value_and_grad(fn, rule, **settings)  # checks the options now

    def step(model: Any, feedback: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        from flax import nnx

        graph, params, rest = _split(model)
        pure = _pure(fn, graph, has_aux)
        inner = gradients.value_and_grad(pure, rule, has_aux=True, **settings)
        (value, (aux, rest)), grads = inner(params, feedback, args, kwargs, rest)
        nnx.update(model, rest)
        return (value, aux) if has_aux else value, grads

    return step


def _split(model: Any) -> tuple[Any, Any, Any]:
    from flax import nnx

    graph, params, rest = nnx.split(model, nnx.Param, ...)
    return graph, params, rest


def _pure(fn: Callable[..., Any], graph: Any, has_aux: bool = False) -> Callable[..., Any]:
    """Return fn as a pure function of a module's parameters and, last, of its other state."""
    from flax import nnx

    def pure(params: Any, args: Any, kwargs: Any, rest: Any) -> Any:
        model = nnx.merge(graph, params, rest)
        out = fn(model, *args, **kwargs)
        value, aux = out if has_aux else (out, None)
        return value, (aux, _split(model)[2])

    return pure
