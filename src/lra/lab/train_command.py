"""The command `lra train`: the options of a run, over those of a recipe, and of a resume."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from lra.errors import OptionError
from lra.lab import training
from lra.lab.commands import Command, MaybePath
from lra.lab.config import TrainConfig
from lra.lab.display import ConsoleReporter
from lra.lab.options import optional
from lra.lab.recipes import RECIPES, Recipe, recipe
from lra.lab.rule_options import RuleOptions


def _recipe_option() -> Any:
    names = ", ".join(RECIPES)
    return optional("NAME", f"Start from a known set-up, and its data: {names}.")


@dataclass(frozen=True)
class Train:
    """Train a network, by LRA-E unless told otherwise, and leave a run in a folder.

    To begin with: DATASET, --recipe, --rule, --model, --epochs.

    lra train --resume RUN continues a run that was stopped.
    """

    config: tyro.conf.OmitArgPrefixes[TrainConfig]
    rule: tyro.conf.OmitArgPrefixes[RuleOptions]
    recipe: Annotated[str | None, _recipe_option()] = None
    out: MaybePath = None
    """Folder of the run; by default a new one under runs/."""
    overwrite: bool = False
    """Replace an earlier run in that folder."""
    data: MaybePath = None
    """Folder with the dataset's files, if they are not to be fetched."""

    @property
    def base(self) -> Recipe | None:
        """The recipe that it starts from."""
        return recipe(self.recipe) if self.recipe else None

    @property
    def full_config(self) -> TrainConfig:
        """The configuration with its rule, over the recipe's where it is the recipe's rule."""
        if self.config.hidden == ():
            raise OptionError("--hidden needs sizes, as in --hidden 256 256, or leave it out")
        base = self.base
        rule = self.rule.build(base.rule if base else "lra-e", base.options if base else {})
        return dataclasses.replace(self.config, rule=rule)

    def execute(self, console: Console) -> None:
        """Train."""
        config = self.full_config
        training.train(
            config,
            self.out or _new_folder(config),
            overwrite=self.overwrite,
            data_folder=self.data,
            reporter=ConsoleReporter(console),
        )


@dataclass(frozen=True)
class Resume:
    """Continue a run from its newest checkpoint, with its own configuration."""

    resume: Path
    """The run's folder."""
    data: MaybePath = None
    """Folder with the dataset's files, if they are not to be fetched."""

    def execute(self, console: Console) -> None:
        """Train on."""
        reporter = ConsoleReporter(console)
        training.resume(self.resume, data_folder=self.data, reporter=reporter)


def train_command(words: list[str]) -> Callable[..., Command]:
    """Give what these words of `lra train` are the options of.

    A recipe among them sets what the defaults are, and the dataset; --resume takes no settings.

    Raises:
        OptionError: for an unknown recipe.
    """
    if _value_of("--resume", words) is not None:
        return Resume
    name = _value_of("--recipe", words)
    base = recipe(name) if name else None
    settings: dict[str, Any] = base.settings if base else {}
    dataset = base.dataset if base else tyro.MISSING
    return functools.partial(
        Train, config=TrainConfig(dataset=dataset, **settings), rule=RuleOptions()
    )


def _value_of(option: str, words: list[str]) -> str | None:
    """Give what follows an option, "" where nothing does, and None without that option."""
    for word, following in itertools.pairwise((*words, "")):
        name, equals, value = word.partition("=")
        if name == option:
            return value if equals else following
    return None


def _new_folder(config: TrainConfig) -> Path:
    stem = f"{Path(config.dataset).stem}-{config.rule.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, again = Path("runs") / stem, 2
    while folder.exists():
        folder, again = Path("runs") / f"{stem}-{again}", again + 1
    return folder
