"""Training: resumed runs are bit-identical, and the reported results are correct."""

import contextlib
import errno
import functools
import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar
from torch import nn
from workbench import (
    PATIENCE,
    Watcher,
    assert_same_run,
    begin,
    checkpoint_bytes,
    differences,
    fork_lra,
    interrupt_at,
    metrics,
    saved_state,
    saved_weight,
    start_lra,
    tiny,
    train_with_stops,
    wait_for,
    write_blobs,
)

import lra
from lra.errors import OptionError, RunError
from lra.lab import data
from lra.lab.cli import main
from lra.lab.comparison.store import Store
from lra.lab.networks.build import build_network
from lra.lab.runs import checkpoint, display, files, lock, trained_network
from lra.lab.runs.display import Reporter
from lra.lab.settings.config import TrainConfig
from lra.lab.training import loop, session
from lra.lab.training.batches import draw_order
from lra.lab.training.finite import locate_nonfinite
from lra.lab.training.loop import Interrupted, resume, train
from lra.lab.training.threads import work_per_matrix


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("data") / "blobs.npz")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, blobs: Path) -> Path:
    """The folder of an uninterrupted run of 12 epochs."""
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    train(tiny(blobs, epochs=12), folder)
    return folder


# the files of a run


def test_every_file_is_written(uninterrupted: Path) -> None:
    names = {p.name for p in uninterrupted.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert names - events == {
        *("config.json", "metrics.csv", "result.json", "curves.png"),
        *("model.safetensors", "checkpoint", "checkpoint.previous", ".lock"),
    }
    result = json.loads((uninterrupted / files.RESULT).read_text())
    rows = metrics(uninterrupted)
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    accuracies = [float(row["validation_accuracy"]) for row in rows]
    assert result["best_epoch"] == 1 + accuracies.index(max(accuracies))
    assert result["validation_accuracy"] == max(accuracies)
    assert (result["epochs"], result["rule"], result["device"]) == (12, "lra-e", "cpu")
    assert result["weights"] == 6 * 7 + 7 + 7 * 5 + 5 + 5 * 3 + 3
    assert result["feedback_weights"] == 7 * 5 + 5 * 3
    assert result["seconds"] > 0
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)
    assert saved_state(uninterrupted)["state"]["epoch"] == 12


def test_the_curves_are_plotted(uninterrupted: Path) -> None:
    from matplotlib.image import imread

    picture = imread(uninterrupted / files.CURVES)
    height, width = picture.shape[:2]
    assert height > 300
    assert width > 800
    colours = {tuple(c) for c in (picture[..., :3].reshape(-1, 3) * 255).round().astype(int)}
    assert (0x1F, 0x77, 0xB4) in colours  # the curves of training
    assert (0xFF, 0x7F, 0x0E) in colours  # the curve of validation


def read_events(folder: Path) -> list[tuple[str, int, float]]:
    """Read a TensorBoard log: records of length, checksum, event, checksum."""
    events = []
    (path,) = folder.glob("events.out.tfevents.*")
    content, start = path.read_bytes(), 0
    while start < len(content):
        length = int.from_bytes(content[start : start + 8], "little")
        event = Event.FromString(content[start + 12 : start + 12 + length])
        events += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        start += 16 + length
    return events


def assert_events_are_the_metrics(folder: Path) -> None:
    expected = [
        (scalar(name, 0).value[0].tag, int(row["epoch"]), pytest.approx(float(row[name]), rel=1e-6))
        for row in metrics(folder)
        for name in files.COLUMNS[1:]
        if row[name]
    ]
    assert read_events(folder) == expected


def test_tensorboard_events_are_the_metrics(uninterrupted: Path) -> None:
    assert len(read_events(uninterrupted)) == 12 * 5
    assert_events_are_the_metrics(uninterrupted)


