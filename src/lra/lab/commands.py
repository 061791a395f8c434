"""What the command `lra` offers besides `lra train`: one class for each, its options its fields."""

import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import tyro
from rich.console import Console

from lra.lab import data, diagnose_plots, diagnoses, runs
from lra.lab.atomic import write_atomically
from lra.lab.options import MaybeInt, MaybeName, optional
from lra.lab.verdict import verdict
from lra.lab.write import write

MaybePath = Annotated[Path | None, optional("PATH")]

RunFolder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]


class Command(Protocol):
    """What was asked for on the command line."""

    def execute(self, console: Console) -> None:
        """Do it, and print what there is to say."""


def say(console: Console, text: str) -> None:
    """Print a text as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Evaluate:
    """Measure a run's best weights on its test pair."""

    run: RunFolder
    """The run's folder."""
    dataset: MaybeName = None
    """Another dataset than the one it was trained on."""
    data: MaybePath = None
    """Folder with the dataset's files, if they are not to be fetched."""

    def execute(self, console: Console) -> None:
        """Print accuracy and loss, and the accuracy of each class."""
        found = runs.evaluate(self.run, self.dataset, self.data)
        characters = f" of {found.predictions:,} characters" * (found.predictions > found.samples)
        say(
            console,
            f"{found.dataset}: accuracy {found.accuracy:.2f}%, loss {found.loss:.4f}, "
            f"over {found.samples:,} test samples{characters}",
        )
        for name, share in found.per_class.items():
            say(console, f"  {name:<12} {share:6.2f}%")


@dataclass(frozen=True)
class Diagnose:
    """Draw what the diagnoses of a run found, and print the last one and the verdict."""

    run: RunFolder
    """The run's folder."""
    step: MaybeInt = None
    """Print the diagnosis at this step of the run instead of the last one."""

    def execute(self, console: Console) -> None:
        """Write two pictures into the run's folder, and print the table."""
        say(console, diagnoses.table(diagnoses.read(self.run), self.step))
        for path in diagnose_plots.draw(self.run):
            say(console, str(path))
        rule = runs.read_config(self.run).rule
        if said := verdict(diagnoses.read(self.run), rule):
            say(console, said)


@dataclass(frozen=True)
class Predict:
    """Predict the classes of samples, as CSV: index, class, probability."""

    run: RunFolder
    """The run's folder."""
    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """An .npy array of samples, or an .npz with an array x."""
    out: MaybePath = None
    """File to write instead of the standard output."""

    def execute(self, console: Console) -> None:
        """Write the CSV."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("index", "class", "probability"))
        found = runs.predict(self.run, self.file)
        writer.writerows((i, name, f"{share:.4f}") for i, (name, share) in enumerate(found))
        if self.out:
            write_atomically(self.out, text.getvalue().encode())
        else:
            sys.stdout.write(text.getvalue())


@dataclass(frozen=True)
class Write:
    """Continue a text with a run's network."""

    run: RunFolder
    """The run's folder."""
    prompt: str = "def "
    """The text to continue."""
    characters: int = 500
    """How many characters to write."""
    temperature: float = 0.8
    """How even the chances are: 1 as the network has them, 0 the likeliest each time."""
    seed: int = 0
    """Seed of the draws."""

    def execute(self, console: Console) -> None:
        """Write the text as it comes."""
        text = write(self.run, self.prompt, self.characters, self.temperature, self.seed)
        for i, character in enumerate(text):
            sys.stdout.write(character if i else self.prompt + character)
            sys.stdout.flush()
        sys.stdout.write("\n")


@dataclass(frozen=True)
class DataList:
    """List the datasets, and which of them are on this machine."""

    data: MaybePath = None
    """Folder with the datasets' files, if they are not in the cache."""

    def execute(self, console: Console) -> None:
        """Print two lines for each."""
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
    """Fetch a dataset into the cache, and check every file."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """digits, mnist, fashion-mnist, cifar-10, python, or the path of an .npz or a .txt."""
    data: MaybePath = None
    """Folder to take the files from."""

    def execute(self, console: Console) -> None:
        """Print the files' paths."""
        for path in data.fetch(self.dataset, self.data, lambda event: say(console, event)):
            say(console, str(path))


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

    def execute(self, console: Console) -> None:
        """Print the picture's path."""
        arrays = data.load(self.dataset, self.data, lambda event: say(console, event))
        out = self.out or Path(f"{Path(arrays.name).stem}.png")
        say(console, str(data.sample_figure(arrays, out, self.count, self.seed)))
