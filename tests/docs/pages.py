"""Read the pages of the documentation: their blocks of code and their links."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"))
    if "jupyter_execute" not in path.parts
)


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    language: str
    text: str
    line: int
    """The line of its first line of code, from 0."""


def blocks(text: str) -> list[Block]:
    """List the blocks of a page that are to be run, in their order.

    The comment `<!-- fragment -->` before a block leaves it out. The code in a comment that begins
    with `<!-- setup` runs, but is not shown.
    """
    found = []
    fragment = False
    for token in MarkdownIt().parse(text):
        if token.type == "html_block":
            comment = token.content.strip()
            fragment = comment == "<!-- fragment -->"
            if comment.startswith("<!-- setup"):
                found.append(_setup(token))
        elif token.type == "fence":
            if not fragment:
                assert token.map is not None
                language = token.info.split(" ")[0].strip()
                found.append(Block(language, token.content, token.map[0] + 1))
            fragment = False
    return found


def _setup(token: Token) -> Block:
    assert token.map is not None
    inner = token.content.strip().removeprefix("<!-- setup").removesuffix("-->")
    return Block("python", textwrap.dedent(inner.lstrip("\n")), token.map[0] + 1)


def script(text: str) -> str:
    """Join a page's Python blocks to one script with the page's line numbers."""
    lines = [""] * (text.count("\n") + 1)
    for block in blocks(text):
        if block.language == "python":
            for offset, line in enumerate(block.text.splitlines()):
                lines[block.line + offset] = line
    return "\n".join(lines) + "\n"


def commands(text: str) -> list[str]:
    """List the commands of a page's shell blocks, without comments and continuations."""
    found = []
    for block in blocks(text):
        if block.language in ("sh", "bash", "shell", "console"):
            joined = block.text.replace("\\\n", " ")
            found += [line for raw in joined.splitlines() if (line := raw.strip())]
    return found


def links(text: str) -> list[str]:
    """List the targets of a page's Markdown links and images."""
    return [
        str(child.attrs["href" if child.type == "link_open" else "src"])
        for token in MarkdownIt().enable("table").parse(text)
        for child in token.children or ()
        if child.type in ("link_open", "image")
    ]