def best_network(folder: Path) -> nn.Sequential:
    """Build the plain network and load its weights strictly, without code of the workbench."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5)]
    network = nn.Sequential(*layers, nn.Tanh(), nn.Linear(5, 3))
    network.load_state_dict(safetensors.torch.load_file(folder / files.WEIGHTS), strict=True)
    return network


def accuracy_of(network: nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    with torch.no_grad():
        return 100 * float((network(torch.from_numpy(x)).argmax(1).numpy() == y).mean())


def test_the_test_accuracies_are_those_of_the_saved_weights(
    blobs: Path, uninterrupted: Path
) -> None:
    arrays = np.load(blobs)
    result = json.loads((uninterrupted / files.RESULT).read_text())
    best = best_network(uninterrupted)
    accuracy = accuracy_of(best, arrays["x_test"], arrays["y_test"])
    assert result["test_accuracy"] == pytest.approx(accuracy, abs=1e-9)
    state = saved_state(uninterrupted)["model"]
    plain = {name: value for name, value in state.items() if "feedback" not in name}
    assert len(state) == len(plain) + 2
    best.load_state_dict(plain)
    accuracy = accuracy_of(best, arrays["x_test"], arrays["y_test"])
    assert result["test_accuracy_last"] == pytest.approx(accuracy, abs=1e-9)


def test_the_validation_accuracy_is_that_of_the_saved_weights(
    blobs: Path, uninterrupted: Path
) -> None:
    arrays = data.load(str(blobs))
    _, validation = data.split(arrays, 13, 0)
    x, y = arrays.x_train[validation], arrays.y_train[validation]
    result = json.loads((uninterrupted / files.RESULT).read_text())
    accuracy = accuracy_of(best_network(uninterrupted), x, y)
    assert result["validation_accuracy"] == pytest.approx(accuracy, abs=1e-9)


def test_the_best_weights_are_those_of_the_best_epoch(tmp_path: Path, blobs: Path) -> None:
    """They are not the last ones if the accuracy falls."""
    watcher = Watcher()
    states = {}

    def record(row: dict[str, Any], epochs: int) -> None:
        states[row["epoch"]] = saved_state(tmp_path / "run")["model"]

    watcher.epoch = record  # type: ignore[method-assign]
    config = tiny(blobs, epochs=8, optimizer="sgd", lr=3.0, seed=1)
    result = train(config, tmp_path / "run", reporter=watcher)
    assert result["best_epoch"] < 8
    saved = safetensors.torch.load_file(tmp_path / "run" / files.WEIGHTS)
    for name, value in saved.items():
        assert torch.equal(value, states[result["best_epoch"]][name])
    assert any(not torch.equal(value, states[8][name]) for name, value in saved.items())
    arrays = np.load(blobs)
    accuracy = accuracy_of(best_network(tmp_path / "run"), arrays["x_test"], arrays["y_test"])
    assert result["test_accuracy"] == pytest.approx(accuracy, abs=1e-9)
    assert abs(result["test_accuracy"] - result["test_accuracy_last"]) > 5


@pytest.mark.parametrize("rule", [lra.LRAE(), lra.Backprop()], ids=str)
def test_one_step_equals_the_rule_by_hand(tmp_path: Path, rule: lra.Rule) -> None:
    """With all samples in one batch: the loss of the initial weights, and one SGD step by hand."""
    path = write_blobs(tmp_path / "few.npz", n=40)
    settings = {"optimizer": "sgd", "lr": 0.5, "weight_decay": 0.0, "precision": "64"}
    config = tiny(path, rule=rule, epochs=1, batch_size=40, validation=0, seed=3, **settings)
    result = train(config, tmp_path / "run")
    torch.manual_seed(3)
    network = lra.convert(build_network(config, (2, 3), 3), rule).double()
    arrays = data.load(str(path))
    x, y = torch.from_numpy(arrays.x_train).double(), torch.from_numpy(arrays.y_train)
    logits = network(x)
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    loss = -log_p[torch.arange(40), y].mean()
    (row,) = metrics(tmp_path / "run")
    assert float(row["loss"]) == pytest.approx(loss.item(), rel=1e-12)
    accuracy = (logits.argmax(1) == y).double().mean().item()
    assert float(row["train_accuracy"]) == pytest.approx(100 * accuracy, rel=1e-12)
    assert row["validation_accuracy"] == ""
    assert result["validation_accuracy"] is None
    loss.backward()
    state = saved_state(tmp_path / "run")["model"]
    for name, p in network.named_parameters():
        torch.testing.assert_close(saved_weight(state, name), (p - 0.5 * p.grad).detach())


def test_the_loss_is_the_mean_over_samples(tmp_path: Path, blobs: Path) -> None:
    """With almost no learning, batches of 16 and a smaller one give the loss of all samples."""
    config = tiny(blobs, epochs=1, optimizer="sgd", lr=1e-12, weight_decay=0.0, precision="64")
    train(config, tmp_path / "run")
    network = best_network(tmp_path / "run").double()
    arrays = data.load(str(blobs))
    chosen, _ = data.split(arrays, 13, 0)
    assert len(chosen) % 16
    x, y = torch.from_numpy(arrays.x_train[chosen]).double(), arrays.y_train[chosen]
    loss = nn.functional.cross_entropy(network(x), torch.from_numpy(y)).item()
    (row,) = metrics(tmp_path / "run")
    assert float(row["loss"]) == pytest.approx(loss, rel=1e-9)
    accuracy = 100 * float((network(x).argmax(1).numpy() == y).mean())
    assert float(row["train_accuracy"]) == pytest.approx(accuracy)


def test_every_sample_is_seen_once_an_epoch_in_another_order() -> None:
    orders = [draw_order(117, 0, epoch) for epoch in (0, 1)] + [draw_order(117, 1, 0)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(117))
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert torch.equal(orders[0], draw_order(117, 0, 0))


def test_the_reporter_receives_all(tmp_path: Path, blobs: Path) -> None:
    watcher = Watcher()
    result = train(tiny(blobs, epochs=2), tmp_path / "run", reporter=watcher)
    kinds = [kind for kind, _ in watcher.events]
    assert kinds == ["start", "step", "epoch", "step", "epoch", "end"]
    description, epochs, steps = watcher.events[0][1]
    assert (epochs, steps) == (2, 8)
    assert "lra-e on blobs.npz: 6-7-5-3, tanh" in description
    assert "117 samples" in description
    step, loss_sum, correct, seen = watcher.events[1][1]
    (first, _) = metrics(tmp_path / "run")
    assert (step, seen) == (8, 117)
    assert loss_sum / seen == pytest.approx(float(first["loss"]))
    assert 100 * correct / seen == pytest.approx(float(first["train_accuracy"]))
    assert watcher.events[-1][1] == result


def test_the_library_is_silent(
    tmp_path: Path, blobs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tiny(blobs, epochs=1), tmp_path / "run")
    assert capfd.readouterr().out == ""


# settings that change a run


def test_the_seed_determines_a_run(tmp_path: Path, blobs: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        torch.manual_seed(random.randrange(1000))
        train(tiny(blobs, seed=seed), tmp_path / name)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert differences(saved_state(tmp_path / "a")["model"], saved_state(tmp_path / "c")["model"])


def test_no_test_set(tmp_path: Path) -> None:
    path = write_blobs(tmp_path / "no-test.npz", n_test=None)
    result = train(tiny(path), tmp_path / "run")
    assert result["test_accuracy"] is None
    assert result["test_accuracy_last"] is None
    assert result["validation_accuracy"] > 0


def test_no_validation(tmp_path: Path, blobs: Path) -> None:
    result = train(tiny(blobs, validation=0), tmp_path / "run")
    assert result["validation_accuracy"] is None
    assert result["best_epoch"] == 3  # the last one
    assert result["test_accuracy"] == result["test_accuracy_last"]
    assert [row["validation_accuracy"] for row in metrics(tmp_path / "run")] == [""] * 3
    last = saved_state(tmp_path / "run")["model"]
    for name, value in safetensors.torch.load_file(tmp_path / "run" / files.WEIGHTS).items():
        assert torch.equal(value, last[name])


def test_validation_samples_are_not_trained_on(tmp_path: Path, blobs: Path) -> None:
    watcher = Watcher()
    train(tiny(blobs, epochs=1, validation=60), tmp_path / "run", reporter=watcher)
    assert "70 samples" in watcher.events[0][1][0]
    assert watcher.events[1][1][3] == 70


def test_batches_larger_than_the_data_are_refused(tmp_path: Path, blobs: Path) -> None:
    with pytest.raises(OptionError, match="batch_size 118 is more than the 117 training samples"):
        train(tiny(blobs, batch_size=118), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(tiny(blobs, batch_size=117, epochs=1), tmp_path / "run")


def test_too_many_validation_samples_are_refused(tmp_path: Path, blobs: Path) -> None:
    with pytest.raises(OptionError, match=r"validation = 130 .*between 0 and 129"):
        train(tiny(blobs, validation=130), tmp_path / "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is available")
def test_a_missing_device(tmp_path: Path, blobs: Path) -> None:
    with pytest.raises(OptionError, match=r"device 'cuda'.*not available on this machine"):
        train(tiny(blobs, device="cuda"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_early_stopping(tmp_path: Path, blobs: Path) -> None:
    result = train(tiny(blobs, epochs=500, patience=3), tmp_path / "run")
    rows = metrics(tmp_path / "run")
    accuracies = [float(row["validation_accuracy"]) for row in rows]
    best = accuracies.index(max(accuracies)) + 1
    assert result["best_epoch"] == best
    assert result["epochs"] == len(rows) == best + 3
    # At no earlier epoch had there been three without an improvement.
    for end in range(1, len(rows)):
        assert end - (accuracies.index(max(accuracies[:end])) + 1) < 3


@pytest.mark.parametrize(("batch_size", "epochs"), [(2, 17), (3, 26), (1, 10)])
def test_by_default_small_data_take_a_thousand_steps(
    tmp_path: Path, blobs: Path, batch_size: int, epochs: int
) -> None:
    class Started(Exception):  # noqa: N818
        pass

    class Stopping(Watcher):
        def start(self, description: str, epochs: int, steps: int, text: bool) -> None:
            raise Started(epochs, steps)

    config = tiny(blobs, epochs=None, batch_size=batch_size)
    with pytest.raises(Started) as started:
        train(config, tmp_path / "run", reporter=Stopping())
    assert started.value.args == (epochs, math.ceil(117 / batch_size))


@pytest.mark.parametrize("precision", ["64", "bf16-mixed"])
def test_precisions_train(tmp_path: Path, blobs: Path, precision: str) -> None:
    config = tiny(blobs, precision=precision, epochs=25, lr=0.01)
    result = train(config, tmp_path / "run")
    assert result["test_accuracy"] > 70
    weights = safetensors.torch.load_file(tmp_path / "run" / files.WEIGHTS)
    expected = torch.float64 if precision == "64" else torch.float32
    assert {value.dtype for value in weights.values()} == {expected}


def test_precision_64_computes_in_64(tmp_path: Path, blobs: Path) -> None:
    rows = {}
    for precision in ("32", "64", "bf16-mixed"):
        train(tiny(blobs, precision=precision, epochs=1), tmp_path / precision)
        (row,) = metrics(tmp_path / precision)
        rows[precision] = float(row["loss"])
    assert rows["32"] == pytest.approx(rows["64"], rel=1e-5)
    assert rows["32"] != rows["64"]
    assert rows["bf16-mixed"] == pytest.approx(rows["64"], rel=0.05)
    assert abs(rows["bf16-mixed"] - rows["64"]) > 10 * abs(rows["32"] - rows["64"])


def feedback_of(folder: Path) -> dict[str, torch.Tensor]:
    state = saved_state(folder)["model"]
    return {name: value for name, value in state.items() if "feedback" in name}


def test_feedback_lr_0_freezes_feedback(tmp_path: Path, blobs: Path) -> None:
    def initial(config: TrainConfig) -> dict[str, torch.Tensor]:
        torch.manual_seed(config.seed)
        network = lra.convert(build_network(config, (2, 3), 3), config.rule)
        return {n: p.detach() for n, p in network.named_parameters() if "feedback" in n}

    # AdamW scales its decay by the learning rate, so there is no decay either.
    frozen, learned = tiny(blobs, feedback_lr=0.0), tiny(blobs, share_feedback="never")
    train(frozen, tmp_path / "frozen")
    train(learned, tmp_path / "learned")
    before = initial(frozen)
    assert before.keys() == {"3.feedback", "5.feedback"}
    for name, value in feedback_of(tmp_path / "frozen").items():
        assert torch.equal(value, before[name])
    for name, value in feedback_of(tmp_path / "learned").items():
        assert not torch.equal(value, before[name])


# folders


def test_an_existing_folder_is_refused(tmp_path: Path, blobs: Path, uninterrupted: Path) -> None:
    before = {p.name: p.read_bytes() for p in uninterrupted.iterdir()}
    with pytest.raises(RunError, match=r"exists already; .*--resume .*--overwrite"):
        train(tiny(blobs), uninterrupted)
    assert {p.name: p.read_bytes() for p in uninterrupted.iterdir()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        train(tiny(blobs), tmp_path / "file")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "empty").mkdir()
    train(tiny(blobs, epochs=1), tmp_path / "below" / "empty")
    train(tiny(blobs, epochs=1), tmp_path / "new" / "deep" / "run")


def test_overwriting_replaces_a_run_and_nothing_else(tmp_path: Path, blobs: Path) -> None:
    folder = tmp_path / "run"
    train(tiny(blobs, epochs=4, seed=1), folder)
    (folder / "checkpoint.refused").write_text("bad")
    (folder / "checkpoint.new.77.tmp").write_text("half")
    (folder / "metrics.csv.77.tmp").write_text("half")
    foreign = {"notes.txt": "mine", "plan.tmp": "mine", "old.new": "mine", "sub/checkpoint": "mine"}
    (folder / "sub").mkdir()
    for name, text in foreign.items():
        (folder / name).write_text(text)
    train(tiny(blobs, epochs=2), folder, overwrite=True)
    train(tiny(blobs, epochs=2), tmp_path / "fresh")
    assert_same_run(folder, tmp_path / "fresh")
    for name, text in foreign.items():
        assert (folder / name).read_text() == text
    left = {p.name for p in folder.iterdir() if not p.name.startswith("events")}
    expected = {p.name for p in (tmp_path / "fresh").iterdir() if not p.name.startswith("events")}
    assert left == expected | {"notes.txt", "plan.tmp", "old.new", "sub"}
    assert len(read_events(folder)) == 10


def test_overwriting_refuses_other_folders(tmp_path: Path, blobs: Path) -> None:
    (tmp_path / "metrics.csv").write_text("mine")
    message = "not a run's folder; --overwrite replaces only earlier runs"
    with pytest.raises(RunError, match=message):
        train(tiny(blobs), tmp_path, overwrite=True)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("metrics.csv", "mine")]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError):
        train(tiny(blobs), tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


CONFIG_JSON = json.dumps(tiny("digits").to_config())

FOREIGN = {
    "a model of another library": {
        "config.json": '{"model_type": "gpt2"}',
        "model.safetensors": "weights",
    },
    "a configuration of the same type": {
        "config.json": '{"type": "TrainConfig", "dataset": "digits", "lr": 0.1}',
        "model.safetensors": "weights",
    },
    **{
        f"{name} of something else beside a run's configuration": {
            "config.json": CONFIG_JSON,
            name: text,
        }
        for name, text in {
            "model.safetensors": "weights",
            "checkpoint": "mine",
            "checkpoint.previous": "mine",
            "metrics.csv": "day,rain",
            "diagnose.csv": "patient,diagnosis",
            "result.json": '{"score": 3}',
            "tracker.json": "[]",
            "curves.png": "drawn",
            "diagnose.png": "drawn",
            "events.out.tfevents.1.host": "mine",
        }.items()
    },
    "no configuration": {"metrics.csv": "mine", "checkpoint": "mine"},
    "no JSON": {"config.json": "{", "result.json": "mine"},
    "another JSON": {"config.json": '["TrainConfig"]', "curves.png": "mine"},
    "a folder": {"config.json/type": "TrainConfig"},
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_no_command_replaces_files_that_are_not_a_runs(
    tmp_path: Path, blobs: Path, content: dict[str, str]
) -> None:
    folder = tmp_path / "mine"
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    comparison = Store(tmp_path / "comparison")
    shutil.copytree(folder, comparison.folder("run"))
    for command in (
        lambda: train(tiny(blobs), folder),
        lambda: train(tiny(blobs), folder, overwrite=True),
        lambda: resume(folder),
    ):
        with pytest.raises(RunError):
            command()
    with contextlib.suppress(RunError):  # a comparison takes a result as it is
        comparison.train("run", tiny(blobs), Reporter())
    for each in (folder, comparison.folder("run")):
        left = {str(p.relative_to(each)): p.read_text() for p in each.rglob("*") if p.is_file()}
        assert {name: text for name, text in left.items() if name != lock.NAME} == content


@pytest.mark.parametrize("name", ["report.md", "report.html", "runs.csv"])
def test_a_comparison_replaces_no_files_of_something_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match=f"not a comparison's folder, and its {name} would be"):
        Store(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", name}
    (tmp_path / name).unlink()
    (tmp_path / "data.npz").write_text("mine")
    Store(tmp_path)
    (tmp_path / name).write_text("a report")
    Store(tmp_path)


def test_a_run_that_was_killed_while_it_began_is_replaced(tmp_path: Path, blobs: Path) -> None:
    for name in ("config.json.77.tmp", lock.NAME):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("half")
        train(tiny(blobs, epochs=1), folder)
        assert not (folder / "config.json.77.tmp").exists()


def test_a_run_in_use_is_left_alone(tmp_path: Path, blobs: Path) -> None:
    folder = tmp_path / "run"
    train(tiny(blobs, epochs=1), folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with lock.hold(folder):
        for command in (
            lambda: resume(folder),
            lambda: train(tiny(blobs), folder),
            lambda: train(tiny(blobs), folder, overwrite=True),
        ):
            message = "run is in use: another process is training in it"
            with pytest.raises(RunError, match=message):
                command()
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
        assert trained_network.evaluate(folder).samples == 41
    resume(folder)


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path, blobs: Path) -> None:
    folder = tmp_path / "run"
    train(tiny(blobs, epochs=1), folder)
    names = {p.name for p in folder.iterdir() if not p.name.startswith("events")}
    for name in ("checkpoint.new.0a.tmp", "metrics.csv.77.tmp", "model.safetensors.1.tmp"):
        (folder / name).write_text("half")
    (folder / "notes.tmp").write_text("mine")
    resume(folder)
    left = {p.name for p in folder.iterdir() if not p.name.startswith("events")}
    assert left == names | {"notes.tmp"}


def test_a_run_that_cannot_be_replaced(
    tmp_path: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    train(tiny(blobs, epochs=1), folder)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(RunError, match=r"cannot replace the run in .*run: .*Permission denied"):
        train(tiny(blobs), folder, overwrite=True)


def test_wrong_settings_replace_nothing(tmp_path: Path, blobs: Path) -> None:
    train(tiny(blobs, epochs=1), tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(OptionError):
        train(tiny(blobs, batch_size=1000), tmp_path / "run", overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


# interrupted and resumed runs

SETTINGS: dict[str, dict[str, Any]] = {
    "lra-e, adamw": {},
    "lra-e, sgd": {"optimizer": "sgd", "momentum": 0.9, "lr": 0.1},
    "lra-e, decay": {"optimizer": "sgd", "momentum": 0.9, "lr": 0.1, "weight_decay": 0.1},
    "lra-e, rmsprop": {"optimizer": "rmsprop", "momentum": 0.5, "feedback_lr": 0.01},
    "lra-e, adam, 64": {"optimizer": "adam", "precision": "64", "validation": 0},
    "lra-e, rrelu": {"model": "mlp:hidden=7-5,activation=rrelu", "patience": 2},
    "backprop, bf16": {"rule": lra.Backprop(), "precision": "bf16-mixed"},
    "feedback alignment": {"rule": lra.FeedbackAlignment(), "optimizer": "sgd", "lr": 0.1},
    "kolen-pollack": {"rule": lra.KolenPollack()},
    "mirrored-lra": {"rule": lra.MirroredLRA(samples=100)},
    "one-cycle": {"schedule": "one-cycle", "lr": 0.01},
    "direct feedback alignment": {"rule": lra.DirectFeedbackAlignment()},
    "direct-lra": {"rule": lra.LRAE(wiring=lra.wiring.Direct())},
    "rec-lra": {"rule": lra.RecLRA()},
    "brSF": {"rule": lra.SignSymmetry(lra.feedback.Magnitude.BATCH)},
    "frSF": {
        "rule": lra.SignSymmetry(lra.feedback.Magnitude.FIXED),
        "model": "mlp:hidden=7-5,activation=prelu",
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_resumed_runs_are_bit_identical(tmp_path: Path, blobs: Path, name: str) -> None:
    config = tiny(blobs, seed=len(name), **SETTINGS[name])
    train(config, tmp_path / "whole")
    stops = sorted(random.Random(name).sample(range(1, 24), 3))
    steps = 8 if config.validation is None else 9
    train_with_stops(config, tmp_path / "run", stops, steps, seed=name)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert_events_are_the_metrics(tmp_path / "run")


def test_the_settings_cover_rules_and_optimizers() -> None:
    configs = [TrainConfig("digits", **settings) for settings in SETTINGS.values()]
    assert {config.rule.name for config in configs} == set(lra.RULES)
    assert {config.optimizer for config in configs} == {"sgd", "adam", "adamw", "rmsprop"}
    assert {config.precision for config in configs} == {"32", "64", "bf16-mixed"}


def test_saving_within_an_epoch(
    tmp_path: Path, blobs: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Save after every step, end without notice, and resume."""
    monkeypatch.setattr(loop, "CHECK_EVERY", 2)
    monkeypatch.setattr(loop, "SAVE_EVERY", -1.0)

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        train(tiny(blobs, epochs=12), tmp_path / "run", reporter=Watcher([7], die))
    state = saved_state(tmp_path / "run")["state"]
    assert (state["epoch"], state["step"]) == (1, 5)  # the sixth step was not saved yet
    resume(tmp_path / "run")
    assert_same_run(uninterrupted, tmp_path / "run")


