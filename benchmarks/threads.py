"""Find the size of network from which a second CPU thread pays.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/threads.py --threads 2

A step of backprop with AdamW on random data, with one thread and with several, in turn. A row has
the operations per weight matrix in the forward pass (`work_per_matrix`, on which `lra train`
decides), the median time of a step, and the median CPU time of all threads.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.lab.training.threads import work_per_matrix


def perceptron(width: int, depth: int) -> nn.Module:
    sizes = [784, *[width] * depth, 10]
    layers = [
        part for i in range(depth + 1) for part in (nn.Linear(sizes[i], sizes[i + 1]), nn.Tanh())
    ]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def convolutions(channels: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1), nn.ReLU()]
    for _ in range(depth):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
        ]  # fmt: skip
    return nn.Sequential(*layers, nn.AvgPool2d(7), nn.Flatten(), nn.Linear(16 * channels, 10))


class Transformer(nn.Module):
    """A vision transformer on patches of 7 by 7 pixels."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 7, stride=7)
        block = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x).flatten(2).mT).mean(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron 64 x 3": (lambda: perceptron(64, 3), (50, 100, 500)),
    "perceptron 256 x 4": (lambda: perceptron(256, 4), (50, 100, 200, 500, 2000)),
    "perceptron 512 x 4": (lambda: perceptron(512, 4), (50, 100, 200, 500)),
    "perceptron 1024 x 4": (lambda: perceptron(1024, 4), (50, 200)),
    "perceptron 128 x 32": (lambda: perceptron(128, 32), (100, 1000)),
    "convolutions 8 x 2": (lambda: convolutions(8, 2), (16, 64)),
    "convolutions 16 x 6": (lambda: convolutions(16, 6), (8, 32, 128)),
    "transformer 64 x 4": (lambda: Transformer(64, 4), (16, 50, 200)),
    "transformer 128 x 4": (lambda: Transformer(128, 4), (16, 50, 200)),
}


def stepper(network: nn.Module, x: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters())
    y = torch.arange(len(x)) % 10

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


def timed(step: Callable[[], None], seconds: float) -> tuple[float, float]:
    """Return the time and the CPU time of a step, in ms."""
    step()
    began, cpu, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        step()
        steps += 1
    wall = time.perf_counter() - began
    return 1e3 * wall / steps, 1e3 * (time.process_time() - cpu) / steps


def rows(threads: int, rounds: int, seconds: float) -> Iterator[str]:
    for name, (build, batches) in NETWORKS.items():
        for batch in batches:
            torch.manual_seed(0)
            network, x = build(), torch.randn(batch, 1, 28, 28)
            work = work_per_matrix(network, x[:2], batch)
            step = stepper(network, x)
            found: dict[int, list[tuple[float, float]]] = {1: [], threads: []}
            for _ in range(rounds):
                for count, times in found.items():
                    torch.set_num_threads(count)
                    times.append(timed(step, seconds))
            (w1, c1), (w2, c2) = (
                tuple(statistics.median(part) for part in zip(*times, strict=True))
                for times in found.values()
            )
            yield (
                f"{name:<20} batch {batch:<5} {work / 1e6:8.1f} M   1: {w1:8.2f} ms "
                f"(CPU {c1:8.2f})   {threads}: {w2:8.2f} ms (CPU {c2:8.2f})   time x {w2 / w1:.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of one measurement")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, OMP_WAIT_POLICY {os.environ.get('OMP_WAIT_POLICY')}")
    for row in rows(options.threads, options.rounds, options.seconds):
        print(row, flush=True)


if __name__ == "__main__":
    main()
