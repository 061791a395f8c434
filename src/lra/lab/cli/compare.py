"""Define the commands `lra compare` and `lra tune`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table as RichTable

from lra.errors import OptionError
from lra.lab import data
from lra.lab.cli.commands import MaybePath
from lra.lab.cli.terminal import say
from lra.lab.comparison.grid import Grid
from lra.lab.comparison.machine import cores
from lra.lab.comparison.pool import Pool
from lra.lab.comparison.progress import Display
from lra.lab.comparison.results import Table, tables, write_runs
from lra.lab.comparison.schedule import Schedule
from lra.lab.comparison.sentences import cells, headings, settings_text, verdict
from lra.lab.comparison.words import command
from lra.lab.settings.options import MaybeInt

TRIALS = 8
"""Default number of trials of a search."""


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
    """Train nothing; write the report of the existing runs."""

    def execute(self, console: Console) -> None:
        """Run the comparison and write its report."""
        from lra.lab.comparison.page import write_html, write_markdown  # load matplotlib
        from lra.lab.comparison.report import make_report

        out = self.out or _folder(self.grid)
        schedule = _schedule(self.grid, out, self.jobs, console, read_only=self.report)
        results = tables(schedule)
        report = make_report(self.grid, results, out)
        write_runs(results, out / "runs.csv")
        write_markdown(report, out / "report.md")
        write_html(report, out / "report.html")
        if self.page:
            write_markdown(report, self.page)
        for table in results:
            _print_table(table, console)
        say(console, f"report: {out / 'report.html'}, {out / 'report.md'}")


@dataclass(frozen=True)
class Tune:
    """Search each rule's settings on the validation split, with the same number of trials each.

    Run lra compare with the same options and folder to train with the settings found.
    """

    grid: Annotated[Grid, tyro.conf.arg(name="")]
    out: MaybePath = None
    """Folder of the trials (default: runs/compare-DATASETS)."""
    jobs: MaybeInt = None
    """Number of parallel trials, one thread each (default: the number of cores)."""

    def execute(self, console: Console) -> None:
        """Run the trials and print the chosen settings."""
        out = self.out or _folder(self.grid)
        grid = dataclasses.replace(self.grid, trials=self.grid.trials or TRIALS)
        schedule = _schedule(dataclasses.replace(grid, seeds=0), out, self.jobs, console)
        rows = RichTable("network", "rule", "chosen", "trials")
        for table in tables(schedule):
            for entry in table.entries:
                chosen = entry.refusal or settings_text(entry.settings) or "nothing to search"
                rows.add_row(str(table.problem), entry.label, chosen, str(len(entry.trials)))
        console.print(rows)
        say(console, f"to train with these settings: {command(grid, out)}")


def _folder(grid: Grid) -> Path:
    names = "-".join(dict.fromkeys(Path(dataset).stem for dataset in grid.datasets))
    return Path("runs") / f"compare-{names}"


def _schedule(
    grid: Grid, out: Path, jobs: int | None, console: Console, read_only: bool = False
) -> Schedule:
    """Run all open jobs, or only read the existing results."""
    if jobs is not None and jobs < 1:
        raise OptionError(f"jobs must be 1 or more; got {jobs}")
    if read_only:
        return Schedule(grid, out)
    for dataset in grid.datasets:  # download once, before the workers start
        data.fetch(dataset, on_event=lambda event: say(console, event))
    pool = Pool(grid, out, jobs or cores(), Display(console))
    count = f"rules: {len(grid.rule_specs)}, networks: {len(grid.problems)}, seeds: {grid.seeds}"
    trials = f", trials per rule: {grid.trials}" if grid.trials else ""
    say(console, f"{count}{trials}; {pool.jobs} jobs in parallel; folder {out}")
    return pool.work()


def _print_table(table: Table, console: Console) -> None:
    """Print the results on one network."""
    names = headings(table)[:5]
    rows = RichTable(*names, title=str(table.problem), title_justify="left")
    for entry in table.entries:
        rows.add_row(*cells(table, entry)[:5])
    console.print(rows)
    for sentence in verdict(table):
        say(console, sentence)