# runs of another length


@pytest.mark.parametrize("settings", [{}, {"optimizer": "sgd", "lr": 0.1}, {"patience": 9}])
@pytest.mark.parametrize("after", [None, 5, 24])
def test_a_longer_run_equals_one_from_the_start(
    tmp_path: Path, blobs: Path, settings: dict[str, Any], after: int | None
) -> None:
    """Lengthened when it had ended, when it was interrupted, and twice."""
    train(tiny(blobs, epochs=6, **settings), tmp_path / "whole")
    reporter = Watcher() if after is None else interrupt_at(after)
    with contextlib.suppress(Interrupted), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECK_EVERY", 1)
        train(tiny(blobs, epochs=3, **settings), tmp_path / "run", reporter=reporter)
    resume(tmp_path / "run", epochs=4)
    assert resume(tmp_path / "run", epochs=6)["epochs"] == 6
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert files.read_config(tmp_path / "run") == files.read_config(tmp_path / "whole")
    assert_events_are_the_metrics(tmp_path / "run")


def test_a_shorter_run_equals_one_from_the_start(tmp_path: Path, blobs: Path) -> None:
    train(tiny(blobs, epochs=2), tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tiny(blobs, epochs=5), tmp_path / "run", reporter=interrupt_at(2))
    resume(tmp_path / "run", epochs=2)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_an_altered_number_of_epochs_is_refused(tmp_path: Path, blobs: Path) -> None:
    train(tiny(blobs), tmp_path / "run")
    path = tmp_path / "run" / files.CONFIG
    path.write_text(path.read_text().replace('"epochs": 3', '"epochs": 30000'))
    with pytest.raises(RunError, match=r"another configuration \(epochs: 3 there, 30000 here\)"):
        resume(tmp_path / "run")


