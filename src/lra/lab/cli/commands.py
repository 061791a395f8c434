"""The subcommands of `lra` except `lra train`: one class each, with its options as fields."""

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import tyro
from rich.console import Console

from lra.lab import data
from lra.lab.cli.terminal import say, show
from lra.lab.runs import diagnose_plots, diagnoses, files, trained_network
from lra.lab.runs.atomic import write_atomically
from lra.lab.runs.verdict import verdict
from lra.lab.runs.write import write
from lra.lab.settings.options import MaybeInt, MaybeName, optional

MaybePath = Annotated[Path | None, optional("PATH")]

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

    def execute(self, console: Console) -> None:
        """Print accuracy and loss, and the accuracy of each class."""
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

    def execute(self, console: Console) -> None:
        """Write two plots to the run's folder, and print the table and the verdict."""
        rule = files.read_config(self.run).rule  # first, so that only a run gets the plots
        say(console, diagnoses.table(diagnoses.read(self.run), self.step))
        for path in diagnose_plots.draw(self.run):
            say(console, str(path))
        if sentence := verdict(diagnoses.read(self.run), rule):
            say(console, sentence)


@dataclass(frozen=True)
class Predict:
    """Predict the classes of samples and print CSV: index, class, probability."""

    run: RunFolder
    """The run's folder."""
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """An .npy array of samples, or an .npz with an array x."""
    out: MaybePath = None
    """Write to this file instead of standard output."""

    def execute(self, console: Console) -> None:
        """Write the CSV."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("index", "class", "probability"))
        predictions = trained_network.predict(self.run, self.file)
        writer.writerows((i, name, f"{p:.4f}") for i, (name, p) in enumerate(predictions))
        if self.out:
            write_atomically(self.out, text.getvalue().encode())
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

    def execute(self, console: Console) -> None:
        """Write the text, one character at a time."""
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
    """digits, mnist, fashion-mnist, cifar-10, python, or the path of an .npz or a .txt file."""
    data: MaybePath = None
    """Folder to read the files from."""

    def execute(self, console: Console) -> None:
        """Print the paths of the files."""
        for path in data.fetch(self.dataset, self.data, lambda event: say(console, event)):
            say(console, str(path))


@dataclass(frozen=True)
class DataShow:
    """Plot samples of a dataset."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """digits, mnist, fashion-mnist, cifar-10, or the path of an .npz file."""
    out: MaybePath = None
    """The PNG file to write; by default the dataset's name with .png, in this folder."""
    count: int = 40
    """Number of samples."""
    seed: int = 0
    """Seed that selects the samples."""
    data: MaybePath = None
    """Folder to read the files from."""

    def execute(self, console: Console) -> None:
        """Write the plot and print its path."""
        arrays = data.load(self.dataset, self.data, lambda event: say(console, event))
        out = self.out or Path(f"{Path(arrays.name).stem}.png")
        say(console, str(data.sample_figure(arrays, out, self.count, self.seed)))
