"""Runs with each network: bit-identical when resumed, and the same in two processes as in one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from workbench import (
    PATIENCE,
    assert_same_run,
    metrics,
    saved_state,
    start_lra,
    tiny,
    train_with_stops,
)

import lra
from lra.lab.runs import trained_network
from lra.lab.settings.config import TrainConfig
from lra.lab.training.batches import Batches
from lra.lab.training.loop import train


def write_images(path: Path, n: int = 53) -> Path:
    """Write an .npz of images (3, 9, 8) of three classes: 48 to train on, 5 for validation."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3, 9, 8)).astype(np.float32)
    y = np.arange(n) % 3
    for label in range(3):
        x[y == label, label] += 1
    np.savez(path, x=x, y=y, x_test=x[:9], y_test=y[:9])
    return path


def write_text(path: Path) -> Path:
    """Write a text with 31 windows of 12 in its first nine tenths, 28 of them to train on."""
    path.write_text("the cat sat on a mat; " * 19, encoding="utf-8")
    return path


AUGMENTED: dict[str, Any] = {"augment": ("flip", "crop"), "schedule": "one-cycle", "lr": 0.01}
SETTINGS: dict[str, dict[str, Any]] = {
    "resnet": {"model": "resnet:width=4", "rule": lra.MirroredLRA(samples=50), **AUGMENTED},
    "lenet": {"model": "lenet", "schedule": "cosine", "warmup": 0.1},
    "vit": {"model": "vit:width=8,depth=1,patch=4", **AUGMENTED},
    "gpt": {"model": "gpt:width=8,depth=1,context=12", "batch_size": 4},
    "binary": {"model": "mlp:hidden=7-5,activation=bernoulli", "rule": lra.MirroredLRA(samples=50)},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_resumed_runs_are_bit_identical(tmp_path: Path, name: str) -> None:
    """Stop within an epoch and at the end of one."""
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8} | SETTINGS[name]
    text = name == "gpt"
    path = write_text(tmp_path / "t.txt") if text else write_images(tmp_path / "i.npz")
    config = tiny(path, **settings)
    result = train(config, tmp_path / "whole")
    steps = 7 if text else 6
    train_with_stops(config, tmp_path / "run", [2, steps, steps + 3], steps, seed=name)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert result["epochs"] == 2


def test_augmentation_differs_between_epochs_and_steps() -> None:
    """All samples are the same image, so their order does not matter."""
    image = torch.arange(64.0).reshape(8, 8)
    pair = image.expand(16, 8, 8), torch.zeros(16, dtype=torch.long)
    batches = Batches(pair, TrainConfig("d", augment=("crop",), batch_size=8), 1, 0)
    first, again, other = ([b.x for b in batches.epoch(epoch, 0)] for epoch in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], pair[0][:8])


@pytest.mark.parametrize("augment", [(), ("flip", "crop")])
def test_processes_share_the_batches_of_one(augment: tuple[str, ...]) -> None:
    """The parts are bit-identical, from any step on. The last batch has one sample."""
    x, y = torch.randn(9, 3, 8, 8), torch.arange(9)
    config = TrainConfig("d", augment=augment, batch_size=4, seed=3)
    whole = list(Batches((x, y), config, 1, 0).epoch(2, 0))
    shares = [list(Batches((x, y), config, 2, rank).epoch(2, 1)) for rank in (0, 1)]
    assert [len(share) for share in shares] == [2, 2]
    assert [len(batch.y) for batch in whole] == [4, 4, 1]
    for batch, *parts in zip(whole[1:], *shares, strict=True):
        counted = [part for part in parts if part.counts]
        assert len(counted) == min(2, batch.size)
        for rank, part in enumerate(counted):
            assert torch.equal(part.x, batch.x[rank::2])
            assert torch.equal(part.y, batch.y[rank::2])
        assert {(p.size, p.predictions) for p in parts} == {(batch.size, batch.predictions)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "gpt"])
def test_two_processes_equal_one(tmp_path: Path, name: str) -> None:
    """With augmented images, and with text, whose loss is a mean over characters."""
    path = write_text(tmp_path / "t.txt") if name == "gpt" else write_images(tmp_path / "i.npz")
    settings: dict[str, Any] = {"precision": "64", "epochs": 2, "batch_size": 5, "lr": 0.01}
    words = f"--model {SETTINGS[name]['model']} --precision 64 --epochs 2 --batch-size 5 --lr 0.01"
    if name == "vit":
        words += " --augment flip crop --schedule one-cycle"
    train(tiny(path, **SETTINGS[name] | settings), tmp_path / "one")
    process = start_lra(
        *("train", path, *words.split(), "--device", "cpu", "--devices", 2, "--out", "two"),
        cwd=tmp_path,
    )
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    one, two = (saved_state(tmp_path / folder)["model"] for folder in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-7, atol=1e-9)
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-8)
        assert a["train_accuracy"] == b["train_accuracy"]
    assert trained_network.evaluate(tmp_path / "two").samples > 0


@pytest.mark.slow
def test_batch_norm_in_two_processes(tmp_path: Path) -> None:
    """Each process uses the statistics of its part. The last batch has one sample."""
    path = write_images(tmp_path / "i.npz", n=47 + 9)
    words = "--model resnet:width=4 --lr 0.01 --epochs 2 --batch-size 23 --validation 9"
    process = start_lra(
        *("train", path, *words.split(), "--device", "cpu", "--devices", 2, "--out", "two"),
        cwd=tmp_path,
    )
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    state = saved_state(tmp_path / "two")["model"]
    assert all(bool(value.isfinite().all()) for value in state.values())
    means = [value for name, value in state.items() if name.endswith("running_mean")]
    assert len(means) == 7
    assert all(mean.abs().sum() > 0 for mean in means)
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    evaluation = trained_network.evaluate(tmp_path / "two")
    assert (evaluation.accuracy, evaluation.loss) == (result["test_accuracy"], result["test_loss"])