def test_lengthening_that_ends_between_its_writes_loses_nothing(
    tmp_path: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    for name, epochs in (("again", 5), ("as it was", None)):
        run = tmp_path / name
        train(tiny(blobs, epochs=2), run)
        with monkeypatch.context() as patch:
            patch.setattr(files, "change", die)
            with pytest.raises(Killed):
                resume(run, epochs=5)
        resume(run, epochs=epochs)
        train(tiny(blobs, epochs=epochs or 2), tmp_path / f"{name}, whole")
        weights = [each / files.WEIGHTS for each in (run, tmp_path / f"{name}, whole")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        assert not differences(metrics(run), metrics(tmp_path / f"{name}, whole"))


def test_lengthening_loses_nothing_when_killed(tmp_path: Path, blobs: Path) -> None:
    """The configuration is written first, then the checkpoint of the next epoch."""
    train(tiny(blobs, epochs=5), tmp_path / "whole")
    train(tiny(blobs, epochs=2), tmp_path / "run")

    class Killed(BaseException):
        pass

    class Killing(Reporter):
        def start(self, description: str, epochs: int, steps: int, text: bool) -> None:
            raise Killed

    with pytest.raises(Killed):
        resume(tmp_path / "run", epochs=5, reporter=Killing())
    assert not (tmp_path / "run" / files.RESULT).exists()
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosine"}, "its learning rate follows the schedule cosine over all epochs"),
        ({"schedule": "one-cycle"}, "its learning rate follows the schedule one-cycle"),
        ({"warmup": 0.1}, "its learning rate rises over a share of all epochs"),
        ({"compile": "auto"}, "compile is auto"),
    ],
)
def test_runs_that_depend_on_their_length_are_not_lengthened(
    tmp_path: Path, blobs: Path, settings: dict[str, Any], message: str
) -> None:
    train(tiny(blobs, epochs=1, **settings), tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(OptionError, match=rf"epochs cannot be changed .*{message}.*start a new"):
        resume(tmp_path / "run", epochs=3)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    config = (tmp_path / "run" / files.CONFIG).read_text()
    (tmp_path / "run" / files.CONFIG).write_text(config.replace('"epochs": 1', '"epochs": 3'))
    with pytest.raises(RunError, match=r"another configuration \(epochs: 1 there, 3 here\)"):
        resume(tmp_path / "run")


def test_a_run_cannot_be_shorter_than_it_is(tmp_path: Path, blobs: Path) -> None:
    train(tiny(blobs, epochs=3), tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(OptionError, match="epochs must be 3 or more, since the run is in epoch 3"):
        resume(tmp_path / "run", epochs=2)
    with pytest.raises(OptionError, match="epochs must be a whole number, 1 or more; got 0"):
        resume(tmp_path / "run", epochs=0)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


# threads


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Threads(Reporter):
    """Records torch's number of threads in each epoch."""

    def __init__(self) -> None:
        self.used: set[int] = set()

    def step(self, step: int, loss_sum: float, correct: int, seen: int) -> None:
        self.used.add(torch.get_num_threads())


@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        ({}, 1),
        ({"model": "mlp:hidden=2000-2000", "batch_size": 100}, 2),
        ({"threads": 3}, 3),
        ({"model": "mlp:hidden=2000-2000", "batch_size": 100, "threads": 1}, 1),
    ],
)
def test_threads(
    tmp_path: Path, blobs: Path, two_threads: None, settings: dict[str, Any], threads: int
) -> None:
    """One for a small network, else torch's number, unless it is set. It is restored."""
    watcher = Threads()
    config = tiny(blobs, epochs=2, **{"threads": None} | settings)
    result = train(config, tmp_path / "run", reporter=watcher)
    assert watcher.used == {threads}
    assert result["threads"] == files.read_config(tmp_path / "run").threads == threads
    assert json.loads((tmp_path / "run" / files.RESULT).read_text())["threads"] == threads
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("recorded", [1, 3])
def test_a_resumed_run_has_its_own_threads(
    tmp_path: Path, blobs: Path, two_threads: None, recorded: int
) -> None:
    with pytest.raises(Interrupted):
        train(tiny(blobs, threads=recorded), tmp_path / "run", reporter=interrupt_at(2))
    assert torch.get_num_threads() == 2
    watcher = Threads()
    resume(tmp_path / "run", reporter=watcher)
    assert watcher.used == {recorded}
    assert torch.get_num_threads() == 2


