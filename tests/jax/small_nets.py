"""A small network, its data and its updates, for several test files."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lra
import lra.jax

SIZES = {"['a']": (5, 7), "['b']": (7, 6), "['c']": (6, 3)}


def params_of(seed=0, dtype=np.float64):
    """Draw the parameters of 5-7-6-3 units."""
    rng = np.random.default_rng(seed)
    draw = {name[2]: rng.normal(0.0, 0.5, shape) for name, shape in SIZES.items()}
    draw["bias"] = rng.normal(0.0, 0.5, (7,))
    return {name: jnp.asarray(W, dtype) for name, W in draw.items()}


def batch_of(seed=1, n=6, dtype=np.float64):
    """Draw inputs and labels."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(0.0, 1.0, (n, 5)), dtype), jnp.asarray(rng.integers(0, 3, n))


def hidden(params, x):
    """Compute both hidden layers."""
    return jax.nn.gelu(jnp.tanh(x @ params["a"] + params["bias"]) @ params["b"])


def cross_entropy(logits, y):
    """Compute the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def loss(params, x, y):
    """Compute the loss of the network."""
    return cross_entropy(hidden(params, x) @ params["c"], y)


def start(rule, fn=loss, params=None, args=None, seed=2, **options):
    """Return parameters, feedback weights, the compiled step of a rule, and a batch."""
    params = params_of() if params is None else params
    args = batch_of() if args is None else args
    plan = lra.jax.plan(fn, params, *args)
    feedback = lra.jax.init(plan, rule, params, jax.random.key(seed))
    return params, feedback, jax.jit(lra.jax.value_and_grad(fn, rule, **options)), args


def descend(tree, updates, rate=0.1):
    """Return a pytree after one step of gradient descent."""
    return jax.tree.map(lambda p, u: p - rate * u, tree, updates)


def distance(found, expected):
    """Return the largest difference of two pytrees, relative to each array's largest number."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    assert pairs
    assert all(a.shape == b.shape for a, b in pairs)
    arrays = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    return max(float(abs(a - b).max() / max(abs(b).max(), 1e-300)) for a, b in arrays)


def same(found, expected):
    """Return whether two pytrees have the same bits."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return all(a.dtype == b.dtype and bool((a == b).all()) for a, b in pairs)
