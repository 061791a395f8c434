"""Training steps of the rules against backprop's: what docs/evidence/performance.md tells.

    OMP_NUM_THREADS=1 python benchmarks                          # all, a quarter of an hour
    python benchmarks perceptrons compiled                       # some of it
    python benchmarks --markdown docs/evidence/performance.md    # write its tables
    python benchmarks --device cuda                              # on a GPU

A step is the forward pass, the updates and the optimizer's step. Contestants take turns within
each row; a figure is the median of the rounds' ratios to backprop's time, with quartiles. Run it
with nothing else running; --cpu counts the thread's own time, which others on the machine disturb
less, and is right for one thread alone. Parts whose library is not there are passed by:

    pip install jax optax
    pip install --no-deps --target peers biotorch==0.0.16    # and PYTHONPATH=peers
"""

import argparse
import importlib.util
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch

from memory import MODELS, measure
from speed import card, eager, others
from speed.compiled import compiled
from speed.page import draw, put, table
from speed.steps import RULES, Row
from turns import synchronised


def memory(options: Namespace) -> str:
    """Peak memory of a step, weights, feedback and the optimizer's state included."""
    lines = [
        "| network | backprop | LRA-E | LRA-E, E apart | MirroredLRA |",
        "|---|---|---|---|---|",
    ]
    for name, (build, shape) in MODELS.items():
        base = measure(build, shape, None, device=options.device)[1]
        ratios = [
            measure(build, shape, *RULES[rule], options.device)[1] / base
            for rule in ("LRA-E", "LRA-E, E apart", "MirroredLRA")
        ]
        figures = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"| {name} | {base / 2**20:.1f} MiB | {figures} |")
    return "\n".join(lines)


def jax(options: Namespace) -> list[Row]:
    """JAX beside torch; imported late, since its settings are made before."""
    from speed.jax_scan import jax_scan

    return jax_scan(options)


PARTS: dict[str, Callable[[Namespace], list[Row] | str]] = {
    "perceptrons": eager.perceptrons,
    "networks": eager.networks,
    "optimizers": others.optimizers,
    "around": others.around,
    "scaling": eager.scaling,
    "memory": memory,
    "compiled": compiled,
    "jax": jax,
    "biotorch": others.biotorch,
}
ON_CUDA = {
    "card": card.card,
    **{name: PARTS[name] for name in ("perceptrons", "networks", "optimizers", "memory", "jax")},
    "replayed": card.replayed,
}
NEEDS = {"jax": ("jax", "optax"), "biotorch": ("biotorch",)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts",
        nargs="*",
        help=f"some of {', '.join(PARTS)}, and on a GPU of {', '.join(ON_CUDA)}; by default all",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu", action="store_true", help="count the thread's own time")
    parser.add_argument("--markdown", type=Path, help="a page with <!-- table: PART --> marks")
    options = parser.parse_args()
    parts = ON_CUDA if options.device == "cuda" else PARTS
    if unknown := set(options.parts) - set(parts):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(parts)}")
    if options.rounds < 2:
        parser.error(f"--rounds must be 2 or more, got {options.rounds}")
    options.clock = time.thread_time if options.cpu else time.perf_counter
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.device == "cuda":
        if options.cpu or not torch.cuda.is_available():
            parser.error("--device cuda needs a CUDA device, whose time --cpu does not count")
        if options.markdown:
            parser.error(
                "--markdown writes docs/evidence/performance.md, whose tables are of a CPU"
            )
        options.clock = synchronised
        print(torch.cuda.get_device_name())
    for part in options.parts or parts:
        missing = [name for name in NEEDS.get(part, ()) if not importlib.util.find_spec(name)]
        if missing:
            print(f"\n{part} is left out: {' and '.join(missing)} is not installed")
            continue
        found = parts[part](options)
        written = found if isinstance(found, str) else table(found)
        print(f"\n{written}", flush=True)
        if options.markdown is None:
            continue
        put(options.markdown, part, written)
        if part == "scaling":
            draw(found, options.markdown.parent / "performance.png")


if __name__ == "__main__":
    main()
