"""Plots of samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lra.errors import DataError, OptionError
from lra.lab import data
from lra.lab.data import pictures


def make(x: np.ndarray, y: np.ndarray, classes: int = 10) -> data.Dataset:
    names = tuple(f"class {i} $" for i in range(classes))
    return data.Dataset("own", x.astype(np.float32), y.astype(np.int64), None, None, names)


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        *(((8, 8), 1), ((5, 9), 3), ((8, 8, 1), 10), ((1, 8, 8), 11), ((3, 8, 8), 30)),
        *(((8, 8, 3), 3), ((6,), 3), ((1,), 10)),
    ],
)
def test_sample_figure(tmp_path: Path, shape: tuple[int, ...], classes: int) -> None:
    rng = np.random.default_rng(0)
    dataset = make(rng.normal(size=(40, *shape)), np.arange(40) % classes, classes)
    path = data.sample_figure(dataset, tmp_path / "new" / "picture.png", count=13)
    assert path == tmp_path / "new" / "picture.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_seed_selects_the_samples(tmp_path: Path) -> None:
    digits = data.load("digits")
    one, same, other = (
        data.sample_figure(digits, tmp_path / f"{i}.png", count=4, seed=seed).read_bytes()
        for i, seed in enumerate((0, 0, 1))
    )
    assert one == same != other


def test_sample_figure_of_either_layout_is_the_same(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((4, 5, 6, 3))
    last = data.sample_figure(make(images, np.arange(4), 4), tmp_path / "last.png")
    moved = make(np.moveaxis(images, 3, 1), np.arange(4), 4)
    assert moved.sample_shape == (3, 5, 6)
    first = data.sample_figure(moved, tmp_path / "first.png")
    assert first.read_bytes() == last.read_bytes()


def test_sample_figure_of_text(tmp_path: Path) -> None:
    windows = np.zeros((2, 4), np.int64)
    text = data.Dataset("prose.txt", windows, windows, None, None, ("a", "b"))
    with pytest.raises(DataError, match=r"'prose\.txt' is text.*Remedy: .*lra data fetch"):
        data.sample_figure(text, tmp_path / "a.png")


def test_samples_alternate_between_classes() -> None:
    y = np.array([2, 0, 0, 0, 2, 0, 1])
    chosen, columns = pictures._choose_by_class(y, 6, seed=0)
    assert y[chosen].tolist() == [0, 1, 2, 0, 2, 0]
    assert columns == 6
    assert len(pictures._choose_by_class(y, 40, seed=0)[0]) == 7
    assert pictures._choose_by_class(np.arange(40) % 10, 40, 0)[1] == 10
    assert pictures._choose_by_class(np.arange(36) % 12, 36, 0)[1] == 12
    assert pictures._choose_by_class(np.arange(39) % 13, 39, 0)[1] == 10
    assert pictures._choose_by_class(np.arange(40) % 3, 40, 0)[1] == 9


def test_sample_figure_of_constant_and_few_samples(tmp_path: Path) -> None:
    for shape in ((4, 4), (3,)):
        data.sample_figure(make(np.full((1, *shape), 7.0), np.zeros(1)), tmp_path / "a.png")
    digits = data.load("digits")
    assert data.sample_figure(digits, tmp_path / "d.png").stat().st_size > 10_000


def test_sample_figure_errors(tmp_path: Path) -> None:
    digits = data.load("digits")
    with pytest.raises(OptionError, match="count = 0"):
        data.sample_figure(digits, tmp_path / "a.png", count=0)
    with pytest.raises(OptionError, match="seed = -1"):
        data.sample_figure(digits, tmp_path / "a.png", seed=-1)
    with pytest.raises(DataError, match=r"shape \(2, 3, 4, 5\)"):
        data.sample_figure(make(np.zeros((2, 2, 3, 4, 5)), np.zeros(2)), tmp_path / "a.png")
    with pytest.raises(DataError, match=r"shape \(4, 8, 8\)"):
        data.sample_figure(make(np.zeros((2, 4, 8, 8)), np.zeros(2)), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="cannot be written"):
        data.sample_figure(digits, tmp_path)
