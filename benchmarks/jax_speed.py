"""Time steps of the rules of lra.jax against backprop in JAX, torch and Keras.

    python benchmarks/jax_speed.py                       # all parts
    python benchmarks/jax_speed.py steps --rounds 21     # one of them

Parts:

- steps: 784-256x4-10 with tanh and AdamW, STEPS steps in one `lax.scan`. Backprop is
  `jax.value_and_grad` in the same scan. The same steps in torch, eager and compiled, and by
  `fit` of Keras on JAX are beside them where these libraries are installed.
- vmap: 8 seeds in one program against 8 runs in a row.
- compile: seconds to plan a loss, and to trace and compile a step.

All use one thread. Contestants take turns within each round; a figure is the median of the rounds'
ratios, with quartiles. Run it with nothing else running; --cpu counts the time of the process
instead, which other processes disturb less.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax, random

import lra
import lra.jax
from jax_networks import apply_mlp, apply_transformer, mlp, stack_blocks, transformer
from speed.page import table
from turns import Timed, take_turns

STEPS = 100
SEEDS = 8
RATE = 1e-9  # no learning: a rule's time must not depend on how well it fits random labels
DECAY = 0.01
RULES = {
    "LRA-E": (lra.LRAE(), True),
    "LRA-E, E apart": (lra.LRAE(), False),
    "MirroredLRA": (lra.MirroredLRA(), True),
    "Kolen-Pollack": (lra.KolenPollack(), True),
    "feedback alignment": (lra.FeedbackAlignment(), True),
    "direct feedback alignment": (lra.DirectFeedbackAlignment(), True),
}
"""The rules, and whether E moves with the optimizer state of W."""

Go = Callable[[], object]


def loss_of(apply: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return the mean cross-entropy of a network as a function of parameters, x and y."""

    def loss(params: Any, x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()

    return loss


loss = loss_of(apply_mlp)


def start(rule: lra.Rule | None, shared: bool, key: Any, draw: Callable[[Any], Any]) -> Any:
    """Draw parameters with their feedback, and the optimizer's state."""
    params = draw(key)
    if rule is None:
        return params, optax.adamw(RATE, weight_decay=DECAY).init(params)
    example = jnp.zeros((2, len(params[0]["w"]))), jnp.zeros(2, int)
    plan = lra.jax.plan(loss, params, *example)
    pair = params, lra.jax.init(plan, rule, params, key)
    return pair, optimizer_of(rule, shared).init(pair)


def optimizer_of(rule: lra.Rule, shared: bool) -> optax.GradientTransformation:
    """Return AdamW for the pair of parameters and feedback."""
    adamw = optax.adamw(RATE, weight_decay=DECAY)
    return lra.jax.share_feedback(adamw, rule) if shared else adamw


def run_steps(rule: lra.Rule | None, shared: bool, state: Any, xs: Any, ys: Any) -> Any:
    """Run a step per batch in one scan, and return the new state."""
    if rule is None:
        adamw = optax.adamw(RATE, weight_decay=DECAY)

        def step(state: Any, batch: Any) -> Any:
            params, moments = state
            value, grads = jax.value_and_grad(loss)(params, *batch)
            changes, moments = adamw.update(grads, moments, params)
            return (optax.apply_updates(params, changes), moments), value

    else:
        update, optimizer = lra.jax.value_and_grad(loss, rule), optimizer_of(rule, shared)

        def step(state: Any, batch: Any) -> Any:
            pair, moments = state
            value, grads = update(*pair, *batch)
            changes, moments = optimizer.update(grads, moments, pair)
            return (optax.apply_updates(pair, changes), moments), value

    return lax.scan(step, state, (xs, ys))


def repeated(program: Callable[..., Any], state: Any, *batches: Any) -> Go:
    """Return a call that runs a program from the state that it left."""
    compiled = jax.jit(program, donate_argnums=0).lower(state, *batches).compile()
    held = [state]

    def go() -> None:
        held[0], _ = jax.block_until_ready(compiled(held[0], *batches))

    return go


def random_batches(batch: int, inputs: int = 784) -> tuple[Any, Any]:
    """Draw the inputs and labels of STEPS batches."""
    rng = np.random.default_rng(0)
    xs = rng.random((STEPS, batch, inputs), dtype=np.float32)
    return xs, rng.integers(0, 10, (STEPS, batch))


def in_torch(xs: Any, ys: Any) -> dict[str, Go]:
    """Return the same steps in torch, eager and compiled."""
    import torch

    from speed.jax_scan import looped
    from speed.steps import perceptron

    torch.set_num_threads(1)
    xs, ys = torch.from_numpy(xs), torch.from_numpy(ys)
    found: dict[str, Go] = {}
    for form in ("eager", "compiled"):
        for name, rule in (
            ("backprop", None),
            ("LRA-E", lra.LRAE()),
            ("MirroredLRA", lra.MirroredLRA()),
        ):
            model = perceptron(256, 5)
            if rule is not None:
                lra.convert(model, rule)
            found[f"torch {form}, {name}"] = looped(model, xs, ys, form == "compiled")
    return found


def in_keras(xs: Any, ys: Any) -> dict[str, Go]:
    """Return the same steps by `fit` of Keras."""
    import keras

    from lra.keras import recipes

    recipe = recipes.Recipe(lra.LRAE(), step=RATE, bias=True)
    x, y, batch = xs.reshape(-1, xs.shape[-1]), ys.reshape(-1), xs.shape[1]
    plain = recipe.network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(recipe.optimizer(), loss)
    models = {
        "backprop": plain,
        "LRA-E": recipe.model(),
        "MirroredLRA": recipe.model(lra.MirroredLRA()),
    }
    return {
        f"Keras, {name}": partial(model.fit, x, y, batch, shuffle=False, verbose=0)
        for name, model in models.items()
    }


def steps(options: argparse.Namespace) -> str:
    """Time STEPS steps by each rule, in milliseconds of all."""
    rows = []
    for batch in (50, 256):
        print(f"\n{STEPS} steps of batch {batch}", flush=True)
        xs, ys = random_batches(batch)
        contestants: dict[str, Go] = {}
        draw = partial(mlp, width=256, depth=4)
        for name, (rule, shared) in {"backprop": (None, False), **RULES}.items():
            state = start(rule, shared, random.key(0), draw)
            program = partial(run_steps, rule, shared)
            contestants[name] = repeated(program, state, jnp.asarray(xs), jnp.asarray(ys))
        if not options.alone:
            for library, others in (("torch", in_torch), ("keras", in_keras)):
                if importlib.util.find_spec(library):
                    contestants |= others(xs, ys)
        for go in contestants.values():
            go()
        rows.append(
            (f"batch {batch}", take_turns(contestants, options.rounds, 1, options.clock, warm=1))
        )
    return table(rows)


def vmap(options: argparse.Namespace) -> str:
    """Time SEEDS seeds in one program, as a ratio to one run after another."""
    rules = {"backprop": (None, False)} | {n: RULES[n] for n in ("LRA-E", "MirroredLRA")}
    found: dict[str, list[Timed]] = {name: [] for name in rules}
    widths = (64, 256)
    xs, ys = map(jnp.asarray, random_batches(50))
    for width in widths:
        for name, (rule, shared) in rules.items():
            print(f"\n4 layers of {width}, {name}", flush=True)
            draw = partial(mlp, width=width, depth=4)
            begin = partial(start, rule, shared, draw=draw)
            keys = random.split(random.key(0), SEEDS)
            program = partial(run_steps, rule, shared)
            one = repeated(program, begin(keys[0]), xs, ys)
            mapped = jax.vmap(program, in_axes=(0, None, None))
            together = repeated(mapped, jax.jit(jax.vmap(begin))(keys), xs, ys)

            def in_a_row(one: Go = one) -> None:
                for _ in range(SEEDS):
                    one()

            pair = {"in a row": in_a_row, "vmap": together}
            timed = take_turns(pair, options.rounds, 1, options.clock, "in a row", warm=1)
            found[name].append(timed["vmap"])
    lines = [
        f"| {SEEDS} seeds by vmap | {' | '.join(f'4 layers of {width}' for width in widths)} |",
        "|---" * (len(widths) + 1) + "|",
    ]
    lines += [f"| {name} | {' | '.join(map(str, row))} |" for name, row in found.items()]
    return "\n".join(lines)


def compiling(options: argparse.Namespace) -> str:
    """Time planning, tracing and compiling."""
    key = random.key(0)
    deep = transformer(key, depth=48)
    rows, labels = jnp.zeros((16, 28, 28)), jnp.zeros(16, int)
    networks = {
        "784-256x4-10": (apply_mlp, mlp(key, 256, 4), rows.reshape(16, -1)),
        "transformer of 48 blocks, scanned": (apply_transformer, stack_blocks(deep), rows),
        "transformer of 48 blocks, unrolled": (apply_transformer, deep, rows),
    }
    rules = {"backprop": None, "LRA-E": lra.LRAE(), "MirroredLRA": lra.MirroredLRA()}
    lines = [
        "| network | rule | plan, s | trace, s | compile, s |",
        "|---|---|---|---|---|",
    ]
    for title, (apply, params, x) in networks.items():
        for name, rule in rules.items():
            taken = [_compile(apply, params, x, labels, rule) for _ in range(options.compiles)]
            cells = " | ".join(
                f"{statistics.median(column):.2f}" for column in zip(*taken, strict=True)
            )
            lines.append(f"| {title} | {name} | {cells} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def _compile(
    apply: Callable[[Any, Any], Any], params: Any, x: Any, y: Any, rule: lra.Rule | None
) -> list[float]:
    """Return the seconds of planning a new loss, and of tracing and compiling its step."""
    jax.clear_caches()
    times = [time.perf_counter()]
    loss = loss_of(apply)
    if rule is None:
        times.append(time.perf_counter())
        step, arguments = jax.value_and_grad(loss), (params, x, y)
    else:
        plan = lra.jax.plan(loss, params, x, y)
        times.append(time.perf_counter())
        feedback = lra.jax.init(plan, rule, params, random.key(0))
        jax.clear_caches()
        step, arguments = lra.jax.value_and_grad(loss, rule), (params, feedback, x, y)
    begin = time.perf_counter()
    traced = jax.jit(step).trace(*arguments)
    middle = time.perf_counter()
    traced.lower().compile()
    return [times[1] - times[0], middle - begin, time.perf_counter() - middle]


PARTS = {"steps": steps, "vmap": vmap, "compile": compiling}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; by default all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compiles", type=int, default=3, help="how often to compile each step")
    parser.add_argument("--alone", action="store_true", help="leave torch and Keras out")
    parser.add_argument("--cpu", action="store_true", help="count the time of the process")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    options.clock = time.process_time if options.cpu else time.perf_counter
    print(f"jax {jax.__version__}, optax {optax.__version__}, {os.cpu_count()} CPUs")
    for part in options.parts or PARTS:
        print(f"\n{PARTS[part](options)}", flush=True)


if __name__ == "__main__":
    main()
