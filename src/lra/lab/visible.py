"""Text that does not control a terminal or a plot, for names from files."""


def visible(text: str) -> str:
    """Return a text with escape sequences for characters that cannot be printed."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )
