"""Compare MirroredLRA and LRA-E with backprop in JAX on three networks, over several seeds.

    python benchmarks/jax_accuracy.py [--networks mlp cnn transformer] [--seeds 0 1 2]

The data is MNIST with 5,000 images held out for validation. For each network and rule, the learning
rate is the one of three with the best validation accuracy of seed TUNING. Only the runs of that
rate, with other seeds, use the test images, once at their end. A run is one compiled program, with
AdamW, a short warm-up and a cosine schedule. Results are appended to OUT as lines of JSON, and runs
that are there already are not repeated. Prints a Markdown table.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import jax
import jax.numpy as jnp
import optax
from jax import lax, random

import lra
import lra.jax
from jax_networks import apply_cnn, apply_mlp, apply_transformer, cnn, mlp, transformer
from lra.lab import data

Array = jax.Array
Params = Any

RULES = ("backprop", "mirrored-lra", "lra-e")
TUNING = 100
BATCH = 50


@dataclass(frozen=True)
class Network:
    """A network, how long it is trained, and the learning rates to choose from."""

    title: str
    draw: Callable[[Array], Params]
    apply: Callable[[Params, Array], Array]
    epochs: int
    rates: tuple[float, ...]


NETWORKS = {
    "mlp": Network("MLP, 16 hidden layers of 128, tanh", mlp, apply_mlp, 6, (3e-4, 1e-3, 3e-3)),
    "cnn": Network("LeNet, ReLU", cnn, apply_cnn, 2, (3e-3, 1e-2, 3e-2)),
    "transformer": Network(
        *("transformer, 2 blocks of 64, GELU", transformer, apply_transformer),
        *(3, (1e-3, 3e-3, 1e-2)),
    ),
}


def accuracy(network: Network, params: Params, x: Array, y: Array) -> Array:
    """Compute the accuracy, in percent, in batches of 1,000."""
    chunks = (x.reshape(-1, 1000, *x.shape[1:]), y.reshape(-1, 1000))
    hits = lax.map(lambda xy: (network.apply(params, xy[0]).argmax(-1) == xy[1]).mean(), chunks)
    return 100 * hits.mean()


@partial(jax.jit, static_argnames=("network", "rule", "epochs"))
def train(
    network: Network, rule: lra.Rule, rate: Array, seed: Array, x: Array, y: Array, epochs: int
) -> Params:
    """Draw a network, train it by a rule, and return its parameters."""
    weights, feedback_key, order = random.split(random.key(seed), 3)
    steps = len(x) // BATCH

    def loss(params: Params, x: Array, y: Array) -> Array:
        logits = network.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    params = network.draw(weights)
    plan = lra.jax.plan(loss, params, x[:BATCH], y[:BATCH])
    feedback = lra.jax.init(plan, rule, params, feedback_key)
    update = lra.jax.value_and_grad(loss, rule)
    warm, total = steps // 4, epochs * steps
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.0, warm, total)
    adamw = optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(1e-2),
        optax.scale_by_schedule(schedule),
        optax.scale_by_learning_rate(rate),
    )
    optimizer = lra.jax.share_feedback(adamw, rule)

    def step(state: Any, batch: Array) -> tuple[Any, None]:
        pair, moments = state
        _, grads = update(*pair, x[batch], y[batch])
        changes, moments = optimizer.update(grads, moments, pair)
        return (optax.apply_updates(pair, changes), moments), None

    def epoch(state: Any, key: Array) -> tuple[Any, None]:
        batches = random.permutation(key, len(x))[: steps * BATCH].reshape(steps, BATCH)
        return lax.scan(step, state, batches)[0], None

    pair = (params, feedback)
    state = (pair, optimizer.init(pair))
    ((params, _), _), _ = lax.scan(epoch, state, random.split(order, epochs))
    return params


class Results:
    """The results of runs, in a file with one line of JSON per run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        self.found = {self.key(run): run for run in map(json.loads, lines)}

    @staticmethod
    def key(run: dict[str, Any]) -> tuple[Any, ...]:
        """Return what tells a run from others."""
        return tuple(run[name] for name in ("network", "rule", "rate", "seed", "epochs"))

    def get(self, run: dict[str, Any], compute: Callable[[], dict[str, float]]) -> dict[str, Any]:
        """Return the result of a run, and compute and append it if it is not there."""
        if self.key(run) not in self.found:
            start = time.perf_counter()
            done = run | compute() | {"seconds": round(time.perf_counter() - start, 1)}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done) + "\n")
            print(json.dumps(done), flush=True)
            self.found[self.key(run)] = done
        return self.found[self.key(run)]


def compare(name: str, rule: str, options: argparse.Namespace) -> tuple[float, list[float]]:
    """Choose a learning rate by validation; return it and the test accuracy of each seed."""
    network, results = NETWORKS[name], Results(options.out)
    mnist = data.load("mnist")
    held = data.split(mnist, validation=5000, seed=0)
    training, validation = (
        (jnp.asarray(mnist.x_train[i]), jnp.asarray(mnist.y_train[i])) for i in held
    )
    test = jnp.asarray(mnist.x_test), jnp.asarray(mnist.y_test)
    epochs = options.epochs or network.epochs

    def run(rate: float, seed: int, *splits: str) -> dict[str, Any]:
        def compute() -> dict[str, float]:
            params = train(network, lra.named(rule), rate, seed, *training, epochs)
            pairs = {"validation": validation, "test": test}
            return {
                split: round(float(accuracy(network, params, *pairs[split])), 3) for split in splits
            }

        setting = {"network": name, "rule": rule, "rate": rate, "seed": seed, "epochs": epochs}
        return results.get(setting, compute)

    rate = max(network.rates, key=lambda rate: run(rate, TUNING, "validation")["validation"])
    return rate, [run(rate, seed, "validation", "test")["test"] for seed in options.seeds]


def spread(values: list[float]) -> str:
    """Format the mean and the sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {deviation:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="instead of the networks' own numbers")
    parser.add_argument("--out", type=Path, default=Path("runs/jax_accuracy.jsonl"))
    options = parser.parse_args()
    found = {
        (name, rule): compare(name, rule, options)
        for name in options.networks
        for rule in options.rules
    }
    print("\n| network | rule | learning rate | test % | rule minus backprop, points |")
    print("|---|---|---|---|---|")
    for (name, rule), (rate, accuracies) in found.items():
        _, base = found.get((name, "backprop"), (None, []))
        gaps = [a - b for a, b in zip(accuracies, base, strict=False)]
        gap = spread(gaps) if gaps and rule != "backprop" else ""
        print(f"| {NETWORKS[name].title} | {rule} | {rate:g} | {spread(accuracies)} | {gap} |")


if __name__ == "__main__":
    main()
