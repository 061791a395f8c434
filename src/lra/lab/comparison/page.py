"""Templates of reports, in which every inserted text is escaped for its format."""

import re
from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lra.display import printable

_TEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "#$%&_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{c: f"{{{c}}}" for c in "[]*"},  # no optional arguments of a line break
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
        **{"`": r"\textasciigrave{}", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"},
    }
)
_TEX_UNKNOWN = re.compile(r"[^\x00-\x7fÀ-ÏÑ-Ýß-ïñ-ýÿ±↑↓]")
"""Characters that LaTeX's standard fonts lack."""


class Best(str):
    """The best value of a column, which templates print in bold."""

    __slots__ = ()


def visible(text: object) -> str:
    """Return a text on one line, with characters that cannot be printed as escapes."""
    return printable(re.sub(r"\s+", " ", str(text)))


def _tex(text: str) -> str:
    """Escape a text for LaTeX; characters that its standard fonts lack become code points."""
    text = _TEX_UNKNOWN.sub(lambda match: f"U+{ord(match[0]):04X}", text)
    return re.sub(r"([-'])(?=\1)", r"\1{}", text.translate(_TEX))  # no ligatures


def _markdown(text: str) -> str:
    """Escape the characters that Markdown interprets within a line."""
    return re.sub(r"([\\`*_{}\[\]<>|~&$#@]|(?<=\w):(?=//))", r"\\\1", text)


def _environment(
    escaped: Callable[[str], str], bold: str, comma: str = ",", **syntax: Any
) -> Environment:
    """Return an environment that escapes every value except `Markup`.

    Args:
        escaped: escapes a text.
        bold: how to print the text TEXT of a `Best`.
        comma: a comma that allows a line break, for the filter breakable.
        syntax: options of the environment.
    """

    def finalize(value: object) -> object:
        if isinstance(value, Markup):
            return value
        text = escaped(visible(value))
        return Markup(bold.replace("TEXT", text) if isinstance(value, Best) else text)

    loader = PackageLoader(__package__ or "")
    syntax |= {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    environment = Environment(loader=loader, autoescape=True, finalize=finalize, **syntax)
    environment.filters["code"] = lambda text: Markup(visible(text))
    environment.filters["breakable"] = lambda text: Markup(
        str(escaped(visible(text))).replace(",", comma)
    )
    return environment


_TEX_SYNTAX = {
    **{"block_start_string": "<%", "block_end_string": "%>", "comment_start_string": "<#"},
    **{"comment_end_string": "#>", "variable_start_string": "<<", "variable_end_string": ">>"},
}
_FORMATS = {
    "html": _environment(escape, "<strong>TEXT</strong>", ",<wbr>"),
    "md": _environment(_markdown, "**TEXT**"),
    "txt": _environment(str, "TEXT"),
    "tex": _environment(_tex, r"\textbf{TEXT}", r",\\{}", **_TEX_SYNTAX),
}


def render(name: str, **values: object) -> str:
    """Return a template with values inserted; its suffix is the format."""
    return _FORMATS[name.rpartition(".")[2]].get_template(name).render(**values)


def paragraphs(name: str, **values: object) -> list[str]:
    """Return the paragraphs of a template, each on one line."""
    return [visible(text).strip() for text in render(name, **values).split("\n\n") if text.strip()]
