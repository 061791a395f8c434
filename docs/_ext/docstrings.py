"""Show docstrings on the site: equations typeset, and defaults as they print.

A paragraph of a docstring that is indented by four spaces, without `::` before it, holds equations:
one in each line, as plain text that is readable in `help()`. Here they become TeX.
"""

import dataclasses
import enum
import re
from types import FunctionType
from typing import Any, Generic, NewType, TypeVar, get_type_hints

import numpy.typing

T = TypeVar("T")


class NDArray(Generic[T]):
    """Stand for NumPy's type of this name, which annotations would spell out."""


ArrayLike = NewType("ArrayLike", object)

GREEK = {"alpha", "beta", "gamma", "delta", "eta", "sigma", "phi", "Phi"}
FUNCTIONS = {"tanh", "exp", "log", "min", "max"}
SECTIONS = {"Args:", "Attributes:", "Raises:", "Returns:", "Warns:"}
OPERATORS = {
    "<-": r"\leftarrow ",
    "~": r"\sim ",
    "*": r"\odot ",
    "<": r"\langle ",
    ">": r"\rangle ",
}

TOKEN = re.compile(
    r"(?P<derivative>d(?P<of>[A-Za-z]+)/d(?P<by>[A-Za-z](_\w|_\([^()]*\))?))"
    r"|(?P<root>sqrt\((?P<radicand>[^()]*)\))"
    r"|(?P<name>[A-Za-z]+\*?)(_(?P<low>\w+|\([^()]*\)|[+-]))?"
    r"|\^(?P<power>\w)"
    r"|(?P<wide>,  +)"
    r"|(?P<operator><-|[~*<>])"
    r"|(?P<other>.)"
)


def _name(name: str) -> str:
    """Return a name in TeX: a Greek letter, a function, an update such as dW, or a word."""
    star = "^*" if name.endswith("*") else ""
    name = name.removesuffix("*")
    if name in GREEK:
        return rf"\{name}{star} "
    if name in FUNCTIONS:
        return rf"\{name} "
    if name == "sum":
        return r"\sum "
    if re.fullmatch(r"d[WEb]", name):
        return rf"\Delta {name[1]}"
    return f"{name}{star}" if len(name) == 1 else rf"\mathrm{{{name}}}"


def to_tex(text: str) -> str:
    """Return one equation in TeX.

    Args:
        text: such as `y = phi(h - beta d),  e = z - y`. A comma with two spaces separates two.
    """
    found = []
    for token in TOKEN.finditer(text):
        if token["derivative"]:
            found.append(
                rf"\frac{{\partial {to_tex(token['of'])}}}{{\partial {to_tex(token['by'])}}}"
            )
        elif token["root"]:
            found.append(rf"\sqrt{{{to_tex(token['radicand'])}}}")
        elif token["name"]:
            low = token["low"]
            inside = to_tex(low.strip("()")) if low else ""
            found.append(_name(token["name"]).rstrip() + (f"_{{{inside}}} " if low else " "))
        elif token["power"]:
            power = r"\top" if token["power"] == "T" else token["power"]
            found[-1] = f"{found[-1].rstrip()}^{power} "
        elif token["wide"]:
            found.append(r", \quad ")
        elif token["operator"]:
            found.append(OPERATORS[token["operator"]])
        else:
            found.append(token["other"])
    tex = re.sub(r"\s+", " ", "".join(found)).strip()
    tex = re.sub(r"(?<=[\w)}]) (?=\\mathrm)", r" \, ", tex)  # a word needs space around it
    return re.sub(r"(\\mathrm\{\w+\}) (?=[A-Za-z(\\](?!leftarrow|sim|quad|mathrm))", r"\1 \, ", tex)


def _display(equations: list[str]) -> list[str]:
    """Return lines of reST that typeset equations, aligned at their relations."""
    rows = [
        re.sub(r"(=|\\leftarrow|\\sim)", r"&\1", to_tex(line.strip()), count=1)
        for line in equations
    ]
    return [
        ".. math::",
        "",
        r"   \begin{aligned}",
        *(rf"   {row} \\[0.3em]" for row in rows),
        r"   \end{aligned}",
    ]


def typeset(lines: list[str]) -> list[str]:
    """Return the lines of a docstring with its equations in TeX."""
    found: list[str] = []
    before = ""  # the last line without indentation
    rest = iter(range(len(lines)))
    for i in rest:
        line = lines[i]
        begins = line.startswith("    ") and i > 0 and not lines[i - 1].strip()
        if begins and not before.endswith("::") and before not in SECTIONS:
            end = next((j for j in range(i, len(lines)) if not lines[j].strip()), len(lines))
            found += _display(lines[i:end])
            for _ in range(i + 1, end):
                next(rest)
            continue
        before = line if line and not line.startswith(" ") else before
        found.append(line)
    return found


def _on_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if lines and what in ("attribute", "property", "data"):
        lines[0] = f": {lines[0]}"  # napoleon takes what is before a colon for a type
    lines[:] = typeset(lines)


def _escape_types(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape names such as `numpy.str_` in the types of attributes, which reST reads as links."""
    lines[:] = [re.sub(r"_(?=\W|$)", r"\_", s) if s.startswith(":vartype") else s for s in lines]


def _on_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str | None, Any]:
    """Show the defaults that a dataclass builds, and no arguments of enums and exceptions."""
    if signature and isinstance(obj, type) and issubclass(obj, (enum.Enum, Exception)):
        return "", returns
    if signature and dataclasses.is_dataclass(obj):
        for field in dataclasses.fields(obj):
            if field.init and field.default_factory is not dataclasses.MISSING:
                signature = signature.replace("<factory>", str(field.default_factory()), 1)
    return signature, returns


def _on_object(app: Any, obj: Any, bound: bool) -> None:
    """Show the bound of a type variable instead of its name, and nothing instead of `Any`."""
    notes = obj.__annotations__ if isinstance(obj, FunctionType) else {}
    for name, kind in list(notes.items()):
        if kind is Any:
            del notes[name]
        elif isinstance(kind, TypeVar) and kind.__bound__ is not None:
            notes[name] = kind.__bound__


def _name_array_types() -> None:
    """Keep the names of NumPy's types of arrays in annotations. lra is not imported yet."""
    for alias in (NDArray, ArrayLike):
        alias.__module__ = "numpy.typing"
        setattr(numpy.typing, alias.__name__, alias)


def _simplify_annotations(app: Any) -> None:
    """Remove what tyro reads from the types of the settings."""
    from lra.lab import TrainConfig

    TrainConfig.__annotations__ = get_type_hints(TrainConfig)


def setup(app: Any) -> dict[str, Any]:
    """Register the hooks, most of them before those of autodoc and napoleon (500)."""
    _name_array_types()
    app.connect("builder-inited", _simplify_annotations)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-before-process-signature", _on_object, priority=400)
    app.connect("autodoc-process-docstring", _on_docstring, priority=400)
    app.connect("autodoc-process-docstring", _escape_types, priority=600)
    app.connect("autodoc-process-signature", _on_signature)
    return {"parallel_read_safe": True}
