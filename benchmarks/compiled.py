"""Compiled training steps against eager ones: forward, updates, optimizer, in one run.

    python benchmarks/compiled.py
    python benchmarks/compiled.py --batches 50 256 --rounds 60

The network is 784-256-256-256-256-10 with tanh, the optimizer fused AdamW, feedback shared. The
floor is the step's 14 matrix products alone: five forward, four down, five to update the weights.
Medians over rounds in which the contestants take turns; the ratio is the median of the rounds'
ratios to eager backprop, with the quartiles. Run it with nothing else running; --cpu counts the
thread's own time, which others on the machine disturb less, and is right for one thread alone.
"""

import argparse
import time

import torch
import torch.nn.functional as F

import lra
from speed import OPTIMIZERS, RULES, Step, perceptron, products, step_of
from turns import take_turns

COMPILED = ("backprop", "LRA-E", "MirroredLRA")


def compiled_step_of(name: str, x: torch.Tensor, t: torch.Tensor) -> Step:
    """Compile a step, and say how long that took."""
    model, (rule, shared) = perceptron(256, 5), RULES[name]
    if rule is not None:
        lra.convert(model, rule)
    optimizer = OPTIMIZERS["fused AdamW"](model.parameters())
    if shared:
        lra.share_feedback(model, optimizer)
    step = lra.compile_step(model, F.cross_entropy, optimizer)
    step(x, t)
    print(f"  {name}: compiled in {step.seconds:.1f} s", flush=True)
    return lambda: step(x, t)


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
        x, t = torch.rand(batch, 784), torch.randint(10, (batch,))
        contestants = {
            **{n: step_of(perceptron(256, 5), x, t, "fused AdamW", *RULES[n]) for n in COMPILED},
            **{f"compiled {name}": compiled_step_of(name, x, t) for name in COMPILED},
            "the matrix products alone": products(256, 5, batch),
        }
        clock = time.thread_time if options.cpu else time.perf_counter
        take_turns(contestants, options.rounds, options.steps, clock)


if __name__ == "__main__":
    main()
