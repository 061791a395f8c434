"""Functions that users mark as one activation or one weight layer."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax

from lra.crossing import Surrogate
from lra.differences import Difference
from lra.jax.graph import MARK

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Activation:
    surrogate: Surrogate | None
    difference: Difference | None


@dataclass(frozen=True)
class _WeightLayer:
    adjoint: Callable[..., Any] | None


ACTIVATIONS: dict[str, _Activation] = {}
"""What is known of the marked activations, by the name of the jitted function."""

WEIGHT_LAYERS: dict[str, _WeightLayer] = {}
"""What is known of the marked weight layers, by the name of the jitted function."""

_numbers = itertools.count()


def _marked(f: Callable[..., Any], kind: str) -> tuple[str, Callable[..., Any]]:
    """Jit a function under a name that tells how it is registered."""
    given = getattr(f, "__name__", type(f).__name__)
    name = f"{MARK}{kind}__{given}"
    name += f"_{next(_numbers)}" if name in ACTIVATIONS or name in WEIGHT_LAYERS else ""

    def call(*args: Any) -> Any:
        return f(*args)

    call.__name__ = call.__qualname__ = name
    return name, jax.jit(call)


def register_activation(
    f: F, *, surrogate: Surrogate | None = None, difference: Difference | None = None
) -> F:
    """Return a function that is one activation for learning rules, whatever it does inside.

    Use it for elementwise functions that lra cannot see through, such as a Pallas kernel or a
    device behind `jax.pure_callback`, and for parts that it takes for something else. Rules with
    targets only evaluate f; a rule with derivatives differentiates it.

    Args:
        f: an elementwise function of its first argument. Further arguments are constants.
        surrogate: a function to take targets through instead of f, as in
            `lra.crossing.TargetDifference`.
        difference: f(h) - f(h - delta) without cancellation, as (h, delta, xp).

    Returns:
        A function with f's arguments. Call it in a loss in place of f.

    >>> @lra.jax.register_activation
    ... def step(h):
    ...     return jnp.where(h > 0, 1.0, -1.0)
    >>> step(jnp.array([-2.0, 3.0])).tolist()
    [-1.0, 1.0]
    """
    name, marked = _marked(f, "activation")
    ACTIVATIONS[name] = _Activation(surrogate, difference)
    return functools.wraps(f)(marked)  # type: ignore[return-value]


def register_weight_layer(f: F, *, adjoint: Callable[..., Any] | None = None) -> F:
    """Return a function f(x, W, ...) that is one weight layer for learning rules.

    Use it for products that lra cannot see through, such as a Pallas kernel, a function with a
    `custom_vjp`, or a device behind `jax.pure_callback`.

    Args:
        f: a function that is linear in x and in W. It runs forward.
        adjoint: a function of the same arguments that JAX can differentiate, whose adjoints carry
            errors down and compute updates; f itself by default.

    Returns:
        A function with f's arguments. Call it in a loss in place of f.

    >>> @lra.jax.register_weight_layer
    ... def product(x, W):
    ...     return x @ W
    >>> product(jnp.ones((2, 3)), jnp.ones((3, 4))).shape
    (2, 4)
    """
    name, marked = _marked(f, "weight_layer")
    WEIGHT_LAYERS[name] = _WeightLayer(adjoint)
    return functools.wraps(f)(marked)  # type: ignore[return-value]
