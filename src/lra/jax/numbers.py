"""The numbers of a rule as traced arrays, so that they can be mapped over or changed in a loop."""

import dataclasses
from typing import Any, TypeVar

import jax

from lra.axis import Axis, unknown
from lra.rules import Rule

A = TypeVar("A", bound=Axis)


def replace(rule: Rule, **numbers: Any) -> Rule:
    """Return a rule with other numbers, which may be traced arrays.

    Use it to map over settings with `jax.vmap`, or to change them in a compiled training. Numbers
    are not checked here: pass what the rule itself would accept.

    Args:
        rule: the rule.
        **numbers: numbers of its feedback, crossing or wiring, such as beta.

    Raises:
        OptionError: for a name that none of these has.

    >>> def update(beta, a, x):
    ...     rule = lra.jax.replace(lra.LRAE(), beta=beta)
    ...     step = lra.jax.value_and_grad(lambda a, x: jnp.sum(jnp.tanh(x @ a)), rule)
    ...     return step(a, {}, x)[0]
    >>> betas = jnp.array([0.1, 0.2])
    >>> jax.vmap(update, (0, None, None))(betas, jnp.ones((3, 4)), jnp.ones((5, 3))).shape
    (2,)
    """
    axes = {name: getattr(rule, name) for name in ("feedback", "crossing", "wiring")}
    homes = {f.name: name for name, axis in axes.items() for f in dataclasses.fields(axis)}
    for number, value in numbers.items():
        if number not in homes:
            raise unknown("number of this rule", number, homes)
        axes[homes[number]] = with_numbers(axes[homes[number]], {number: value})
    return dataclasses.replace(rule, **axes)


def numbers_of(axis: Axis) -> dict[str, Any]:
    """Return the fields of an axis that hold arrays."""
    fields = {f.name: getattr(axis, f.name) for f in dataclasses.fields(axis)}
    return {name: value for name, value in fields.items() if isinstance(value, jax.Array)}


def with_numbers(axis: A, numbers: dict[str, Any]) -> A:
    """Copy an axis with other values of some fields, which are not checked."""
    made = object.__new__(type(axis))
    for f in dataclasses.fields(axis):
        object.__setattr__(made, f.name, numbers.get(f.name, getattr(axis, f.name)))
    return made