def test_work_is_counted_by_hand() -> None:
    """Two operations per weight and position, for each kind of layer."""
    few = torch.zeros(2, 1, 6, 6)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 7), nn.Tanh(), nn.Linear(7, 3))
    assert work_per_matrix(linear, few, 50) == 50 * 2 * (36 * 7 + 7 * 3) / 2
    convolution = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
    before = {name: value.clone() for name, value in convolution.state_dict().items()}
    assert work_per_matrix(convolution, few, 8) == 8 * 2 * 16 * 9 * 5
    assert all(torch.equal(v, before[name]) for name, v in convolution.state_dict().items())
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    counted = 2 * 6 * (3 * 8 * 8 + 8 * 8 + 2 * 8 * 16)
    assert work_per_matrix(block, torch.zeros(2, 6, 8), 10) == 10 * counted / 4


def test_a_line_of_progress_where_there_is_no_terminal(
    tmp_path: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REPORT_EVERY", -1.0)
    monkeypatch.setattr(display, "LINE_EVERY", 0.0)
    output = io.StringIO()
    reporter = display.ConsoleReporter(Console(file=output))
    train(tiny(blobs, epochs=2), tmp_path / "run", reporter=reporter)
    lines = re.findall(
        r"^  (\d)/2 +\d\.\d{4}   step (\d) of 8, 0:00:\d\d$", output.getvalue(), re.M
    )
    assert lines == [(str(epoch), str(step)) for epoch in (1, 2) for step in range(1, 9)]


def test_the_signal_handlers_are_restored(tmp_path: Path, blobs: Path) -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted) as stopped:
        train(tiny(blobs), tmp_path / "run", reporter=interrupt_at(1, number=signal.SIGTERM))
    assert stopped.value.signal == signal.SIGTERM
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    train(tiny(blobs, epochs=1), tmp_path / "other")
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_signal_ends_at_once(tmp_path: Path, blobs: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tiny(blobs), tmp_path / "run", reporter=Watcher([1], twice))


