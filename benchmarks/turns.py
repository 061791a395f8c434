"""Time contestants that take turns, so that what disturbs one disturbs all."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

BASE = "backprop"


@dataclass(frozen=True)
class Timed:
    """A contestant's median time of a step, in ms, and the quartiles of its ratio to backprop's."""

    ms: float
    low: float
    ratio: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"


def synchronised() -> float:
    """Return the time once the CUDA device is idle."""
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def captured(step: Callable[[], object]) -> Callable[[], None]:
    """Capture a whole step in a CUDA graph, with the optimizer, and return its replay."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(4):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def take_turns(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    steps: int,
    clock: Callable[[], float] = time.perf_counter,
    base: str = BASE,
    warm: int = 3,
) -> dict[str, Timed]:
    """Time all, and print it; the ratio to the base is the median of the rounds' ratios.

    Args:
        contestants: the steps to time, by name.
        rounds: how often each has its turn.
        steps: the steps of a turn that are timed.
        clock: the clock, in seconds.
        base: the name of the contestant to compare with.
        warm: the steps of a turn that come first, without being timed.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, step in contestants.items():
            for _ in range(warm):
                step()
            start = clock()
            for _ in range(steps):
                step()
            times[name].append((clock() - start) / steps * 1e3)
    found = {}
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times[base], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        timed = found[name] = Timed(statistics.median(values), low, middle, high)
        print(f"  {name:<34} {timed.ms:8.3f} ms   {timed} of {base}'s", flush=True)
    return found
