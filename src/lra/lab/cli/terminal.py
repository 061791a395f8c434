"""Output on a terminal: text of names and errors is shown, and never controls the terminal."""

from typing import Any

from rich.console import Console
from rich.text import Text


def visible(text: str) -> str:
    """Return a text with escape sequences for characters that cannot be printed."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


class Terminal(Console):
    """A console that shows control characters in texts and in cells of tables as text."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to a renderable text."""
        return super().render_str(visible(text), **options)


def say(console: Console, text: str) -> None:
    """Print text without markup, highlighting or wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
