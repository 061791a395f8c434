"""Settings of a run that published set-ups need: losses, milestones, mirrors, tested epochs."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from workbench import assert_same_run, interrupt_at, tiny, work_alone, write_blobs

import lra
from lra.errors import OptionError
from lra.lab import data as datasets
from lra.lab.comparison import api
from lra.lab.comparison.grid import Grid
from lra.lab.comparison.words import command
from lra.lab.networks.model import parse_model
from lra.lab.runs import trained_network
from lra.lab.runs.measure import class_probabilities, logistic
from lra.lab.training import loop


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    return write_blobs(tmp_path / "blobs.npz")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def sum_of_logistic_losses(logits: np.ndarray, y: np.ndarray) -> float:
    """Return -sum log p over classes and samples; p is the probability of the right answer."""
    right = np.eye(logits.shape[-1])[y] == 1
    p = 1 / (1 + np.exp(-logits))
    return float(-np.log(np.where(right, p, 1 - p)).sum())


def test_logistic_loss_is_its_formula() -> None:
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(5, 2, 4)) * 3, rng.integers(0, 4, (5, 2))
    expected = sum_of_logistic_losses(logits, y)
    x, t = torch.from_numpy(logits), torch.from_numpy(y)
    torch.testing.assert_close(logistic(x, t, "sum").item(), expected)
    torch.testing.assert_close(logistic(x, t).item(), expected / 10)


def test_class_probabilities_follow_the_loss() -> None:
    logits = torch.tensor([[0.0, 2.0]])
    each, softmax = 1 / (1 + np.exp([0.0, -2.0])), np.exp([0.0, 2.0]) / (1 + np.exp(2.0))
    np.testing.assert_allclose(class_probabilities("logistic", logits)[0], each, rtol=1e-6)
    np.testing.assert_allclose(class_probabilities("cross-entropy", logits)[0], softmax, rtol=1e-6)


def test_a_run_descends_the_logistic_loss(blobs: Path, tmp_path: Path) -> None:
    """One step of SGD on all samples is that by hand, and all losses are logistic."""
    own = {"model": "mlp:depth=1", "optimizer": "sgd", "lr": 0.5, "precision": "64"}
    config = tiny(blobs, rule="backprop", loss="logistic", epochs=1, batch_size=117, **own)
    loop.train(config, tmp_path / "run")
    data = np.load(blobs)
    x, y = data["x"].reshape(130, -1).astype(float), data["y"]
    torch.manual_seed(0)
    layer = parse_model("mlp:depth=1").build((2, 3), 3).double()[1]  # the run's own first weights
    trained = trained_network.load(tmp_path / "run")
    after = trained.network[1].weight.detach().numpy()
    train, held_out = datasets.split(datasets.load(str(blobs)), 13, 0)
    W, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    p = 1 / (1 + np.exp(-(x[train] @ W.T + b)))
    gradient = (p - np.eye(3)[y[train]]).T @ x[train] / len(train)
    np.testing.assert_allclose(after, W - 0.5 * gradient, rtol=1e-6)
    logits = x[held_out] @ after.T + trained.network[1].bias.detach().numpy()
    expected = sum_of_logistic_losses(logits, y[held_out]) / len(held_out)
    assert float(rows(tmp_path / "run")[0]["validation_loss"]) == pytest.approx(expected, rel=1e-6)
    logits = data["x_test"].reshape(41, -1) @ after.T + trained.network[1].bias.detach().numpy()
    evaluated = trained_network.evaluate(tmp_path / "run")
    expected = sum_of_logistic_losses(logits, data["y_test"]) / 41
    assert evaluated.loss == pytest.approx(expected, rel=1e-6)


def test_milestones_divide_the_learning_rate(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 steps an epoch: 1 epoch whole, 2 epochs a tenth, 1 epoch a hundredth, over a stop."""
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    try:
        config = tiny(blobs, milestones=(1, 3), lr=0.02, epochs=4)
        with pytest.raises(loop.Interrupted):
            loop.train(config, tmp_path / "run", reporter=interrupt_at(20))
        done = len(rates)
        loop.resume(tmp_path / "run")
    finally:
        hook.remove()
    resumed = [rate for rate in rates[done:] if rate]  # a resume tries the optimizer first
    expected = [0.02] * 8 + [0.002] * 16 + [0.0002] * 8
    assert rates[:done] + resumed == pytest.approx(expected)


def test_the_test_set_is_measured_after_each_epoch_for_the_record_alone(
    blobs: Path, tmp_path: Path
) -> None:
    plain = loop.train(tiny(blobs), tmp_path / "plain")
    result = loop.train(tiny(blobs, test_each_epoch=True), tmp_path / "tested")
    found = rows(tmp_path / "tested")
    assert [row["test_accuracy"] for row in rows(tmp_path / "plain")] == [""] * 3
    assert float(found[-1]["test_accuracy"]) == result["test_accuracy_last"]
    assert float(found[-1]["test_loss"]) == result["test_loss_last"]
    chosen = found[result["best_epoch"] - 1]
    assert float(chosen["test_accuracy"]) == result["test_accuracy"]
    assert {k: v for k, v in result.items() if k != "seconds"} == {
        k: v for k, v in plain.items() if k != "seconds"
    }


