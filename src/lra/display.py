"""How results are shown: printable text, names in plots, and tables as text and HTML."""

import html
from collections.abc import Iterable, Mapping, Sequence

Rows = Iterable[Sequence[str]]
"""The cells of a table, row by row."""

_LENGTH = 32
"""The most characters of a layer's name in a plot."""


def printable(text: str) -> str:
    r"""Escape what a terminal would act on or not show, such as `\x1b` for the escape character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plural(count: int, noun: str) -> str:
    """Return a number with its noun, such as "1 layer" and "1,200 layers"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def listed_calls(calls: Mapping[str, int]) -> str:
    """List functions with their numbers of calls."""
    return ", ".join(f"{printable(name)} ({n})" for name, n in calls.items()) or "nothing"


def label(name: str, kind: str) -> str:
    """Return the name of a layer with its type for a plot; a long name is shortened.

    Its parts, such as "encoder" in "encoder.7.out", keep as many first letters as fit. If one
    letter of each does not fit, the middle is left out.

    Args:
        name: the qualified name.
        kind: the name of its class or function.
    """
    name, kind = printable(name) or "(the model)", printable(kind)
    return f"{plain(_shortened(name))}  {plain(_shortened(kind))}"


def _shortened(name: str) -> str:
    parts = name.split(".")
    for most in range(_LENGTH, 1, -1):
        short = ".".join(p if len(p) <= most else f"{p[: most - 1]}…" for p in parts)
        if len(short) <= _LENGTH:
            return short
    return f"{name[: _LENGTH // 3]}…{name[-(_LENGTH - _LENGTH // 3 - 1) :]}"


def plain(text: str) -> str:
    """Escape what matplotlib would take for mathematics."""
    return printable(text).replace("$", r"\$")


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

    def line(tag: str, cells: Sequence[str], of_numbers: str) -> str:
        styles = ("text-align:left" if i < left else of_numbers for i in range(len(cells)))
        aligned = (
            f'<{tag} style="{style}">{_escape(cell)}</{tag}>'
            for style, cell in zip(styles, cells, strict=True)
        )
        return f"<tr>{''.join(aligned)}</tr>"

    right = "text-align:right"
    head = line("th", header, right)
    body = "".join(line("td", row, f"{right};white-space:nowrap") for row in rows)
    table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
    below = "".join(f"<div>{_escape(note)}</div>" for note in notes)
    return (
        f'<div style="overflow-x:auto"><div><b>{_escape(title)}</b></div>'
        f"{table if body else ''}{below}</div>"
    )


def _escape(text: str) -> str:
    return html.escape(printable(text))
