"""Known set-ups in full, by name."""

import math
from dataclasses import dataclass
from typing import Any

from lra.axis import unknown
from lra.inits import FanIn, Normal
from lra.lab.parts import LECUN


@dataclass(frozen=True)
class Recipe:
    """A known set-up in full.

    Attributes:
        summary: what it is.
        dataset: the name of its data.
        rule: the rule's name in `lra.RULES`.
        options: the rule's options.
        settings: fields of `TrainConfig`.
    """

    summary: str
    dataset: str
    rule: str
    options: dict[str, Any]
    settings: dict[str, Any]


def _mirrored(summary: str, dataset: str, **settings: Any) -> Recipe:
    """Make a recipe by the named rule that trains any network."""
    return Recipe(summary, dataset, "mirrored-lra", {}, _STEPS | settings)


_STEPS: dict[str, Any] = {"schedule": "one-cycle", "lr": 1e-3, "batch_size": 100, "epochs": 10}
_UNITS: dict[str, Any] = {"width": 256, "depth": 4, "init": LECUN}


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
        "the MNIST script in PyTorch of the authors' repository",
        "mnist",
        "lra-e",
        {"beta": 0.1, "gamma": 1.0, "init": Normal(0.1)},
        _SEED | {"init": Normal(0.1)},
    ),
    "seed-fashion-mnist": Recipe(
        "the Fashion-MNIST script in PyTorch of the authors' repository",
        "fashion-mnist",
        "lra-e",
        {"beta": 0.1, "gamma": 1.0, "init": FanIn()},
        _SEED | {"init": FanIn()},
    ),
    "paper": Recipe(
        "the paper's set-up as later work quotes it (second-hand), with three hidden layers",
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
    "mnist-binary": _mirrored("units that say 1 or -1", "mnist", activation="sign", **_UNITS),
    "mnist-blackbox": _mirrored(
        "units that NumPy looks up in a table", "mnist", activation="table", **_UNITS
    ),
    "fashion-lenet": _mirrored("LeNet-5", "fashion-mnist", model="lenet", batch_size=64),
    "cifar-resnet": _mirrored(
        "a residual network of 8 layers, or --depth 20, 32, ...",
        "cifar-10",
        **{"model": "resnet", "depth": 8, "augment": ("flip", "crop"), "batch_size": 128},
    ),
    "text-gpt": _mirrored(
        "a transformer that writes Python",
        "python",
        **{"model": "gpt", "width": 128, "depth": 4, "context": 128, "batch_size": 32, "epochs": 2},
    ),
}
"""The set-ups that `--recipe` knows."""


def recipe(name: str) -> Recipe:
    """Look a recipe up.

    Raises:
        OptionError: for an unknown name.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]
