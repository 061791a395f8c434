"""The command `lra`: train, evaluate, predict, write, and data."""

import csv
import dataclasses
import io
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

import lra
from lra.axis import unknown
from lra.errors import LraError
from lra.lab import checkpoint, data, runs, training
from lra.lab.config import TrainConfig
from lra.lab.display import ConsoleReporter
from lra.lab.options import MaybeName, optional
from lra.lab.recipes import RECIPES, Recipe, recipe
from lra.lab.rule_options import RuleOptions
from lra.lab.write import write
from lra.rules import name_of

MaybePath = Annotated[Path | None, optional("PATH")]


def _recipe_option() -> Any:
    names = ", ".join(RECIPES)
    return optional("NAME", f"Start from a known set-up, and its data: {names}.")


@dataclass(frozen=True)
class Train:
    """Train a network, by LRA-E unless told otherwise, and leave a run in a folder.

    lra train --resume RUN continues a run that was stopped.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    rule: Annotated[RuleOptions, tyro.conf.arg(name="")]
    recipe: Annotated[str | None, _recipe_option()] = None
    out: MaybePath = None
    """Folder of the run; by default a new one under runs/."""
    overwrite: bool = False
    """Replace an earlier run in that folder."""
    data: MaybePath = None
    """Folder with the dataset's files, if they are not to be fetched."""


@dataclass(frozen=True)
class Resume:
    """Continue a run from its newest checkpoint, with its own configuration."""

    resume: Path
    """The run's folder."""
    data: MaybePath = None
    """Folder with the dataset's files, if they are not to be fetched."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a run's best weights on its test pair."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    dataset: MaybeName = None
    """Another dataset than the one it was trained on."""
    data: MaybePath = None
    """Folder with the dataset's files, if they are not to be fetched."""


@dataclass(frozen=True)
class Predict:
    """Predict the classes of samples, as CSV: index, class, probability."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """An .npy array of samples, or an .npz with an array x."""
    out: MaybePath = None
    """File to write instead of the standard output."""


@dataclass(frozen=True)
class Write:
    """Continue a text with a run's network."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    prompt: str = "def "
    """The text to continue."""
    characters: int = 500
    """How many characters to write."""
    temperature: float = 0.8
    """How even the chances are: 1 as the network has them, 0 the likeliest each time."""
    seed: int = 0
    """Seed of the draws."""


@dataclass(frozen=True)
class DataList:
    """List the datasets, and which of them are on this machine."""

    data: MaybePath = None
    """Folder with the datasets' files, if they are not in the cache."""


@dataclass(frozen=True)
class DataFetch:
    """Fetch a dataset into the cache, and check every file."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """digits, mnist, fashion-mnist, cifar-10, python, or the path of an .npz or a .txt."""
    data: MaybePath = None
    """Folder to take the files from."""


@dataclass(frozen=True)
class DataShow:
    """Draw a picture of samples."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """digits, mnist, fashion-mnist, cifar-10, or the path of an .npz."""
    out: MaybePath = None
    """File of the picture; by default the dataset's name with .png, here."""
    count: int = 40
    """How many samples."""
    seed: int = 0
    """Seed of the choice."""
    data: MaybePath = None
    """Folder to take the files from."""


def _train(arguments: list[str], console: Console) -> None:
    """Train a network, or continue a run (--resume)."""
    reporter = ConsoleReporter(console)
    try:
        if any(a == "--resume" or a.startswith("--resume=") for a in arguments):
            again = tyro.cli(Resume, args=arguments, prog="lra train")
            training.resume(again.resume, data_folder=again.data, reporter=reporter)
            return
        config, options = read_train(arguments)
        training.train(
            config,
            options.out or _new_folder(config),
            overwrite=options.overwrite,
            data_folder=options.data,
            reporter=reporter,
        )
    finally:
        reporter.close()


def read_train(arguments: list[str]) -> tuple[TrainConfig, Train]:
    """Read the options of `lra train`; a recipe sets what their defaults are, and the dataset."""
    base: Recipe | None = None
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--recipe" and (equals or i + 1 < len(arguments)):
            base = recipe(value if equals else arguments[i + 1])
    settings = base.settings if base else {}
    dataset = base.dataset if base else tyro.MISSING
    default = Train(TrainConfig(dataset=dataset, **settings), RuleOptions())
    options = tyro.cli(Train, args=arguments, prog="lra train", default=default)
    rule = options.rule.build(base.rule if base else "lra-e", base.options if base else {})
    return dataclasses.replace(options.config, rule=rule), options


