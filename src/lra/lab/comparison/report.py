"""The report of a comparison: HTML, Markdown, LaTeX, plots, and a CSV file of its runs."""

import base64
import dataclasses
import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lra.errors import OptionError, RunError
from lra.lab.comparison.grid import TRIAL_SEED, Grid
from lra.lab.comparison.machine import machine, versions
from lra.lab.comparison.page import Best, paragraphs, render
from lra.lab.comparison.pictures import FORMATS, pictures
from lra.lab.comparison.results import Entry, Table, Tables, write_runs
from lra.lab.comparison.sentences import (
    cells,
    headings,
    margin,
    settings_text,
    verdict,
    warnings,
)
from lra.lab.comparison.words import command
from lra.lab.runs.atomic import write_atomically
from lra.lab.settings.spec import with_options


def write(grid: Grid, results: Sequence[Table], out: Path, page: Path | None = None) -> list[Path]:
    """Write runs.csv, report.html, report.md, report.tex, and the plots in the folder report.

    Args:
        grid: the grid of the comparison.
        results: the results, one table for each network.
        out: the comparison's folder.
        page: a Markdown file to also write, with its plots in a folder beside it.

    Returns:
        The paths of the files, the plots first.

    Raises:
        OptionError: if `page` has no suffix.
        RunError: if a file or folder cannot be written.
    """
    if page is not None and not page.suffix:
        raise OptionError(f"page {page} must have a suffix, such as {page}.md")
    tables = Tables(results)
    drawn = [pictures(table) for table in tables]
    content = _content(grid, tables, out) | {"drawn": drawn, "data_url": _data_url}
    files: dict[Path, bytes] = {}
    for path in (out / "report.md", *((page,) if page else ())):
        folder = path.with_suffix("")
        for i, plots in enumerate(drawn, 1):
            for name, kinds in plots.items():
                files |= {folder / f"{name}-{i}.{kind}": kinds[kind] for kind in FORMATS}
        files[path] = render("report.md", **content, folder=quote(folder.name)).encode()
    for kind in ("tex", "html"):
        files[out / f"report.{kind}"] = render(f"report.{kind}", **content).encode()
    for path, data in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {path.parent}: {error.strerror}") from error
        write_atomically(path, data)
    write_runs(tables, out / "runs.csv")
    return [*files, out / "runs.csv"]


def _data_url(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


@dataclass(frozen=True)
class Rows:
    """A table of texts with the headings of its columns."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def part(self, *columns: int) -> "Rows":
        """Return the given columns that are not empty in every row; by default of all."""
        chosen = columns or range(len(self.header))
        kept = [j for j in chosen if any(row[j] for row in self.rows)]
        return Rows([self.header[j] for j in kept], [[row[j] for j in kept] for row in self.rows])

    @property
    def numeric(self) -> list[bool]:
        """Whether each column has numbers."""
        number = re.compile(r"[-+]?\d")
        return [any(map(number.match, column)) for column in zip(*self.rows, strict=True)]


def _content(grid: Grid, tables: Tables, out: Path) -> dict[str, Any]:
    """Return the values that the templates insert."""
    entries = [entry for table in tables for entry in table.entries]
    done = [run for entry in entries for run in entry.done]
    names = ", ".join(dict.fromkeys(Path(dataset).stem for dataset in grid.datasets))
    values = {
        "grid": grid,
        "tables": tables,
        "runs": sum(len(entry.runs) for entry in entries),
        "hours": sum(run.figure("seconds") or 0.0 for run in done) / 3600,
        "date": datetime.date.today().isoformat(),
        "trial_seed": TRIAL_SEED,
        "machines": sorted({run.outcome.machine for run in done} - {""}) or [machine()],
        "versions": versions(),
    }
    parts = ("opening", "ranking", "reading", "method")
    return {name: paragraphs(f"{name}.txt", **values) for name in parts} | {
        "title": f"{len(grid.rule_specs)} learning rules compared: {names}",
        "command": command(grid, out),
        "warnings": warnings(tables),
        "glance": _glance(tables) if len(tables) > 1 else None,
        "networks": [_network(table) for table in tables],
        "commands": [_row_command(grid, entry) for entry in entries if entry.done],
    }


def _glance(tables: Tables) -> Rows:
    """Return a table of means with a row for each rule and a column for each network."""
    header = [f"{table.problem} {headings(table)[1][-1]}" for table in tables]
    ranks = dict(zip(tables.ranked, tables.ranking.ranks, strict=True)) if tables.ranking else {}
    rows = []
    for entries in zip(*(table.entries for table in tables), strict=True):
        label = entries[0].label
        means = [cells(table, entry)[1] for table, entry in zip(tables, entries, strict=True)]
        best = Best if label in ranks and ranks[label] == min(ranks.values()) else str
        rows.append([label, *means, best(f"{ranks[label]:.2f}" if label in ranks else "")])
    return Rows(["rule", *header, "mean rank ↓"], rows).part()


def _network(table: Table) -> dict[str, Any]:
    """Return what the templates insert for one network."""
    trials = [
        [entry.label, settings_text(entry.settings), "; ".join(_trial(*t) for t in entry.trials)]
        for entry in table.entries
        if entry.trials
    ]
    failures = []
    for entry in table.entries:
        ended = [(f"{entry.label}, seed {run.seed}", run.outcome) for run in entry.runs]
        lost = [[name, f"{o.state}: {o.reason}"] for name, o in ended if o.state != "done"]
        failures += [[entry.label, entry.refusal]] if entry.refusal else lost
    texts = {"table": table, "margin": margin(table)}
    return {
        "name": str(table.problem),
        "verdict": verdict(table),
        "rows": Rows(headings(table), [cells(table, entry) for entry in table.entries]),
        "trials": Rows(("rule", "chosen", "trials"), trials),
        "failures": Rows(("rule", "reason"), failures),
        "score": "minus the validation loss" if table.text else "validation accuracy (%)",
        "captions": {n: paragraphs(f"{n}.txt", **texts)[0] for n in ("gaps", "curves")},
    }


def _trial(settings: dict[str, Any], score: float | None) -> str:
    return f"{settings_text(settings)}: {'stopped' if score is None else f'{score:.2f}'}"


def _row_command(grid: Grid, entry: Entry) -> str:
    """Return the command that trains a rule on a network with the chosen settings."""
    chosen = settings_text(entry.settings)
    text = with_options(entry.label, chosen)
    problem = entry.experiment.problem
    own = {*entry.experiment.rule.options, *entry.settings}  # these would have no effect
    defaults: dict[str, Any] = {
        f.name: f.default for f in dataclasses.fields(grid) if f.name in own
    }
    settings = tuple(text for text in grid.settings if text.partition("=")[0] not in own)
    one = dataclasses.replace(
        grid, datasets=(problem.dataset,), rules=(text,), models=(problem.model_text,), depths=None,
        trials=0, options=type(grid.options)(), settings=settings, **defaults,
    )  # fmt: skip
    return command(one)
