"""Training a published set-up, and comparing what it measures with what was published."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lra.errors import OptionError, RunError, one_line
from lra.lab.cli.terminal import Terminal
from lra.lab.comparison import api
from lra.lab.comparison.progress import Display
from lra.lab.comparison.results import Entry, Run
from lra.lab.published.setup import Row, Setup, load
from lra.lab.runs import files


@dataclass(frozen=True)
class Measured:
    """What the runs of one row measured.

    Attributes:
        name: the row's name.
        epochs: the number of epochs.
        values: the test accuracy of each seed that is published, in percent.
        chosen: the test accuracy of each seed at the epoch that validation samples choose; that of
            the last epoch without them.
        seconds: the mean duration of a run.
        problem: why there are no values, or "".
        machine: the machine that trained.
        dataset: the copy of the data that stood in for the published data, or "".
    """

    name: str
    epochs: int
    values: Sequence[float]
    chosen: Sequence[float]
    seconds: float | None
    problem: str = ""
    machine: str = ""
    dataset: str = ""


@dataclass(frozen=True)
class Reproduction:
    """Hold a set-up and what its runs measured. `lra.lab.reproduce` returns one.

    Attributes:
        setup: the set-up.
        measured: the results, one for each row that was trained.
    """

    setup: Setup
    measured: Sequence[Measured]

    HEADINGS = ("rule", "epochs", "published", "measured", "difference", "tolerance", "verdict")

    @property
    def cells(self) -> list[list[str]]:
        """The table as texts, below `HEADINGS`. Accuracies are in percent."""
        rows = {row.name: row for row in self.setup.rows}
        return [self._cells(rows[one.name], one) for one in self.measured if one.name in rows]

    def _cells(self, row: Row, one: Measured) -> list[str]:
        whole = row.published[self.setup.epochs]
        published = row.published.get(one.epochs)
        text = f"{published or whole:.2f}"
        if not one.values:
            return [one.name, str(one.epochs), text, "", "", "", one.problem or "not finished"]
        mean = fmean(one.values)
        spread = f" ± {stdev(one.values):.2f}" if len(one.values) > 1 else ""
        measured = f"{mean:.2f}{spread} ({len(one.values)})"
        if published is None:
            text = f"{whole:.2f} after {self.setup.epochs}"
            verdict = "shortened" + f", on {one.dataset}" * bool(one.dataset)
            return [one.name, str(one.epochs), text, measured, "", "", verdict]
        gap, tolerance = mean - published, self.setup.tolerance(published)
        verdict = "within tolerance" if abs(gap) <= tolerance else f"off by {gap:+.2f}"
        if one.epochs < self.setup.epochs:
            verdict += ", shortened"
        if one.dataset:
            verdict += f", on {one.dataset}"
        numbers = [f"{gap:+.2f}", f"{tolerance:.2f}"]
        return [one.name, str(one.epochs), text, measured, *numbers, verdict]

    def __repr__(self) -> str:
        return f"Reproduction({self.setup.name!r}, {len(self.measured)} rows)"


def reproduce(
    name: str,
    *,
    rules: Sequence[str] | None = None,
    seeds: int = 1,
    epochs: int | None = None,
    dataset: str | None = None,
    folder: Path | str | None = None,
    jobs: int | None = None,
    progress: bool = False,
) -> Reproduction:
    """Train a published set-up as published, and compare the results with its numbers.

    The same call resumes it, and repeats no finished run.

    Args:
        name: the name of a set-up; `lra reproduce` lists them.
        rules: the names of some rows; by default all.
        seeds: the number of runs of each row.
        epochs: a smaller number of epochs than published.
        dataset: another copy of the data, such as "cifar-jpeg.npz", for a machine without the
            published one. Verdicts name it.
        folder: the folder of the runs (default: runs/reproduce-NAME).
        jobs: the number of parallel runs (default: the number of cores).
        progress: whether to print the progress.

    Returns:
        What was measured beside what was published.

    Raises:
        OptionError: the set-up or a rule is unknown, or a number is out of range.
        DataError: the data cannot be loaded.
        RunError: a file cannot be read or written.
        Interrupted: after Ctrl-C or SIGTERM; all runs are saved.

    >>> import lra.lab
    >>> lra.lab.reproduce("akrout-mnist", rules=["BP"], epochs=1)  # doctest: +SKIP
    Reproduction('akrout-mnist', 1 rows)
    """
    display = Display(Terminal() if progress else None)
    return run(load(name), rules, seeds, epochs, dataset, folder, jobs, display)


def run(
    setup: Setup,
    rules: Sequence[str] | None,
    seeds: int,
    epochs: int | None,
    dataset: str | None,
    folder: Path | str | None,
    jobs: int | None,
    display: Display,
) -> Reproduction:
    """Train a set-up; see `reproduce`."""
    length = setup.epochs if epochs is None else epochs
    if not 1 <= length <= setup.epochs:
        raise OptionError(f"epochs must be from 1 to {setup.epochs}, as published; got {epochs}")
    rows = setup.select(rules)
    shortened = "" if length == setup.epochs else f"-{length}-epochs"
    other = Path(dataset).name if dataset else ""
    own = f"reproduce-{setup.name}{shortened}" + f"-{Path(other).stem}" * bool(other)
    out = Path(folder) if folder else Path("runs") / own
    grid = setup.grid(rows, seeds, length)
    if dataset:
        grid = replace(grid, datasets=(dataset,))
    comparison = api.run_grid(grid, out, jobs, display)
    entries = comparison.tables[0].entries
    pairs = zip(rows, entries, strict=True)
    return Reproduction(
        setup, [_measured(setup, row, entry, length, other) for row, entry in pairs]
    )


def _measured(setup: Setup, row: Row, entry: Entry, epochs: int, dataset: str) -> Measured:
    runs = entry.done
    lost = [one.outcome for one in entry.runs if one.outcome.state != "done"]
    problem = entry.refusal or next((f"{one.state}: {one.reason}" for one in lost), "")
    return Measured(
        row.name,
        epochs,
        [_figure(setup, one) for one in runs],
        [one.figure("test_accuracy") or 0.0 for one in runs],
        entry.mean("seconds"),
        problem,
        runs[0].outcome.machine if runs else "",
        dataset,
    )


def _figure(setup: Setup, run: Run) -> float:
    """Return the test accuracy of a run that stands beside the published one."""
    if setup.figure == "highest":
        return max(row["test_accuracy"] for row in run.curve)
    name = "test_accuracy_last" if setup.figure == "last" else "test_accuracy"
    return run.figure(name) or 0.0


def save(found: Reproduction, folder: Path) -> None:
    """Write what was measured to FOLDER/NAME.json, beside rows of other runs that it holds."""
    known = [*saved(found.setup, folder).measured, *(one for one in found.measured if one.values)]
    merged = {(one.name, one.epochs, one.dataset): one for one in known}  # the newer of two
    order = [row.name for row in found.setup.rows]
    rows = sorted(merged.values(), key=lambda one: (-one.epochs, order.index(one.name)))
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
    content: dict[str, Any] = {"measured": [asdict(one) for one in rows]}
    files.write_json(folder / f"{found.setup.name}.json", content)


def saved(setup: Setup, folder: Path) -> Reproduction:
    """Read what `save` wrote; without its file, nothing was measured.

    Raises:
        RunError: the file cannot be read.
    """
    path = folder / f"{setup.name}.json"
    try:
        plain = json.loads(path.read_text("utf-8"))
        return Reproduction(setup, [Measured(**one) for one in plain["measured"]])
    except FileNotFoundError:
        return Reproduction(setup, [])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({one_line(error)}); delete it") from error
