"""Comparisons and searches from Python; `lra compare` and `lra tune` call the same functions."""

import dataclasses
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from lra.axis import unknown
from lra.display import as_html
from lra.errors import OptionError, RunError, one_line
from lra.lab import data
from lra.lab.cli.terminal import Terminal
from lra.lab.comparison.grid import Grid, Search
from lra.lab.comparison.machine import cores
from lra.lab.comparison.pool import Pool
from lra.lab.comparison.progress import Display
from lra.lab.comparison.results import FIGURES, Entry, Tables, tables
from lra.lab.comparison.schedule import Schedule
from lra.lab.comparison.sentences import settings_text, warnings
from lra.lab.comparison.store import Store
from lra.lab.comparison.words import command
from lra.lab.runs import files

TRIALS = 8
"""Default number of trials of `lra tune`."""

GRID = "grid.json"
"""The file that holds the grids of the comparisons in a folder, the newest last."""

Names = str | Path | Sequence[str | Path]


@dataclass(frozen=True, repr=False)
class _Results:
    grid: Grid
    folder: Path
    tables: Tables
    _what: ClassVar[str]

    def _reason(self, entry: Entry) -> str:
        """Return why a rule has no result on a network, or ""."""
        raise NotImplementedError

    @property
    def _entries(self) -> list[Entry]:
        return [entry for table in self.tables for entry in table.entries]

    @property
    def failure(self) -> str:
        """Why no run or trial completed, with the first reason; "" if one did."""
        reasons = [self._reason(entry) for entry in self._entries]
        if not all(reasons):
            return ""
        return f"no {self._what} completed; the first, {self._entries[0].experiment}: {reasons[0]}"


