"""tanh on a CPU: differences of it by sigmoid, as eager targets take them, and compiled steps' own.

    OMP_NUM_THREADS=1 python benchmarks/tanh.py
    python benchmarks/tanh.py --fit

tanh(a) - tanh(b) = 2 (sigmoid(2 a) - sigmoid(2 b)). The rounding is the error's length over the
difference's, against double precision. --fit finds the coefficients of the rational function, by
least squares whose weights grow where the relative error is large.
"""

import argparse
import functools
import timeit
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lra.torch import rational
from lra.torch.swift import SWIFT

SIZES = (12_800, 65_536, 1_048_576)
DISTANCES = (1e-1, 1e-2, 1e-3, 1e-4)
ROUNDS = 1500


def by_tanh(a: Tensor, b: Tensor) -> Tensor:
    """Give the difference by torch.tanh."""
    return torch.tanh(a) - torch.tanh(b)


def swiftly(a: Tensor, b: Tensor) -> Tensor:
    """Give it as eager targets do."""
    phi, _, scale = SWIFT[torch.tanh]
    return scale * (phi(a) - phi(b))


def rationally(a: Tensor, b: Tensor) -> Tensor:
    """Give it as compiled steps do."""
    return rational.tanh(a) - rational.tanh(b)  # type: ignore[no-any-return]


def compiled(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Compile a function of one tensor, by itself."""
    return torch.compile(lambda h: f(h), dynamic=False)


def microseconds(f: Callable[..., Tensor], *arguments: Tensor) -> float:
    """Give the least time of a call."""
    f(*arguments)
    n = max(5, 10_000_000 // arguments[0].numel())
    return min(timeit.repeat(functools.partial(f, *arguments), number=n, repeat=7)) / n * 1e6


def measure() -> None:
    """Print times, and the rounding of differences and of the rational function."""
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for size in SIZES:
        a, b = torch.randn(size), torch.randn(size)
        one, other = (microseconds(f, a, b) for f in (by_tanh, swiftly))
        alone = microseconds(torch.tanh, a) / microseconds(torch.sigmoid, a)
        graph, ours = (microseconds(compiled(f), a) for f in (torch.tanh, rational.tanh))
        print(
            f"{size:>9,} numbers: {one:8.1f} us by tanh, {other:8.1f} by sigmoid; "
            f"torch.tanh alone takes {alone:.1f} of torch.sigmoid's time; "
            f"compiled, {graph:6.1f} us by torch.tanh, {ours:6.1f} by the rational function"
        )
    for distance in DISTANCES:
        a = torch.randn(1_000_000)
        b = a - distance * torch.randn_like(a)
        exact = by_tanh(a.double(), b.double())
        tanh, sigmoid, ratio = (
            float((f(a, b) - exact).norm() / exact.norm()) for f in (by_tanh, swiftly, rationally)
        )
        print(
            f"distance {distance:6.0e}: rounding {tanh:.1e} by tanh, {sigmoid:.1e} by sigmoid, "
            f"{ratio:.1e} by the rational function"
        )
    worst = largest = 0.0
    for exponent in range(-14, 5):  # every number from 2^-14 to 2^5
        bits = torch.arange(2**23, dtype=torch.int32) + ((127 + exponent) << 23)
        h = bits.view(torch.float32)
        found, exact = rational.tanh(h), torch.tanh(h.double())
        worst = max(worst, float(((found - exact) / exact).abs().max()))
        largest = max(largest, float(found.max()))
    print(f"the rational function: relative error {worst:.1e} at most, largest value {largest}")


def fit() -> None:
    """Print coefficients of numerator and denominator, in even powers of h."""
    least, n = np.inf, len(rational.ABOVE) - 1
    everywhere = rational.LARGEST * np.sin(np.linspace(1e-3, np.pi / 2, 6000))
    h = np.sort(np.concatenate([np.linspace(1e-3, 3, 3000), everywhere]))
    y, u = np.tanh(h), (h / rational.LARGEST) ** 2
    powers = u[:, None] ** np.arange(1, n + 1)
    weights, below = np.ones_like(h), np.ones_like(h)
    for _ in range(ROUNDS):
        scale = weights / (y * below)
        system = np.hstack([h[:, None] * powers, -y[:, None] * powers]) * scale[:, None]
        lengths = np.abs(system).max(0)
        a, b = np.split(np.linalg.lstsq(system / lengths, (y - h) * scale)[0] / lengths, 2)
        below = 1 + powers @ b
        error = np.abs(h * (1 + powers @ a) / below / y - 1)
        if error.max() < least:
            least, best = error.max(), (a, b)
        weights *= 0.5 + error / error.max()
        weights /= weights.mean()
    for coefficients in best:
        print([1.0, *(coefficients / rational.LARGEST ** (2.0 * np.arange(1, n + 1))).tolist()])
    print(f"relative error {least:.1e} at most, before rounding")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fit", action="store_true", help="find the coefficients")
    fit() if parser.parse_args().fit else measure()
