"""Runs on disk: evaluation, prediction, and errors."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn
from workbench import CLASSES, SHAPE, begin, interrupt_at, tiny, write_blobs

import lra
from lra.errors import DataError, OptionError, RunError
from lra.lab import data
from lra.lab.data import sources
from lra.lab.data.samples import read_samples
from lra.lab.runs import files, trained_network
from lra.lab.runs.trained_network import Evaluation, Prediction, evaluate, predict
from lra.lab.settings.config import TrainConfig
from lra.lab.training import loop


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and three finished runs on it."""
    home = tmp_path_factory.mktemp("home")
    path = write_blobs(home / "blobs.npz")
    loop.train(tiny(path, epochs=6, lr=0.02), home / "run")
    loop.train(tiny(path, epochs=2, precision="64"), home / "double")
    x = np.random.default_rng(0).normal(size=(60, 2)).round(6)
    names = ["large" if a > b else "small, or less" for a, b in x]
    quoted = [f'"{name}"' for name in names]
    write_table(home / "sizes" / "train.csv", "a,b,size", x, quoted)
    write_table(home / "sizes" / "test.csv", "a,b,size", x, quoted)
    loop.train(tiny(home / "sizes", epochs=6, lr=0.02), home / "table")
    loop.train(
        TrainConfig("digits", model="mlp:hidden=24", epochs=2, device="cpu"), home / "digits"
    )
    return home


def plain_network(run: Path) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh())
    network.append(nn.Linear(5, 3))
    network.load_state_dict(safetensors.torch.load_file(run / files.WEIGHTS), strict=True)
    return network


@torch.no_grad()
def probabilities(run: Path, x: np.ndarray) -> np.ndarray:
    logits = plain_network(run)(torch.from_numpy(x)).double().numpy()
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


# evaluate


def test_evaluate(home: Path) -> None:
    arrays = np.load(home / "blobs.npz")
    x, y = arrays["x_test"], arrays["y_test"]
    p = probabilities(home / "run", x)
    correct = p.argmax(1) == y
    evaluation = evaluate(home / "run")
    assert (evaluation.dataset, evaluation.samples) == ("blobs.npz", 41)
    assert evaluation.accuracy == pytest.approx(100 * correct.mean())
    assert evaluation.loss == pytest.approx(-np.log(p[np.arange(41), y]).mean(), rel=1e-5)
    expected = {str(c): pytest.approx(100 * correct[y == c].mean()) for c in range(CLASSES)}
    assert evaluation.per_class == expected
    result = json.loads((home / "run" / files.RESULT).read_text())
    assert evaluation.accuracy == pytest.approx(result["test_accuracy"])
    assert 34 < evaluation.accuracy < 100  # better than chance, but not trivial


def test_evaluate_on_another_dataset(home: Path, tmp_path: Path) -> None:
    other = write_blobs(tmp_path / "other.npz", n_test=300, seed=5)
    arrays = np.load(other)
    p = probabilities(home / "run", arrays["x_test"])
    evaluation = evaluate(home / "run", str(other))
    assert (evaluation.dataset, evaluation.samples) == ("other.npz", 300)
    assert evaluation.accuracy == pytest.approx(100 * (p.argmax(1) == arrays["y_test"]).mean())
    assert evaluation != evaluate(home / "run")


def test_evaluate_in_double_precision(home: Path) -> None:
    result = json.loads((home / "double" / files.RESULT).read_text())
    assert evaluate(home / "double").accuracy == pytest.approx(result["test_accuracy"])
    assert next(trained_network.load(home / "double").network.parameters()).dtype == torch.float64


def test_evaluate_by_the_existing_classes(home: Path, tmp_path: Path) -> None:
    x, y = np.zeros((4, *SHAPE), np.float32), np.array([0, 1, 1, 0])
    np.savez(tmp_path / "few.npz", x=x, y=y, x_test=x, y_test=y)
    evaluation = evaluate(home / "run", str(tmp_path / "few.npz"))
    assert list(evaluation.per_class) == ["0", "1"]
    assert sorted(evaluation.per_class.values()) in ([0, 0], [0, 100])
    assert isinstance(evaluation, Evaluation)


def test_evaluate_without_a_test_set(home: Path, tmp_path: Path) -> None:
    path = write_blobs(tmp_path / "alone.npz", n_test=None)
    with pytest.raises(RunError, match=r"alone.npz has no test set"):
        evaluate(home / "run", str(path))


def test_evaluate_on_more_classes(home: Path, tmp_path: Path) -> None:
    x, y = np.zeros((4, *SHAPE), np.float32), np.array([0, 1, 2, 3])
    np.savez(tmp_path / "four.npz", x=x, y=y, x_test=x, y_test=y)
    with pytest.raises(RunError, match=r"four.npz has classes .*: 3\. Its own are 0, 1, 2"):
        evaluate(home / "run", str(tmp_path / "four.npz"))