def test_a_finished_run_is_not_changed(tmp_path: Path, blobs: Path) -> None:
    result = train(tiny(blobs), tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    again = resume(tmp_path / "run")
    assert not differences(again, result)
    for name in (checkpoint.NAME, files.WEIGHTS, files.METRICS, files.CONFIG):
        assert (tmp_path / "run" / name).read_bytes() == before[name]
    assert_events_are_the_metrics(tmp_path / "run")


def test_an_altered_configuration_is_refused(tmp_path: Path, blobs: Path) -> None:
    train(tiny(blobs, epochs=1), tmp_path / "run")
    path = tmp_path / "run" / files.CONFIG
    path.write_text(path.read_text().replace('"lr": 0.001', '"lr": 0.002'))
    with pytest.raises(RunError, match=r"another configuration \(lr: 0.001 there, 0.002 here\)"):
        resume(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a run's folder"),
        ("{", "not valid JSON"),
        ("{}", "'type'"),
        ("[]", "'type'"),
        ('{"type": "TrainConfig"}', "dataset"),
        ('{"type": "TrainConfig", "dataset": "digits", "epocs": 1}', "'epocs'"),
    ],
)
def test_folders_without_a_valid_configuration(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / files.CONFIG).write_text(content)
    with pytest.raises(RunError, match=message) as error:
        resume(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_run_that_ended_before_its_first_checkpoint(
    tmp_path: Path, blobs: Path, uninterrupted: Path
) -> None:
    begin(tmp_path / "run", tiny(blobs, epochs=12))
    resume(tmp_path / "run")
    assert_same_run(uninterrupted, tmp_path / "run")


def test_a_run_without_its_checkpoints_is_not_restarted(tmp_path: Path, blobs: Path) -> None:
    train(tiny(blobs), tmp_path / "run")
    for name in (checkpoint.NAME, checkpoint.PREVIOUS):
        (tmp_path / "run" / name).unlink()
    weights = (tmp_path / "run" / files.WEIGHTS).read_bytes()
    with pytest.raises(RunError, match="no checkpoint to resume from"):
        resume(tmp_path / "run")
    assert (tmp_path / "run" / files.WEIGHTS).read_bytes() == weights


# invalid checkpoints


@pytest.mark.parametrize("kind", ["truncated", "another configuration", "runs code"])
def test_invalid_checkpoints_are_skipped(
    tmp_path: Path, blobs: Path, uninterrupted: Path, kind: str
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(tiny(blobs, epochs=12), run, reporter=interrupt_at(4))
    path = run / checkpoint.NAME
    match kind:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "another configuration":
            state = saved_state(run) | {"config": tiny("digits").to_config()}
            path.write_bytes(checkpoint_bytes(state))
        case _:
            code = functools.partial(os.mkdir, tmp_path / "ran")
            path.write_bytes(checkpoint_bytes({"config": code}))
    watcher = Watcher()
    resume(run, reporter=watcher)
    (note,) = watcher.notes()
    assert note.startswith(f"skipped: {path}: ")
    assert (run / "checkpoint.refused").exists()
    assert not (tmp_path / "ran").exists()
    assert_same_run(uninterrupted, run)


# full disks


def count_writes(config: TrainConfig, folder: Path) -> int:
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        flush = os.fsync
        patch.setattr(os, "fsync", lambda handle: (calls.append(handle), flush(handle))[1])
        train(config, folder)
    return len(calls)


@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path: Path, blobs: Path) -> None:
    """Fill the disk at each flush in turn, then make room and continue the run."""
    config = tiny(blobs, epochs=1)
    total = count_writes(config, tmp_path / "whole")
    assert total > 12
    flush = os.fsync
    for first in range(1, total):  # the last flush closes the log, which has been flushed before
        calls = []

        def fail(handle: int, first: int = first, calls: list[int] = calls) -> None:
            calls.append(handle)
            if len(calls) >= first:
                raise OSError(errno.ENOSPC, "No space left on device")
            flush(handle)

        folder = tmp_path / f"run{first}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(RunError, match=r"cannot write .*: the disk is full"):
                train(config, folder)
        if (folder / files.CONFIG).exists():
            resume(folder)
            assert_same_run(tmp_path / "whole", folder)
        else:
            assert first == 1
            train(config, folder)


def test_a_full_disk_in_a_process(tmp_path: Path, blobs: Path, uninterrupted: Path) -> None:
    """The operating system limits files to 4,000 bytes."""
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(tiny(blobs, epochs=12), run, reporter=interrupt_at(2))
    size = (run / checkpoint.NAME).stat().st_size
    assert size > 8000
    child = fork_lra(["train", "--resume", run], tmp_path / "output", file_limit=4000)
    child.join(PATIENCE)
    assert child.exitcode == 1
    output = (tmp_path / "output").read_text()
    assert "lra: cannot write" in output
    assert "Traceback" not in output
    resume(run)
    assert_same_run(uninterrupted, run)


# non-finite losses and weights


class Poison(Watcher):
    """Sets one weight of a layer to a value at a call of `step`."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, layer: int, value: float) -> None:
        super().__init__([at], self.poison)
        self.layer, self.value = layer, value
        original = session.build_network

        def build(*arguments: Any) -> nn.Sequential:
            self.network = original(*arguments)
            return self.network

        patch.setattr(session, "build_network", build)

    def poison(self) -> None:
        with torch.no_grad():
            self.network[self.layer].weight[0, 0] = self.value


@pytest.mark.parametrize(
    ("every", "at", "value", "location"),
    [
        (1, 1, math.nan, "epoch 1, step 2"),
        (1, 10, math.nan, "epoch 2, step 3"),
        (1, 21, math.nan, "epoch 3, step 6"),
        (3, 4, math.nan, "epoch 2, step 4"),  # checked after steps 3, 6 and 8
    ],
)
def test_a_nonfinite_loss_is_located(
    tmp_path: Path,
    blobs: Path,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    at: int,
    value: float,
    location: str,
) -> None:
    monkeypatch.setattr(loop, "CHECK_EVERY", every)
    poison = Poison(monkeypatch, at, 3, value)
    message = rf"the loss became (nan|inf) in {location}, in lay"
    with pytest.raises(RunError, match=message) as error:
        train(tiny(blobs), tmp_path / "run", reporter=poison)
    assert re.search(r"in layer \d \(Linear\): its (weight|bias) is no longer f", str(error.value))
    assert "smaller --lr" in str(error.value)
    path, epoch = tmp_path / "run" / checkpoint.NAME, int(location[6]) - 1
    assert path.exists() is (epoch > 0)
    if epoch == 0:
        assert "good checkpoint" not in str(error.value)
        return
    assert f"The last good checkpoint is {path}" in str(error.value)
    state = saved_state(tmp_path / "run")
    assert state["state"]["epoch"] == epoch
    assert all(bool(value.isfinite().all()) for value in state["model"].values())
    monkeypatch.undo()
    resume(tmp_path / "run")
    train(tiny(blobs), tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    ("layer", "kind", "value", "what"),
    [
        (1, "bias", math.nan, r"layer 1 \(Linear\): its bias"),
        (3, "weight", math.inf, r"layer 3 \(Linear\): its weight"),
        (3, "feedback", math.nan, r"layer 3 \(Linear\): its feedback"),
        (5, "weight", 3e38, r"layer 5 \(Linear\): its output"),
    ],
)
def test_the_first_nonfinite_layer_is_located(
    layer: int, kind: str, value: float, what: str
) -> None:
    network = lra.convert(build_network(tiny("digits"), (2, 3), 3), lra.LRAE())
    with torch.no_grad():
        getattr(network[layer], kind)[0] = value
        network[3].bias.fill_(5.0)
    assert re.match(
        rf"in {what} is no longer finite", locate_nonfinite(network, torch.ones(4, 2, 3))
    )


def test_a_finite_network() -> None:
    message = locate_nonfinite(build_network(tiny("digits"), (2, 3), 3), torch.ones(4, 2, 3))
    assert re.fullmatch(
        r"in layer 5 \(Linear\): its outputs, up to .* too large for the loss", message
    )


def test_nonfinite_weights_are_not_saved(
    tmp_path: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the last step of an epoch is finite, but the weights after it are not."""
    message = r"weights stopped being finite by epoch 2, step 8, in 3\.weight"
    poison = Poison(monkeypatch, 2, 3, math.nan)
    with pytest.raises(RunError, match=message) as error:
        train(tiny(blobs), tmp_path / "run", reporter=poison)
    assert "The last good checkpoint is" in str(error.value)
    state = saved_state(tmp_path / "run")
    assert state["state"]["epoch"] == 1
    assert all(bool(value.isfinite().all()) for value in state["model"].values())


def test_a_learning_rate_that_is_far_too_large(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "train digits --optimizer sgd --lr 1e6 --weight-decay 0.01 --model mlp:hidden=64-64 --out"
    )
    with pytest.raises(SystemExit) as stop:
        main.main([*words.split(), str(tmp_path / "run")])
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert "lra: the loss became" in message
    assert "epoch 1, step " in message
    assert re.search(r"in layer \d \(Linear\): its (weight|outputs?)", message)
    assert not (tmp_path / "run" / files.WEIGHTS).exists()


# processes


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data for epochs of 180 steps."""
    return write_blobs(tmp_path_factory.mktemp("data") / "many.npz", n=1600)


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory, many: Path) -> tuple[Path, float]:
    """The folder of an uninterrupted run of 24 such epochs, and its duration."""
    folder = tmp_path_factory.mktemp("runs") / "long"
    began = time.monotonic()
    train(tiny(many, epochs=24, batch_size=8, model="mlp:hidden=40-40"), folder)
    return folder, time.monotonic() - began


LONG = [
    "--model",
    "mlp:hidden=40-40",
    "--epochs",
    "24",
    "--batch-size",
    "8",
    "--device",
    "cpu",
    "--out",
    "run",
]


@pytest.mark.slow
def test_killed_at_any_moment(
    tmp_path: Path, many: Path, long_run: tuple[Path, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill before the first checkpoint, then six times at random moments; resume each time."""
    monkeypatch.chdir(tmp_path)
    whole, duration = long_run
    run, draw = tmp_path / "run", random.Random(0)
    words: list[object] = ["train", many, *LONG]
    epochs = [0]
    for kill in range(7):
        child = fork_lra(words, tmp_path / "output")

        def begun(kill: int = kill) -> bool:
            if kill == 0:
                return (run / files.CONFIG).exists()
            return (run / checkpoint.NAME).exists() and len(metrics(run)) > epochs[-1]

        assert wait_for(begun, child.is_alive), (tmp_path / "output").read_text()
        if kill:
            time.sleep(draw.uniform(0, duration / 20))
        child.kill()
        child.join(PATIENCE)
        assert child.exitcode == -signal.SIGKILL
        if (run / files.METRICS).exists():
            epochs.append(len(metrics(run)))
        words = ["train", "--resume", run]
    assert not (run / files.RESULT).exists()
    assert sorted(epochs) == epochs
    assert 6 <= epochs[-1] < 24
    resume(run)
    assert_same_run(whole, run)
    assert_events_are_the_metrics(run)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_by_a_signal(
    tmp_path: Path, many: Path, long_run: tuple[Path, float], number: int, code: int
) -> None:
    """A complete command ends cleanly, with its exit code and plain lines; then resume it."""
    process = start_lra("train", many, *LONG, cwd=tmp_path)
    ready = functools.partial(Path.exists, tmp_path / "run" / files.WEIGHTS)
    assert wait_for(ready, lambda: process.poll() is None), process.communicate()
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert err == "lra: stopped; continue with: lra train --resume run\n"
    lines = out.splitlines()
    assert lines[0].startswith("lra-e on many.npz")
    assert lines[2].startswith("  1/24 ")
    assert all(c == "\n" or c.isprintable() for c in out)
    state = saved_state(tmp_path / "run")["state"]
    assert 1 <= state["epoch"] < 24
    resume(tmp_path / "run")
    assert_same_run(long_run[0], tmp_path / "run")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """The last batch has one sample, so the second process gets none."""
    path = write_blobs(tmp_path / "odd.npz", n=49 + 9)
    config = tiny(path, epochs=4, precision="64", validation=9, patience=4, lr=0.01)
    words = "--model mlp:hidden=7-5 --epochs 4 --batch-size 16 --precision 64 --validation 9"
    words += " --patience 4 --lr 0.01 --device cpu --devices 2 --out two"
    process = start_lra("train", path, *words.split(), cwd=tmp_path)
    train(config, tmp_path / "one")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert out.count("  1/4 ") == 1, out
    one, two = (saved_state(tmp_path / name) for name in ("one", "two"))
    assert one["model"].keys() == two["model"].keys()
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-9, atol=1e-12)
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-9)
        assert a["train_accuracy"] == b["train_accuracy"]
        assert a["validation_accuracy"] == b["validation_accuracy"]
    # The files of a run with two processes are the usual ones.
    best = safetensors.torch.load_file(tmp_path / "two" / files.WEIGHTS)
    assert set(best) == {f"{i}.{kind}" for i in (1, 3, 5) for kind in ("weight", "bias")}
    assert trained_network.evaluate(tmp_path / "two").samples == 41


