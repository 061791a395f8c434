"""The commands `lra compare` and `lra tune`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table as Shown

from lra.errors import OptionError
from lra.lab import data
from lra.lab.commands import MaybePath, say
from lra.lab.compare.grid import Grid
from lra.lab.compare.machine import cores
from lra.lab.compare.pool import Pool
from lra.lab.compare.progress import Display
from lra.lab.compare.results import Table, tables, write_runs
from lra.lab.compare.schedule import Schedule
from lra.lab.compare.sentences import cells, headings, settings_text, verdict
from lra.lab.compare.words import command
from lra.lab.options import MaybeInt

TRIALS = 8
"""How many trials a search has unless told otherwise."""


@dataclass(frozen=True)
class Compare:
    """Compare rules on the same networks, data, weights and batches, and write a report.

    The same command again goes on where it was stopped. Machines that run it at the same time in
    one shared folder share the work.
    """

    grid: Annotated[Grid, tyro.conf.arg(name="")]
    out: MaybePath = None
    """Folder of the comparison; by default runs/compare-DATASETS."""
    jobs: MaybeInt = None
    """How many runs at once, one thread each; by default as many as there are cores."""
    page: MaybePath = None
    """Markdown file to write the report to as well, with pictures in a folder beside it."""
    report: bool = False
    """Train nothing; write the report of what is there."""

    def execute(self, console: Console) -> None:
        """Compare."""
        from lra.lab.compare.page import write_html, write_markdown  # they load what draws
        from lra.lab.compare.report import make_report

        out = self.out or _folder(self.grid)
        schedule = _schedule(self.grid, out, self.jobs, console, self.report)
        found = tables(schedule)
        report = make_report(self.grid, found, out)
        write_runs(found, out / "runs.csv")
        write_markdown(report, out / "report.md")
        write_html(report, out / "report.html")
        if self.page:
            write_markdown(report, self.page)
        for table in found:
            _show(table, console)
        say(console, f"report: {out / 'report.html'}, {out / 'report.md'}")


@dataclass(frozen=True)
class Tune:
    """Search each rule's settings on the validation split, with the same number of trials for each.

    lra compare with the same options and folder takes what was found here.
    """

    grid: Annotated[Grid, tyro.conf.arg(name="")]
    out: MaybePath = None
    """Folder of the trials; by default runs/compare-DATASETS."""
    jobs: MaybeInt = None
    """How many trials at once, one thread each; by default as many as there are cores."""

    def execute(self, console: Console) -> None:
        """Search."""
        out = self.out or _folder(self.grid)
        grid = dataclasses.replace(self.grid, trials=self.grid.trials or TRIALS)
        schedule = _schedule(dataclasses.replace(grid, seeds=0), out, self.jobs, console)
        shown = Shown("network", "rule", "chosen", "trials")
        for table in tables(schedule):
            for entry in table.entries:
                chosen = entry.refusal or settings_text(entry.settings) or "nothing to search"
                shown.add_row(str(table.problem), entry.label, chosen, str(len(entry.trials)))
        console.print(shown)
        say(console, f"runs with these settings: {command(grid, out)}")


def _folder(grid: Grid) -> Path:
    names = "-".join(dict.fromkeys(Path(dataset).stem for dataset in grid.datasets))
    return Path("runs") / f"compare-{names}"


def _schedule(
    grid: Grid, out: Path, jobs: int | None, console: Console, look: bool = False
) -> Schedule:
    """Do what is to be done, or only look at what there is."""
    if jobs is not None and jobs < 1:
        raise OptionError(f"jobs must be 1 or more; got {jobs}")
    if look:
        return Schedule(grid, out)
    for dataset in grid.datasets:  # once, before many processes ask for them
        data.fetch(dataset, on_event=lambda event: say(console, event))
    pool = Pool(grid, out, jobs or cores(), Display(console))
    count = f"rules: {len(grid.entrants)}, networks: {len(grid.problems)}, seeds: {grid.seeds}"
    trials = f", trials of each: {grid.trials}" if grid.trials else ""
    say(console, f"{count}{trials}; {pool.jobs} at once; in {out}")
    return pool.work()


def _show(table: Table, console: Console) -> None:
    """Print a network's results."""
    names = headings(table)[:5]
    shown = Shown(*names, title=str(table.problem), title_justify="left")
    for entry in table.entries:
        shown.add_row(*cells(table, entry)[:5])
    console.print(shown)
    for sentence in verdict(table):
        say(console, sentence)
