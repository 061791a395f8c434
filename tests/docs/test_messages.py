"""The page on troubleshooting quotes the messages of the code, and every refusal is on it."""

import ast
import itertools
import re
from collections.abc import Iterator

import pytest
from pages import ROOT

SOURCE = ROOT / "src" / "lra"
PAGE = (ROOT / "docs" / "guides" / "troubleshooting.md").read_text("utf-8")
GAP = "\0"
"""Stands for what a message computes."""


def template(node: ast.expr, constants: dict[str, ast.expr]) -> str:
    """Return the text of a string expression, with gaps for what it computes."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(template(part, constants) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return template(left, constants) + template(right, constants)
        case ast.Name(id=name) if name in constants:
            return template(constants[name], constants)
    return GAP


def constants_of(tree: ast.Module) -> dict[str, ast.expr]:
    """Return the values of a file's own constants."""
    return {
        statement.targets[0].id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }


def all_texts() -> Iterator[str]:
    """Yield every string of the sources."""
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)):
                yield template(node, {})


def fits(quoted: str, text: str) -> bool:
    """Return whether a quoted message, with ... for gaps, is a part of a text."""
    at = 0
    for piece in filter(None, quoted.split("...")):
        at = text.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return True


def quoted_messages() -> list[str]:
    """Return the first cells of the page's tables of messages."""
    found, reads = [], False
    for line in PAGE.splitlines():
        if line.startswith("|"):
            cell = line.split("|")[1].strip()
            reads = reads or cell == "message"
            if reads and cell.startswith("`"):
                found.append(cell.strip("`"))
        else:
            reads = False
    return found


TEXTS = list(dict.fromkeys(all_texts()))
QUOTED = quoted_messages()


@pytest.mark.parametrize("quoted", QUOTED)
def test_quoted_messages_are_those_of_the_code(quoted: str) -> None:
    assert len(quoted.replace("...", "")) > 12
    assert any(fits(quoted, text) for text in TEXTS)


# where errors are raised, and functions that return reasons and remedies
RAISES = "convert", "layers", "functions", "ops", "compiled.py", "mirror.py", "share.py"
RETURNS = {
    "convert/plan.py": ("_reason_to_refuse", "_needs_example", "make_plan"),
    "audit/classify.py": (
        "findings",
        "_of_module",
        "_for_activation",
        "_for_unknown",
        "_for_weights",
    ),
    "compiled.py": ("_compilation_message",),
}


def refusals() -> Iterator[tuple[str, str]]:
    """Yield the file and the text of each refusal."""
    for path in sorted((SOURCE / "torch").rglob("*.py")):
        name = path.relative_to(SOURCE / "torch").as_posix()
        tree = ast.parse(path.read_text("utf-8"))
        constants = constants_of(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and name.startswith(RAISES):
                match node.exc:
                    case ast.Call(
                        func=ast.Name(id="ConversionError" | "RuleError" | "CompileError"),
                        args=[text, *_],
                    ):
                        yield name, template(text, constants)
            if isinstance(node, ast.FunctionDef) and node.name in RETURNS.get(name, ()):
                for part in ast.walk(node):
                    match part:
                        case ast.Return(value=ast.expr() as value):
                            yield name, template(value, constants)
                        case ast.Assign(targets=[ast.Name(id="reason" | "remedy")], value=value):
                            yield name, template(value, constants)


def refusals_of_jax() -> Iterator[tuple[str, str]]:
    """Yield the same of lra.jax, whose reasons and remedies are in `analysis.py`."""
    for path in sorted((SOURCE / "jax").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        constants = constants_of(tree)
        for node in ast.walk(tree):
            match node:
                case ast.Raise(
                    exc=ast.Call(
                        func=ast.Name(id="ConversionError" | "OptionError"), args=[text, *_]
                    )
                ):
                    yield f"jax/{path.name}", template(text, constants)
                case ast.FunctionDef(name="_reason"):
                    for part in ast.walk(node):
                        if isinstance(part, ast.Return) and part.value is not None:
                            yield f"jax/{path.name}", template(part.value, constants)
                case ast.Assign(targets=[ast.Name(id="_REMEDY")], value=ast.Dict(values=values)):
                    for value in values:
                        yield f"jax/{path.name}", template(value, constants)


REFUSALS = sorted(
    {
        (name, text)
        for name, text in itertools.chain(refusals(), refusals_of_jax())
        if re.search(r"\w{3}", text)
        # a wrong type explains itself, and the last one is the frame of the reasons
        and not re.search("expected a|these layers cannot follow", text)
    }
)


def test_refusals_are_found() -> None:
    assert len(REFUSALS) > 70


@pytest.mark.parametrize(("name", "text"), REFUSALS)
def test_every_refusal_is_on_the_page(name: str, text: str) -> None:
    assert any(fits(quoted, text) for quoted in QUOTED)
