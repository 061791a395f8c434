"""Networks trained at once against the same networks trained one after the other, in one run.

    OMP_NUM_THREADS=1 python benchmarks/together.py
    OMP_NUM_THREADS=2 python benchmarks/together.py

The networks are 784-256-256-256-256-10 with tanh, the batch 50, each with a fused AdamW of its own
step size. One after the other, each network takes some steps before the next one does, as in runs
of its own. Medians over rounds in which the two take turns; the ratio is the median of the rounds'
ratios, with the quartiles. With --cpu it is the processor's time that is taken, not the clock's,
for a machine that does other work beside, on one thread.
"""

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

import lra

CLASSES = 10


def network(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def optimizers(models: list[nn.Module]) -> list[torch.optim.Optimizer]:
    # Too small steps to learn anything: see benchmarks/speed/steps.py.
    return [
        torch.optim.AdamW(model.parameters(), lr=1e-9 * (1 + k), fused=True)
        for k, model in enumerate(models)
    ]


def contestants(models: list[nn.Module], batch: int, inputs: int) -> dict[str, Callable]:
    x = torch.rand(len(models), batch, inputs)
    t = torch.randint(CLASSES, (len(models), batch))
    copies = copy.deepcopy(models)
    own, theirs = optimizers(models), optimizers(copies)
    together = lra.Together(copies)

    def apart(steps: int) -> None:
        for model, optimizer, rows, labels in zip(models, own, x, t, strict=True):
            for _ in range(steps):
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(model(rows), labels).backward()
                optimizer.step()

    def at_once(steps: int) -> None:
        for _ in range(steps):
            for optimizer in theirs:
                optimizer.zero_grad(set_to_none=True)
            torch.vmap(F.cross_entropy)(together(x), t).sum().backward()
            for optimizer in theirs:
                optimizer.step()

    return {"one after the other": apart, "at once": at_once}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=int, default=32)
    parser.add_argument("--sizes", type=int, nargs="+", default=[784, 256, 256, 256, 256])
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rules", nargs="+", default=["backprop", "lra-e", "mirrored-lra"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="steps in a round")
    parser.add_argument("--cpu", action="store_true", help="take the processor's time")
    options = parser.parse_args()
    torch.set_flush_denormal(True)  # errors that fade away would cost time
    clock = time.process_time if options.cpu else time.perf_counter
    sizes = [*options.sizes, CLASSES]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.networks} "
        f"networks of {'-'.join(map(str, sizes))}, batch {options.batch}"
    )
    for name in options.rules:
        torch.manual_seed(0)
        models = [lra.convert(network(sizes), lra.named(name)) for _ in range(options.networks)]
        steps = contestants(models, options.batch, sizes[0])
        times: dict[str, list[float]] = {what: [] for what in steps}
        for step in steps.values():
            step(1)
        for _ in range(options.rounds):
            for what, step in steps.items():
                start = clock()
                step(options.steps)
                times[what].append((clock() - start) / options.steps / options.networks * 1e3)
        apart, at_once = times.values()
        low, middle, high = statistics.quantiles(
            [a / b for a, b in zip(at_once, apart, strict=True)], n=4
        )
        each = ", ".join(f"{what} {statistics.median(t):.3f} ms" for what, t in times.items())
        print(f"  {name:<12} {each} a step of a network: {middle:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
