"""Smaller data for the study's larger networks, cut from datasets of the workbench."""

from pathlib import Path

import numpy as np

from lra.lab import data, text


def characters(out: Path, many: int = 1_200_000) -> Path:
    """Write the first characters of the `python` dataset to a text of their own."""
    path = out / f"python-{many}.txt"
    if not path.exists():
        whole = data.load("python")
        parts = [
            text.decode(list(window), whole.classes) for window in whole.x_train[: many // 128 + 1]
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(parts)[:many], "utf-8")
    return path


def pictures(out: Path, source: Path, train: int = 12_000, test: int = 4_000) -> Path:
    """Write some of an .npz's pictures, drawn once, to an .npz of their own."""
    path = out / f"{source.stem}-{train}.npz"
    if not path.exists():
        with np.load(source) as arrays:
            draw = np.random.default_rng(0)
            some = draw.permutation(len(arrays["y"]))[:train]
            rest = draw.permutation(len(arrays["y_test"]))[:test]
            chosen = {
                **{name: arrays[name][some] for name in ("x", "y")},
                **{name: arrays[name][rest] for name in ("x_test", "y_test")},
            }
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **chosen)
    return path
