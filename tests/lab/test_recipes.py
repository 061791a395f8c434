"""The recipes: each builds its network and trains it, on small substitutes for its data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from workbench import metrics, read_train, saved_state

from lra.lab.networks.build import build_network
from lra.lab.networks.model import parse_model
from lra.lab.runs import trained_network
from lra.lab.settings.recipes import RECIPES
from lra.lab.training.loop import train

SHAPES = {"mnist": (28, 28), "fashion-mnist": (28, 28), "cifar-10": (3, 32, 32)}


def write_substitute(folder: Path, dataset: str, n: int) -> Path:
    """Write data of the dataset's shape: noise, or a text of n windows and a test set."""
    if dataset == "python":
        path = folder / "some.txt"
        path.write_text("def f(x):\n    return x + 1  # this and that\n" * (n * 4))
        return path
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (n, *SHAPES[dataset]), np.uint8)
    y = np.arange(n) % 10
    np.savez(folder / "some.npz", x=x, y=y, x_test=x[:20], y_test=y[:20])
    return folder / "some.npz"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains(tmp_path: Path, name: str) -> None:
    """In two steps every weight changes, and the run can be evaluated."""
    recipe = RECIPES[name]
    path = write_substitute(tmp_path, str(recipe.settings["dataset"]), 30)
    words = f"--recipe {name} --epochs 1 --validation 10 --batch-size 10 --device cpu"
    rule = str(recipe.settings["rule"])
    words += f" --rule {rule}:samples=100" if rule == "mirrored-lra" else ""
    config, _ = read_train([str(path), *words.split()])
    result = train(config, tmp_path / "run")
    assert result["model"] == str(parse_model(recipe.settings["model"]))
    assert result["rule"] == rule.partition(":")[0]
    (row,) = metrics(tmp_path / "run")
    assert 0 < float(row["loss"]) < 1000
    trained = trained_network.load(tmp_path / "run")
    torch.manual_seed(config.seed)
    drawn = build_network(config, trained.sample_shape, len(trained.classes))
    state = saved_state(tmp_path / "run")["model"]
    unchanged = [n for n, p in drawn.named_parameters() if torch.equal(state[n], p)]
    assert unchanged == []
    evaluation = trained_network.evaluate(tmp_path / "run")
    assert evaluation.accuracy == pytest.approx(result["test_accuracy"])
    assert evaluation.loss == pytest.approx(result["test_loss"], rel=1e-4)
    assert (evaluation.predictions > evaluation.samples) is (name == "text-gpt")
