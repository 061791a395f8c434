"""The subcommands of `lra` except `lra train`: one class each, with its options as fields."""

import csv
import io
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import tyro
from rich.console import Console

from lra.errors import OptionError
from lra.lab import data
from lra.lab.cli.terminal import say, show
from lra.lab.runs import diagnose_plots, diagnoses, files, plots, trained_network
from lra.lab.runs.atomic import write_atomically
from lra.lab.runs.verdict import verdict
from lra.lab.runs.write import write
from lra.lab.settings import code
from lra.lab.settings.options import MaybeInt, MaybeName, optional

MaybePath = Annotated[Path | None, optional("PATH")]

Code = Annotated[tuple[str, ...], optional("FILE ...")]

RunFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]


class Command(Protocol):
    """A parsed subcommand."""

    def execute(self, console: Console) -> None:
        """Run the subcommand and print its results."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the best weights of a run on its test set."""

    run: RunFolder
    """The run's folder."""
    dataset: MaybeName = None
    """A dataset other than the one the run was trained on."""
    data: MaybePath = None
    """Folder with the dataset's files; by default they are fetched."""
    code: Code = ()
    """Files of your own rule and network, if they moved or were not used here before."""

    def execute(self, console: Console) -> None:
        """Print accuracy and loss, and the accuracy of each class."""
        code.allow(self.code)
        result = trained_network.evaluate(self.run, self.dataset, self.data)
        text = result.predictions > result.samples
        characters = f" of {result.predictions:,} characters" * text
        say(
            console,
            f"{result.dataset}: accuracy {result.accuracy:.2f}%, loss {result.loss:.4f}, "
            f"over {result.samples:,} test samples{characters}",
        )
        for name, accuracy in result.per_class.items():
            say(console, f"  {name:<12} {accuracy:6.2f}%")


@dataclass(frozen=True)
class Diagnose:
    """Plot the diagnoses of a run, and print the last one with a verdict."""

    run: RunFolder
    """The run's folder."""
    step: MaybeInt = None
    """Print the diagnosis at this step instead of the last one."""
    code: Code = ()
    """Files of your own rule and network, if they moved or were not used here before."""

    def execute(self, console: Console) -> None:
        """Write two plots to the run's folder, and print the table and the verdict."""
        code.allow(self.code)
        rule = files.read_config(self.run).built_rule  # first, so that only a run gets the plots
        rows = diagnoses.read_any(self.run)
        say(console, diagnoses.table(rows, self.step))
        for path in diagnose_plots.draw(self.run):
            say(console, str(path))
        if sentence := verdict(rows, rule):
            say(console, sentence)


@dataclass(frozen=True)
class Predict:
    """Predict the classes of samples and print CSV: index or file, class, probability."""

    run: RunFolder
    """The run's folder."""
    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILE ...")]
    """PNG or JPEG files, folders of them, an .npy, an .npz with an array x or x_test, or a .csv."""
    out: MaybePath = None
    """Write to this file instead of standard output."""
    code: Code = ()
    """Files of your own rule and network, if they moved or were not used here before."""

    def execute(self, console: Console) -> None:
        """Write the CSV."""
        code.allow(self.code)
        if not self.files:
            raise OptionError("lra predict needs a FILE with samples after RUN")
        predictions = trained_network.predict(self.run, *self.files)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        indices = all(prediction.sample.isdigit() for prediction in predictions)
        writer.writerow(("index" if indices else "file", "class", "probability"))
        writer.writerows((p.sample, p.name, f"{p.probability:.4f}") for p in predictions)
        if self.out:
            write_atomically(self.out, text.getvalue().encode("utf-8", "backslashreplace"))
        else:
            show(text.getvalue())


@dataclass(frozen=True)
class Write:
    """Continue a text with the network of a run."""

    run: RunFolder
    """The run's folder."""
    prompt: str = "def "
    """The text to continue."""
    characters: int = 500
    """Number of characters to write."""
    temperature: float = 0.8
    """Divisor of the logits; 0 takes the likeliest character each time."""
    seed: int = 0
    """Seed of the draws."""
    code: Code = ()
    """Files of your own rule and network, if they moved or were not used here before."""

    def execute(self, console: Console) -> None:
        """Write the text, one character at a time."""
        code.allow(self.code)
        text = write(self.run, self.prompt, self.characters, self.temperature, self.seed)
        for i, character in enumerate(text):
            show(character if i else self.prompt + character)
            sys.stdout.flush()
        show("\n")


@dataclass(frozen=True)
class DataList:
    """List the datasets and show which are on this machine."""

    data: MaybePath = None
    """Folder with the datasets' files; by default the cache."""

    def execute(self, console: Console) -> None:
        """Print two lines per dataset."""
        for entry in data.catalogue(self.data):
            shape = "x".join(map(str, entry.sample_shape))
            say(
                console,
                f"{entry.name:<14} {entry.num_train:>6,} + {entry.num_test:>6,} of {shape:<7} "
                f"{entry.summary}; {entry.licence}",
            )
            where = entry.where or f"not on this machine; lra data fetch {entry.name}"
            say(console, f"{'':14} {where}")


@dataclass(frozen=True)
class DataFetch:
    """Fetch a dataset into the cache and verify every file."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """digits, mnist, fashion-mnist, cifar-10, python, or a path: .npz, .csv, .txt, a folder."""
    data: MaybePath = None
    """Folder to read the files from."""

    def execute(self, console: Console) -> None:
        """Print the paths of the files."""
        for path in data.fetch(self.dataset, self.data, lambda event: say(console, event)):
            say(console, str(path))


@dataclass(frozen=True)
class DataShow:
    """Describe a dataset, and plot samples of it."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """digits, mnist, fashion-mnist, cifar-10, or a path: .npz, .csv, a folder."""
    out: MaybePath = None
    """The file to write, a PNG, PDF or SVG; by default a new PNG here, named like the dataset."""
    count: int = 40
    """Number of samples."""
    seed: int = 0
    """Seed that selects the samples."""
    data: MaybePath = None
    """Folder to read the files from."""

    def execute(self, console: Console) -> None:
        """Write the plot and print its path."""
        arrays = data.load(self.dataset, self.data, lambda event: say(console, event))
        figure = data.sample_figure(arrays, self.count, self.seed)
        for what, value in arrays.describe().items():
            say(console, f"{what:<8} {value}")
        stem = Path(arrays.name).stem
        names = itertools.chain([f"{stem}.png"], (f"{stem}-{i}.png" for i in itertools.count(2)))
        out = self.out or next(path for path in map(Path, names) if not path.exists())
        plots.save(figure, out)
        say(console, str(out))
