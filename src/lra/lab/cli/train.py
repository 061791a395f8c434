"""The command `lra train`: options of a new run, with their defaults, and of a resumed one."""

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml  # type: ignore[import-untyped]
from rich.console import Console

from lra.errors import OptionError, one_line
from lra.lab.cli.commands import Code, Command, MaybePath
from lra.lab.run import new_folder
from lra.lab.runs.display import ConsoleReporter
from lra.lab.settings import code
from lra.lab.settings.config import TrainConfig
from lra.lab.settings.options import MaybeInt, optional
from lra.lab.settings.recipes import RECIPES, recipe
from lra.lab.training.stop import exit_on_interrupt


def _recipe_option() -> Any:
    names = ", ".join(RECIPES)
    return optional("NAME", f"Use a complete set-up as default, with its dataset: {names}.")


@dataclass(frozen=True)
class Train:
    """Train a network, by default with LRA-E, and save the run to a folder.

    Start with DATASET, --recipe, --rule, --model, --epochs.

    lra train --resume RUN continues a run that was stopped.
    """

    settings: tyro.conf.OmitArgPrefixes[TrainConfig]
    recipe: Annotated[str | None, _recipe_option()] = None
    config: Annotated[Path | None, optional("FILE")] = None
    """Use the settings in a JSON or YAML file as default, such as RUN/config.json."""
    out: MaybePath = None
    """The run's folder; by default a new one under runs/."""
    overwrite: bool = False
    """Replace an earlier run in that folder."""
    data: MaybePath = None
    """Folder with the dataset's files; by default they are fetched."""
    log: str = "tensorboard"
    """Tracker that receives the metrics: tensorboard (a log in the run's folder, which every run
    has), or also wandb or mlflow."""
    code: Code = ()
    """Files of your own rule and network, if they moved or were not used here before."""

    def execute(self, console: Console) -> None:
        """Train."""
        with exit_on_interrupt():
            from lra.lab.training import loop
        loop.train(
            self.settings,
            self.out or new_folder(self.settings),
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
    code: Code = ()
    """Files of your own rule and network, if they moved or were not used here before."""

    def execute(self, console: Console) -> None:
        """Continue training."""
        code.allow(self.code)
        with exit_on_interrupt():
            from lra.lab.training import loop
        reporter = ConsoleReporter(console)
        loop.resume(self.resume, epochs=self.epochs, data_folder=self.data, reporter=reporter)


def train_command(words: list[str]) -> Callable[..., Command]:
    """Return the class or factory whose options these words of `lra train` are.

    A recipe or a configuration among the words sets the defaults and the dataset. With --resume, no
    settings are allowed.

    Raises:
        OptionError: the recipe is unknown, or the configuration cannot be read.
    """
    if _value_of("--resume", words) is not None:
        return Resume
    name, path = _value_of("--recipe", words), _value_of("--config", words)
    if name and path:
        raise OptionError("--recipe and --config both set the defaults; give one of them")
    if path:
        code.allow(_values_of("--code", words))
        defaults = load_config(Path(path))
    elif name:
        defaults = TrainConfig(**recipe(name).settings)
    else:
        defaults = TrainConfig(dataset=tyro.MISSING)
    return functools.partial(Train, settings=defaults)


def load_config(path: Path) -> TrainConfig:
    """Read the configuration of a run, or settings that a user has written, from JSON or YAML.

    Raises:
        OptionError: the file cannot be read, or is not a mapping of valid settings.
    """
    try:
        text = path.expanduser().read_text("utf-8")
        plain = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise OptionError(f"--config {path} cannot be read ({one_line(error)})") from error
    if not isinstance(plain, dict):
        raise OptionError(f"--config {path} must be a mapping of settings")
    numbers = {name: _to_number(value) for name, value in plain.items()}
    defaults = {"type": TrainConfig.__name__, "dataset": tyro.MISSING}
    try:
        config = TrainConfig.from_config(defaults | numbers)
    except OptionError as error:
        raise OptionError(f"--config {path}: {error}") from error
    return dataclasses.replace(config, sources=())  # as they are now, if --code accepts a change


def _to_number(value: Any) -> Any:
    """Return a number for a text such as 1e-3, which YAML does not read as one."""
    text = isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", value, re.I)
    return float(value) if text else value


def _values_of(option: str, words: list[str]) -> list[str]:
    """Return the values of an option that takes several."""
    if option not in words:
        return []
    after = words[words.index(option) + 1 :]
    return list(itertools.takewhile(lambda word: not word.startswith("--"), after))


def _value_of(option: str, words: list[str]) -> str | None:
    """Return the value of an option, "" if it has none, and None without that option."""
    for word, next_word in itertools.pairwise((*words, "")):
        name, equals, value = word.partition("=")
        if name == option:
            return value if equals else next_word
    return None
