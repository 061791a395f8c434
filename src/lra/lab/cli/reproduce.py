"""Define the command `lra reproduce`."""

from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from lra.errors import OptionError, RunError
from lra.lab.cli.commands import MaybePath
from lra.lab.cli.terminal import say
from lra.lab.comparison.progress import Display
from lra.lab.published import page, reproduction
from lra.lab.published.setup import load, names
from lra.lab.settings.options import MaybeInt, optional


@dataclass(frozen=True)
class Reproduce:
    """Train a published set-up, and print what is measured beside what was published.

    Without a name, list the set-ups. Run the same command again to resume.
    """

    setup: Annotated[tyro.conf.Positional[str | None], optional("SETUP")] = None
    """The name of a set-up."""
    rules: Annotated[tuple[str, ...] | None, optional("RULE ...")] = None
    """Some rows of the published table, such as BP FA (default: all)."""
    seeds: int = 1
    """Number of runs of each row, with seeds 0, 1, 2, ..."""
    epochs: MaybeInt = None
    """Number of epochs, if fewer than published."""
    dataset: Annotated[str | None, optional("DATASET")] = None
    """Another copy of the data, such as cifar-jpeg.npz; verdicts name it."""
    out: MaybePath = None
    """Folder of the runs (default: runs/reproduce-SETUP)."""
    jobs: MaybeInt = None
    """Number of parallel runs, one thread each (default: the number of cores)."""
    page: MaybePath = None
    """Markdown file for the results of all set-ups; they are stored in a folder beside it."""

    def execute(self, console: Console) -> None:
        """List the set-ups, or train one."""
        if self.setup is None:
            self._list(console)
            return
        setup = load(self.setup)
        found = reproduction.run(
            setup,
            self.rules,
            self.seeds,
            self.epochs,
            self.dataset,
            self.out,
            self.jobs,
            Display(console),
        )
        table = Table(*found.HEADINGS, title=f"{setup.name}: {setup.title}", title_justify="left")
        for cells in found.cells:
            table.add_row(*cells)
        console.print(table)
        say(console, f"test accuracy in percent; {page.FIGURES[setup.figure]}")
        if self.page:
            reproduction.save(found, self.page.with_suffix(""))
            page.write(self.page)
            say(console, f"results of all set-ups: {self.page}")
        if not any(one.values for one in found.measured):
            raise RunError(f"no run completed; the first: {found.measured[0].problem}")

    def _list(self, console: Console) -> None:
        given = [
            name
            for name in ("rules", "epochs", "dataset", "out", "jobs", "page")
            if getattr(self, name)
        ]
        if given or self.seeds != 1:
            raise OptionError(f"--{(given or ['seeds'])[0]} needs the name of a set-up")
        table = Table(*page.OVERVIEW)
        for name in names():
            table.add_row(*page.overview(load(name)))
        console.print(table)
        say(console, "train one with: lra reproduce SETUP")
