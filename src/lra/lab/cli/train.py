"""The command `lra train`: options of a new run, with a recipe's defaults, and of a resumed one."""

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

from lra.__main__ import exit_on_interrupt
from lra.errors import OptionError
from lra.lab.cli.commands import Command, MaybePath
from lra.lab.runs.display import ConsoleReporter
from lra.lab.settings.config import TrainConfig
from lra.lab.settings.options import MaybeInt, optional
from lra.lab.settings.recipes import RECIPES, Recipe, recipe
from lra.lab.settings.rule_options import RuleOptions


def _recipe_option() -> Any:
    names = ", ".join(RECIPES)
    return optional("NAME", f"Use a complete set-up as default, with its dataset: {names}.")


@dataclass(frozen=True)
class Train:
    """Train a network, by default with LRA-E, and save the run to a folder.

    Start with DATASET, --recipe, --rule, --model, --epochs.

    lra train --resume RUN continues a run that was stopped.
    """

    config: tyro.conf.OmitArgPrefixes[TrainConfig]
    rule: tyro.conf.OmitArgPrefixes[RuleOptions]
    recipe: Annotated[str | None, _recipe_option()] = None
    out: MaybePath = None
    """The run's folder; by default a new one under runs/."""
    overwrite: bool = False
    """Replace an earlier run in that folder."""
    data: MaybePath = None
    """Folder with the dataset's files; by default they are fetched."""
    log: str = "tensorboard"
    """Tracker that receives the metrics: tensorboard (a log in the run's folder, which every run
    has), or also wandb or mlflow."""

    @property
    def base(self) -> Recipe | None:
        """The recipe, if one was given."""
        return recipe(self.recipe) if self.recipe else None

    @property
    def full_config(self) -> TrainConfig:
        """The configuration, including the rule and its options."""
        if self.config.hidden == ():
            raise OptionError("--hidden needs sizes, as in --hidden 256 256; or leave it out")
        base = self.base
        rule = self.rule.build(base.rule if base else "lra-e", base.options if base else {})
        return dataclasses.replace(self.config, rule=rule)

    def execute(self, console: Console) -> None:
        """Train."""
        config = self.full_config
        with exit_on_interrupt():
            from lra.lab.training import loop
        loop.train(
            config,
            self.out or _new_folder(config),
            overwrite=self.overwrite,
            data_folder=self.data,
            reporter=ConsoleReporter(console),
            log=self.log,
        )


@dataclass(frozen=True)
class Resume:
    """Continue a run from its newest checkpoint, with its own configuration."""

    resume: Path
    """The run's folder."""
    epochs: MaybeInt = None
    """Another number of epochs in all, for a run whose learning rate is constant."""
    data: MaybePath = None
    """Folder with the dataset's files; by default they are fetched."""

    def execute(self, console: Console) -> None:
        """Continue training."""
        with exit_on_interrupt():
            from lra.lab.training import loop
        reporter = ConsoleReporter(console)
        loop.resume(self.resume, epochs=self.epochs, data_folder=self.data, reporter=reporter)


def train_command(words: list[str]) -> Callable[..., Command]:
    """Return the class or factory whose options these words of `lra train` are.

    A recipe among the words sets the defaults and the dataset. With --resume, no settings are
    allowed.

    Raises:
        OptionError: the recipe is unknown.
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
    """Return the value of an option, "" if it has none, and None without that option."""
    for word, next_word in itertools.pairwise((*words, "")):
        name, equals, value = word.partition("=")
        if name == option:
            return value if equals else next_word
    return None


def _new_folder(config: TrainConfig) -> Path:
    stem = f"{Path(config.dataset).stem}-{config.rule.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = Path("runs") / stem, 2
    while folder.exists():
        folder, number = Path("runs") / f"{stem}-{number}", number + 1
    return folder
