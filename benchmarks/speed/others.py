"""BioTorch's steps, an optimizer's own, and what is around a step of `lra train`."""

import contextlib
import io
from argparse import Namespace

import torch
import torch.nn.functional as F

import lra
from lra.lab.runs.measure import measure
from lra.lab.settings.config import TrainConfig
from lra.lab.training.batches import Batches
from speed.steps import OPTIMIZERS, RULES, Row, Step, perceptron, prepare, samples, step_of
from turns import take_turns


def biotorch(options: Namespace) -> list[Row]:
    """Feedback alignment, direct and not, by BioTorch and by lra, on 784-256x4-10."""
    from biotorch.module.biomodule import BioModule

    def theirs(mode: str, x: torch.Tensor, t: torch.Tensor) -> Step:
        with contextlib.redirect_stdout(io.StringIO()):
            model = BioModule(perceptron(256, 5), mode, output_dim=10 if mode == "dfa" else None)
        moves = OPTIMIZERS["fused AdamW"](list(model.parameters()))

        def step() -> None:
            moves.zero_grad(set_to_none=True)
            out = model(x, t, F.cross_entropy) if mode == "dfa" else model(x)
            F.cross_entropy(out, t).backward()
            moves.step()

        return step

    found = []
    for batch in (50, 256):
        print(f"\nbatch {batch}")
        x, t = torch.rand(batch, 784), torch.randint(10, (batch,))

        def ours(rule: lra.Rule | None, x: torch.Tensor = x, t: torch.Tensor = t) -> Step:
            return step_of(perceptron(256, 5), x, t, "fused AdamW", rule, shared=False)

        contestants = {
            "backprop": ours(None),
            "feedback alignment": ours(lra.FeedbackAlignment()),
            "BioTorch's": theirs("fa", x, t),
            "direct feedback alignment": ours(lra.DirectFeedbackAlignment()),
            "BioTorch's direct": theirs("dfa", x, t),
        }
        timed = take_turns(contestants, options.rounds, max(1, 1500 // batch), options.clock)
        found.append((f"batch {batch}", timed))
    return found


def optimizers(options: Namespace) -> list[Row]:
    """The optimizer's step alone, with the updates there."""
    found = []
    for optimizer in OPTIMIZERS:
        steps = {}
        for name in ("backprop", "LRA-E", "LRA-E, E apart"):
            model = perceptron(256, 5).to(options.device)
            moves = prepare(model, optimizer, *RULES[name])
            x, t = samples(50, options)
            F.cross_entropy(model(x), t).backward()
            steps[name] = moves.step
        print(f"\n{optimizer}, its step alone", flush=True)
        found.append((optimizer, take_turns(steps, options.rounds, 30, options.clock)))
    return found


def around(options: Namespace) -> list[Row]:
    """What `lra train` does beside steps, each as a share of a step of backprop."""
    samples, held, batch = 58_000, 2_000, 50
    config = TrainConfig("mnist", batch_size=batch)
    pair = torch.rand(samples, 784), torch.randint(10, (samples,))
    batches = Batches(pair, config, 1, 0)
    dealt = iter(())

    def deal() -> None:
        nonlocal dealt
        if next(dealt, None) is None:
            dealt = batches.epoch(0, 0)

    network = perceptron(256, 5)
    validation = torch.rand(held, 784), torch.randint(10, (held,))

    def validate() -> None:
        measure(network, *validation)

    print("\nbeside the steps of an epoch of MNIST")
    x, t = torch.rand(batch, 784), torch.randint(10, (batch,))
    contestants = {
        "backprop": step_of(perceptron(256, 5), x, t, "fused AdamW", None, shared=False),
        "selecting a batch": deal,
        "validation, once an epoch of 1,160 steps": validate,
    }
    timed = take_turns(contestants, options.rounds, 30, options.clock)
    return [("784-256x4-10, batch 50", timed)]