@pytest.mark.slow
def test_processes_of_a_run_exit_at_once(tmp_path: Path) -> None:
    """They skip exit handlers, where torch may abort or deadlock."""
    path = write_blobs(tmp_path / "few.npz")
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, pathlib, os\n"
        "from lra.lab.cli import main\n"
        "atexit.register(lambda: pathlib.Path(f'late-{os.getpid()}').touch())\n"
        "main.main()\n"
    )
    words = ["--model", "mlp:hidden=7", "--epochs", "1", "--device", "cpu", "--devices", "2"]
    command = [sys.executable, script, "train", path, *words, "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "1/1" in done.stdout
    assert (tmp_path / "run" / files.RESULT).exists()
    assert not list(tmp_path.glob("late-*"))


@pytest.mark.slow
def test_two_processes_stop_together_and_resume(tmp_path: Path) -> None:
    """A signal to one process ends both, with one message; then results equal one process's."""
    path = write_blobs(tmp_path / "many.npz", n=1600)
    train(tiny(path, epochs=9, precision="64", lr=0.01), tmp_path / "one")
    words = (
        "--model mlp:hidden=7-5 --epochs 9 --batch-size 16 --precision 64 --lr 0.01 --device cpu"
    )
    process = start_lra("train", path, *words.split(), "--devices", 2, "--out", "two", cwd=tmp_path)
    ready = functools.partial(Path.exists, tmp_path / "two" / files.WEIGHTS)
    assert wait_for(ready, lambda: process.poll() is None), process.communicate()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert err == "lra: stopped; continue with: lra train --resume two\n"
    assert 1 <= saved_state(tmp_path / "two")["state"]["epoch"] < 9
    process = start_lra("train", "--resume", "two", cwd=tmp_path)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    one, two = (saved_state(tmp_path / name) for name in ("one", "two"))
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-8, atol=1e-11)
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-8)


