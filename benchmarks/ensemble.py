"""Networks trained at once against the same networks trained one after the other, in one run.

    OMP_NUM_THREADS=1 python benchmarks/ensemble.py
    OMP_NUM_THREADS=2 python benchmarks/ensemble.py
    python benchmarks/ensemble.py --device cuda --replay

The networks are 784-256-256-256-256-10 with tanh, the batch 50, each with a fused AdamW of its own
step size; then also at once under one optimizer for all. One after the other, each network takes
some steps before the next one does, as in runs of its own. Medians over rounds in which these take
turns; the ratio is the median of the rounds' ratios, with the quartiles. With --replay each is
captured in a CUDA graph. With --cpu it is the processor's time that is taken, not the clock's, for
a machine that does other work beside, on one thread.
"""

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from speed.steps import Step
from turns import captured, synchronised

CLASSES = 10


def network(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def adamw(parameters: Iterable[nn.Parameter], k: int = 0) -> torch.optim.Optimizer:
    # Too small steps to learn anything: see benchmarks/speed/steps.py.
    found = list(parameters)
    return torch.optim.AdamW(found, lr=1e-9 * (1 + k), fused=True, capturable=found[0].is_cuda)


def at_once(models: list[nn.Module], x: Tensor, t: Tensor, one: bool) -> Step:
    together = lra.ensemble.Ensemble(models)
    parameters = [p for model in models for p in model.parameters()]
    own = [adamw(m.parameters(), k) for k, m in enumerate(models)]
    theirs = [adamw(parameters)] if one else own

    def step() -> None:
        for optimizer in theirs:
            optimizer.zero_grad(set_to_none=True)
        torch.vmap(F.cross_entropy)(together(x), t).sum().backward()
        for optimizer in theirs:
            optimizer.step()

    return step


def alone(model: nn.Module, x: Tensor, t: Tensor, k: int) -> Step:
    optimizer = adamw(model.parameters(), k)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), t).backward()
        optimizer.step()

    return step


def repeat(steps: list[Step], times: int) -> Step:
    def run() -> None:
        for step in steps:
            for _ in range(times):
                step()

    return run


def contestants(models: list[nn.Module], options: argparse.Namespace) -> dict[str, Step]:
    x = torch.rand(len(models), options.batch, options.sizes[0], device=options.device)
    t = torch.randint(CLASSES, (len(models), options.batch), device=options.device)
    prepare = captured if options.replay else lambda step: step
    apart = [
        prepare(alone(copy.deepcopy(m), *pair, k))
        for k, (m, *pair) in enumerate(zip(models, x, t, strict=True))
    ]
    found = {
        name: prepare(at_once(copy.deepcopy(models), x, t, one))
        for name, one in (("at once", False), ("one optimizer", True))
    }
    return {
        "one after the other": repeat(apart, options.steps),
        **{name: repeat([step], options.steps) for name, step in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=int, default=32)
    parser.add_argument("--sizes", type=int, nargs="+", default=[784, 256, 256, 256, 256])
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rules", nargs="+", default=["backprop", "lra-e", "mirrored-lra"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="steps in a round")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--replay", action="store_true", help="capture steps in CUDA graphs")
    parser.add_argument("--cpu", action="store_true", help="take the processor's time")
    options = parser.parse_args()
    if options.replay and options.device != "cuda":
        parser.error("--replay is for --device cuda")
    torch.set_flush_denormal(True)  # errors that fade away would cost time
    clock = time.process_time if options.cpu else time.perf_counter
    clock = synchronised if options.device == "cuda" else clock
    sizes = [*options.sizes, CLASSES]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.networks} "
        f"networks of {'-'.join(map(str, sizes))}, batch {options.batch}, on {options.device}"
    )
    for name in options.rules:
        torch.manual_seed(0)
        models = [
            lra.convert(network(sizes).to(options.device), lra.named(name))
            for _ in range(options.networks)
        ]
        steps = contestants(models, options)
        times: dict[str, list[float]] = {what: [] for what in steps}
        for step in steps.values():
            step()
        for _ in range(options.rounds):
            for what, step in steps.items():
                start = clock()
                step()
                times[what].append((clock() - start) / options.steps / options.networks * 1e3)
        apart, *others = times.values()
        print(f"  {name:<12} one after the other {statistics.median(apart):.3f} ms a step")
        for what, found in zip(list(times)[1:], others, strict=True):
            low, middle, high = statistics.quantiles(
                [a / b for a, b in zip(found, apart, strict=True)], n=4
            )
            print(
                f"    {what:<14} {statistics.median(found):.3f} ms a step of a network: "
                f"{middle:.3f} ({low:.3f} to {high:.3f}) of that, "
                f"{middle * options.networks:.1f} of one network's step for all",
                flush=True,
            )


if __name__ == "__main__":
    main()