def test_evaluate_on_other_shapes(home: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"digits: samples of shape \(8, 8\); .* trained on \(2, 3\) \(6 values"
    ):
        evaluate(home / "run", "digits")
    # The same number of values, but another shape.
    x, y = np.zeros((4, 3, 2), np.float32), np.array([0, 1, 2, 0])
    np.savez(tmp_path / "turned.npz", x=x, y=y, x_test=x, y_test=y)
    with pytest.raises(RunError, match=r"shape \(3, 2\)"):
        evaluate(home / "run", str(tmp_path / "turned.npz"))


def test_evaluate_on_missing_data(home: Path) -> None:
    with pytest.raises(OptionError, match=r"unknown dataset 'digts'.*Did you mean 'digits'"):
        evaluate(home / "run", "digts")
    with pytest.raises(DataError, match="no such file"):
        evaluate(home / "run", "nowhere.npz")


# predict


def assert_predicted(predictions: list[Prediction], p: np.ndarray) -> None:
    assert [found.name for found in predictions] == [str(label) for label in p.argmax(1)]
    np.testing.assert_allclose([found.probability for found in predictions], p.max(1), rtol=1e-5)


@pytest.mark.parametrize("kind", ["npy", "npz", "float64", "float16"])
def test_predict(home: Path, tmp_path: Path, kind: str) -> None:
    x = np.load(home / "blobs.npz")["x_test"]
    if kind == "npz":
        np.savez(tmp_path / "samples.npz", x=x, anything=np.arange(3))
        file = tmp_path / "samples.npz"
    else:
        file = tmp_path / "samples.npy"
        x = x if kind == "npy" else x.astype(kind)
        np.save(file, x)
    predictions = predict(home / "run", file)
    assert len(set(predictions)) > 10
    assert_predicted(predictions, probabilities(home / "run", x.astype(np.float32)))


def test_predict_one_sample(home: Path, tmp_path: Path) -> None:
    x = np.load(home / "blobs.npz")["x_test"]
    np.save(tmp_path / "one.npy", x[4])
    np.save(tmp_path / "first.npy", x[4:5])
    one = predict(home / "run", tmp_path / "one.npy")
    assert one == predict(home / "run", tmp_path / "first.npy")
    assert_predicted(one, probabilities(home / "run", x[4:5]))


def test_predict_bytes_as_in_training(home: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, *SHAPE)).astype(np.uint8)
    np.save(tmp_path / "bytes.npy", x)
    predictions = predict(home / "run", tmp_path / "bytes.npy")
    assert_predicted(predictions, probabilities(home / "run", (x / 255).astype(np.float32)))
    np.savez(tmp_path / "bytes.npz", x=x, y=np.arange(20) % 3)
    np.testing.assert_array_equal(
        data.load(str(tmp_path / "bytes.npz")).x_train,
        read_samples(tmp_path / "bytes.npy", SHAPE, "blobs.npz")[1],
    )


def test_predict_many_samples(home: Path, tmp_path: Path) -> None:
    """Predict more samples than fit into a chunk."""
    x = np.random.default_rng(0).normal(size=(4500, *SHAPE)).astype(np.float32)
    np.save(tmp_path / "many.npy", x)
    predictions = predict(home / "run", tmp_path / "many.npy")
    assert_predicted(predictions, probabilities(home / "run", x))


def test_predict_no_sample(home: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, *SHAPE), np.float32))
    assert predict(home / "run", tmp_path / "none.npy") == []


def test_predict_returns_class_names(home: Path, tmp_path: Path) -> None:
    digits = data.load("digits")
    assert digits.x_test is not None
    np.save(tmp_path / "digits.npy", digits.x_test)
    names = [found.name for found in predict(home / "digits", tmp_path / "digits.npy")]
    accuracy = 100 * np.mean(np.array(names, int) == digits.y_test)
    assert accuracy == pytest.approx(evaluate(home / "digits").accuracy)
    trained = trained_network.load(home / "digits")
    assert trained.classes == tuple("0123456789")
    assert trained.sample_shape == (8, 8)
    assert not trained.network.training


@pytest.mark.parametrize("shape", [(5,), (6,), (4, 6), (3, 2), (4, 3, 2), (4, 2, 3, 1), ()])
def test_predict_refuses_other_shapes(home: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "other.npy", np.zeros(shape, np.float32))
    with pytest.raises(RunError, match=r"other.npy: samples of shape .* trained on \(2, 3\)"):
        predict(home / "run", tmp_path / "other.npy")


