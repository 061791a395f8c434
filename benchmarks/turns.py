"""Time contestants that take turns, so that what disturbs one disturbs all."""

import statistics
import time
from collections.abc import Callable

BASE = "backprop"


def take_turns(
    contestants: dict[str, Callable[[], None]],
    rounds: int,
    steps: int,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Print each one's median time of a step, and the quartiles of its ratio to backprop's."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, step in contestants.items():
            for _ in range(3):
                step()
            start = clock()
            for _ in range(steps):
                step()
            times[name].append((clock() - start) / steps * 1e3)
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times[BASE], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"  {name:<34} {statistics.median(values):8.3f} ms   "
            f"{middle:5.3f} of backprop's ({low:5.3f} to {high:5.3f})"
        )
