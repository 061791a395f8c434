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
from lra.lab.comparison.page import paragraphs, render
from lra.lab.comparison.pictures import FORMATS, pictures
from lra.lab.comparison.results import Entry, Table, Tables, write_runs
from lra.lab.comparison.sentences import (
    cells,
    headings,
    margin,
    settings_text,
    state,
    verdict,
    warnings,
)
from lra.lab.comparison.words import command
from lra.lab.runs.atomic import write_atomically


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
    """A table of texts.

    Attributes:
        header: the headings of the columns.
        rows: the cells of each row.
        best: the (row, column) of each best value.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: frozenset[tuple[int, int]] = frozenset()

    @property
    def columns(self) -> list[int]:
        """The columns that are not empty in every row."""
        return [j for j in range(len(self.header)) if any(row[j] for row in self.rows)]

    def numeric(self, column: int) -> bool:
        """Return whether a column has numbers."""
        return any(re.match(r"[-+]?\d", row[column]) for row in self.rows)


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
        "diverged": any(entry.count("diverged") for entry in entries),
        "machines": sorted({run.outcome.machine for run in done} - {""}) or [machine()],
        "versions": versions(),
    }
    return {
        "title": f"{len(grid.rule_specs)} learning rules compared: {names}",
        **{
            name: paragraphs(f"{name}.txt", **values)
            for name in ("opening", "ranking", "reading", "method")
        },
        "command": command(grid, out),
        "warnings": warnings(tables),
        "glance": _glance(tables) if len(tables) > 1 else None,
        "networks": [_network(table) for table in tables],
        "commands": [_row_command(grid, entry) for entry in entries if entry.done],
    }


def _glance(tables: Tables) -> Rows:
    """Return a table of means with a row for each rule and a column for each network."""
    rows, best = [], set()
    ranks = dict(zip(tables.ranked, tables.ranking.ranks, strict=True)) if tables.ranking else {}
    for i, entries in enumerate(zip(*(table.entries for table in tables), strict=True)):
        row = [entries[0].label]
        for j, (table, entry) in enumerate(zip(tables, entries, strict=True), 1):
            spread = table.spread(entry)
            row.append(spread.text(table.digits) if spread else state(entry))
            best |= {(i, j)} if entry.label in table.best else set()
        rank = ranks.get(row[0])
        best |= {(i, len(row))} if rank and rank == min(ranks.values()) else set()
        rows.append([*row, f"{rank:.2f}" if rank else ""])
    header = ["rule", *(f"{table.problem} {headings(table)[1][-1]}" for table in tables)]
    return Rows([*header, "mean rank ↓"], rows, frozenset(best))


def _network(table: Table) -> dict[str, Any]:
    """Return what the templates insert for one network."""
    rows = [cells(table, entry) for entry in table.entries]
    best = frozenset((i, 1) for i, entry in enumerate(table.entries) if entry.label in table.best)
    trials = [
        [
            entry.label,
            settings_text(entry.settings),
            "; ".join(_trial(*trial) for trial in entry.trials),
        ]
        for entry in table.entries
        if entry.trials
    ]
    failures = []
    for entry in table.entries:
        if entry.refusal:
            failures.append([entry.label, entry.refusal])
            continue
        failures += [
            [f"{entry.label}, seed {run.seed}", f"{run.outcome.state}: {run.outcome.reason}"]
            for run in entry.runs
            if run.outcome.state in ("failed", "diverged")
        ]
    return {
        "table": table,
        "name": str(table.problem),
        "verdict": verdict(table),
        "rows": Rows(headings(table), rows, best),
        "trials": Rows(("rule", "chosen", "trials"), trials),
        "failures": Rows(("rule", "reason"), failures),
        "score": "minus the validation loss" if table.text else "validation accuracy (%)",
        "captions": {
            name: paragraphs(f"{name}.txt", table=table, margin=margin(table))[0]
            for name in ("gaps", "curves")
        },
    }


def _trial(settings: dict[str, Any], score: float | None) -> str:
    return f"{settings_text(settings)}: {'stopped' if score is None else f'{score:.2f}'}"


def _row_command(grid: Grid, entry: Entry) -> str:
    """Return the command that trains a rule on a network with the chosen settings."""
    chosen = settings_text(entry.settings)
    text = entry.label + (("," if ":" in entry.label else ":") + chosen if chosen else "")
    problem = entry.experiment.problem
    one = dataclasses.replace(
        grid, datasets=(problem.dataset,), rules=(text,), models=(problem.model_text,), depths=(),
        trials=0, options=type(grid.options)(),
    )  # fmt: skip
    return command(one)