class Comparison(_Results):
    """Hold the results of a comparison.

    `lra.lab.compare` returns one, and `Comparison.open` opens an earlier one.

    Attributes:
        grid: the rules, networks and datasets, and how they were trained.
        folder: the folder with the runs and the report.
        tables: the results, one table for each network.
    """

    _what = "run"

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open the newest comparison of a folder, with the runs that have ended.

        Args:
            folder: the folder of the comparison.

        Raises:
            RunError: if the folder holds no comparison.
        """
        folder = Path(folder)
        grids = read_grids(folder)
        if not grids:
            raise RunError(f"{folder} holds no comparison; name the folder by --out")
        return cls(grids[-1], folder, tables(Schedule(grids[-1], folder)))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The runs that have ended: dataset, network, rule, settings, seed, state and figures."""
        return [
            {
                "dataset": entry.experiment.problem.dataset,
                "network": entry.experiment.problem.model_text,
                "rule": entry.label,
                "settings": entry.settings,
                "seed": run.seed,
                "state": run.outcome.state,
                **{name: (run.outcome.result or {}).get(name) for name in FIGURES},
                "folder": self.folder / "runs" / run.name,
            }
            for entry in self._entries
            for run in entry.runs
        ]

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before trusting the results, such as too few seeds."""
        return warnings(self.tables)

    def _reason(self, entry: Entry) -> str:
        reasons = [f"{run.outcome.state}: {run.outcome.reason}" for run in entry.runs]
        return "" if entry.done else entry.refusal or next(iter(reasons), "it has not ended yet")

    def report(self, page: Path | str | None = None) -> list[Path]:
        """Write the report to the folder, and return the paths of its files.

        Args:
            page: a Markdown file to also write, with its plots in a folder beside it.

        Returns:
            The paths.
        """
        from lra.lab.comparison.report import write  # loads matplotlib

        return write(self.grid, self.tables, self.folder, Path(page) if page else None)

    def __repr__(self) -> str:
        done = sum(len(entry.done) for entry in self._entries)
        runs = len(self._entries) * self.grid.seeds
        size = f"rules: {len(self.grid.rules)}, networks: {len(self.tables)}"
        return f"Comparison({str(self.folder)!r}, {size}, {done} of {runs} runs done)"

    def _repr_html_(self) -> str:
        return "".join(f"<p>{html.escape(text)}</p>" for text in self.warnings) + (
            self.tables._repr_html_()
        )


class Tuning(_Results):
    """Hold the results of a search. `lra.lab.tune` returns one.

    Attributes:
        grid: the rules, networks and datasets, and what was searched.
        folder: the folder with the trials.
        tables: the chosen settings and the trials, one table for each network.
    """

    _what = "trial"

    def _reason(self, entry: Entry) -> str:
        diverged = entry.trials and all(score is None for _, score in entry.trials)
        return "every trial diverged" if diverged else entry.refusal or ""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """For each rule on each network: the chosen settings, the trials, or why there are none."""
        return [
            {
                "network": str(entry.experiment.problem),
                "rule": entry.label,
                "settings": entry.settings,
                "trials": entry.trials,
                "edges": entry.edges,
                "failure": self._reason(entry),
            }
            for entry in self._entries
        ]

    @property
    def command(self) -> str:
        """The command that trains with the settings found."""
        return command(self.grid, self.folder)

    @property
    def summary(self) -> list[list[str]]:
        """The rows as texts: network, rule, chosen settings, trials, and settings at the edge."""
        return [
            [
                *(row["network"], row["rule"]),
                row["failure"] or settings_text(row["settings"]) or "nothing to search",
                *(str(len(row["trials"])), ", ".join(row["edges"])),
            ]
            for row in self.rows
        ]

    def __repr__(self) -> str:
        return f"Tuning({str(self.folder)!r}, searches: {len(self._entries)})"

    def _repr_html_(self) -> str:
        return as_html("Chosen settings", SUMMARY, self.summary, left=len(SUMMARY))


SUMMARY = ("network", "rule", "chosen", "trials", "at the edge")
"""The columns of `Tuning.summary`."""


def compare(
    datasets: Names,
    rules: Names | None = None,
    models: Names | None = None,
    *,
    folder: Path | str | None = None,
    jobs: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Comparison:
    """Compare rules on the same networks, data, weights and batches.

    Each run has its own process with one thread. These processes load rules, networks and data
    themselves, which is why those are texts, and they do not import the caller's `__main__`: a
    script needs no `if __name__ == "__main__"`, and a notebook works. They end if this process
    ends. Ctrl-C saves all runs; the same call resumes them, and repeats no finished run.

    Args:
        datasets: names of datasets, or paths; a single text is one dataset.
        rules: rules as on the command line, such as "lra-e:beta=0.1"; the first is the baseline.
            By default all rules that need one pass per step.
        models: networks as on the command line, such as "mlp:width=128"; by default "mlp".
        folder: the folder of the comparison (default: runs/compare-DATASETS).
        jobs: the number of parallel runs (default: the number of cores).
        progress: whether to print the progress.
        **options: the other options of `lra compare`, such as seeds=5, epochs=3, trials=8.

    Returns:
        The results. `Comparison.report()` writes them as a report.

    Raises:
        OptionError: if an option is unknown, invalid, or has no effect.
        DataError: if a dataset cannot be loaded.
        RunError: if a file cannot be read or written.
        Interrupted: after Ctrl-C or SIGTERM; all runs are saved.

    >>> import lra.lab
    >>> found = lra.lab.compare("digits", ["backprop", "lra-e"], seeds=1, epochs=1, folder="runs/c")
    >>> [row["rule"] for row in found.rows]
    ['backprop', 'lra-e']
    """
    grid = make_grid(datasets, rules, models, options)
    return run_grid(grid, folder, jobs, Display(Terminal() if progress else None))


def tune(
    datasets: Names,
    rules: Names | None = None,
    models: Names | None = None,
    *,
    folder: Path | str | None = None,
    jobs: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Tuning:
    """Search each rule's settings on the validation split, with the same number of trials each.

    `compare` with the same arguments and folder trains with the settings found. Processes and
    errors are those of `compare`.

    Args:
        datasets: names of datasets, or paths; a single text is one dataset.
        rules: rules as on the command line, such as "lra-e:beta=0.1".
            By default all rules that need one pass per step.
        models: networks as on the command line, such as "mlp:width=128"; by default "mlp".
        folder: the folder of the comparison (default: runs/compare-DATASETS).
        jobs: the number of parallel trials (default: the number of cores).
        progress: whether to print the progress.
        **options: the other options of `lra tune`, such as epochs=3, and trials (default: 8).

    Returns:
        The chosen settings and the trials.

    >>> import lra.lab
    >>> found = lra.lab.tune("digits", "lra-e", trials=1, epochs=1, folder="runs/t")
    >>> [len(row["trials"]) for row in found.rows]
    [1]
    """
    grid = make_grid(datasets, rules, models, {"trials": TRIALS} | options)
    return search_grid(grid, folder, jobs, Display(Terminal() if progress else None))


def make_grid(
    datasets: Names, rules: Names | None, models: Names | None, options: dict[str, Any]
) -> Grid:
    """Return the grid of a comparison from the arguments of `compare`.

    Raises:
        OptionError: if an option is unknown, invalid, or has no effect.
    """
    names = {"datasets": datasets, "rules": rules, "models": models}
    given: dict[str, Any] = options | {
        name: (str(value),) if isinstance(value, str | Path) else tuple(map(str, value))
        for name, value in names.items()
        if value is not None
    }
    if isinstance(given.get("search"), str):
        given["search"] = (given["search"],)
    searched, known = ({field.name for field in dataclasses.fields(c)} for c in (Search, Grid))
    for name in given.keys() - searched - known | given.keys() & {"options"}:
        raise unknown("option", name, (searched | known) - {"options"})
    search = Search(**{name: given.pop(name) for name in searched & given.keys()})
    return Grid(**given, options=search)


def run_grid(grid: Grid, out: Path | str | None, jobs: int | None, display: Display) -> Comparison:
    """Run a comparison and return its results; see `compare`."""
    if grid.seeds < 1:
        raise OptionError(f"seeds must be 1 or more; got {grid.seeds}")
    folder = Path(out) if out else default_folder(grid)
    _prepare(grid, jobs, display)
    _remember(grid, folder, display)
    return Comparison(grid, folder, tables(_work(grid, folder, jobs, display)))


def search_grid(grid: Grid, out: Path | str | None, jobs: int | None, display: Display) -> Tuning:
    """Run the trials of a comparison and return the chosen settings; see `tune`."""
    if grid.trials < 1:
        raise OptionError(f"trials must be 1 or more; got {grid.trials}")
    folder = Path(out) if out else default_folder(grid)
    _prepare(grid, jobs, display)
    only_trials = dataclasses.replace(grid, seeds=0)
    return Tuning(grid, folder, tables(_work(only_trials, folder, jobs, display)))


def default_folder(grid: Grid) -> Path:
    """Return the folder of a comparison for which none is given."""
    names = "-".join(dict.fromkeys(Path(dataset).stem for dataset in grid.datasets))
    return Path("runs") / f"compare-{names}"


def read_grids(folder: Path) -> list[Grid]:
    """Return the grids of the comparisons in a folder, the newest last.

    Raises:
        RunError: if their file cannot be read.
    """
    path = folder / GRID
    if not path.exists():
        return []
    try:
        return [Grid.from_config(plain) for plain in json.loads(path.read_text("utf-8"))["grids"]]
    except Exception as error:  # an untrusted file can raise many types
        raise RunError(f"{path}: {one_line(error)}") from error


def _prepare(grid: Grid, jobs: int | None, display: Display) -> None:
    """Check what a grid alone may lack, and fetch the data before the workers start."""
    if not grid.datasets:
        raise OptionError("no dataset is given; name one, such as digits")
    if jobs is not None and jobs < 1:
        raise OptionError(f"jobs must be 1 or more; got {jobs}")
    for dataset in grid.datasets:
        data.fetch(dataset, on_event=display.say)


def _remember(grid: Grid, folder: Path, display: Display) -> None:
    """Write the grid to the folder, after those of earlier comparisons in it."""
    with Store(folder).lock(GRID):
        grids = read_grids(folder)
        if grids[-1:] == [grid]:
            return
        if grids:
            display.say(
                f"{folder} also holds another comparison. Runs that both have are not repeated, "
                f"and its report is written again by: {command(grids[-1], folder)}"
            )
        plain = [one.to_config() for one in grids if one != grid] + [grid.to_config()]
        files.write_json(folder / GRID, {"grids": plain})


def _work(grid: Grid, folder: Path, jobs: int | None, display: Display) -> Schedule:
    pool = Pool(grid, folder, jobs or cores(), display)
    count = f"rules: {len(grid.rules)}, networks: {len(grid.problems)}, seeds: {grid.seeds}"
    trials = f", trials per rule: {grid.trials}" if grid.trials else ""
    display.say(f"{count}{trials}; {pool.jobs} jobs in parallel; folder {folder}")
    return pool.work()