def _new_folder(config: TrainConfig) -> Path:
    stem = f"{Path(config.dataset).stem}-{name_of(config.rule)}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, again = Path("runs") / stem, 2
    while folder.exists():
        folder, again = Path("runs") / f"{stem}-{again}", again + 1
    return folder


def _evaluate(arguments: list[str], console: Console) -> None:
    """Measure a run's best weights on test data."""
    options = tyro.cli(Evaluate, args=arguments, prog="lra evaluate")
    found = runs.evaluate(options.run, options.dataset, options.data)
    characters = f" of {found.predictions:,} characters" * (found.predictions > found.samples)
    _print(
        console,
        f"{found.dataset}: accuracy {found.accuracy:.2f}%, loss {found.loss:.4f}, "
        f"over {found.samples:,} test samples{characters}",
    )
    for name, share in found.per_class.items():
        _print(console, f"  {name:<12} {share:6.2f}%")


def _predict(arguments: list[str], console: Console) -> None:
    """Predict the classes of samples in a file."""
    options = tyro.cli(Predict, args=arguments, prog="lra predict")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("index", "class", "probability"))
    found = runs.predict(options.run, options.file)
    writer.writerows((i, name, f"{share:.4f}") for i, (name, share) in enumerate(found))
    if options.out:
        checkpoint.write_atomically(options.out, text.getvalue().encode())
    else:
        sys.stdout.write(text.getvalue())


def _write(arguments: list[str], console: Console) -> None:
    """Continue a text with a network that was trained on text."""
    o = tyro.cli(Write, args=arguments, prog="lra write")
    for i, character in enumerate(write(o.run, o.prompt, o.characters, o.temperature, o.seed)):
        sys.stdout.write(character if i else o.prompt + character)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _data_list(arguments: list[str], console: Console) -> None:
    """List the datasets and where they are."""
    options = tyro.cli(DataList, args=arguments, prog="lra data list")
    for entry in data.catalogue(options.data):
        shape = "x".join(map(str, entry.sample_shape))
        _print(
            console,
            f"{entry.name:<14} {entry.num_train:>6,} + {entry.num_test:>6,} of {shape:<6} "
            f"{entry.summary}; {entry.licence}",
        )
        where = entry.where or f"not on this machine; lra data fetch {entry.name}"
        _print(console, f"{'':14} {where}")


def _data_fetch(arguments: list[str], console: Console) -> None:
    """Fetch a dataset and check every file."""
    options = tyro.cli(DataFetch, args=arguments, prog="lra data fetch")
    for path in data.fetch(options.dataset, options.data, lambda event: _print(console, event)):
        _print(console, str(path))


def _data_show(arguments: list[str], console: Console) -> None:
    """Draw a picture of samples."""
    options = tyro.cli(DataShow, args=arguments, prog="lra data show")
    arrays = data.load(options.dataset, options.data, lambda event: _print(console, event))
    out = options.out or Path(f"{Path(arrays.name).stem}.png")
    _print(console, str(data.sample_figure(arrays, out, options.count, options.seed)))


_COMMANDS: dict[str, Callable[[list[str], Console], None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "write": _write,
    "data list": _data_list,
    "data fetch": _data_fetch,
    "data show": _data_show,
}


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _help(console: Console) -> None:
    _print(console, "usage: lra COMMAND [OPTIONS]      lra COMMAND --help tells its options\n")
    for name, command in _COMMANDS.items():
        _print(console, f"  lra {name:<12} {command.__doc__}")
    _print(console, f"\nlra {lra.__version__}: networks trained without backpropagation")


def _split(arguments: list[str]) -> tuple[str, list[str]]:
    """Split off the command, of one word or two."""
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in _COMMANDS:
            return name, arguments[words:]
    raise unknown("command", " ".join(arguments[: 2 if arguments[0] == "data" else 1]), _COMMANDS)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit with 0, 1 after an error, 2 for wrong options, 130 after Ctrl-C.

    Args:
        arguments: the words after `lra`; by default the process's own.
    """
    words = sys.argv[1:] if arguments is None else arguments
    console, errors = Console(), Console(stderr=True)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.showwarning = lambda message, *_, **__: _print(errors, f"lra: {message}")
    if not words or words[0] in ("-h", "--help"):
        _help(console)
        return
    if words[0] == "--version":
        _print(console, lra.__version__)
        return
    try:
        name, rest = _split(words)
        _COMMANDS[name](rest, console)
    except training.Interrupted as stop:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # all of a run's processes stop; one says so
            _print(errors, f"lra: {stop}")
        sys.exit(128 + stop.signal)
    except lra.OptionError as error:
        _print(errors, f"lra: {error}")
        sys.exit(2)
    except LraError as error:
        _print(errors, f"lra: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        _print(errors, "lra: stopped")
        sys.exit(130)
