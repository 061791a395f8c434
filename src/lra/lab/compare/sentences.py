"""What a network's results say, in plain sentences, and in a table."""

from collections.abc import Iterable
from typing import Any

from lra.lab.compare.results import Entry, Table
from lra.lab.compare.statistics import Gap, Spread

HEADINGS = (
    *("rule", "{figure}", "minus {base}, paired (95 %)", "seeds", "settings"),
    *("weights", "feedback", "ms a step", "peak MB"),
)


def verdict(table: Table) -> list[str]:
    """Say which rules differ from the first one, and which cannot be told apart from it."""
    base = table.spread(table.base)
    name = table.base.label
    if base is None:
        return [f"{name} has no result here, so nothing can be compared with it."]
    gaps = {entry.label: table.gap(entry) for entry in table.entries[1:]}
    known = {label: gap for label, gap in gaps.items() if gap}
    said = [f"{name}: {spread_text(base, table)}."]
    if any(gap.reach is None for gap in known.values()):
        return [
            *said,
            "One seed for each rule tells nothing about chance: no rule can be told apart.",
        ]
    alike = [label for label, gap in known.items() if not gap.apart]
    up = [label for label, gap in known.items() if gap.apart and gap.mean > 0]
    down = [label for label, gap in known.items() if gap.apart and gap.mean < 0]
    better, worse = (down, up) if table.text else (up, down)
    if alike:
        said.append(
            f"Cannot be told apart from {name} by these {base.count} seeds: {_list(alike)}."
        )
    for labels, what in ((better, "Better"), (worse, "Worse")):
        if labels:
            said.append(f"{what} than {name}: {_list(labels)}.")
    others = [label for label, gap in gaps.items() if gap is None]
    if others:
        said.append(f"Not compared, for want of a result for every seed: {_list(others)}.")
    return said


def _list(labels: Iterable[str]) -> str:
    return ", ".join(labels)


def headings(table: Table) -> list[str]:
    """Give the columns' names."""
    where, _, what = table.figure.partition("_")
    unit = "nats" if table.text else "%"
    named = {"figure": f"{where} {what} ({unit})", "base": table.base.label}
    return [heading.format(**named) for heading in HEADINGS]


def cells(table: Table, entry: Entry) -> list[str]:
    """Give a rule's line of the table."""
    found = table.spread(entry)
    if found is None:
        return [entry.label, state(entry), *[""] * (len(HEADINGS) - 2)]
    weights, feedback = entry.mean("weights"), entry.mean("feedback_weights")
    gap, seconds, memory = table.gap(entry), entry.step_seconds, entry.memory
    trouble = "".join(
        f", {entry.count(what)} {what}" for what in ("diverged", "failed") if entry.count(what)
    )
    return [
        entry.label,
        spread_text(found, table),
        gap_text(gap, table) if gap else ("" if entry is table.base else "not compared"),
        f"{found.count}{trouble}",
        settings_text(entry.settings) or "as stated",
        f"{weights:,.0f}" if weights is not None else "",
        f"{feedback:,.0f}" if feedback is not None else "",
        f"{1000 * seconds:.2f}" if seconds is not None else "",
        f"{memory / 2**20:,.0f}" if memory is not None else "",
    ]


def state(entry: Entry) -> str:
    """Say what became of a rule without a result."""
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
    """Write settings as the command takes them."""
    return ",".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in settings.items()
    )


def spread_text(found: Spread, table: Table) -> str:
    """Write a mean and a deviation."""
    digits = _digits(table)
    deviation = f" ± {found.deviation:.{digits}f}" if found.deviation is not None else ""
    return f"{found.mean:.{digits}f}{deviation}"


def gap_text(gap: Gap, table: Table) -> str:
    """Write a difference with its interval."""
    digits = _digits(table)
    if gap.reach is None:
        return f"{gap.mean:+.{digits}f}"
    ends = (f"{gap.mean + sign * gap.reach:+.{digits}f}" for sign in (-1, 1))
    return f"{gap.mean:+.{digits}f} ({' to '.join(ends)})"


def _digits(table: Table) -> int:
    return 3 if table.text else 2
