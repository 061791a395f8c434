"""Compiled training steps against eager ones: forward, updates, optimizer, in one run.

    python benchmarks/compiled.py
    python benchmarks/compiled.py --batches 50 256 --rounds 60

The network is 784-256-256-256-256-10 with tanh, the optimizer fused AdamW. The floor is the
step's 14 matrix products alone: five forward, four down, five for the updates of the weights.
Medians over rounds in which the contestants take turns; the ratio is the median of the rounds'
ratios to eager backprop, with the quartiles. Run it with nothing else running; --cpu counts the
thread's own time, which others on the machine disturb less, and is right for one thread alone.
"""

import argparse
import itertools
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

import lra
from step import SIZES, network, step_of
from turns import take_turns

RULES = {"backprop": None, "LRA-E": lra.LRAE(), "MirroredLRA": lra.MirroredLRA()}


def compiled_step_of(name: str, batch: int) -> Callable[[], None]:
    """Compile a step, and say how long that took."""
    model, rule = network(True), RULES[name]
    if rule is not None:
        lra.convert(model, rule)
    x, t = torch.rand(batch, SIZES[0]), torch.randint(SIZES[-1], (batch,))
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-9, fused=True)  # as step_of has it
    step = lra.compile_step(model, F.cross_entropy, adamw)
    step(x, t)
    print(f"  {name}: compiled in {step.seconds:.1f} s")
    return lambda: step(x, t)


def floor(batch: int) -> Callable[[], None]:
    """Give the matrix products of a step, each into a new tensor as there."""
    z = [torch.rand(batch, size) for size in SIZES]
    e = [torch.rand(batch, size) for size in SIZES[1:]]
    W = [torch.rand(outputs, inputs) for inputs, outputs in itertools.pairwise(SIZES)]

    def products() -> None:
        for below, weights in zip(z[:-1], W, strict=True):
            torch.mm(below, weights.t())
        for error, weights in zip(e[1:], W[1:], strict=True):
            torch.mm(error, weights)
        for error, below in zip(e, z[:-1], strict=True):
            torch.mm(error.t(), below)

    return products


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[50, 256])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=20, help="steps in a round")
    parser.add_argument("--cpu", action="store_true", help="count the thread's own time")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, fused AdamW")
    for batch in options.batches:
        print(f"\nbatch {batch}")
        torch.manual_seed(0)
        contestants = {
            "backprop": step_of(network(True), batch, {"fused": True}),
            "LRA-E": step_of(lra.convert(network(True), lra.LRAE()), batch, {"fused": True}),
            **{f"compiled {name}": compiled_step_of(name, batch) for name in RULES},
            "the matrix products alone": floor(batch),
        }
        clock = time.thread_time if options.cpu else time.perf_counter
        take_turns(contestants, options.rounds, options.steps, clock)


if __name__ == "__main__":
    main()
