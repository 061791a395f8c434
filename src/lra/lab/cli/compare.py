"""Define the commands `lra compare` and `lra tune`."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table as RichTable

from lra.errors import OptionError, RunError
from lra.lab.cli.commands import MaybePath
from lra.lab.cli.terminal import say
from lra.lab.comparison import api
from lra.lab.comparison.grid import Grid
from lra.lab.comparison.progress import Display
from lra.lab.comparison.results import Table
from lra.lab.comparison.sentences import cells, headings, verdict
from lra.lab.comparison.words import flags
from lra.lab.settings.options import MaybeInt


@dataclass(frozen=True)
class Compare:
    """Compare rules on the same networks, data, weights and batches, and write a report.

    Run the same command again to resume. Several machines that run it in one shared folder split
    the work.
    """

    grid: Annotated[Grid, tyro.conf.arg(name="")]
    out: MaybePath = None
    """Folder of the comparison (default: runs/compare-DATASETS)."""
    jobs: MaybeInt = None
    """Number of parallel runs, one thread each (default: the number of cores)."""
    page: MaybePath = None
    """Markdown file to also write the report to, with its plots in a folder beside it."""
    report: bool = False
    """Train nothing; write the report of the comparison in the folder given by --out."""

    def execute(self, console: Console) -> None:
        """Run the comparison and write its report."""
        if self.report:
            comparison = self._open()
        else:
            comparison = api.run_grid(self.grid, self.out, self.jobs, Display(console))
        paths = comparison.report(self.page)
        for table in comparison.tables:
            _print_table(table, console)
        for warning in comparison.warnings:
            say(console, warning)
        say(console, f"report: {', '.join(str(p) for p in paths if p.stem == 'report')}")
        if comparison.failure:
            raise RunError(comparison.failure)

    def _open(self) -> api.Comparison:
        given = [*flags(self.grid), *flags(self.grid.options), *(["--jobs"] if self.jobs else [])]
        if given:
            raise OptionError(
                f"--report reports the comparison in the folder as it was run; leave out {given[0]}"
            )
        if self.out is None and not self.grid.datasets:
            raise OptionError("--report needs the folder of a comparison; name it by --out")
        return api.Comparison.open(self.out or api.default_folder(self.grid))


@dataclass(frozen=True)
class Tune:
    """Search each rule's settings on the validation split, with the same number of trials each.

    Run lra compare with the same options and folder to train with the settings found.
    """

    grid: Annotated[Grid, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=lambda: Grid(trials=api.TRIALS)
    )
    out: MaybePath = None
    """Folder of the trials (default: runs/compare-DATASETS)."""
    jobs: MaybeInt = None
    """Number of parallel trials, one thread each (default: the number of cores)."""

    def execute(self, console: Console) -> None:
        """Run the trials and print the chosen settings."""
        tuning = api.search_grid(self.grid, self.out, self.jobs, Display(console))
        rows = RichTable(*api.SUMMARY)
        for row in tuning.summary:
            rows.add_row(*row)
        console.print(rows)
        if tuning.failure:
            raise RunError(tuning.failure)
        say(console, f"to train with these settings: {tuning.command}")


def _print_table(table: Table, console: Console) -> None:
    """Print the results on one network."""
    names = headings(table)[:6]
    rows = RichTable(*names, title=str(table.problem), title_justify="left")
    for entry in table.entries:
        rows.add_row(*cells(table, entry)[:6])
    console.print(rows)
    for sentence in verdict(table):
        say(console, sentence)
