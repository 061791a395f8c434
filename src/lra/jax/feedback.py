"""Feedback weights of a function: drawn, or estimated from its weight layers' answers to noise."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lra.crossing import Derivative, TargetDifference
from lra.errors import ConversionError, OptionError
from lra.feedback import Stored, Transpose
from lra.inits import Mirror, check_mirror, check_rank
from lra.jax.differences import NUMPY
from lra.jax.interpret import Pass, run
from lra.jax.plan import Plan, weights_of
from lra.jax.trace import Traced, is_inexact, split
from lra.jax.wiring import Routes, find_routes
from lra.rules import Rule, require_rule


@dataclass(frozen=True)
class Sampler:
    """Draws arrays of a parameter's shape and type.

    Attributes:
        W: the parameter, which sets the scale.
        shape: the shape to draw.
        fan_in: the number of inputs that each unit reads.
        key: the source of random numbers; None in a pass, which cannot draw.
    """

    W: Any
    shape: tuple[int, ...]
    fan_in: int
    key: Any = None

    @property
    def fan_out(self) -> int:
        """The number of units that read each input.

        Raises:
            OptionError: for an array that is no matrix, of which this is not known.
        """
        if len(self.shape) != 2:
            raise OptionError(
                f"Xavier: how many units read each input is not known in JAX for a weight of shape "
                f"{self.shape}; use lra.inits.FanIn or lra.inits.LikeWeights"
            )
        return math.prod(self.shape) // self.fan_in

    @property
    def rms(self) -> Any:
        """The root mean square of W; where W is all zeros, that of `FanIn`."""
        size = jnp.sqrt(jnp.mean(jnp.square(jnp.abs(self.W)).astype(jnp.float32)))
        return jnp.where(size > 0, size, 1 / math.sqrt(3 * self.fan_in))

    def __call__(self, kind: str, scale: Any, rank: int = 0) -> Any:
        """Draw an array: normal by std, uniform by bound, orthogonal by gain, low-rank by rms."""
        if self.key is None:
            raise OptionError(
                "value_and_grad: this feedback draws numbers in every pass, and a function of JAX "
                "has no random state; draw them once, in its method draw"
            )
        dtype = self.W.dtype
        if jnp.issubdtype(dtype, jnp.complexfloating):
            real = jnp.finfo(dtype).dtype
            keys = jax.random.split(self.key)
            return lax.complex(*(self._draw(kind, scale, rank, key, real) for key in keys))
        return self._draw(kind, scale, rank, self.key, dtype)

    def _draw(self, kind: str, scale: Any, rank: int, key: Any, dtype: Any) -> Any:
        if kind == "normal":
            return (scale * jax.random.normal(key, self.shape)).astype(dtype)
        if kind == "uniform":
            return (scale * jax.random.uniform(key, self.shape, minval=-1.0)).astype(dtype)
        if kind == "orthogonal":
            return (scale * self._matrices(key, jax.nn.initializers.orthogonal())).astype(dtype)

        exact = jnp.promote_types(dtype, jnp.float32)

        def low_rank(key: Any, shape: tuple[int, int], _: Any) -> Any:
            check_rank(rank, *shape)
            one, two = jax.random.split(key)
            Q = jax.random.normal(one, (shape[0], rank), exact)
            return Q @ jax.random.normal(two, (rank, shape[1]), exact) * rank**-0.5

        return (scale * self._matrices(key, low_rank)).astype(dtype)

    def _matrices(self, key: Any, draw: Callable[..., Any]) -> Any:
        """Draw matrices of (fan_in, units), or (units, fan_in), as W has them."""
        *stacked, rows, columns = self.shape
        if len(stacked) != 1 or self.fan_in not in (rows, columns):
            stacked = []  # such as a kernel (height, width, in, out)
            sizes = [math.prod(self.shape[:i]) for i in range(len(self.shape))]
            size = math.prod(self.shape)
            rows = self.fan_in if self.fan_in in sizes else size // self.fan_in
            columns = size // rows
        keys = jax.random.split(key, math.prod(stacked))
        found = jax.vmap(lambda key: draw(key, (rows, columns), jnp.float32))(keys)
        return found.reshape(self.shape)


def init(plan: Plan, rule: Rule, params: Any, key: Any) -> dict[str, Any]:
    """Draw the feedback weights of a function.

    Args:
        plan: from `lra.jax.plan`, for the same function.
        rule: the rule.
        params: the parameters.
        key: a key of random numbers.

    Returns:
        A dict of the feedback weights E by the path of each parameter that a weight layer uses,
        except where the layer reads only data. E has the parameter's shape; where errors skip
        layers, (outputs, units). It is empty for rules that store nothing. It is a pytree: pass it
        to the function of `lra.jax.value_and_grad`, and save it with the parameters.

    Raises:
        ConversionError: for a function whose layers cannot be wired or mirrored as the rule says.
        OptionError: for a plan of other parameters.

    >>> def loss(params, x):
    ...     return jnp.sum(jnp.tanh(x @ params["a"]) @ params["b"])
    >>> params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    >>> plan = lra.jax.plan(loss, params, jnp.ones((5, 3)))
    >>> E = lra.jax.init(plan, lra.LRAE(), params, jax.random.key(0))
    >>> {path: array.shape for path, array in E.items()}
    {"['b']": (4, 2)}
    """
    feedback = require_rule(rule, "init").feedback
    if feedback.stored is Stored.NOTHING:
        return {}
    leaves = _leaves(plan, params, "init")
    shapes = feedback_shapes(plan.traced, find_routes(plan.traced.flow, rule.wiring))
    if isinstance(getattr(feedback, "init", None), Mirror):
        zeros = {path: jnp.zeros_like(leaves[path]) for path in shapes}
        return mirror(plan, rule, params, zeros, key)
    found = {}
    for i, (name, (shape, fan_in)) in enumerate(sorted(shapes.items())):
        W = leaves[name.partition(" #")[0]]
        found[name] = feedback.draw(Sampler(W, shape, fan_in, jax.random.fold_in(key, i)))
    return found


def _leaves(plan: Plan, params: Any, what: str) -> dict[str, Any]:
    """Return the parameters by their paths, if the plan is of these."""
    own, planned = split(params, is_inexact), plan.traced.params
    found = dict(zip(own.paths, own.leaves, strict=True))
    shapes = {path: tuple(W.shape) for path, W in found.items()}
    expected = {path: tuple(W.shape) for path, W in zip(planned.paths, planned.leaves, strict=True)}
    for path in {**expected, **shapes}:
        if shapes.get(path) != expected.get(path):
            here, there = (each.get(path, "nothing") for each in (shapes, expected))
            raise OptionError(
                f"{what}: the plan is of other parameters: it has {there} at {path}, and params "
                f"has {here}; call lra.jax.plan with these parameters"
            )
    return found


def mirror(
    plan: Plan, rule: Rule, params: Any, feedback: Mapping[str, Any], key: Any,
    samples: int | None = None, *, step: float = 1.0, decay: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Move the feedback weights towards the weights, by the weight layers' answers to noise.

        E <- (1 - decay) E + step f*(n; f(n, W)) / f*(1; 1),  n ~ N(0, 1)

    f is a layer, and f* its adjoint in W. Nothing reads W. Use it after loading or changing the
    parameters, or every few steps where E drifts away from W.

    Args:
        plan: from `lra.jax.plan`, with the arrays that the function then ran on.
        rule: the rule.
        params: the parameters.
        feedback: the present feedback weights, as `init` returned them.
        key: a key of random numbers.
        samples: the number of noise samples per layer; by default that of the rule's `Mirror`, or
            10,000.
        step: the weight of the estimate, above 0 and at most 1.
        decay: the share of the present E that is removed, from 0 to 1; by default `step`. With 0,
            the estimates of all calls add up.

    Returns:
        The new feedback weights.

    Raises:
        ConversionError: for parameters from which weights are derived by a nonlinear function.
        OptionError: for a rule whose errors skip layers, a plan of other parameters, or a number
            out of range.

    Source: Akrout et al., Deep learning without weight transport, NeurIPS 2019.

    >>> def loss(params, x):
    ...     return jnp.sum(jnp.tanh(x @ params["a"]) @ params["b"])
    >>> params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    >>> plan = lra.jax.plan(loss, params, jnp.ones((5, 3)))
    >>> E = lra.jax.init(plan, lra.LRAE(), params, jax.random.key(0))
    >>> E = lra.jax.mirror(plan, lra.LRAE(), params, E, jax.random.key(1))
    >>> bool(jnp.abs(E["['b']"] - params["b"]).max() < 0.2)
    True
    """
    step, decay = check_mirror(step, decay)
    if require_rule(rule, "mirror").wiring.reach != 1:
        raise OptionError(
            "mirror: where errors skip layers, there is no weight that E could mirror"
        )
    curved = sorted(w.path for w in plan.weights if w.path in feedback and not w.linear)
    if curved:
        raise ConversionError(
            f"mirror: weights are derived from {', '.join(curved)} by a nonlinear function, which "
            "noise cannot see through; use init=lra.inits.LikeWeights() with lra.LRAE(two_sided="
            "True, relative='batch', normalized=True, beta=1.0) instead"
        )
    if samples is None:
        chosen = getattr(rule.feedback, "init", None)
        samples = chosen.samples if isinstance(chosen, Mirror) else Mirror().samples
    traced, leaves = plan.traced, list(_leaves(plan, params, "mirror").values())
    data = [
        jnp.zeros(a.shape, a.dtype) if isinstance(a, jax.ShapeDtypeStruct) else a
        for a in traced.data
    ]
    crossing = TargetDifference() if isinstance(rule.crossing, Derivative) else rule.crossing
    sending = Rule(rule.feedback, crossing)
    zeros = jax.tree.map(jnp.zeros_like, dict(feedback))

    def sent(E: Any, key: Any, uses: bool) -> Any:
        def loss(E: Any) -> Any:
            shadows = [E.get(path) for path in traced.params.paths]
            pairs = [*zip(leaves, shadows, strict=True), *((array, None) for array in data)]
            return jnp.sum(run(traced.flow, pairs, Pass(sending, 1.0, key=key, uses=uses))[0][0])

        return jax.grad(loss)(E)

    def add(total: Any, key: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, sent(zeros, key, False)), None

    passes = max(1, -(-samples // traced.batch))
    total, _ = lax.scan(add, zeros, jax.random.split(key, passes))
    ones = jax.tree.map(jnp.ones_like, zeros)
    with_ones, without = sent(ones, key, True), sent(zeros, key, True)

    def moved(E: Any, total: Any, a: Any, b: Any) -> Any:
        uses = passes * (a - b)
        estimate = total / (uses + (uses == 0))  # an unused weight carries no error
        return (1 - decay) * E + step * estimate

    found: dict[str, Any] = jax.tree.map(moved, dict(feedback), total, with_ones, without)
    return found


def feedback_shapes(traced: Traced, routes: Routes) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return the shape of each E that a function stores, and the inputs of each of its units."""
    chained = weights_of(traced, routes)
    found = {weight.path: (weight.shape, weight.fan_in) for weight in chained if weight.has_error}
    return found | {link.name: (link.shape, link.shape[1]) for link in routes.each}


def shadows(rule: Rule, traced: Traced, routes: Routes, feedback: Mapping[str, Any]) -> list[Any]:
    """Return the E of each parameter in one pass; None where errors use the parameter itself.

    Raises:
        OptionError: for feedback weights that do not fit the function.
    """
    axis = rule.feedback
    if isinstance(axis, Transpose):
        return [None] * len(traced.params.paths)
    if axis.stored is not Stored.NOTHING:
        shapes = feedback_shapes(traced, routes)
        check_feedback(feedback, {name: shape for name, (shape, _) in shapes.items()})
    weights = {w.path: w for w in weights_of(traced, routes) if w.has_error}

    def shadow(path: str, W: Any) -> Any:
        if path not in weights:
            return None
        sampler = Sampler(W, W.shape, weights[path].fan_in)
        return axis.effective(lax.stop_gradient(W), feedback.get(path), sampler, NUMPY)

    return list(map(shadow, traced.params.paths, traced.params.leaves))


def check_feedback(feedback: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse feedback weights with other names or shapes than a function needs.

    Raises:
        OptionError: naming what is missing, unknown, or of another shape.
    """
    remedy = "; draw them with lra.jax.init for this function, rule and these parameters"
    for path in shapes.keys() - feedback.keys():
        raise OptionError(f"value_and_grad: there are no feedback weights for {path}{remedy}")
    for path in feedback.keys() - shapes.keys():
        raise OptionError(f"value_and_grad: no weight layer uses feedback weights {path}{remedy}")
    for path, shape in shapes.items():
        if tuple(feedback[path].shape) != tuple(shape):
            raise OptionError(
                f"value_and_grad: the feedback weights {path} have the shape "
                f"{tuple(feedback[path].shape)} instead of {tuple(shape)}{remedy}"
            )
