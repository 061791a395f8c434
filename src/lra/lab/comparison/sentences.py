"""The results on a network as sentences and as table rows."""

from collections.abc import Iterable, Sequence
from typing import Any

from lra.lab.comparison.results import Entry, Table
from lra.lab.comparison.statistics import Gap, Spread

HEADINGS = (
    *("rule", "{figure}", "minus {base}, paired (95 %)", "seeds", "settings"),
    *("weights", "feedback", "ms per step", "peak MB"),
)

ENOUGH_SEEDS = 5
"""Number of seeds from which a comparison has no warning."""


def verdict(table: Table) -> list[str]:
    """Return sentences on which rules differ significantly from the baseline."""
    base = table.spread(table.base)
    name = table.base.label
    if base is None:
        return [f"{name} has no result here, so no rule is compared with it."]
    gaps = {entry.label: table.gap(entry) for entry in table.entries[1:]}
    known = {label: gap for label, gap in gaps.items() if gap}
    sentences = [f"{name}: {spread_text(base, table)}."]
    if any(gap.half_width is None for gap in known.values()):
        return [
            *sentences,
            "With one seed for each rule, no difference can be distinguished from chance.",
        ]
    similar = [label for label, gap in known.items() if not gap.significant]
    up = [label for label, gap in known.items() if gap.significant and gap.mean > 0]
    down = [label for label, gap in known.items() if gap.significant and gap.mean < 0]
    better, worse = (down, up) if table.text else (up, down)
    if similar:
        seeds = f"these {base.count} seeds"
        sentences.append(f"No significant difference from {name} with {seeds}: {_list(similar)}.")
    for labels, what in ((better, "Better"), (worse, "Worse")):
        if labels:
            sentences.append(f"{what} than {name}: {_list(labels)}.")
    others = [label for label, gap in gaps.items() if gap is None]
    if others:
        sentences.append(f"Not compared, since results are missing: {_list(others)}.")
    return sentences


def _list(labels: Iterable[str]) -> str:
    return ", ".join(labels)


def warnings(tables: Sequence[Table]) -> list[str]:
    """Return what a reader must know before trusting the results."""
    grid = tables[0].base.experiment.grid
    found = []
    if grid.seeds < ENOUGH_SEEDS:
        found.append(
            f"Few seeds: with {grid.seeds}, intervals are wide and a failed run can be missed. "
            f"Use --seeds {ENOUGH_SEEDS} or more; finished runs are kept."
        )
    places = [(str(table.problem), entry) for table in tables for entry in table.entries]
    edges = [f"{', '.join(e.edges)} of {e.label} on {place}" for place, e in places if e.edges]
    if edges:
        found.append(
            "Best trial at the edge of the searched range, so better settings may lie outside: "
            f"{'; '.join(edges)}. Widen the range by --search."
        )
    return found


def headings(table: Table) -> list[str]:
    """Return the column headings."""
    where, _, what = table.figure.partition("_")
    unit = "nats" if table.text else "%"
    named = {"figure": f"{where} {what} ({unit})", "base": table.base.label}
    return [heading.format(**named) for heading in HEADINGS]


def cells(table: Table, entry: Entry) -> list[str]:
    """Return a rule's row of the table."""
    values = table.spread(entry)
    if values is None:
        return [entry.label, state(entry), *[""] * (len(HEADINGS) - 2)]
    weights, feedback = entry.mean("weights"), entry.mean("feedback_weights")
    gap, seconds, memory = table.gap(entry), entry.step_seconds, entry.memory
    failures = "".join(
        f", {entry.count(what)} {what}" for what in ("diverged", "failed") if entry.count(what)
    )
    return [
        entry.label,
        spread_text(values, table),
        gap_text(gap, table) if gap else ("" if entry is table.base else "not compared"),
        f"{values.count}{failures}",
        settings_text(entry.settings) or "as given",
        f"{weights:,.0f}" if weights is not None else "",
        f"{feedback:,.0f}" if feedback is not None else "",
        f"{1000 * seconds:.2f}" if seconds is not None else "",
        f"{memory / 2**20:,.0f}" if memory is not None else "",
    ]


def state(entry: Entry) -> str:
    """Return the state of a rule without a result, in a few words."""
    if entry.refusal:
        return entry.refusal.partition(":")[0]
    return (
        ", ".join(
            f"{entry.count(what)} {what}"
            for what in ("diverged", "refused", "failed")
            if entry.count(what)
        )
        or "not yet"
    )


def settings_text(settings: dict[str, Any]) -> str:
    """Format settings as the command line accepts them."""
    return ",".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in settings.items()
    )


def spread_text(values: Spread, table: Table) -> str:
    """Format a mean and a deviation."""
    digits = _digits(table)
    deviation = f" ± {values.deviation:.{digits}f}" if values.deviation is not None else ""
    return f"{values.mean:.{digits}f}{deviation}"


def gap_text(gap: Gap, table: Table) -> str:
    """Format a difference with its interval."""
    digits = _digits(table)
    if gap.half_width is None:
        return f"{gap.mean:+.{digits}f}"
    ends = (f"{gap.mean + sign * gap.half_width:+.{digits}f}" for sign in (-1, 1))
    return f"{gap.mean:+.{digits}f} ({' to '.join(ends)})"


def _digits(table: Table) -> int:
    return 3 if table.text else 2
