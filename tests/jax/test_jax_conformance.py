"""Conformance: on every function of cases.py, rules agree with jax.value_and_grad where they must.

All in float64.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, Case, path_name

import lra
import lra.jax

QUICK = {"xla_backend_optimization_level": 0}
"""Options that shorten compilation, which takes most of the time here."""

NORMALISED = lra.LRAE(normalized=True, two_sided=True)
"""Tends to backprop as beta goes to 0, where E = W."""


def is_float(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


@dataclass
class Problem:
    """A case with its arrays of floating-point numbers by path, and its updates under rules."""

    case: Case
    loss: Any
    params: Any
    args: tuple[Any, ...]

    def __post_init__(self) -> None:
        pairs, self.tree = jax.tree_util.tree_flatten_with_path(self.params)
        self.others = [None if is_float(leaf) else leaf for _, leaf in pairs]
        self.arrays = {jax.tree_util.keystr(p): leaf for p, leaf in pairs if is_float(leaf)}
        self.plan = lra.jax.plan(self.loss, self.params, *self.args)
        self.options = {"has_aux": self.case.has_aux}
        self._updates = jax.jit(self._at, compiler_options=QUICK)

    def within(self, names: tuple[str, ...]) -> set[str]:
        """Return the paths of the leaves that some names stand for."""
        words = {path: path_name(path) for path in self.arrays}
        return {p for p, w in words.items() if any(f"{w}.".startswith(f"{n}.") for n in names)}

    @property
    def top(self) -> set[str]:
        """The paths of the leaves in or above the last weight layer."""
        return self.within(self.case.top)

    def join(self, arrays: dict[str, Any]) -> Any:
        """Return the case's own pytree with other arrays."""
        given = (arrays[path] for path in self.arrays)  # jit sorts the keys of a dict
        return self.tree.unflatten([next(given) if o is None else o for o in self.others])

    def step(self, rule: lra.Rule, arrays: Any, feedback: Any, args: Any) -> Any:
        """Compute the value, and by path the updates of the parameters and of E."""
        options = dict(self.options)
        if self.case.loss_terms is not None:
            options["loss_terms"] = self.case.loss_terms
        run = lra.jax.value_and_grad(self.loss, rule, **options)
        value, (grads, feedback_grads) = run(self.join(arrays), feedback, *args)
        leaves = jax.tree.leaves(grads)
        return value, dict(zip(self.arrays, leaves, strict=True)), feedback_grads

    def reference(self, arrays: Any, args: Any) -> Any:
        """Compute the value and its gradient by JAX alone."""

        def loss(arrays: Any) -> Any:
            return self.loss(self.join(arrays), *args)

        return jax.value_and_grad(loss, has_aux=self.case.has_aux)(arrays)

    @functools.cached_property
    def exact(self) -> Any:
        """The reference, and value and updates under `Backprop`."""

        def both(arrays: Any, args: Any) -> Any:
            return self.reference(arrays, args), self.step(lra.Backprop(), arrays, {}, args)

        return jax.device_get(jax.jit(both, compiler_options=QUICK)(self.arrays, self.args))

    @property
    def gradient(self) -> Any:
        return self.exact[0][1]

    def _at(self, arrays: Any, feedback: Any, beta: Any, args: Any) -> Any:
        return self.step(lra.jax.replace(NORMALISED, beta=beta), arrays, feedback, args)

    def updates(self, feedback: Any, beta: float) -> Any:
        """Compute the updates under the normalised rule; all betas share one compilation."""
        return jax.device_get(self._updates(self.arrays, feedback, beta, self.args))[1:]

    @functools.cached_property
    def random(self) -> Any:
        """E as large as W, of the names and shapes that `lra.jax.init` draws."""
        drawn = jax.eval_shape(
            lambda key: lra.jax.init(self.plan, NORMALISED, self.params, key), jax.random.PRNGKey(0)
        )
        rng = np.random.default_rng(1)
        return {path: 0.6 * rng.normal(size=E.shape) for path, E in sorted(drawn.items())}

    @property
    def mirrored(self) -> Any:
        """E = W."""
        return {path: self.arrays[path] for path in self.random}


@functools.cache
def problem(case: Case) -> Problem:
    return Problem(case, *case.build())


def distance(updates: Any, gradient: Any) -> float:
    """Compute the distance relative to the gradient, over all leaves."""
    off = sum(float(np.sum((updates[path] - g) ** 2)) for path, g in gradient.items())
    return float(np.sqrt(off / sum(float(np.sum(g**2)) for g in gradient.values())))


def relative(update: Any, gradient: Any) -> float:
    """Compute the distance of one leaf's update from its gradient."""
    return float(np.linalg.norm(update - gradient) / np.linalg.norm(gradient))


cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_there_are_enough_cases_and_each_name_is_unique():
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@cases
def test_identity_backprop_equals_value_and_grad(case):
    """Value, auxiliary output and updates are equal to the bit, unless the case says otherwise.

    XLA of older releases rounds some of them differently.
    """
    rounding = max(case.rounding, 0.0 if jax.__version_info__ >= (0, 10) else 1e-13)
    (value, gradient), (ours, updates, feedback_grads) = problem(case).exact
    assert feedback_grads == {}
    pairs = jax.tree.leaves(jax.tree.map(lambda a, b: (a, b), (value, gradient), (ours, updates)))
    for ours, theirs in zip(pairs[1::2], pairs[::2], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rounding, atol=rounding)


@cases
def test_identity_with_mirrored_feedback_the_rule_tends_to_backprop(case):
    """With E = W the distance to the gradient falls like beta squared, down to rounding."""
    own = problem(case)
    far, near = (distance(own.updates(own.mirrored, b)[0], own.gradient) for b in (1e-2, 1e-3))
    assert near < max(1e-10, case.rounding) or 50 < far / near < 200, (far, near)
    assert near < 1e-2


@cases
def test_identity_random_feedback_moves_all_that_is_below_a_weight_layer(case):
    """Updates in the last weight layer and above equal backprop's; all others move away."""
    own = problem(case)
    updates, feedback_grads = own.updates(own.random, 1e-3)
    assert feedback_grads.keys() == own.random.keys() != set()
    assert {p for p in own.top if relative(updates[p], own.gradient[p]) > 1e-9} == set()
    below = own.arrays.keys() - own.top
    assert {p for p in below if relative(updates[p], own.gradient[p]) < 1e-3} == set()
    for path, update in {**updates, **feedback_grads}.items():
        assert np.isfinite(update).all(), path
        assert update.shape == own.arrays[path].shape


@cases
def test_identity_far_targets_move_all_that_is_below_an_activation(case):
    """With E = W, the updates that still equal backprop's are those that cross no activation."""
    own = problem(case)
    updates, _ = own.updates(own.mirrored, 8.0)
    still = {p for p, g in own.gradient.items() if relative(updates[p], g) < 1e-6}
    assert still == own.top | own.within(case.straight)
