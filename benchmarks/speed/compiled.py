"""Compiled steps against eager ones: forward, updates, optimizer."""

from argparse import Namespace

import torch
import torch.nn.functional as F

import lra
from speed.steps import RULES, Row, Step, perceptron, prepare, products, step_of
from turns import take_turns

COMPILED = ("backprop", "LRA-E", "MirroredLRA")


def compiled_step_of(name: str, x: torch.Tensor, t: torch.Tensor) -> Step:
    """Compile a step, and say how long that took."""
    model = perceptron(256, 5)
    optimizer = prepare(model, "fused AdamW", *RULES[name])
    step = lra.compile_step(model, F.cross_entropy, optimizer)
    step(x, t)
    print(f"  {name}: compiled in {step.seconds:.1f} s", flush=True)
    return lambda: step(x, t)


def compiled(options: Namespace) -> list[Row]:
    """784-256x4-10 with tanh, eager and compiled, and the step's 14 matrix products alone."""
    found = []
    for batch in (50, 256):
        print(f"\nbatch {batch}")
        torch.manual_seed(0)
        x, t = torch.rand(batch, 784), torch.randint(10, (batch,))
        contestants = {
            **{n: step_of(perceptron(256, 5), x, t, "fused AdamW", *RULES[n]) for n in COMPILED},
            **{f"compiled {name}": compiled_step_of(name, x, t) for name in COMPILED},
            "matrix products": products(256, 5, batch),
        }
        steps = max(1, 1500 // batch)
        found.append(
            (f"batch {batch}", take_turns(contestants, options.rounds, steps, options.clock))
        )
    return found