# learning


@pytest.mark.slow
def test_digits_are_learned_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["train", "digits", "--device", "cpu", "--out", str(tmp_path / "run")])
    result = json.loads((tmp_path / "run" / files.RESULT).read_text())
    assert result["test_accuracy"] > 94
    assert f"test accuracy {result['test_accuracy']:.2f}%" in capsys.readouterr().out


@pytest.mark.parametrize("rule", lra.RULES)
def test_every_rule_learns(tmp_path: Path, rule: str) -> None:
    config = TrainConfig(
        "digits",
        lra.named(rule),
        model="mlp:hidden=64-64",
        epochs=8,
        lr=3e-3,
        validation=0,
        device="cpu",
    )
    floor = {"sign-symmetry": 90, "feedback-alignment": 80, "kolen-pollack": 85}.get(rule, 92)
    assert train(config, tmp_path / "run")["test_accuracy"] > floor


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_adaptive_optimizers_learn_digits(tmp_path: Path, optimizer: str) -> None:
    """Their default weight decay is 0: decay divided by the gradient's size would stop learning."""
    settings: dict[str, Any] = {
        "model": "mlp:hidden=64-64",
        "epochs": 8,
        "lr": 3e-3,
        "device": "cpu",
    }
    config = TrainConfig("digits", optimizer=optimizer, **settings)
    assert train(config, tmp_path / "run")["test_accuracy"] > 92


def test_without_feedback_only_the_last_layer_learns(tmp_path: Path) -> None:
    """A baseline: hidden layers that receive almost no errors stay at their initial weights."""
    settings: dict[str, Any] = {
        "model": "mlp:hidden=16-16,bias=false",
        "epochs": 8,
        "validation": 0,
        "device": "cpu",
    }
    settings |= {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0}
    accuracies = []
    for name, init, rate in (
        ("without", lra.inits.Normal(1e-9), 0.0),
        ("with", lra.inits.FanIn(), None),
    ):
        rule = lra.LRAE(beta=1.0, init=init)
        config = TrainConfig("digits", rule, feedback_lr=rate, **settings)
        accuracies.append(train(config, tmp_path / name)["test_accuracy"])
        torch.manual_seed(0)
        drawn = build_network(config, (8, 8), 10)
        state = saved_state(tmp_path / name)["model"]
        moved = {i: (state[f"{i}.weight"] - drawn[i].weight).abs().max().item() for i in (1, 3, 5)}
        assert moved[5] > 0.1
        if name == "without":
            assert max(moved[1], moved[3]) < 1e-6
        else:
            assert min(moved[1], moved[3]) > 0.05
    assert accuracies[0] + 5 < accuracies[1]
