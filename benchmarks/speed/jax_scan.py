"""Steps of lra, eager and compiled, against JAX with optax, whose steps are one `lax.scan`.

784-256-256-256-256-10 with tanh and biases, AdamW, both by backprop and by LRA-E as published, with
shared feedback. The updates of JAX's LRA-E, written by hand here, are first held to lra's.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # on a GPU, whose memory torch needs too

import copy
import itertools
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F

import lra
from speed.steps import OPTIMIZERS, Row, perceptron
from turns import take_turns

jax.config.update("jax_default_matmul_precision", "highest")  # as torch's, also on a GPU

STEPS, BETA, DECAY, RATE = 20, 0.1, 0.01, 1e-9
Weights = list[tuple[jax.Array, jax.Array]]


def forward(weights: Weights, x: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
    """Compute all pre-activations, and the input of each layer."""
    h, z = [], [x]
    for i, (W, b) in enumerate(weights):
        h.append(z[-1] @ W.T + b)
        if i < len(weights) - 1:
            z.append(jnp.tanh(h[-1]))
    return h, z


def loss(weights: Weights, x: jax.Array, t: jax.Array) -> jax.Array:
    """Compute the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(forward(weights, x)[0][-1], t).mean()


def lra_updates(weights: Weights, offsets: list[jax.Array], x: jax.Array, t: jax.Array) -> Weights:
    """Compute LRA-E's updates, with E = W + D."""
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
    """Return a run of steps as one program."""
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
    """Return a run of steps of a model in torch."""
    optimizer = OPTIMIZERS["fused AdamW"](list(model.parameters()))
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
    ours = [m.weight.grad.cpu().numpy() for m in model if hasattr(m, "weight")]
    theirs = lra_updates(
        weights, offsets, jnp.asarray(xs[0].cpu().numpy()), jnp.asarray(ts[0].cpu().numpy())
    )
    for a, (b, _) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7)


def jax_scan(options: Namespace) -> list[Row]:
    """20 steps of one program in JAX, and 20 steps of ours."""
    print(f"jax {jax.__version__}, runs of {STEPS} steps")
    found = []
    for batch in (50, 256):
        print(f"\nbatch {batch}")
        torch.manual_seed(0)
        xs, ts = torch.rand(STEPS, batch, 784), torch.randint(10, (STEPS, batch))
        xs, ts = xs.to(options.device), ts.to(options.device)
        jx, jt = jnp.asarray(xs.cpu().numpy()), jnp.asarray(ts.cpu().numpy())
        plain = [perceptron(256, 5).to(xs.device) for _ in range(2)]
        converted = [lra.convert(model, lra.LRAE(BETA)) for model in copy.deepcopy(plain)]
        layers = [m for m in converted[0] if hasattr(m, "weight")]
        weights = [
            tuple(jnp.asarray(p.detach().cpu().numpy()) for p in m.parameters())[:2] for m in layers
        ]
        offsets = [
            jnp.asarray((m.feedback - m.weight).detach().cpu().numpy())
            for _, m in itertools.pairwise(layers)
        ]
        check(converted[0], weights, offsets, xs, ts)
        contestants = {
            "backprop": looped(plain[0], xs, ts, compiled=False),
            "LRA-E": looped(converted[0], xs, ts, compiled=False),
            "compiled backprop": looped(plain[1], xs, ts, compiled=True),
            "compiled LRA-E": looped(converted[1], xs, ts, compiled=True),
            "JAX, backprop in a scan": scanned(weights, None, jx, jt),
            "JAX, LRA-E in a scan": scanned(weights, offsets, jx, jt),
        }
        # JAX computes in threads of its own.
        clock = time.process_time if options.cpu else options.clock
        timed = take_turns(contestants, options.rounds, max(1, 100 // batch), clock)
        found.append((f"20 steps, batch {batch}", timed))
    return found
