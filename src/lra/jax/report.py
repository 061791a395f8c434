"""What follows a rule in a planned function: a summary, and a list of every op."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lra.display import as_text
from lra.jax.analysis import Flow
from lra.jax.graph import Op
from lra.jax.plan import Plan, is_ordinary
from lra.jax.primitives import PRODUCTS
from lra.jax.regions import activations


@dataclass(frozen=True)
class Coverage:
    """Which parameters get a rule's updates.

    Attributes:
        share: the share of the numbers in all parameters that follow the rule.
        roles: how each parameter gets its update, by path.
        left: the paths of matrices that data is multiplied by with the parameter itself on the
            errors' way down, so that a part of their work is backprop's.
    """

    share: float
    roles: dict[str, str]
    left: tuple[str, ...]

    def __str__(self) -> str:
        rows = as_text(("parameter", "its update"), self.roles.items(), left=2)
        return f"{self.share:.1%} of the parameters follow the rule\n\n{rows}"


def coverage(plan: Plan) -> Coverage:
    """Return how each parameter of a planned function gets its update.

    Args:
        plan: from `lra.jax.plan`.

    Returns:
        The coverage. Print it.

    >>> def loss(params, x):
    ...     return jnp.sum(jnp.tanh(x @ params["a"]) @ params["b"])
    >>> params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    >>> print(lra.jax.coverage(lra.jax.plan(loss, params, jnp.ones((5, 3)))))
    100.0% of the parameters follow the rule
    <BLANKLINE>
    parameter  its update
    ['a']      weight layer that reads data
    ['b']      weight layer, sends its error down through E
    """
    own = plan.traced.params
    shapes = {path: W.shape for path, W in zip(own.paths, own.leaves, strict=True)}
    left = {path for path in _multiplied(plan.traced.flow) if len(shapes[path]) >= 2}
    roles = {}
    for path in own.paths:
        roles[path] = "the error that arrives"
        if path in left:
            roles[path] = "multiplies data outside weight layers: errors cross the parameter itself"
    for weight in plan.weights:
        down = "weight layer, sends its error down through E"
        reads = "weight layer that reads data"
        if weight.path not in left:
            roles[weight.path] = down if weight.has_error else reads
    sizes = {path: math.prod(shape) for path, shape in shapes.items()}
    total = sum(sizes.values())
    follows = total - sum(sizes[path] for path in left)
    return Coverage(follows / total if total else 1.0, roles, tuple(sorted(left)))


def _multiplied(flow: Flow) -> Iterator[str]:
    """Yield the parameters that multiply data on the errors' way, outside weight layers."""
    level = flow.level
    for op in level.graph.ops:
        for body in flow.bodies.get(op, ()):
            yield from _multiplied(body)
        kinds = level.kinds(op.inputs)
        multiplies = op.name in PRODUCTS | {"mul"} and level.weight_side(op) is None
        if multiplies and any(k.is_learned_data for k in kinds):
            yield from (path for kind in kinds if kind.is_weight for path in kind.leaves)


@dataclass(frozen=True)
class Step:
    """One op of a planned function on the errors' way.

    Attributes:
        where: the line of the user's code.
        op: the primitive, or its function.
        shape: the shape of its output.
        role: how errors cross it.
    """

    where: str
    op: str
    shape: tuple[int, ...]
    role: str


@dataclass(frozen=True)
class Audit:
    """Every op of a planned function through which errors travel, in the order of the function.

    Attributes:
        steps: the ops.
    """

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        rows = [(s.where, s.op, str(s.shape), s.role) for s in self.steps]
        return as_text(("line", "op", "shape", "errors cross it"), rows, left=4)


def audit(plan: Plan) -> Audit:
    """List how errors cross each op of a planned function.

    Args:
        plan: from `lra.jax.plan`.

    Returns:
        The audit. Print it.

    >>> def loss(params, x):
    ...     return jnp.sum(jnp.tanh(x @ params["a"]) @ params["b"])
    >>> params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    >>> audit = lra.jax.audit(lra.jax.plan(loss, params, jnp.ones((5, 3))))
    >>> [step.role for step in audit.steps]
    ["weight layer ['a']", 'activation', "weight layer ['b']", 'linear']
    """
    return Audit(tuple(_steps(plan.traced.flow)))


def _steps(flow: Flow) -> Iterator[Step]:
    level = flow.level
    inside = {op: region for region in activations(flow).values() for op in region.ops}
    for op in level.graph.ops:
        bodies = flow.bodies.get(op, ())
        for body in bodies:
            yield from _steps(body)
        if bodies or not op.outputs or not level.kind(op.outputs[0]).is_learned_data:
            continue
        yield Step(op.where, op.function, op.outputs[0].aval.shape, _role(flow, op, op in inside))


def _role(flow: Flow, op: Op, in_activation: bool) -> str:
    side = flow.level.weight_side(op)
    if side is not None:
        return f"weight layer {', '.join(sorted(flow.level.kind(op.inputs[side]).leaves))}"
    if in_activation:
        return "activation"
    return "automatic differentiation" if is_ordinary(flow, op, False) else "linear"