class Code:
    """Unpickles by writing a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "ran")


def write_objects(path: Path) -> None:
    np.save(path, np.array([Code(path.parent / "ran")], dtype=object), allow_pickle=True)


def write_truncated(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), x=np.zeros((40, *SHAPE), np.float32))
    content = path.with_suffix(".npz").read_bytes()
    path.write_bytes(content[:-30])


def write_altered(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), x=np.zeros((40, *SHAPE), np.float32))
    content = bytearray(path.with_suffix(".npz").read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


BAD: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("1,2,3\n"),
    "objects": write_objects,
    "a whole npz": lambda path: path.write_bytes(npz_bytes(path, x=np.zeros((3, *SHAPE)))),
    "integers": lambda path: np.save(path, np.zeros((3, *SHAPE), np.int64)),
    "booleans": lambda path: np.save(path, np.zeros((3, *SHAPE), bool)),
    "complex": lambda path: np.save(path, np.zeros((3, *SHAPE), np.complex64)),
    "text array": lambda path: np.save(path, np.array(["a"])),
    "nan": lambda path: np.save(path, np.full((3, *SHAPE), np.nan, np.float32)),
    "infinite": lambda path: np.save(path, np.full((3, *SHAPE), np.inf)),
    "too large for float32": lambda path: np.save(path, np.full((3, *SHAPE), 1e300)),
}


def npz_bytes(path: Path, **arrays: np.ndarray) -> bytes:
    npz_path = path.with_suffix(".npz")
    np.savez(npz_path, allow_pickle=True, **arrays)
    return npz_path.read_bytes()


@pytest.mark.parametrize("kind", BAD)
def test_predict_refuses_bad_files(home: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "samples.npy"
    BAD[kind](file)
    with pytest.raises(DataError, match=r"samples\.npy.* .*Remedy"):
        predict(home / "run", file)
    assert not (tmp_path / "ran").exists()


BAD_NPZ: dict[str, Callable[[Path], Any]] = {
    "truncated": write_truncated,
    "altered": write_altered,
    "no array x": lambda path: npz_bytes(path, y=np.zeros(3)),
    "objects": lambda path: npz_bytes(path, x=np.array([Code(path.parent / "ran")], object)),
}


@pytest.mark.parametrize("kind", BAD_NPZ)
def test_predict_refuses_bad_npz(home: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "samples.npz"
    BAD_NPZ[kind](file)
    with pytest.raises(DataError, match=r"samples\.npz.* .*Remedy"):
        predict(home / "run", file)
    assert not (tmp_path / "ran").exists()


def test_predict_refuses_other_kinds(home: Path, tmp_path: Path) -> None:
    for name in ("a.txt", "a", "a.tiff"):
        (tmp_path / name).write_text("text")
        with pytest.raises(DataError, match=r"is of no known kind. Remedy: use .png"):
            predict(home / "run", tmp_path / name)
    with pytest.raises(DataError, match="there is no such file"):
        predict(home / "run", tmp_path / "nowhere")


# images and tables


def save_image(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_predict_images(home: Path, tmp_path: Path) -> None:
    digits = (data.load("digits").x_train[:6] * 255).astype(np.uint8)
    files = [save_image(tmp_path / "in" / f"{i}" / "a.png", x) for i, x in enumerate(digits)]
    colours = np.repeat(digits[5][:, :, None], 3, 2)
    save_image(files[5], colours)  # grey in all channels
    np.save(tmp_path / "x.npy", digits)
    expected = [found[1:] for found in predict(home / "digits", tmp_path / "x.npy")]
    for given in (files, [tmp_path / "in"]):
        found = predict(home / "digits", *given)
        assert [one.sample for one in found] == [str(path) for path in files]
        assert [one[1:] for one in found] == expected
    both = predict(home / "digits", tmp_path / "x.npy", files[0])
    samples = [f"{tmp_path / 'x.npy'}:{i}" for i in range(6)]
    assert [one.sample for one in both] == [*samples, str(files[0])]
    with pytest.raises(DataError, match=r"a\.png is an image; the network was trained on samples"):
        predict(home / "table", files[0])


def write_table(path: Path, header: str, columns: np.ndarray, names: Sequence[str] = ()) -> Path:
    rows = [",".join(map(str, row)) for row in columns.tolist()]
    rows = [f"{row},{name}" for row, name in zip(rows, names, strict=True)] if names else rows
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join((header, *rows)), encoding="utf-8")
    return path


def test_a_run_on_a_table(home: Path, tmp_path: Path) -> None:
    """The fixture trains it; names are predicted, whether classes are given or not."""
    x = np.random.default_rng(1).normal(size=(20, 2)).round(6)
    np.save(tmp_path / "x.npy", x)
    expected = predict(home / "table", tmp_path / "x.npy")
    assert {one.name for one in expected} == {"small, or less", "large"}
    with_names = write_table(tmp_path / "a.csv", "a,b,size", x, ["?"] * 20)
    without = write_table(tmp_path / "b.csv", "a,b", x)
    assert predict(home / "table", with_names) == predict(home / "table", without) == expected
    turned = write_table(tmp_path / "c.csv", "b,a", x)
    with pytest.raises(DataError, match=r"c\.csv has other columns than .*train\.csv"):
        predict(home / "table", turned)


def test_evaluate_matches_classes_by_name(home: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(30, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    names = np.array([one.name for one in predict(home / "table", tmp_path / "x.npy")])
    names[:6] = "large"
    predicted = [one.name for one in predict(home / "table", tmp_path / "x.npy")]
    expected = 100 * np.mean(np.array(predicted) == names)
    for classes in (None, ["small, or less", "large"]):  # sorted, or the other way round
        other = data.from_arrays(x, names, x, names, classes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data, "load", lambda *_, other=other, **__: other)
            assert evaluate(home / "table", "other.npz").accuracy == pytest.approx(expected)
    np.savez(
        tmp_path / "huge.npz", x=x, y=np.full(30, "huge"), x_test=x, y_test=np.full(30, "huge")
    )
    with pytest.raises(
        RunError, match=r"huge\.npz has classes .*: huge\. Its own are large, small"
    ):
        evaluate(home / "table", str(tmp_path / "huge.npz"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist", r"mnist: samples of shape \(28, 28\)"),
        ("cifar-10", r"cifar-10: samples of shape \(3, 32, 32\)"),
        ("fashion-mnist", "fashion-mnist has classes .*: T-shirt/top, Trouser"),
    ],
)
def test_evaluate_checks_before_it_fetches(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    def fetched(*_: Any, **__: Any) -> Any:
        raise AssertionError("fetched")

    monkeypatch.setattr(sources, "obtain", fetched)
    if name == "fashion-mnist":  # the same shape and number of classes
        about = trained_network.load(home / "digits")
        like = dataclasses.replace(about, sample_shape=(28, 28))
        monkeypatch.setattr(trained_network, "load", lambda folder: like)
    with pytest.raises(RunError, match=message):
        evaluate(home / "digits", name)


# incomplete runs


def test_a_run_without_weights_yet(home: Path, tmp_path: Path) -> None:
    config = tiny(home / "blobs.npz")
    begin(tmp_path / "begun", config)
    with pytest.raises(RunError, match=r"has no model.safetensors yet: its first epoch"):
        evaluate(tmp_path / "begun")
    with pytest.raises(RunError, match=r"not a run's folder: config.json cannot be read"):
        evaluate(tmp_path / "nothing")


def test_an_unfinished_run_can_be_evaluated(home: Path, tmp_path: Path) -> None:
    with pytest.raises(loop.Interrupted):
        loop.train(tiny(home / "blobs.npz"), tmp_path / "run", reporter=interrupt_at(2))
    assert not (tmp_path / "run" / files.RESULT).exists()
    assert evaluate(tmp_path / "run").samples == 41


def test_damaged_weights(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(run, files.read_config(home / "run"))
    good = (home / "run" / files.WEIGHTS).read_bytes()
    for content in (good[:-1], good[:20], b"", b"\xff" * 100):
        (run / files.WEIGHTS).write_bytes(content)
        with pytest.raises(RunError, match=r"model.safetensors: damaged, or of another network"):
            evaluate(run)
    weights = safetensors.torch.load(good)
    (run / files.WEIGHTS).write_bytes(safetensors.torch.save(weights))  # without the header
    with pytest.raises(RunError, match=r"model.safetensors: damaged, or of another network"):
        evaluate(run)
    (run / files.WEIGHTS).write_bytes((home / "digits" / files.WEIGHTS).read_bytes())
    with pytest.raises(RunError, match=r"model.safetensors: damaged, or of another network"):
        evaluate(run)
    (run / files.WEIGHTS).write_bytes(good)
    assert evaluate(run) == evaluate(home / "run")


@pytest.mark.parametrize("rule", lra.RULES)
def test_the_weights_are_the_plain_network(home: Path, tmp_path: Path, rule: str) -> None:
    config = tiny(home / "blobs.npz", rule=lra.named(rule), epochs=1)
    loop.train(config, tmp_path / "run")
    assert isinstance(plain_network(tmp_path / "run"), nn.Sequential)
    assert not lra.is_converted(trained_network.load(tmp_path / "run").network)
