"""Train a Flax NNX transformer to predict the next character of Python's standard library.

python examples/jax_transformer.py [--rule mirrored-lra] [--steps 400] [--seed 0]
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import lra
import lra.jax.nnx
from lra.lab import data


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, z):
        mask = nnx.make_causal_mask(z[..., 0])
        z = z + self.attend(self.norm1(z), mask=mask)
        return z + self.down(nnx.gelu(self.up(self.norm2(z))))


class Transformer(nnx.Module):
    def __init__(self, characters, context, rngs, width=64, depth=2):
        self.characters = nnx.Embed(characters, width, rngs=rngs)
        self.positions = nnx.Embed(context, width, rngs=rngs)
        self.blocks = nnx.Sequential(*(Block(width, rngs) for _ in range(depth)))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.out = nnx.Linear(width, characters, rngs=rngs)

    def __call__(self, text):
        z = self.characters(text) + self.positions(jnp.arange(text.shape[1]))
        return self.out(self.norm(self.blocks(z)))


def loss(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rule", default="mirrored-lra")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    text = data.load("python", context=64)
    x_test, y_test = jnp.asarray(text.x_test[:200]), jnp.asarray(text.y_test[:200])
    model = Transformer(text.num_classes, 64, nnx.Rngs(options.seed))
    feedback_key, order = jax.random.split(jax.random.key(options.seed))

    rule = lra.named(options.rule)
    plan = lra.jax.nnx.plan(loss, model, x_test[:16], y_test[:16])
    print(f"{lra.jax.coverage(plan).share:.0%} of the parameters follow the rule")
    feedback = lra.jax.nnx.init(plan, rule, model, feedback_key)
    value_and_grad = lra.jax.nnx.value_and_grad(loss, rule, loss_terms="tokens")
    optimizer = lra.jax.share_feedback(optax.adamw(3e-3), rule)
    moments = optimizer.init((nnx.state(model, nnx.Param), feedback))

    @nnx.jit
    def step(model, feedback, moments, x, y):
        value, updates = value_and_grad(model, feedback, x, y)
        pair = nnx.state(model, nnx.Param), feedback
        changes, moments = optimizer.update(updates, moments, pair)
        params, feedback = optax.apply_updates(pair, changes)
        nnx.update(model, params)
        return value, feedback, moments

    for i, key in enumerate(jax.random.split(order, options.steps)):
        batch = jax.random.randint(key, (16,), 0, len(text.x_train))
        x, y = jnp.asarray(text.x_train[batch]), jnp.asarray(text.y_train[batch])
        value, feedback, moments = step(model, feedback, moments, x, y)
        if (i + 1) % 50 == 0:
            print(f"step {i + 1}: loss {value:.3f}")
    predicted = nnx.jit(lambda model, x: model(x).argmax(-1))(model, x_test)
    accuracy = float((predicted == y_test).mean())
    print(f"test accuracy {accuracy:.1%} of the next character by {rule.name}")


if __name__ == "__main__":
    main()
