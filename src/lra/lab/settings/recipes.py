"""Complete training set-ups by name."""

import math
from dataclasses import dataclass
from typing import Any

from lra.axis import unknown


@dataclass(frozen=True)
class Recipe:
    """A complete training set-up.

    Attributes:
        summary: a short description.
        settings: fields of `TrainConfig`, the dataset among them.
    """

    summary: str
    settings: dict[str, Any]


def _mirrored(summary: str, dataset: str, model: str, **settings: Any) -> Recipe:
    """Build a recipe with `lra.MirroredLRA` and a one-cycle schedule."""
    schedule = {"schedule": "one-cycle", "lr": 1e-3, "batch_size": 100, "epochs": 10}
    own = {"dataset": dataset, "rule": "mirrored-lra", "model": model}
    return Recipe(summary, own | schedule | settings)


def _script(summary: str, dataset: str, init: str) -> Recipe:
    """Build a recipe with the settings of the authors' PyTorch scripts."""
    return Recipe(
        summary,
        {
            "dataset": dataset,
            "rule": f"lra-e:beta=0.1,gamma=1,init={init}",
            "model": f"mlp:hidden=256-256-256-256,activation=tanh,bias=false,init={init}",
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "batch_size": 50,
            "epochs": 100,
            "validation": 2000,
        },
    )


_PAPER_INIT = f"normal:{math.sqrt(0.05)!r}"

RECIPES: dict[str, Recipe] = {
    "seed-mnist": _script("the authors' PyTorch script for MNIST", "mnist", "normal:0.1"),
    "seed-fashion-mnist": _script(
        "the authors' PyTorch script for Fashion-MNIST", "fashion-mnist", "fan-in"
    ),
    "paper": Recipe(
        "the paper's set-up as quoted by later work (second-hand), with three hidden layers",
        {
            "dataset": "mnist",
            "rule": f"lra-e:beta=0.1,gamma=1,init={_PAPER_INIT}",
            "model": f"mlp:hidden=256-256-256,activation=tanh,init={_PAPER_INIT}",
            "optimizer": "sgd",
            "lr": 0.01,
            "weight_decay": 0.0,
            "batch_size": 50,
            "epochs": 100,
        },
    ),
    "mnist-deep": _mirrored(
        "a perceptron of 32 layers", "mnist", "mlp:width=128,depth=32,init=lecun", lr=3e-4
    ),
    "mnist-128": _mirrored(
        "a residual perceptron of 128 layers", "mnist", "residual-mlp:width=128,depth=128", lr=3e-4
    ),
    "mnist-binary": _mirrored(
        "sign activations", "mnist", "mlp:width=256,depth=4,activation=sign,init=lecun"
    ),
    "mnist-blackbox": _mirrored(
        "activations looked up in a table by NumPy",
        "mnist",
        "mlp:width=256,depth=4,activation=table,init=lecun",
    ),
    "fashion-lenet": _mirrored("LeNet-5", "fashion-mnist", "lenet", batch_size=64),
    "cifar-resnet": _mirrored(
        "a residual network of 8 layers, or --model resnet:depth=20, 32, ...",
        "cifar-10",
        "resnet:depth=8",
        augment=("flip", "crop"),
        batch_size=128,
    ),
    "text-gpt": _mirrored(
        "a transformer trained on Python code",
        "python",
        "gpt:width=128,depth=4,context=128",
        batch_size=32,
        epochs=2,
    ),
}
"""The recipes for `--recipe`."""


def recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        OptionError: the name is unknown.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]
