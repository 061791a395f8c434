"""Train a network for every beta and seed at once: one program, mapped by `jax.vmap`.

python examples/jax_many_seeds.py [--seeds 8] [--epochs 20]

`lra.jax.replace` puts an array in a rule, so that `jax.vmap` maps over beta as over any argument.
"""

import argparse

import jax
import jax.numpy as jnp
import optax

import lra
import lra.jax
from lra.lab import data

BETAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
SIZES = (64, 64, 64, 64, 10)
BATCH = 32


def network(params, x):
    *hidden, last = params
    for W in hidden:
        x = jnp.tanh(x @ W)
    return x @ last


def loss(params, x, y):
    logits = network(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def train(beta, seed, digits, epochs):
    """Draw a network, train it by LRA-E, and return its test accuracy."""
    x, y, x_test, y_test = digits
    key, feedback_key, *keys = jax.random.split(jax.random.key(seed), len(SIZES) + 1)
    draw = jax.nn.initializers.glorot_uniform()
    params = [draw(k, shape) for k, *shape in zip(keys, SIZES, SIZES[1:], strict=False)]

    rule = lra.jax.replace(lra.LRAE(), beta=beta)
    plan = lra.jax.plan(loss, params, x[:BATCH], y[:BATCH])
    feedback = lra.jax.init(plan, rule, params, feedback_key)
    value_and_grad = lra.jax.value_and_grad(loss, rule)
    optimizer = lra.jax.share_feedback(optax.adamw(3e-3), rule)

    def step(state, batch):
        pair, moments = state
        _, updates = value_and_grad(*pair, x[batch], y[batch])
        changes, moments = optimizer.update(updates, moments, pair)
        return (optax.apply_updates(pair, changes), moments), None

    def epoch(state, key):
        order = jax.random.permutation(key, len(x))[: len(x) // BATCH * BATCH]
        return jax.lax.scan(step, state, order.reshape(-1, BATCH))

    pair = (params, feedback)
    state = (pair, optimizer.init(pair))
    ((params, _), _), _ = jax.lax.scan(epoch, state, jax.random.split(key, epochs))
    return (network(params, x_test).argmax(-1) == y_test).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()

    digits = data.load("digits")
    arrays = tuple(
        jnp.asarray(a)
        for a in (
            digits.x_train.reshape(-1, 64), digits.y_train,
            digits.x_test.reshape(-1, 64), digits.y_test,
        )
    )  # fmt: skip

    def run(beta, seed):
        return train(beta, seed, arrays, options.epochs)

    over_seeds = jax.vmap(run, in_axes=(None, 0))
    over_both = jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))
    accuracies = 100 * over_both(jnp.asarray(BETAS), jnp.arange(options.seeds))
    print("| beta | test accuracy, % |\n|---|---|")
    for beta, row in zip(BETAS, accuracies, strict=True):
        print(f"| {beta:g} | {row.mean():.1f} ± {row.std(ddof=1):.1f} |")


if __name__ == "__main__":
    main()
