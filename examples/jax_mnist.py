"""Train MNIST in plain JAX by a rule of choice, each epoch as one compiled scan.

python examples/jax_mnist.py [--rule lra-e] [--epochs 5] [--seed 0]
"""

import argparse

import jax
import jax.numpy as jnp
import optax

import lra
import lra.jax
from lra.lab import data

# Under the others, errors skip layers: E does not move as W does, and share_feedback refuses them.
RULES = [name for name in lra.RULES if name not in ("direct-lra", "rec-lra")]
SIZES = (784, 256, 256, 256, 256, 10)
BATCH = 50


def network(params, x):
    """Compute the logits; `params` is a list of weights and biases, as in any JAX program."""
    *hidden, (W, b) = params
    for V, c in hidden:
        x = jnp.tanh(x @ V + c)
    return x @ W + b


def loss(params, x, y):
    logits = network(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def accuracy(params, x, y):
    return float((network(params, x).argmax(-1) == y).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rule", choices=RULES, default="lra-e")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and sample order")
    options = parser.parse_args()

    mnist = data.load("mnist")
    images, labels = jnp.asarray(mnist.x_train.reshape(-1, 784)), jnp.asarray(mnist.y_train)
    x_test, y_test = jnp.asarray(mnist.x_test.reshape(-1, 784)), jnp.asarray(mnist.y_test)
    training, validation = data.split(mnist, validation=2000, seed=0)
    x, y = images[training], labels[training]

    key, feedback_key, *keys = jax.random.split(jax.random.key(options.seed), len(SIZES) + 1)
    draw = jax.nn.initializers.glorot_uniform()
    params = [
        (draw(k, (n, m)), jnp.zeros(m)) for k, n, m in zip(keys, SIZES, SIZES[1:], strict=False)
    ]

    rule = lra.named(options.rule)
    plan = lra.jax.plan(loss, params, x[:BATCH], y[:BATCH])
    feedback = lra.jax.init(plan, rule, params, feedback_key)
    value_and_grad = lra.jax.value_and_grad(loss, rule)
    optimizer = lra.jax.share_feedback(optax.adamw(1e-3), rule)

    def step(state, batch):
        pair, moments = state  # the parameters with the feedback weights
        value, updates = value_and_grad(*pair, x[batch], y[batch])
        changes, moments = optimizer.update(updates, moments, pair)
        return (optax.apply_updates(pair, changes), moments), value

    @jax.jit
    def epoch(state, key):
        order = jax.random.permutation(key, len(x)).reshape(-1, BATCH)
        return jax.lax.scan(step, state, order)

    pair = (params, feedback)
    state = (pair, optimizer.init(pair))
    for i, epoch_key in enumerate(jax.random.split(key, options.epochs)):
        state, losses = epoch(state, epoch_key)
        valid = accuracy(state[0][0], images[validation], labels[validation])
        print(f"epoch {i + 1}: loss {losses.mean():.4f}, validation accuracy {valid:.2%}")
    print(f"test accuracy {accuracy(state[0][0], x_test, y_test):.2%} by {rule.name}")


if __name__ == "__main__":
    main()
