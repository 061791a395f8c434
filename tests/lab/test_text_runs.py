"""Runs on text: losses per character, compared with those of the saved weights, and output."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from matplotlib.image import imread
from workbench import metrics, saved_state, saved_weight, tiny

import lra
from lra.lab import data
from lra.lab.cli import main
from lra.lab.networks.build import build_network
from lra.lab.runs import files, trained_network
from lra.lab.runs.measure import Metrics, measure
from lra.lab.runs.state import State
from lra.lab.training.loop import train

MODEL = "gpt:width=8,depth=1,context=12"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a finished run on it."""
    home = tmp_path_factory.mktemp("home")
    (home / "cats.txt").write_text("the cat sat on a mat; " * 40)
    train(tiny(home / "cats.txt", model=MODEL, lr=0.03, epochs=5), home / "run")
    return home


def by_hand(
    network: torch.nn.Module, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]
) -> tuple[float, float]:
    """Compute mean loss and accuracy over all characters, one window at a time."""
    losses, correct = [], []
    for window, target in zip(x, y, strict=True):
        with torch.no_grad():
            logits = network(torch.from_numpy(window)[None])[0].double().numpy()
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        losses += list(-log_p[np.arange(len(target)), target])
        correct += list(log_p.argmax(1) == target)
    return float(np.mean(losses)), 100 * float(np.mean(correct))


def best_network(folder: Path, classes: int) -> torch.nn.Module:
    network = build_network(files.read_config(folder), (12,), classes)
    network.load_state_dict(safetensors.torch.load_file(folder / files.WEIGHTS))
    return network


def test_losses_are_per_character(home: Path) -> None:
    """Check validation and test losses of the best weights, in the result and by `evaluate`."""
    arrays = data.load(str(home / "cats.txt"), context=12)
    network = best_network(home / "run", arrays.num_classes)
    result = json.loads((home / "run" / files.RESULT).read_text())
    loss, accuracy = by_hand(network, arrays.x_test, arrays.y_test)
    assert result["test_loss"] == pytest.approx(loss, rel=1e-5)
    assert result["test_samples"] == arrays.y_test.size
    assert result["test_accuracy"] == pytest.approx(accuracy)
    count = len(arrays.x_train) // 10
    _, chosen = data.split(arrays, count, 0)
    loss, accuracy = by_hand(network, arrays.x_train[chosen], arrays.y_train[chosen])
    assert result["validation_loss"] == pytest.approx(loss, rel=1e-5)
    assert result["validation_accuracy"] == pytest.approx(accuracy)
    rows = metrics(home / "run")
    losses = [float(row["validation_loss"]) for row in rows]
    assert result["best_epoch"] == 1 + losses.index(min(losses))
    assert float(rows[-1]["train_accuracy"]) > 30
    evaluation = trained_network.evaluate(home / "run")
    assert (evaluation.loss, evaluation.accuracy) == (result["test_loss"], result["test_accuracy"])
    counts = evaluation.samples, evaluation.predictions
    assert counts == (len(arrays.x_test), arrays.x_test.size)
    assert evaluation.per_class == {}


