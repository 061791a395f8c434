"""Time an epoch of `lra train mnist --recipe seed-mnist` by LRA-E and by backprop.

    python benchmarks/epoch.py

The rules take turns. An epoch is 1,160 steps of 50 samples and a validation on 2,000 samples. The
first epoch of each run is a warm-up and not counted. Run it on an otherwise idle machine.
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
    """Train in a separate process, and return the seconds of each epoch after the first."""
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
    comment: Callable[[float, float], str],
) -> None:
    """Time epochs in turns, and print the median of each contestant with a comment.

    Args:
        contestants: functions that train some epochs and return the seconds of each, by name.
        turns: the number of turns.
        comment: returns the comment on a median, given that median and the first contestant's.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, epochs in contestants.items():
            seconds[name] += epochs()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    for name, values in seconds.items():
        median, low, high = medians[name], min(values), max(values)
        print(
            f"{name:<14} {median:6.2f} s per epoch ({low:.2f} to {high:.2f}), "
            + comment(median, first)
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
    take_turns(rules, options.turns, lambda median, _: f"{1e3 * median / STEPS:.2f} ms per step")


if __name__ == "__main__":
    main()
