"""Templates of reports, in which every inserted text is escaped for its format."""

import re
from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

_TEX = {
    **{c: f"\\{c}" for c in "#$%&_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"`": r"\textasciigrave{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"},
}


def visible(text: object) -> str:
    """Return a text on one line, with characters that cannot be printed as escapes."""
    line = re.sub(r"\s+", " ", str(text))
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _tex(text: str) -> str:
    """Escape a text for LaTeX; characters that its standard fonts lack become code points."""

    def escaped(c: str) -> str:
        known = c.isascii() or ("À" <= c <= "ÿ" and c not in "ÐÞðþ")
        return _TEX.get(c, c if known else f"U+{ord(c):04X}")

    return re.sub(r"([-'])(?=\1)", r"\1{}", "".join(map(escaped, text)))  # no ligatures


def _markdown(text: str) -> str:
    """Escape the characters that Markdown interprets within a line."""
    return re.sub(r"([\\`*_{}\[\]<>|~&$#@]|(?<=\w):(?=//))", r"\\\1", text)


def _environment(escaped: Callable[[str], str], **syntax: str) -> Environment:
    """Return an environment that escapes every value except `Markup`."""

    def finalize(value: object) -> object:
        return value if isinstance(value, Markup) else Markup(escaped(visible(value)))

    environment = Environment(
        loader=PackageLoader(__package__ or ""),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **syntax,  # type: ignore[arg-type]
    )
    environment.filters["code"] = lambda text: Markup(visible(text))
    return environment


_FORMATS = {
    "html": _environment(escape),
    "md": _environment(_markdown),
    "txt": _environment(str),
    "tex": _environment(
        _tex,
        **{"block_start_string": "<%", "block_end_string": "%>"},
        **{"variable_start_string": "<<", "variable_end_string": ">>"},
        **{"comment_start_string": "<#", "comment_end_string": "#>"},
    ),
}


def render(name: str, **values: object) -> str:
    """Return a template with values inserted; its suffix is the format."""
    return _FORMATS[name.rpartition(".")[2]].get_template(name).render(**values)


def paragraphs(name: str, **values: object) -> list[str]:
    """Return the paragraphs of a template, each on one line."""
    return [visible(text).strip() for text in render(name, **values).split("\n\n") if text.strip()]
