"""Output on a terminal: text of names and errors is shown, and never controls the terminal."""

import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from lra.display import printable


def visible(text: str) -> str:
    """Return a text that does not control a terminal, apart from ends of lines and tabs."""
    return "".join(c if c in "\n\t" else printable(c) for c in text)


class Terminal(Console):
    """A console that shows control characters, markup and names of emoji as text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, markup=False, **options)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = 200  # a table in a file needs no shortened names

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to a renderable text."""
        return super().render_str(visible(text), **options)


def say(console: Console, text: str) -> None:
    """Print text without markup, highlighting or wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def show(text: str) -> None:
    """Write text to standard output: unchanged to a file, with visible characters to a terminal."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
