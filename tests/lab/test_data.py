"""Data: the bundled dataset, names, catalogue and split. Only the slow test uses the network."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lra.errors import DataError, OptionError
from lra.lab import data
from lra.lab.data import sources

# digits


def test_digits() -> None:
    digits = data.load("digits")
    assert digits.x_test is not None
    assert digits.y_test is not None
    assert digits.x_train.shape == (1437, 8, 8)
    assert digits.x_test.shape == (360, 8, 8)
    for x, y in ((digits.x_train, digits.y_train), (digits.x_test, digits.y_test)):
        assert x.dtype == np.float32
        assert y.dtype == np.int64
        assert (x.min(), x.max()) == (0, 1)
        np.testing.assert_array_equal(x * 16, np.round(x * 16))
    both = np.bincount(digits.y_train) + np.bincount(digits.y_test)
    assert both.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(digits.y_test).tolist() == [36] * 10
    assert digits.classes == tuple("0123456789")
    images = np.concatenate([digits.x_train, digits.x_test]).reshape(1797, 64)
    assert len(np.unique(images, axis=0)) == 1797  # no image is in both parts
    # Most images are closest to the mean of their class, so the labels belong to these images.
    means = np.stack([digits.x_train[digits.y_train == c].mean(0) for c in range(10)])
    distance = ((digits.x_test[:, None] - means) ** 2).sum((2, 3))
    assert (distance.argmin(1) == digits.y_test).mean() > 0.85


def test_fetching_digits_returns_the_packaged_file() -> None:
    (path,) = data.fetch("digits")
    assert path.stat().st_size < 80_000
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["x"].shape == (1437, 8, 8)
        assert arrays["x"].dtype == np.uint8


# names


@pytest.mark.parametrize("call", [data.load, data.fetch])
def test_unknown_name(call: Callable[[str], object]) -> None:
    known = "cifar-10, digits, fashion-mnist, mnist, python"
    with pytest.raises(
        OptionError, match=rf"'mnits'; known: {known}\. Did .* 'mnist'.*\.npz, \.csv or \.txt"
    ):
        call("mnits")


def test_the_catalogue_lists_the_names() -> None:
    entries = data.catalogue()
    assert tuple(entry.name for entry in entries) == data.NAMES
    for entry in entries:
        if entry.name in ("digits", "python"):  # the others are fetched
            dataset = data.load(entry.name)
            assert dataset.x_test is not None
            assert (len(dataset.x_train), len(dataset.x_test)) == (entry.num_train, entry.num_test)
            assert dataset.sample_shape == entry.sample_shape
            assert dataset.num_classes == entry.num_classes
            assert entry.available


# arrays in memory

X = np.arange(24, dtype=np.float64).reshape(4, 6) / 24


@pytest.mark.parametrize(
    ("y", "classes", "names", "indices"),
    [
        (["b", "a", "c", "a"], None, ("a", "b", "c"), [1, 0, 2, 0]),
        (np.array(["b", "a", "c", "a"], object), None, ("a", "b", "c"), [1, 0, 2, 0]),
        (["b", "a", "c", "a"], ["c", "b", "a", "d"], ("c", "b", "a", "d"), [1, 2, 0, 2]),
        (["10", "9", "10", "9"], None, ("9", "10"), [1, 0, 1, 0]),
        ([1, 0, 3, 0], None, ("0", "1", "2", "3"), [1, 0, 3, 0]),
        ([[1], [0], [1], [0]], ["no", "yes"], ("no", "yes"), [1, 0, 1, 0]),
    ],
)
def test_from_arrays(y: object, classes: object, names: object, indices: object) -> None:
    dataset = data.from_arrays(X, y, classes=classes)  # type: ignore[arg-type]
    np.testing.assert_array_equal(dataset.x_train, X.astype(np.float32))
    assert (dataset.classes, dataset.y_train.tolist()) == (names, indices)
    assert dataset.y_train.dtype == np.int64
    assert dataset.name == "arrays"


def test_from_arrays_with_a_test_set() -> None:
    dataset = data.from_arrays(X, list("abab"), X[:2], list("cb"), name="mine")
    assert dataset.classes == ("a", "b", "c")
    assert dataset.y_test is not None
    assert (dataset.y_train.tolist(), dataset.y_test.tolist()) == ([0, 1, 0, 1], [2, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, list("abab"), X, [0, 1, 0, 1]), "one .* holds class indices, and the other one names"),
        ((X, list("abab"), None, None, ["a"]), "the label 'b' is none of the classes a"),
        ((X, [0, 1, 2, 0], None, None, ["a", "b"]), "a label is 2, but there are 2 classes"),
        ((X, list("abab"), None, None, ["a", "b", "a"]), "has 3 classes, 2 of them different"),
        ((X, ["a", "", "b", "a"]), "a class has the name ''"),
        ((X, ["a", "b\x1b[2J", "b", "a"]), "a class has the name .*control characters"),
        ((X, ["a", "b\ud800", "b", "a"]), "a class has the name .*control characters"),
        ((X, [None, "b", "b", "a"]), "y has type object"),
        ((X, [0.0, 1.0, 1.0, 0.0]), "y has type float64"),
        ((X.tolist(), list("aba")), r"y has shape \(3,\), but x has 4 samples"),
        (([[1, 2]], [0]), "x has type int64"),
    ],
)
def test_invalid_arrays_in_memory(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(DataError, match=rf"^arrays: .*{message}.*Remedy"):
        data.from_arrays(*arguments)  # type: ignore[arg-type]


def test_a_dataset_is_described_without_its_arrays() -> None:
    names = [f"<b>{'long' * 9}", *(f"class {i}" for i in range(14))]
    dataset = data.from_arrays(X, [names[0], *names[1:4]], classes=names, name="<i>")
    text = repr(dataset)
    assert len(text) < 400
    expected = "'<i>'", "4 for training", "0 for testing", "(6,)", "0 to 0.958333", "15: <b>long"
    assert all(part in text for part in expected)
    assert "..." in text
    page = dataset._repr_html_()
    assert "<b>" not in page
    assert "&lt;i&gt;" in page
    assert xml.etree.ElementTree.fromstring(page).tag == "table"


# paths


def test_paths_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "own.npz", x=X, y=np.arange(4))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("~/own.npz", "own.npz", "./own.npz", Path("own.npz"), tmp_path / "own.npz"):
        assert data.load(path).name == "own.npz"


@pytest.mark.parametrize(
    ("x", "remarks"),
    [(X * 255, 1), (X - 300, 1), (X * 5 - 2, 0), ((X * 255).astype(np.uint8), 0)],
)
def test_large_values_are_remarked(tmp_path: Path, x: np.ndarray, remarks: int) -> None:
    np.savez(tmp_path / "own.npz", x=x, y=np.arange(4))
    messages: list[str] = []
    data.load(tmp_path / "own.npz", on_event=messages.append)
    assert len(messages) == remarks
    assert all(text.startswith("own.npz: values from ") for text in messages)


@pytest.mark.parametrize("call", [data.load, data.fetch])
@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("seed-mnist", OptionError, "is a recipe, not a dataset: use --recipe seed-mnist"),
        ("text-gpt", OptionError, "is a recipe, not a dataset: use --recipe text-gpt"),
        ("nowhere.csv", DataError, "there is no such file"),
        ("nowhere/pets", DataError, "there is no such file or folder"),
        ("nowhere.parquet", DataError, "there is no such file or folder"),
        ("table.xlsx", DataError, r"is of no known kind. Remedy: use an \.npz, \.csv or \.txt"),
        ("notes", DataError, r"is of no known kind. Remedy: use an \.npz, \.csv or \.txt"),
        ("empty", DataError, r"is a folder of no known kind. Remedy: use an \.npz, \.csv"),
    ],
)
def test_paths_that_are_no_dataset(
    call: Callable[[str], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for file in ("table.xlsx", "notes"):
        (tmp_path / file).write_bytes(b"PK")
    with pytest.raises(kind, match=message):
        call(name)


# split


def make(x: np.ndarray, y: np.ndarray, classes: int = 10) -> data.Dataset:
    names = tuple(f"class {i} $" for i in range(classes))
    return data.Dataset("own", x.astype(np.float32), y.astype(np.int64), None, None, names)


@pytest.mark.parametrize(("n", "validation"), [(1, 0), (10, 0), (10, 1), (10, 9), (999, 100)])
def test_split(n: int, validation: int) -> None:
    dataset = make(np.zeros((n, 2)), np.zeros(n))
    train, held_out = data.split(dataset, validation, seed=3)
    assert len(held_out) == validation
    assert np.sort(np.concatenate([train, held_out])).tolist() == list(range(n))
    assert train.dtype == held_out.dtype == np.int64
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()
    again = data.split(make(np.ones((n, 5)), np.ones(n)), validation, seed=3)
    np.testing.assert_array_equal(again[1], held_out)  # depends on n, validation and seed only


def test_split_is_uniform() -> None:
    dataset = make(np.zeros((1000, 1)), np.zeros(1000))
    draws = np.stack([data.split(dataset, 200, seed)[1] for seed in range(200)])
    assert len(np.unique(draws, axis=0)) == 200
    # each about 0.2, with a standard deviation of 0.028
    share = np.bincount(draws.ravel(), minlength=1000) / 200
    assert 0.05 < share.min() < share.max() < 0.35
    assert data.split(dataset, 5, 0)[1].tolist() == [11, 269, 850, 855, 921]  # must never change


@pytest.mark.parametrize(("validation", "seed"), [(-1, 0), (10, 0), (11, 0), (3, -1)])
def test_split_out_of_range(validation: int, seed: int) -> None:
    with pytest.raises(OptionError, match=r"validation = .* 0 and 9|seed = -1"):
        data.split(make(np.zeros((10, 2)), np.zeros(10)), validation, seed)


def test_the_library_prints_nothing_and_leaves_pyplot_alone(tmp_path: Path) -> None:
    script = f"""
import pathlib, sys
from lra.lab import data
data.sample_figure(data.load("digits")).savefig(pathlib.Path({str(tmp_path / "a.png")!r}))
assert "matplotlib.pyplot" not in sys.modules
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# real datasets


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_datasets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRA_CACHE", str(tmp_path))
    monkeypatch.delenv("LRA_DATA", raising=False)
    paths = data.fetch(name)
    assert len(paths) == 4
    monkeypatch.setattr(sources, "SOURCES", {})  # the second load uses no source
    dataset = data.load(name)
    assert dataset.x_test is not None
    assert dataset.y_test is not None
    assert dataset.x_train.shape == (60_000, 28, 28)
    assert dataset.x_test.shape == (10_000, 28, 28)
    for x in (dataset.x_train, dataset.x_test):
        assert (x.min(), x.max()) == (0, 1)
    counts = np.bincount(dataset.y_train).tolist(), np.bincount(dataset.y_test).tolist()
    if name == "mnist":
        assert counts == (
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        )
        assert abs(dataset.x_train.mean(dtype=np.float64) - 0.1307) < 1e-4
    else:
        assert counts == ([6000] * 10, [1000] * 10)
        assert abs(dataset.x_train.mean(dtype=np.float64) - 0.2860) < 1e-4
