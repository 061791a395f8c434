"""Plots of samples."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure

from lra.errors import DataError, OptionError
from lra.lab import data
from lra.lab.data import pictures


def make(x: np.ndarray, y: np.ndarray, classes: int = 10) -> data.Dataset:
    names = tuple(f"class {i} $" for i in range(classes))
    return data.Dataset("own", x.astype(np.float32), y.astype(np.int64), None, None, names)


def pixels(figure: Figure) -> np.ndarray:
    content = io.BytesIO()
    figure.savefig(content, format="raw")
    return np.frombuffer(content.getvalue(), np.uint8)


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        *(((8, 8), 1), ((5, 9), 3), ((8, 8, 1), 10), ((1, 8, 8), 11), ((3, 8, 8), 30)),
        *(((8, 8, 3), 3), ((6,), 3), ((1,), 10)),
    ],
)
def test_sample_figure(shape: tuple[int, ...], classes: int) -> None:
    rng = np.random.default_rng(0)
    dataset = make(rng.normal(size=(40, *shape)), np.arange(40) % classes, classes)
    figure = data.sample_figure(dataset, count=13)
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    assert titles == [f"class {i % classes} $" for i in range(13)]
    assert pixels(figure).std() > 0


def test_the_seed_selects_the_samples() -> None:
    digits = data.load("digits")
    one, same, other = (
        pixels(data.sample_figure(digits, count=4, seed=seed)) for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_sample_figure_of_either_layout_is_the_same() -> None:
    images = np.random.default_rng(0).random((4, 5, 6, 3))
    last = data.sample_figure(make(images, np.arange(4), 4))
    moved = make(np.moveaxis(images, 3, 1), np.arange(4), 4)
    assert moved.sample_shape == (3, 5, 6)
    first = data.sample_figure(moved)
    assert np.array_equal(pixels(first), pixels(last))


def test_sample_figure_of_text() -> None:
    windows = np.zeros((2, 4), np.int64)
    text = data.Dataset("prose.txt", windows, windows, None, None, ("a", "b"))
    with pytest.raises(DataError, match=r"'prose\.txt' is text.*Remedy: .*lra data fetch"):
        data.sample_figure(text)


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


def test_sample_figure_of_constant_and_few_samples() -> None:
    for shape in ((4, 4), (3,)):
        data.sample_figure(make(np.full((1, *shape), 7.0), np.zeros(1)))
    digits = data.load("digits")
    assert len(data.sample_figure(digits).axes) == 40


def test_sample_figure_errors() -> None:
    digits = data.load("digits")
    with pytest.raises(OptionError, match="count = 0"):
        data.sample_figure(digits, count=0)
    with pytest.raises(OptionError, match="seed = -1"):
        data.sample_figure(digits, seed=-1)
    with pytest.raises(DataError, match=r"shape \(2, 3, 4, 5\)"):
        data.sample_figure(make(np.zeros((2, 2, 3, 4, 5)), np.zeros(2)))
    with pytest.raises(DataError, match=r"shape \(4, 8, 8\)"):
        data.sample_figure(make(np.zeros((2, 4, 8, 8)), np.zeros(2)))
