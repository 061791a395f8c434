"""Steps of lra, eager and compiled, against JAX with optax, whose steps are one `lax.scan`.

    pip install jax optax
    OMP_NUM_THREADS=1 python benchmarks/jax_scan.py

784-256-256-256-256-10 with tanh and biases, AdamW, both by backprop and by LRA-E as published, with
shared feedback. Contestants take turns at runs of 20 steps on batches that are there already; the
updates of JAX's LRA-E, written by hand here, are first held to lra's. On one thread each. Run it
with nothing else running; --cpu counts the time of all of the process's threads.
"""

import argparse
import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F

import lra
from speed import OPTIMIZERS, perceptron
from turns import take_turns

STEPS, BETA, DECAY, RATE = 20, 0.1, 0.01, 1e-9
Weights = list[tuple[jax.Array, jax.Array]]


def forward(weights: Weights, x: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
    """Give all pre-activations, and what each layer reads."""
    h, z = [], [x]
    for i, (W, b) in enumerate(weights):
        h.append(z[-1] @ W.T + b)
        if i < len(weights) - 1:
            z.append(jnp.tanh(h[-1]))
    return h, z


def loss(weights: Weights, x: jax.Array, t: jax.Array) -> jax.Array:
    """Give the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(forward(weights, x)[0][-1], t).mean()


def lra_updates(weights: Weights, offsets: list[jax.Array], x: jax.Array, t: jax.Array) -> Weights:
    """Give LRA-E's updates, with E = W + D."""
    h, z = forward(weights, x)
    n = len(x)
    e = (jax.nn.softmax(h[-1]) - jax.nn.one_hot(t, h[-1].shape[1])) / n
    found: Weights = []
    for i in reversed(range(len(weights))):
        found.insert(0, (e.T @ z[i], e.sum(0)))
        if i:
            d = e @ (weights[i][0] + offsets[i - 1])
            e = (z[i] - jnp.tanh(h[i - 1] - BETA * n * d)) / n
    return found


def scanned(
    weights: Weights, offsets: list[jax.Array] | None, xs: jax.Array, ts: jax.Array
) -> Callable[[], Any]:
    """Give a run of steps as one program."""
    adamw = optax.adamw(RATE, weight_decay=DECAY)

    def step(state: Any, batch: Any) -> Any:
        weights, offsets, moments = state
        if offsets is None:
            gradients = jax.grad(loss)(weights, *batch)
        else:
            gradients = lra_updates(weights, offsets, *batch)
            offsets = [(1 - RATE * DECAY) * D for D in offsets]
        changes, moments = adamw.update(gradients, moments, weights)
        return (optax.apply_updates(weights, changes), offsets, moments), None

    @jax.jit
    def run(state: Any) -> Any:
        return jax.lax.scan(step, state, (xs, ts))[0]

    held = [(weights, offsets, adamw.init(weights))]

    def go() -> None:
        held[0] = jax.block_until_ready(run(held[0]))

    return go


def looped(model: torch.nn.Module, xs: Any, ts: Any, compiled: bool) -> Callable[[], None]:
    """Give a run of steps of a model in torch."""
    optimizer = OPTIMIZERS["fused AdamW"](model.parameters())
    if lra.is_converted(model):
        lra.share_feedback(model, optimizer)
    step = lra.compile_step(model, F.cross_entropy, optimizer) if compiled else None

    def go() -> None:
        for x, t in zip(xs, ts, strict=True):
            if step is not None:
                step(x, t)
                continue
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), t).backward()
            optimizer.step()

    return go


def check(model: torch.nn.Module, weights: Weights, offsets: Any, xs: Any, ts: Any) -> None:
    """Hold the updates that JAX computes to those of lra."""
    F.cross_entropy(model(xs[0]), ts[0]).backward()
    ours = [m.weight.grad.numpy() for m in model if hasattr(m, "weight")]
    theirs = lra_updates(weights, offsets, jnp.asarray(xs[0].numpy()), jnp.asarray(ts[0].numpy()))
    for a, (b, _) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[50, 256])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cpu", action="store_true", help="count processor time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, jax {jax.__version__}, one thread, runs of {STEPS} steps")
    for batch in options.batches:
        print(f"\nbatch {batch}")
        torch.manual_seed(0)
        xs, ts = torch.rand(STEPS, batch, 784), torch.randint(10, (STEPS, batch))
        jx, jt = jnp.asarray(xs.numpy()), jnp.asarray(ts.numpy())
        plain = [perceptron(256, 5) for _ in range(2)]
        converted = [lra.convert(perceptron(256, 5), lra.LRAE(BETA)) for _ in range(2)]
        layers = [m for m in converted[0] if hasattr(m, "weight")]
        weights = [
            tuple(jnp.asarray(p.detach().numpy()) for p in m.parameters())[:2] for m in layers
        ]
        offsets = [
            jnp.asarray((m.feedback - m.weight).detach().numpy())
            for _, m in itertools.pairwise(layers)
        ]
        check(converted[0], weights, offsets, xs, ts)
        take_turns(
            {
                "backprop": looped(plain[0], xs, ts, compiled=False),
                "LRA-E": looped(converted[0], xs, ts, compiled=False),
                "compiled backprop": looped(plain[1], xs, ts, compiled=True),
                "compiled LRA-E": looped(converted[1], xs, ts, compiled=True),
                "JAX, backprop in a scan": scanned(weights, None, jx, jt),
                "JAX, LRA-E in a scan": scanned(weights, offsets, jx, jt),
            },
            options.rounds,
            1,
            time.process_time if options.cpu else time.perf_counter,
        )


if __name__ == "__main__":
    main()
