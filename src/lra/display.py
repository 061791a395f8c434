"""How results are shown: printable text, text tables, and HTML tables for notebooks."""

import html
from collections.abc import Iterable, Mapping, Sequence

Rows = Iterable[Sequence[str]]
"""The cells of a table, row by row."""


def printable(text: str) -> str:
    r"""Escape what a terminal would act on or not show, such as `\x1b` for the escape character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plural(count: int, noun: str) -> str:
    """Return a number with its noun, such as "1 layer" and "1,200 layers"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def listed_calls(calls: Mapping[str, int]) -> str:
    """List functions with their numbers of calls."""
    return ", ".join(f"{printable(name)} ({n})" for name, n in calls.items()) or "nothing"


def as_text(header: Sequence[str], rows: Rows, left: int = 1) -> str:
    """Format a table as lines of text.

    Args:
        header: the names of the columns.
        rows: the cells.
        left: the number of columns that are aligned to the left; the others are numbers.
    """
    lines = [list(map(printable, line)) for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_html(
    title: str, header: Sequence[str], rows: Rows, notes: Iterable[str] = (), left: int = 1
) -> str:
    """Format a table as HTML in the notebook's own colours, with every text escaped.

    Args:
        title: the line above the table.
        header: the names of the columns.
        rows: the cells; without any, the table is left out.
        notes: the lines below the table.
        left: the number of columns that are aligned to the left; the others are numbers.
    """

    def line(tag: str, cells: Sequence[str]) -> str:
        aligned = (
            f'<{tag} style="text-align:{"left" if i < left else "right"}">{_escape(cell)}</{tag}>'
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(aligned)}</tr>"

    body = "".join(line("td", row) for row in rows)
    table = f"<table><thead>{line('th', header)}</thead><tbody>{body}</tbody></table>"
    below = "".join(f"<div>{_escape(note)}</div>" for note in notes)
    return (
        f'<div style="overflow-x:auto"><div><b>{_escape(title)}</b></div>'
        f"{table if body else ''}{below}</div>"
    )


def _escape(text: str) -> str:
    return html.escape(printable(text))
