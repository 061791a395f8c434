"""Time networks trained as one `lra.ensemble.Ensemble` against training them one after the other.

    OMP_NUM_THREADS=1 python benchmarks/ensemble.py
    OMP_NUM_THREADS=2 python benchmarks/ensemble.py
    python benchmarks/ensemble.py --device cuda --replay

The networks are 784-256-256-256-256-10 with tanh, the batch size is 50. Each network has a fused
AdamW with its own learning rate; a second variant of the ensemble has one optimizer for all. One
after the other, each network takes several steps before the next one, as in separate runs.

In each round the variants take turns. The output is the median time, and the median and quartiles
of the rounds' ratios. With --replay each step is captured in a CUDA graph. With --cpu the CPU time
is measured instead of the wall time, for a busy machine and one thread.
"""

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lra
from lra.ensemble import Ensemble
from turns import captured, synchronised

Step = Callable[[], object]

CLASSES = 10


def network(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def adamw(parameters: Iterable[nn.Parameter], k: int = 0) -> torch.optim.Optimizer:
    # The learning rate is too small to learn: fitting noise would change the step time.
    params = list(parameters)
    return torch.optim.AdamW(params, lr=1e-9 * (1 + k), fused=True, capturable=params[0].is_cuda)


def at_once(models: list[nn.Module], x: Tensor, t: Tensor, one_optimizer: bool) -> Step:
    ensemble = Ensemble(models)
    if one_optimizer:
        optimizers = [adamw(p for model in models for p in model.parameters())]
    else:
        optimizers = [adamw(m.parameters(), k) for k, m in enumerate(models)]

    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.vmap(F.cross_entropy)(ensemble(x), t).sum().backward()
        for optimizer in optimizers:
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
    separate = [
        prepare(alone(copy.deepcopy(m), *pair, k))
        for k, (m, *pair) in enumerate(zip(models, x, t, strict=True))
    ]
    ensembles = {
        name: prepare(at_once(copy.deepcopy(models), x, t, one))
        for name, one in (("at once", False), ("one optimizer", True))
    }
    return {
        "one after the other": repeat(separate, options.steps),
        **{name: repeat([step], options.steps) for name, step in ensembles.items()},
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
    parser.add_argument("--cpu", action="store_true", help="measure CPU time")
    options = parser.parse_args()
    if options.replay and options.device != "cuda":
        parser.error("--replay needs --device cuda")
    torch.set_flush_denormal(True)  # vanishing errors become denormal, which is slow
    clock = time.process_time if options.cpu else time.perf_counter
    clock = synchronised if options.device == "cuda" else clock
    sizes = [*options.sizes, CLASSES]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.networks} "
        f"networks of {'-'.join(map(str, sizes))}, batch size {options.batch}, {options.device}"
    )
    for name in options.rules:
        torch.manual_seed(0)
        models = [
            lra.convert(network(sizes).to(options.device), lra.named(name))
            for _ in range(options.networks)
        ]
        steps = contestants(models, options)
        times: dict[str, list[float]] = {variant: [] for variant in steps}
        for step in steps.values():
            step()
        for _ in range(options.rounds):
            for variant, step in steps.items():
                start = clock()
                step()
                times[variant].append((clock() - start) / options.steps / options.networks * 1e3)
        base, *others = times.values()
        print(f"  {name:<12} one after the other {statistics.median(base):.3f} ms per step")
        for variant, values in zip(list(times)[1:], others, strict=True):
            low, middle, high = statistics.quantiles(
                [a / b for a, b in zip(values, base, strict=True)], n=4
            )
            print(
                f"    {variant:<14} {statistics.median(values):.3f} ms per step and network, "
                f"ratio {middle:.3f} ({low:.3f} to {high:.3f}); "
                f"all networks take {middle * options.networks:.1f} steps of one network",
                flush=True,
            )


if __name__ == "__main__":
    main()
