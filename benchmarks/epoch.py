"""Seconds for an epoch of `lra train mnist --recipe seed-mnist`, by LRA-E and by backprop.

    python benchmarks/epoch.py

The two take turns; an epoch is 1,160 steps of 50 samples and a look at 2,000 validation samples.
The first epoch of each run is a warm-up and left out. Run it with nothing else running.
"""

import argparse
import csv
import functools
import itertools
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

STEPS = 1160


def epochs_of(epochs: int, *options: str) -> list[float]:
    """Train in a process of its own, and give the seconds of each epoch but the first."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "lra", "train", "mnist", "--recipe", "seed-mnist"]
        command += ["--epochs", str(epochs + 1), "--out", str(out), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with (out / "metrics.csv").open() as file:
            ends = [float(row["seconds"]) for row in csv.DictReader(file)]
    return [b - a for a, b in itertools.pairwise(ends)]


def take_turns(
    contestants: Mapping[str, Callable[[], list[float]]],
    turns: int,
    beside: Callable[[float, float], str],
) -> None:
    """Time epochs in turns, and tell each median, with what is to be said of it and the first."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, epochs in contestants.items():
            seconds[name] += epochs()
    middles = {name: statistics.median(found) for name, found in seconds.items()}
    first = next(iter(middles.values()))
    for name, found in seconds.items():
        print(
            f"{name:<14} {middles[name]:6.2f} s an epoch ({min(found):.2f} to {max(found):.2f}), "
            + beside(middles[name], first)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    rules = {
        rule: functools.partial(epochs_of, options.epochs, "--rule", rule)
        for rule in ("lra-e", "backprop")
    }
    take_turns(rules, options.turns, lambda own, _: f"{1e3 * own / STEPS:.2f} ms a step")


if __name__ == "__main__":
    main()
