"""The results on a network as sentences and as table rows, for the report and the terminal."""

from collections.abc import Callable, Sequence
from typing import Any

from lra.lab.comparison.grid import Problem
from lra.lab.comparison.page import Best, paragraphs, visible
from lra.lab.comparison.results import Entry, Table
from lra.lab.comparison.statistics import Gap


def verdict(table: Table) -> list[str]:
    """Return sentences on which rules differ from the baseline, and which are equivalent to it."""
    sign = -1 if table.text else 1
    known = [(label, gap) for label, gap in table.gaps.items() if gap.half_width is not None]
    groups = {
        "better": [k for k, gap in known if gap.significant and sign * gap.mean > 0],
        "worse": [k for k, gap in known if gap.significant and sign * gap.mean < 0],
        "equivalent": [k for k, gap in known if gap.equivalent],
        "undecided": [k for k, gap in known if not (gap.significant or gap.equivalent)],
        "missing": [e.label for e in table.entries[1:] if e.label not in table.gaps],
    }
    base = table.spread(table.base)
    return paragraphs("verdict.txt", table=table, base=base, margin=margin(table), **groups)


def warnings(tables: Sequence[Table]) -> list[str]:
    """Return what a reader must know before trusting the results."""

    def places(what: Callable[[Entry], str]) -> list[tuple[Problem, list[tuple[str, str]]]]:
        found = ((t.problem, [(e.label, what(e)) for e in t.entries if what(e)]) for t in tables)
        return [(problem, rules) for problem, rules in found if rules]

    return paragraphs(
        "warnings.txt",
        seeds=tables[0].base.experiment.grid.seeds,
        edges=places(lambda entry: ", ".join(entry.edges)),
        missing=places(state),
    )


def headings(table: Table) -> list[str]:
    """Return the column headings; an arrow points to the better values."""
    where, _, what = table.figure.partition("_")
    arrow, unit = ("↓", "nats") if table.text else ("↑", "%")
    return [
        *("rule", f"{where} {what} ({unit}) {arrow}"),
        *(f"minus {visible(table.base.label)} (95 %) {arrow}", f"equal within ±{margin(table)}"),
        *("seeds", "settings", "weights", "feedback", "ms per step ↓", "peak MB ↓"),
    ]


def cells(table: Table, entry: Entry) -> list[str]:
    """Return a rule's row of the table."""
    values = table.spread(entry)
    if values is None:
        return [visible(entry.label), state(entry), *[""] * (len(headings(table)) - 2)]
    weights, feedback = entry.mean("weights"), entry.mean("feedback_weights")
    seconds, steps, memory = entry.mean("seconds"), entry.mean("steps"), entry.memory
    gap, missing = table.gaps.get(entry.label), state(entry)
    settings = settings_text(entry.settings) or "as given"
    return [
        visible(entry.label),
        (Best if entry.label in table.best else str)(values.text(table.digits)),
        gap.text(table.digits) if gap else ("" if entry is table.base else "not compared"),
        _equivalence(gap) if gap else "",
        f"{values.count}, {missing}" if missing else str(values.count),
        f"{settings} (edge)" if entry.edges else settings,
        f"{weights:,.0f}" if weights is not None else "",
        f"{feedback:,.0f}" if feedback is not None else "",
        f"{1000 * seconds / steps:.2f}" if seconds and steps else "",
        f"{memory / 2**20:,.0f}" if memory is not None else "",
    ]


def state(entry: Entry) -> str:
    """Return what a rule's results lack, in a few words; nothing if they are complete."""
    if entry.refusal:
        return entry.refusal.partition(":")[0]
    counts = {what: entry.count(what) for what in ("diverged", "refused", "failed")}
    counts["not finished"] = entry.experiment.grid.seeds - len(entry.runs)
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _equivalence(gap: Gap) -> str:
    if gap.p_equivalent is None:
        return ""
    p = "p < 0.001" if gap.p_equivalent < 0.001 else f"p = {gap.p_equivalent:.3f}"
    return f"yes, {p}" if gap.equivalent else f"not shown, {p}"


def margin(table: Table) -> str:
    """Return the margin of equivalence with its unit."""
    return f"{table.margin:g} {'nats' if table.text else 'points'}"


def settings_text(settings: dict[str, Any]) -> str:
    """Format settings as the command line accepts them."""
    return ",".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in settings.items()
    )
