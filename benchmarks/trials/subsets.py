"""Subsets of the workbench's datasets, for the larger networks of the study."""

from pathlib import Path

import numpy as np

from lra.lab import data
from lra.lab.data import text


def characters(out: Path, count: int = 1_200_000) -> Path:
    """Write the first characters of the `python` dataset to a text file, and return its path."""
    path = out / f"python-{count}.txt"
    if not path.exists():
        whole = data.load("python")
        parts = [
            text.decode(list(window), whole.classes) for window in whole.x_train[: count // 128 + 1]
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(parts)[:count], "utf-8")
    return path


def pictures(out: Path, source: Path, train: int = 12_000, test: int = 4_000) -> Path:
    """Write a random subset of an .npz's images to a new .npz, and return its path."""
    path = out / f"{source.stem}-{train}.npz"
    if not path.exists():
        with np.load(source) as arrays:
            draw = np.random.default_rng(0)
            train_rows = draw.permutation(len(arrays["y"]))[:train]
            test_rows = draw.permutation(len(arrays["y_test"]))[:test]
            subset = {
                **{name: arrays[name][train_rows] for name in ("x", "y")},
                **{name: arrays[name][test_rows] for name in ("x_test", "y_test")},
            }
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **subset)
    return path
