"""Refusals: the prose of src, docs and the README keeps to plain words and plain openings."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

BANNED = re.compile(
    r"\b(anew|mend(s|ed|ing)?|astray|lest|wherefore|told|hears?|heard|bends?|bent|no wonder"
    r"|in the place of|has it that|goes on with|is as good|dear|of one's own|as it were)\b",
    re.IGNORECASE,
)
"""Words and phrases that an experienced developer would have to read twice."""

OPENINGS = re.compile(r"(Give|Tell|Say|Hear|Know|Make out|See that)s?\b")
"""First words that no docstring has: say Return, Compute, Check, Raise, Load, ..."""

PAGES = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")})
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def docstrings(source: str) -> list[tuple[int, str]]:
    """List the docstrings of a file with their lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                found.append((node.body[0].lineno, text))
    return found


def faults(name: str, text: str) -> list[str]:
    """List the lines of a file that break a rule."""
    lines = enumerate(text.splitlines(), 1)
    found = [f"{name}:{i}: {match[0]!r}" for i, line in lines if (match := BANNED.search(line))]
    if name.endswith(".py"):
        for line, docstring in docstrings(text):
            if match := OPENINGS.match(docstring):
                found.append(f"{name}:{line}: a docstring begins with {match[0]!r}")
    return found


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_plain(path):
    assert faults(path.name, path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.py", '"""Return x."""\n\ndef f():\n    """Give x."""\n', 1),
        ("a.py", '"""Returns what a layer hears."""\nx = 1  # computed anew\n', 2),
        ("a.md", "Errors go astray.\nA bent line, in the place of another.\n", 2),
        ("a.md", "Give it a name: this is no docstring. Amend it.\n", 0),
    ],
)
def test_faults_are_found(name, text, found):
    assert len(faults(name, text)) == found
