"""Run the examples in docstrings. The tests of all modules, JAX and Keras share this."""

import ast
import doctest
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"


@dataclass(frozen=True)
class Docstring:
    """A docstring with examples.

    Attributes:
        path: its file, below src.
        name: the class or function, such as "Run.open"; "" for the module.
        text: the docstring.
        line: the line of its first character, from 0.
    """

    path: str
    name: str
    text: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}::{self.name}"


def docstrings(folder: Path = SOURCE / "lra") -> list[Docstring]:
    """List the docstrings with examples of all files in a folder."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        found += _below(tree, path.relative_to(SOURCE).as_posix(), "")
    return found


def _below(node: ast.AST, path: str, name: str) -> list[Docstring]:
    found = []
    for child in ast.iter_child_nodes(node):
        text = child.value.value if _is_text(child) else ""
        if ">>>" in text:
            found.append(Docstring(path, name, text, child.lineno - 1))
        below = f"{name}.{child.name}".strip(".") if hasattr(child, "name") else name
        found += _below(child, path, below)
    return found


def _is_text(node: Any) -> bool:
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant and isinstance(node.value.value, str)


def failures(docstring: Docstring, names: dict[str, Any]) -> str:
    """Run the examples of a docstring and return what differs from the shown output."""
    parser, flags = doctest.DocTestParser(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    file = str(SOURCE / docstring.path)
    test = parser.get_doctest(docstring.text, dict(names), str(docstring), file, docstring.line)
    assert test.examples
    found: list[str] = []
    doctest.DocTestRunner(verbose=False, optionflags=flags).run(test, out=found.append)
    return "".join(found)
