"""The report of a comparison, in Markdown with plots."""

import dataclasses
import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lra.lab.comparison.grid import TRIAL_SEED, Grid
from lra.lab.comparison.machine import machine, versions
from lra.lab.comparison.pictures import all_pictures
from lra.lab.comparison.results import Entry, Table
from lra.lab.comparison.sentences import cells, headings, settings_text, state, verdict
from lra.lab.comparison.words import command
from lra.lab.settings.spec import with_options


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        title: the title.
        markdown: the text; it refers to each plot as NAME.svg.
        pictures: the plots as SVG, by name.
    """

    title: str
    markdown: str
    pictures: dict[str, str]


def make_report(grid: Grid, found: Sequence[Table], out: Path) -> Report:
    """Build the report of a comparison.

    Args:
        grid: the grid of the comparison.
        found: the results, one table for each network.
        out: the comparison's folder, which the printed command names.
    """
    names = ", ".join(dict.fromkeys(Path(d).stem for d in grid.datasets))
    title = f"{len(grid.rule_specs)} learning rules compared: {names}"
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
    lines += ["## How to read the tables", "", *_bullets(_reading_notes(found)), ""]
    lines += ["## How the runs were made", "", *_bullets(_method_notes(grid, found)), ""]
    lines += _trials_section(found)
    lines += _failures_section(found)
    lines += ["## Reproduce a row", "", "With the settings in the tables:", "", "```sh"]
    lines += [_row_command(grid, entry) for t in found for entry in t.entries if entry.done]
    lines += ["```", ""]
    return Report(title, "\n".join(lines), pictures)


def _row_command(grid: Grid, entry: Entry) -> str:
    """Return the command that trains a rule on a network with the chosen settings."""
    chosen = settings_text(entry.settings)
    text = with_options(entry.label, chosen)
    problem = entry.experiment.problem
    one = dataclasses.replace(
        grid, datasets=(problem.dataset,), rules=(text,), models=(problem.model_text,), depths=None,
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
            _count(len(grid.rule_specs), "rule"),
            _count(len(found), "network"),
            _count(grid.seeds, "seed"),
        )
    )
    return (
        f"{size}: {_count(runs, 'run')}, {hours:.1f} hours of training, not counting trials. "
        f"Written on {date} by\n\n```sh\n{command(grid, out)}\n```"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _glance(found: Sequence[Table]) -> list[str]:
    """Return a table of means with a row for each rule and a column for each network."""
    rows = []
    for entries in zip(*(table.entries for table in found), strict=True):
        row = [entries[0].label]
        for table, entry in zip(found, entries, strict=True):
            spread = table.spread(entry)
            row.append(f"{spread.mean:.{3 if table.text else 2}f}" if spread else state(entry))
        rows.append(row)
    return _table(["rule", *(str(table.problem) for table in found)], rows)


def _reading_notes(found: Sequence[Table]) -> Iterable[str]:
    intervals = sum(bool(table.gap(entry)) for table in found for entry in table.entries)
    yield (
        "Each figure is the mean ± the sample standard deviation over seeds. It is measured once "
        "on the test split, with the weights that had the best validation result."
    )
    yield (
        "Differences are paired by seed: both runs start from the same weights and see the same "
        "batches. Intervals are Student's t intervals of 95 %, not corrected for multiple "
        "comparisons: one in twenty misses the true difference by chance, and this report has "
        f"{intervals}."
    )
    yield (
        "If an interval contains 0, these seeds do not distinguish the two rules. This does not "
        "show that they are equal. A rule whose feedback is close to the weights, or mirrors them, "
        "approaches backprop, so equal accuracy is expected there."
    )
    yield (
        "The column feedback counts learned feedback weights, which come on top of the weights. "
        "The time per step includes validation and was measured while other runs used the other "
        "cores. Memory is the peak of the process (on CUDA, of its tensors)."
    )
    if any(entry.count("diverged") for table in found for entry in table.entries):
        yield "Diverged runs are counted but not averaged, and their rules are not compared."


def _method_notes(grid: Grid, found: Sequence[Table]) -> Iterable[str]:
    yield (
        f"Seeds 0 to {grid.seeds - 1} determine the split, the initial weights and the order of "
        "the batches. They are the same for every rule."
    )
    epochs = _count(grid.epochs, "epoch") if grid.epochs else "10 epochs, or 1,000 steps if more"
    decay = "the optimizer's default" if grid.weight_decay is None else f"{grid.weight_decay:g}"
    held_out = "2,000 samples or a tenth" if grid.validation is None else f"{grid.validation:,}"
    yield (
        f"Every run: {epochs}, batches of {grid.batch_size}, {grid.optimizer}, schedule "
        f"{grid.schedule}, weight decay {decay}, {held_out} for validation, one thread."
    )
    if grid.trials:
        options = grid.options
        length = options.trial_epochs
        trial = _count(length, "epoch") if length else "the length of a run"
        how = {"even": "points that cover the space evenly", "random": "points drawn at random"}
        yield (
            f"Settings: the best of {grid.trials} trials for each rule on each network, judged by "
            f"validation data alone, with seed {TRIAL_SEED}, each {trial}; "
            f"{how.get(options.sampler, 'points chosen by TPE')}"
            f"{', stopped early if below the median' if options.prune else ''}. Searched: "
            f"{'; '.join(map(str, grid.space))}, for rules that have the setting and do not fix it."
        )
    else:
        yield (
            f"Settings: as given, learning rate {grid.lr:g} for rules that do not set it. Nothing "
            "was searched, so a rule may do better with other settings; --trials 8 searches."
        )
    known = {r.outcome.machine for t in found for e in t.entries for r in e.done}
    yield f"Machine: {' and '.join(sorted(known - {''})) or machine()}."
    yield "Versions: " + ", ".join(f"{name} {number}" for name, number in versions().items()) + "."


def _trials_section(found: Sequence[Table]) -> list[str]:
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
    header = ["network", "rule", "chosen", "trials: validation accuracy (%), or minus the loss"]
    return ["## Trials", "", *_table(header, rows), ""] if rows else []


def _failures_section(found: Sequence[Table]) -> list[str]:
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
    header = ["network", "rule", "reason"]
    return ["## No result", "", *_table(header, rows), ""] if rows else []


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table without the columns that are empty in every row."""
    columns = [i for i in range(len(header)) if i < 2 or any(row[i] for row in rows)]
    lines = ["| " + " | ".join(_escape(header[i]) for i in columns) + " |"]
    lines.append("|---" * len(columns) + "|")
    lines += ["| " + " | ".join(_escape(row[i]) for i in columns) + " |" for row in rows]
    return lines


def _bullets(texts: Iterable[str]) -> list[str]:
    return [f"- {_escape(text)}" for text in texts]


def _escape(text: str) -> str:
    """Escape the characters that Markdown interprets."""
    text = " ".join(text.split())
    for mark in r"\`*_<>[]|":
        text = text.replace(mark, f"\\{mark}")
    return text
