"""Differences of tanh by sigmoid, as targets take them on a CPU: the time, and the rounding.

    OMP_NUM_THREADS=1 python benchmarks/tanh.py

tanh(a) - tanh(b) = 2 (sigmoid(2 a) - sigmoid(2 b)). The rounding is the error's length over the
difference's, against double precision.
"""

import functools
import timeit

import torch
from torch import Tensor

from lra.torch.swift import SWIFT

SIZES = (12_800, 65_536, 1_048_576)
DISTANCES = (1e-1, 1e-2, 1e-3, 1e-4)


def by_tanh(a: Tensor, b: Tensor) -> Tensor:
    """Give the difference by torch.tanh."""
    return torch.tanh(a) - torch.tanh(b)


def swiftly(a: Tensor, b: Tensor) -> Tensor:
    """Give it as targets do."""
    phi, scale = SWIFT[torch.tanh]
    return scale * (phi(a) - phi(b))


def main() -> None:
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for size in SIZES:
        a, b = torch.randn(size), torch.randn(size)
        n = max(5, 10_000_000 // size)
        times = [
            min(timeit.repeat(functools.partial(f, a, b), number=n, repeat=7)) / n * 1e6
            for f in (by_tanh, swiftly)
        ]
        alone = [
            min(timeit.repeat(functools.partial(f, a), number=n, repeat=7)) / n * 1e6
            for f in (torch.tanh, torch.sigmoid)
        ]
        print(
            f"{size:>9,} numbers: {times[0]:8.1f} us by tanh, {times[1]:8.1f} by sigmoid; "
            f"torch.tanh alone takes {alone[0] / alone[1]:.1f} of torch.sigmoid's time"
        )
    for distance in DISTANCES:
        a = torch.randn(1_000_000)
        b = a - distance * torch.randn_like(a)
        exact = by_tanh(a.double(), b.double())
        one, other = (float((f(a, b) - exact).norm() / exact.norm()) for f in (by_tanh, swiftly))
        print(f"distance {distance:6.0e}: rounding {one:.1e} by tanh, {other:.1e} by sigmoid")


if __name__ == "__main__":
    main()
