"""The report of a comparison, in Markdown, with its pictures."""

import dataclasses
import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lra.lab.compare.grid import TRIAL_SEED, Grid
from lra.lab.compare.machine import machine, versions
from lra.lab.compare.pictures import all_pictures
from lra.lab.compare.results import Entry, Table
from lra.lab.compare.sentences import cells, headings, settings_text, state, verdict
from lra.lab.compare.words import command


@dataclass(frozen=True)
class Report:
    """A report: Markdown that shows pictures by their names, and these pictures as SVG."""

    title: str
    markdown: str
    pictures: dict[str, str]


def make_report(grid: Grid, found: Sequence[Table], out: Path) -> Report:
    """Write a report of what a comparison found.

    Args:
        grid: what was compared.
        found: the results.
        out: the comparison's folder, for the commands.
    """
    names = ", ".join(dict.fromkeys(Path(d).stem for d in grid.datasets))
    title = f"{len(grid.entrants)} learning rules compared: {names}"
    lines = [f"# {title}", "", _opening(grid, found, out), ""]
    pictures: dict[str, str] = {}
    if len(found) > 1:
        lines += ["## At a glance", "", *_glance(found), ""]
    for i, table in enumerate(found, 1):
        lines += [f"## {_escape(str(table.problem))}", "", _escape(" ".join(verdict(table))), ""]
        rows = [cells(table, entry) for entry in table.entries]
        lines += [*_table(headings(table), rows), ""]
        drawn = all_pictures(table)
        pictures |= {f"{name}-{i}": svg for name, svg in drawn.items()}
        lines += [f"![{name}, {_escape(str(table.problem))}]({name}-{i}.svg)" for name in drawn]
        lines.append("")
    lines += ["## How to read this", "", *_bullets(_reading(grid, found)), ""]
    lines += ["## How it was made", "", *_bullets(_making(grid, found)), ""]
    lines += _searches(found)
    lines += _troubles(found)
    lines += ["## To repeat a line", "", "With the settings that the search chose:", "", "```sh"]
    lines += [*(_again(grid, entry) for t in found for entry in t.entries if entry.done), "```", ""]
    return Report(title, "\n".join(lines), pictures)


def _again(grid: Grid, entry: Entry) -> str:
    chosen = settings_text(entry.settings)
    text = entry.label + (("," if ":" in entry.label else ":") + chosen if chosen else "")
    problem = entry.contest.problem
    one = dataclasses.replace(
        grid, datasets=(problem.dataset,), rules=(text,), models=(problem.model_text,), depths=(),
        trials=0, options=type(grid.options)(),
    )  # fmt: skip
    return command(one)


