"""Complete training set-ups by name."""

import math
from dataclasses import dataclass
from typing import Any

from lra.axis import unknown
from lra.inits import FanIn, Normal
from lra.lab.networks.parts import LECUN


@dataclass(frozen=True)
class Recipe:
    """A complete training set-up.

    Attributes:
        summary: a short description.
        dataset: the name of the dataset.
        rule: the name of the rule in `lra.RULES`.
        options: the options of the rule.
        settings: fields of `TrainConfig`.
    """

    summary: str
    dataset: str
    rule: str
    options: dict[str, Any]
    settings: dict[str, Any]


def _mirrored(summary: str, dataset: str, **settings: Any) -> Recipe:
    """Build a recipe with `lra.MirroredLRA`."""
    return Recipe(summary, dataset, "mirrored-lra", {}, _SCHEDULE | settings)


_SCHEDULE: dict[str, Any] = {"schedule": "one-cycle", "lr": 1e-3, "batch_size": 100, "epochs": 10}
_PERCEPTRON: dict[str, Any] = {"width": 256, "depth": 4, "init": LECUN}

_SEED = {
    "hidden": (256, 256, 256, 256),
    "activation": "tanh",
    "bias": False,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "batch_size": 50,
    "epochs": 100,
    "validation": 2000,
}

RECIPES: dict[str, Recipe] = {
    "seed-mnist": Recipe(
        "the authors' PyTorch script for MNIST",
        "mnist",
        "lra-e",
        {"beta": 0.1, "gamma": 1.0, "init": Normal(0.1)},
        _SEED | {"init": Normal(0.1)},
    ),
    "seed-fashion-mnist": Recipe(
        "the authors' PyTorch script for Fashion-MNIST",
        "fashion-mnist",
        "lra-e",
        {"beta": 0.1, "gamma": 1.0, "init": FanIn()},
        _SEED | {"init": FanIn()},
    ),
    "paper": Recipe(
        "the paper's set-up as quoted by later work (second-hand), with three hidden layers",
        "mnist",
        "lra-e",
        {"beta": 0.1, "gamma": 1.0, "init": Normal(math.sqrt(0.05))},
        {
            "hidden": (256, 256, 256),
            "activation": "tanh",
            "init": Normal(math.sqrt(0.05)),
            "optimizer": "sgd",
            "lr": 0.01,
            "weight_decay": 0.0,
            "batch_size": 50,
            "epochs": 100,
        },
    ),
    "mnist-deep": _mirrored(
        "a perceptron of 32 layers", "mnist", width=128, depth=32, init=LECUN, lr=3e-4
    ),
    "mnist-128": _mirrored(
        "a residual perceptron of 128 layers",
        "mnist",
        **{"model": "residual-mlp", "width": 128, "depth": 128, "lr": 3e-4},
    ),
    "mnist-binary": _mirrored("sign activations", "mnist", activation="sign", **_PERCEPTRON),
    "mnist-blackbox": _mirrored(
        "activations looked up in a table by NumPy", "mnist", activation="table", **_PERCEPTRON
    ),
    "fashion-lenet": _mirrored("LeNet-5", "fashion-mnist", model="lenet", batch_size=64),
    "cifar-resnet": _mirrored(
        "a residual network of 8 layers, or --depth 20, 32, ...",
        "cifar-10",
        **{"model": "resnet", "depth": 8, "augment": ("flip", "crop"), "batch_size": 128},
    ),
    "text-gpt": _mirrored(
        "a transformer trained on Python code",
        "python",
        **{"model": "gpt", "width": 128, "depth": 4, "context": 128, "batch_size": 32, "epochs": 2},
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