@pytest.mark.parametrize("n", [1, 3, 7])
def test_measuring_in_chunks(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Chunks of n windows, the last one smaller for n = 3."""
    config = tiny("x.txt", model=MODEL)
    network = build_network(config, (12,), 9)
    x, y = torch.randint(0, 9, (7, 12)), torch.randint(0, 9, (7, 12))
    monkeypatch.setattr("lra.lab.runs.measure.CHUNK_SIZE", n * 12)
    sizes: list[int] = []
    hook = network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    measured = measure(network, x, y)
    hook.remove()
    assert (sum(sizes), max(sizes)) == (7, n)
    loss, accuracy = by_hand(network, x.numpy(), y.numpy())
    assert measured.loss == pytest.approx(loss, rel=1e-5)
    assert measured.accuracy == pytest.approx(accuracy)


def test_one_step_counts_every_character(tmp_path: Path, home: Path) -> None:
    """Like the loss, the rule's N counts all characters of the batch: one SGD step by hand."""
    settings = {"optimizer": "sgd", "lr": 0.5, "precision": "64", "validation": 0, "epochs": 1}
    arrays = data.load(str(home / "cats.txt"), context=12)
    n = len(arrays.x_train)
    config = tiny(home / "cats.txt", model=MODEL, **settings, batch_size=n, rule=lra.LRAE(0.3))
    train(config, tmp_path / "run")
    torch.manual_seed(0)
    network = build_network(config, (12,), arrays.num_classes)
    lra.convert(network, lra.LRAE(0.3), loss_terms=n * 12).double()
    logits = network(torch.from_numpy(arrays.x_train)).flatten(0, 1)
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    loss = -log_p[torch.arange(n * 12), torch.from_numpy(arrays.y_train).flatten()].mean()
    (row,) = metrics(tmp_path / "run")
    assert float(row["loss"]) == pytest.approx(loss.item(), rel=1e-9)
    loss.backward()
    state = saved_state(tmp_path / "run")["model"]
    for name, p in network.named_parameters():
        torch.testing.assert_close(saved_weight(state, name), (p - 0.5 * p.grad).detach())


def test_the_best_epoch_of_text_has_the_lowest_loss() -> None:
    """For other data it has the best accuracy; without validation samples it is the last."""
    epochs = [Metrics(2.0, 50.0), Metrics(1.0, 40.0), Metrics(1.5, 60.0), Metrics(1.0, 60.0)]
    for text, best_epochs in ((True, [1, 2, 2, 2]), (False, [1, 1, 3, 3])):
        state = State()
        for measured, best in zip(epochs, best_epochs, strict=True):
            before = state.best_epoch
            assert state.close_epoch(10, measured, text) is (best != before)
            assert state.best_epoch == best
        assert state.best("validation_loss") == epochs[best_epochs[-1] - 1].loss
    state = State()
    assert [state.close_epoch(10, None, True) for _ in range(3)] == [True] * 3
    assert state.best_epoch == 3


def test_evaluate_on_another_text(home: Path, tmp_path: Path) -> None:
    """Its characters have other indices, and some are not in the network's vocabulary."""
    text = "a cat that sat; on the moon: " * 30
    (tmp_path / "moon.txt").write_text(text)
    classes = data.load(str(home / "cats.txt"), context=12).classes
    cut = len(text) - len(text) // 10
    test = [classes.index(c) if c in classes else len(classes) - 1 for c in text[cut:]]
    n = (len(test) - 1) // 12
    x, y = (np.array(test[i : i + n * 12]).reshape(n, 12) for i in (0, 1))
    loss, accuracy = by_hand(best_network(home / "run", len(classes)), x, y)
    evaluation = trained_network.evaluate(home / "run", str(tmp_path / "moon.txt"))
    assert evaluation.loss == pytest.approx(loss, rel=1e-5)
    assert evaluation.accuracy == pytest.approx(accuracy)
    assert len(classes) - 1 in y  # "m" and ":" are unknown


def test_printed_lines(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"--model {MODEL} --epochs 2 --batch-size 16 --device cpu"
    run = tmp_path / "run"
    main.main(["train", str(home / "cats.txt"), *words.split(), "--out", str(run)])
    lines = capsys.readouterr().out.splitlines()
    assert "gpt, width 8, depth 1, context 12, gelu; " in lines[0]
    assert lines[1].split() == [
        *("epoch", "loss", "train", "%", "validation", "loss", "characters/s")
    ]
    rows = metrics(run)
    for line, row in zip(lines[2:4], rows, strict=True):
        loss = f"{float(row['validation_loss']):.4f}"
        figures = f"{float(row['loss']):.4f}", f"{float(row['train_accuracy']):.2f}", loss
        assert line.split()[:4] == [f"{row['epoch']}/2", *figures]
        ends = (text.index(last) + len(last) for text, last in ((lines[1], "n loss"), (line, loss)))
        assert abs(next(ends) - next(ends)) < 2  # the loss is below its title
    result = json.loads((run / files.RESULT).read_text())
    assert lines[4].startswith(
        f"test loss {result['test_loss']:.4f} nats per character, accuracy "
        f"{result['test_accuracy']:.2f}% (best epoch {result['best_epoch']} of 2), "
        f"{result['test_loss_last']:.4f} with"
    )
    main.main(["evaluate", str(run)])
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"cats.txt: accuracy {result['test_accuracy']:.2f}%, loss {result['test_loss']:.4f}, "
        r"over 7 test samples of 84 characters",
        line,
    )


def test_the_plot_has_only_the_losses(home: Path) -> None:
    picture = imread(home / "run" / files.CURVES)
    assert picture.shape[1] < 800  # one panel
    colours = {tuple(c) for c in (picture[..., :3].reshape(-1, 3) * 255).round().astype(int)}
    assert {(0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)} <= colours