def _opening(grid: Grid, found: Sequence[Table], out: Path) -> str:
    runs = sum(len(entry.runs) for table in found for entry in table.entries)
    hours = (
        sum(run.figure("seconds") or 0.0 for t in found for e in t.entries for run in e.done) / 3600
    )
    date = datetime.date.today().isoformat()
    size = ", ".join(
        (
            _count(len(grid.entrants), "rule"),
            _count(len(found), "network"),
            _count(grid.seeds, "seed"),
        )
    )
    return (
        f"{size}: {_count(runs, 'run')}, {hours:.1f} hours of training without the trials. "
        f"Written on {date} by\n\n```sh\n{command(grid, out)}\n```"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _glance(found: Sequence[Table]) -> list[str]:
    """Give the means of all networks in one table, a line for each rule."""
    rows = []
    for entries in zip(*(table.entries for table in found), strict=True):
        row = [entries[0].label]
        for table, entry in zip(found, entries, strict=True):
            spread = table.spread(entry)
            row.append(f"{spread.mean:.{3 if table.text else 2}f}" if spread else state(entry))
        rows.append(row)
    return _table(["rule", *(str(table.problem) for table in found)], rows)


def _reading(grid: Grid, found: Sequence[Table]) -> Iterable[str]:
    intervals = sum(bool(table.gap(entry)) for table in found for entry in table.entries)
    yield (
        "A figure is the mean over seeds ± the sample standard deviation, of the weights that were "
        "best on validation data, measured once on the test pair."
    )
    yield (
        "A difference is taken seed by seed, between runs that start from the same weights and see "
        "the same batches. Its interval is Student's t of 95 %. Each is for itself: one "
        f"in twenty misses the true difference by chance, and {intervals} are given here."
    )
    yield (
        "Rules whose intervals hold 0 cannot be told apart by these seeds, which does not show "
        "that they are equal. Where feedback is near the weights, or mirrors them, a rule tends to "
        "backprop, so that equal accuracy is no wonder there."
    )
    yield (
        "Feedback weights are those that are learned, beside the weights. Seconds a step count "
        "what an epoch takes, its validation included, while other runs had the other cores; "
        "memory is the most that the process held (on CUDA, its tensors)."
    )
    if any(entry.count("diverged") for table in found for entry in table.entries):
        yield "Runs that diverged are counted, and not averaged; such a rule is not compared."


def _making(grid: Grid, found: Sequence[Table]) -> Iterable[str]:
    yield (
        f"Seeds 0 to {grid.seeds - 1} decide the split, the first weights and the order of the "
        "batches, the same for every rule."
    )
    epochs = f"{grid.epochs} epochs" if grid.epochs else "10 epochs, or 1,000 steps if more"
    decay = "the optimizer's own" if grid.weight_decay is None else f"{grid.weight_decay:g}"
    kept = "2,000 training samples, or a tenth" if grid.validation is None else grid.validation
    yield (
        f"Every run: {epochs}, batches of {grid.batch_size}, {grid.optimizer}, schedule "
        f"{grid.schedule}, weight decay {decay}, {kept} for validation, one thread."
    )
    if grid.trials:
        options = grid.options
        trial = f"{options.trial_epochs} epochs" if options.trial_epochs else "as long as a run"
        how = {"even": "points that cover the space evenly", "random": "points drawn at random"}
        yield (
            f"Settings: the best of {grid.trials} trials for each rule on each network, judged by "
            f"validation data alone, with seed {TRIAL_SEED}, each {trial}; "
            f"{how.get(options.sampler, 'chosen by TPE')}"
            f"{', stopped early where below the median' if options.prune else ''}. Searched: "
            f"{'; '.join(map(str, grid.space))}, where a rule has it and does not state it."
        )
    else:
        yield (
            f"Settings: as stated, step size {grid.lr:g} where a rule states none. Nothing was "
            "searched, so a rule may be shown below its best; --trials 8 searches."
        )
    known = {r.outcome.machine for t in found for e in t.entries for r in e.done}
    yield f"Machine: {' and '.join(sorted(known - {''})) or machine()}."
    yield "Versions: " + ", ".join(f"{name} {number}" for name, number in versions().items()) + "."


def _searches(found: Sequence[Table]) -> list[str]:
    rows = [
        [
            *(str(table.problem), entry.label, settings_text(entry.settings)),
            "; ".join(
                f"{settings_text(settings)}: {'stopped' if value is None else f'{value:.2f}'}"
                for settings, value in entry.trials
            ),
        ]
        for table in found
        for entry in table.entries
        if entry.trials
    ]
    headed = ["network", "rule", "chosen", "trials: validation accuracy (%), or minus the loss"]
    return ["## Trials", "", *_table(headed, rows), ""] if rows else []


def _troubles(found: Sequence[Table]) -> list[str]:
    rows = []
    for table in found:
        for entry in table.entries:
            if entry.refusal:
                rows.append([str(table.problem), entry.label, entry.refusal])
            rows += [
                [
                    *(str(table.problem), f"{entry.label}, seed {run.seed}"),
                    f"{run.outcome.state}: {run.outcome.reason}",
                ]
                for run in entry.runs
                if run.outcome.state in ("failed", "diverged") and not entry.refusal
            ]
    headed = ["network", "rule", "why"]
    return ["## What has no result", "", *_table(headed, rows), ""] if rows else []


def _table(headed: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Give a Markdown table; columns that are empty in every row are left out."""
    kept = [i for i in range(len(headed)) if i < 2 or any(row[i] for row in rows)]
    lines = ["| " + " | ".join(_escape(headed[i]) for i in kept) + " |"]
    lines.append("|---" * len(kept) + "|")
    lines += ["| " + " | ".join(_escape(row[i]) for i in kept) + " |" for row in rows]
    return lines


def _bullets(texts: Iterable[str]) -> list[str]:
    return [f"- {_escape(text)}" for text in texts]


def _escape(text: str) -> str:
    """Keep a text from being read as Markdown."""
    text = " ".join(text.split())
    for mark in r"\`*_<>[]|":
        text = text.replace(mark, f"\\{mark}")
    return text
