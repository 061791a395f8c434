"""What is timed: a training step of a network by a rule, and the matrix products in it."""

import itertools
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from turns import Timed, take_turns

Step = Callable[[], object]
RULES: dict[str, tuple[lra.Rule | None, bool]] = {
    "backprop": (None, False),
    "LRA-E": (lra.LRAE(), True),
    "LRA-E, E apart": (lra.LRAE(), False),
    "MirroredLRA": (lra.MirroredLRA(), True),
    "Kolen-Pollack": (lra.KolenPollack(), True),
    "feedback alignment": (lra.FeedbackAlignment(), False),
}
"""The rules, and whether their feedback is shared."""
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    # Steps too small to learn anything: where errors fade away, averages become subnormal numbers,
    # which are slow, and the time would tell how well a rule fits noise.
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=1e-9, fused=True, capturable=p[0].is_cuda),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-9),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-9, fused=True),
}


def perceptron(width: int, depth: int, inputs: int = 784) -> nn.Sequential:
    """Tanh, as many weight layers as depth says, ten classes."""
    sizes = (inputs, *(width,) * (depth - 1), 10)
    layers: list[nn.Module] = []
    for below, above in itertools.pairwise(sizes):
        layers += [nn.Linear(below, above), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def prepare(
    model: nn.Module, optimizer: str, rule: lra.Rule | None, shared: bool, **how: Any
) -> torch.optim.Optimizer:
    """Convert a model to a rule, and return its optimizer."""
    if rule is not None:
        lra.convert(model, rule, **how)
    moves = OPTIMIZERS[optimizer](list(model.parameters()))
    if shared:
        lra.share_feedback(model, moves)
    return moves


def step_of(
    model: nn.Module, x: Tensor, t: Tensor, optimizer: str, rule: lra.Rule | None, shared: bool
) -> Step:
    """Return a training step of a model by a rule."""
    terms = "tokens" if t.dim() > 1 else "batch"
    model.to(x.device)
    moves = prepare(model, optimizer, rule, shared, example=x[:2], loss_terms=terms)

    def step() -> None:
        moves.zero_grad(set_to_none=True)
        F.cross_entropy(model(x).flatten(0, -2), t.flatten()).backward()
        moves.step()

    return step


def samples(batch: int, options: Namespace) -> tuple[Tensor, Tensor]:
    """Draw as many as MNIST's."""
    x, t = torch.rand(batch, 784), torch.randint(10, (batch,))
    return x.to(options.device), t.to(options.device)


def products(width: int, depth: int, batch: int, device: str = "cpu") -> Step:
    """Return the matrix products of a perceptron's step, each into a new tensor."""
    sizes = (784, *(width,) * (depth - 1), 10)
    z = [torch.rand(batch, size, device=device) for size in sizes]
    e = [torch.rand(batch, size, device=device) for size in sizes[1:]]
    W = [torch.rand(above, below, device=device) for below, above in itertools.pairwise(sizes)]

    def multiply() -> None:
        for below, weights in zip(z[:-1], W, strict=True):
            torch.mm(below, weights.t())
        for error, weights in zip(e[1:], W[1:], strict=True):
            torch.mm(error, weights)
        for error, below in zip(e, z[:-1], strict=True):
            torch.mm(error.t(), below)

    return multiply


def compare(
    build: Callable[[], nn.Module],
    x: Tensor,
    t: Tensor,
    options: Namespace,
    optimizer: str,
    **more: Step,
) -> dict[str, Timed]:
    """Time the rules on one network."""

    def seeded() -> nn.Module:
        torch.manual_seed(0)
        return build()

    steps = {}
    for name, (rule, shared) in RULES.items():
        steps[name] = step_of(seeded(), x, t, optimizer, rule, shared)
    steps |= more
    start = time.perf_counter()
    for step in steps.values():
        step()
    once = (time.perf_counter() - start) / len(steps)
    return take_turns(steps, options.rounds, max(1, min(30, round(0.04 / once))), options.clock)


Row = tuple[str, dict[str, Timed]]
