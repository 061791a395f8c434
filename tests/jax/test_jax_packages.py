"""Unchanged models of public JAX packages: errors cross weight layers and activations by the rule.

The oracle is `jax.grad`: `Backprop()` equals it; with E = W and the normalised target difference
each update tends to it as beta falls; with a random E exactly the parameters below a weight layer
have another update. `packages.txt` has the versions; a missing package skips its cases.
"""

import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
import numpy  # noqa: E402
from package_cases import CASES, is_float  # noqa: E402

import lra  # noqa: E402
import lra.jax  # noqa: E402
from lra.crossing import TargetDifference  # noqa: E402
from lra.feedback import Random  # noqa: E402

RULE = lra.Rule(
    feedback=Random(), crossing=TargetDifference(beta=0.01, normalized=True, two_sided=True)
)


@pytest.fixture(autouse=True)
def _settings():
    """Compile fast, and restore the precision that a case sets."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_enable_x64", before)
    jax.config.update("jax_disable_most_optimizations", False)


def in_precision(tree, dtype, noise=0.0):
    """Return a tree with its float arrays in a precision, and noise so that no weight is zero."""
    random = numpy.random.default_rng(5)

    def one(leaf):
        if not is_float(leaf):
            return leaf
        added = noise * random.normal(size=leaf.shape) if leaf.ndim else 0.0
        return jnp.asarray(leaf, dtype) + jnp.asarray(added, dtype)

    return jax.tree.map(one, tree)


def build(name):
    """Return (loss, params, args) of a case, in float64 unless its package casts to float32."""
    case = CASES[name]
    for module in case.modules:
        pytest.importorskip(module)
    jax.config.update(
        "jax_enable_x64", False
    )  # some packages build parameters in two precisions otherwise
    loss, params, args = case.build()
    jax.config.update("jax_enable_x64", case.digits == 64)
    dtype = f"float{case.digits}"
    return loss, in_precision(params, dtype, noise=0.1), in_precision(args, dtype)


def floats(tree):
    """Return {path: leaf} of the float arrays of a tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if is_float(leaf)}


def backprop(loss, params, args):
    """Return the loss and {path: gradient} by jax.value_and_grad."""
    leaves, tree = jax.tree.flatten(params)
    names = list(floats(params))

    def of_floats(some):
        left = iter(some)
        return loss(
            jax.tree.unflatten(tree, [next(left) if is_float(leaf) else leaf for leaf in leaves]),
            *args,
        )

    value, grads = jax.jit(jax.value_and_grad(of_floats))(
        [leaf for leaf in leaves if is_float(leaf)]
    )
    return value, dict(zip(names, grads, strict=True))


def distance(some, others):
    """Return the largest difference of two dicts of arrays over the largest entry."""
    scale = max(float(jnp.abs(one).max()) for one in others.values())
    return max(float(jnp.abs(some[path] - one).max()) for path, one in others.items()) / scale


@pytest.mark.filterwarnings("ignore")  # from these packages
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.refused])
def test_models_of_other_packages(name):
    case = CASES[name]
    loss, params, args = build(name)
    value, exact = backprop(loss, params, args)
    rounding = 1e-9 if case.digits == 64 else 1e-5

    plan = lra.jax.plan(loss, params, *args)
    step = lra.jax.value_and_grad(loss, lra.Backprop())
    same, (grads, _) = jax.jit(lambda: step(params, {}, *args))()
    assert abs(float(same - value)) <= rounding * abs(float(value))
    assert distance(floats(grads), exact) <= rounding

    @jax.jit
    def follow(beta, feedback):
        rule = lra.jax.replace(RULE, beta=beta)
        return lra.jax.value_and_grad(loss, rule)(params, feedback, *args)[1][0]

    feedback = lra.jax.init(plan, RULE, params, jax.random.key(3))
    leaves = floats(params)
    aligned = {path: leaves[path] for path in feedback}
    if case.limit:  # units near a kink are on its other side at beta 1e-2
        far, near = (distance(floats(follow(beta, aligned)), exact) for beta in (1e-2, 1e-4))
        assert near <= max(1e-3 * far, rounding), (
            f"distance to backprop {far} at beta 1e-2, {near} at 1e-4"
        )

    other = floats(follow(1e-2, feedback))
    for path, one in exact.items():
        assert jnp.isfinite(other[path]).all(), path
        moved = float(jnp.abs(other[path] - one).max()) > 10 * rounding * float(jnp.abs(one).max())
        if jnp.any(one):
            assert moved != any(part in path for part in case.top), path


@pytest.mark.filterwarnings("ignore")  # from these packages
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.refused])
def test_refused_models_say_what_to_do(name):
    loss, params, args = build(name)
    backprop(loss, params, args)  # JAX itself differentiates it
    with pytest.raises(lra.errors.ConversionError) as refusal:
        lra.jax.plan(loss, params, *args)
    assert refusal.value.refused
    for words in CASES[name].refused:
        assert words in str(refusal.value)
