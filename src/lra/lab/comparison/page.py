"""Reports as files: Markdown with plots beside it, and one self-contained HTML page."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from lra.errors import RunError
from lra.lab.comparison.report import Report
from lra.lab.runs.atomic import write_atomically


def write_markdown(report: Report, path: Path) -> None:
    """Write a report's Markdown, and its plots into a folder of the same name beside it.

    Raises:
        RunError: if a file or folder cannot be written.
    """
    folder = path.with_suffix("")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror}") from error
    text = report.markdown
    for name, svg in report.pictures.items():
        write_atomically(folder / f"{name}.svg", f"{svg}\n".encode())
        text = text.replace(f"]({name}.svg)", f"]({folder.name}/{name}.svg)")
    write_atomically(path, text.encode())


def write_html(report: Report, path: Path) -> None:
    """Write a report as one self-contained HTML page.

    Raises:
        RunError: if the file cannot be written.
    """
    write_atomically(path, html(report).encode())


def html(report: Report) -> str:
    """Return a report as one self-contained HTML page."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(renderer: Any, tokens: Sequence[Token], i: int, *_: Any) -> str:
        name = str(tokens[i].attrGet("src")).removesuffix(".svg")
        return f'<span class="picture">{report.pictures[name]}</span>'

    markdown.add_render_rule("image", image)
    for kind, mark in (("table_open", "<div><table>"), ("table_close", "</table></div>")):
        markdown.add_render_rule(kind, lambda *_, mark=mark: mark)
    style = (resources.files(__package__) / "page.css").read_text("utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{report.title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"{markdown.render(report.markdown)}</main>\n</body>\n</html>\n"
    )