def test_mirrors_during_training(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mirrors run every five of 24 steps. A run that stops and resumes has the same bits."""
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)
    calls: list[Any] = []
    real = lra.mirror

    def record(model: nn.Module, samples: int, **options: Any) -> nn.Module:
        calls.append((samples, options))
        return real(model, samples, **options)

    monkeypatch.setattr(lra, "mirror", record)
    options = {"mirror_every": 5, "mirror_samples": 70, "mirror_step": 0.5, "mirror_decay": 0.25}
    config = tiny(blobs, rule="feedback-alignment", **options)
    loop.train(config, tmp_path / "whole")
    assert calls == [(70, {"step": 0.5, "decay": 0.25})] * 4
    with pytest.raises(loop.Interrupted):
        loop.train(config, tmp_path / "run", reporter=interrupt_at(11))
    loop.resume(tmp_path / "run")
    assert len(calls) == 8
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_standardized_samples() -> None:
    torch.manual_seed(0)
    plain = parse_model("mlp:depth=2").build((2, 3), 4)
    torch.manual_seed(0)
    standard = parse_model("mlp:depth=2,standardize=0.5-0.25").build((2, 3), 4)
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(standard(x), plain((x - 0.5) / 0.25))
    lra.convert(standard, lra.LRAE())  # the layer in front needs no rule


def test_lenet_resizes_small_images() -> None:
    x = torch.rand(2, 28, 28)
    padded, resized = (
        parse_model(f"lenet:resize={v}").build((28, 28), 10) for v in ("false", "true")
    )
    before = [
        next(i for i, m in enumerate(n) if isinstance(m, nn.Conv2d)) for n in (padded, resized)
    ]
    images = [n[:i](x) for n, i in zip((padded, resized), before, strict=True)]
    assert [tuple(z.shape) for z in images] == [(2, 1, 32, 32)] * 2
    assert bool((images[0][:, :, :2] == 0).all())
    expected = nn.functional.interpolate(x[:, None], (32, 32), mode="bilinear")
    torch.testing.assert_close(images[1], expected)


def test_other_settings_of_a_comparison(blobs: Path) -> None:
    given = ("loss=logistic", "milestones=2-5", "betas=0.5-0.75", "augment=flip")
    grid = Grid((str(blobs),), ("backprop", "lra-e:lr=0.1"), settings=given)
    for experiment in grid.experiments:
        config = experiment.config(0, {})
        assert (config.loss, config.milestones) == ("logistic", (2, 5))
        assert (config.betas, config.augment) == ((0.5, 0.75), ("flip",))
    assert "--settings loss=logistic milestones=2-5 betas=0.5-0.75 augment=flip" in command(grid)
    assert Grid.from_config(json.loads(json.dumps(grid.to_config()))) == grid


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("loss",), "settings must be NAME=VALUE, such as loss=logistic; got 'loss'"),
        (("los=logistic",), "unknown option of a run 'los'; known: .*Did you mean 'loss'"),
        (("loss=logistc",), "loss 'logistc'.*Did you mean 'logistic'"),
        (("milestones=x",), "milestones of a run: 'x' is not a valid value"),
        (("lr=0.1",), "lr cannot be set so: it is an option of its own here, --lr"),
        (("seed=1",), "seed cannot be set so: it differs between runs, or is given to a rule"),
        (("momentum=0.5", "momentum=0.9"), "settings: 'momentum' is given twice"),
        (("smoothing=0.5",), "smoothing is an option of rmsprop"),
    ],
)
def test_wrong_other_settings_are_refused(
    blobs: Path, settings: tuple[str, ...], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        Grid((str(blobs),), settings=settings)


def test_a_setting_that_every_rule_sets_has_no_effect(blobs: Path) -> None:
    rules = ("backprop:momentum=0.5", "lra-e:momentum=0.9")
    with pytest.raises(OptionError, match="momentum has no effect since every rule sets"):
        Grid((str(blobs),), rules, optimizer="sgd", settings=("momentum=0.1",))


def test_a_report_where_a_rule_sets_what_the_others_take(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of the rule's row leaves out what the rule sets itself."""
    monkeypatch.setattr(api, "_work", lambda grid, out, jobs, display: work_alone(grid, out))
    found = api.compare(
        blobs, ["backprop", "lra-e:lr=0.1,momentum=0.5"], ["mlp:hidden=4"], folder=tmp_path / "out",
        seeds=1, epochs=1, lr=0.2, optimizer="sgd", settings=("momentum=0.25",), device="cpu",
    )  # fmt: skip
    found.report()
    report = (tmp_path / "out" / "report.md").read_text("utf-8")
    commands = report.partition("Reproduce a row")[2]
    (own,) = [line for line in commands.splitlines() if "--rules lra-e" in line]
    (other,) = [line for line in commands.splitlines() if "--rules backprop" in line]
    assert "lr=0.1" in own
    assert "--lr" not in own
    assert "--settings" not in own
    assert "--lr 0.2" in other
    assert "--settings momentum=0.25" in other
    assert "momentum=0.25" in report.partition("Reproduce a row")[0]
