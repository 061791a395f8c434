"""The API reference has every public name once, with its arguments and an example."""

import ast
import enum
import importlib
import inspect
import re
import sys
import types
from pathlib import Path

import pytest

import lra

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
sys.path.append(str(ROOT / "docs" / "_ext"))

MODULES = [
    *("lra", "lra.axis", "lra.feedback", "lra.crossing", "lra.wiring", "lra.inits", "lra.methods"),
    *("lra.activations", "lra.loss_terms", "lra.ensemble", "lra.testing", "lra.pseudocode"),
    *("lra.errors", "lra.lab", "lra.lab.data", "lra.torch.lightning"),
]
"""The modules that users import. Those of Keras and JAX are read as text: both may be missing."""

INSIDE = {
    *("lra.axis." + name for name in ("choice", "count", "finite", "flag", "instance", "unknown")),
    *("lra.crossing.crossing_at", "lra.errors.one_line", "lra.inits.check_mirror"),
    "lra.inits.check_rank",
    *("lra.loss_terms.check_terms", "lra.loss_terms.count_terms"),
}
"""Names of these modules that only lra itself uses."""

WITHOUT_EXAMPLE = {
    # abstract: subclasses have examples
    "lra.crossing.LocalLoss", "lra.crossing.Surrogate", "lra.wiring.Wiring", "lra.inits.Init",
    "lra.methods.Method", "lra.activations.Activation", "lra.inits.Draw", "lra.inits.RunnableDraw",
    # returned by functions that have one
    "lra.testing.RuleReport", "lra.testing.Outcome", "lra.testing.Identity",
    "lra.pseudocode.Updates", "lra.lab.Comparison", "lra.lab.Tuning",
    "lra.lab.Reproduction", "lra.lab.data.Entry",
    # data of errors
    "lra.errors.Refusal",
}  # fmt: skip
"""Public names without an example of their own. Enums and exceptions need none either."""


def public() -> dict[str, object]:
    """Return the public objects by their full names, the first where there are several."""
    found: dict[str, object] = {}
    for module in map(importlib.import_module, MODULES):
        own = [
            name for name, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__ and callable(value)
        ]  # fmt: skip
        names = dir(lra) if module is lra else getattr(module, "__all__", own)
        for name in names:
            if name in ("keras", "jax"):  # modules, which may be missing
                continue
            value, full = getattr(module, name), f"{module.__name__}.{name}"
            hidden = name.startswith("_") or full in INSIDE or isinstance(value, types.ModuleType)
            if not (hidden or any(value is each for each in found.values())):
                found[full] = value
    return found


def names_of(package: str) -> list[str]:
    """Return `__all__` of a package of lra, read as text."""
    tree = ast.parse((ROOT / "src" / "lra" / package / "__init__.py").read_text("utf-8"))
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    return names


def public_of_keras() -> set[str]:
    """Return the public names of lra.keras."""
    folder = ROOT / "src" / "lra" / "keras"
    found = {f"lra.keras.{name}" for name in names_of("keras") if not (folder / name).is_dir()}
    for module in ("activations", "recipes"):
        tree = ast.parse((folder / f"{module}.py").read_text("utf-8"))
        classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        found |= {f"lra.keras.{module}.{name}" for name in classes if name[0] != "_"}
    return found - {"lra.keras.activations"}


def public_of_jax() -> set[str]:
    """Return the public names of lra.jax."""
    tree = ast.parse((ROOT / "src" / "lra" / "jax" / "nnx.py").read_text("utf-8"))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    found = {f"lra.jax.nnx.{name}" for name in functions if name[0] != "_"}
    return found | {f"lra.jax.{name}" for name in names_of("jax") if name != "nnx"}


def directives(page: str) -> list[tuple[str, str]]:
    """List the kinds and the full names of what a page documents."""
    found, module = [], ""
    for line in page.splitlines():
        if match := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = "" if match[1] == "None" else f"{match[1]}."
        elif match := re.match(r"\.\. (?:auto|py:)(?!summary)(\w+):: ([\w.]+)", line):
            found.append((match[1], module + match[2]))
    return found


def summaries(page: str) -> list[str]:
    """List the full names in the tables of a page."""
    found, module = [], ""
    for block in re.findall(r"```\{eval-rst\}\n(.*?)^```", page, re.DOTALL | re.M):
        name = re.search(r"currentmodule:: (\S+)", block)[1]
        module = "" if name == "None" else f"{name}."
        table = re.search(r"autosummary::\n.*?\n\n(.*?)\n\n", block, re.DOTALL)[1]
        found += [module + line.strip(" ~") for line in table.splitlines()]
    return found


def resolve(name: str) -> object:
    """Return the object of a full name."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        module = ".".join(parts[:i])
        try:
            value = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for part in parts[i:]:
            value = getattr(value, part)
        return value
    raise AssertionError(name)


DOCUMENTED = [each for page in PAGES for each in directives(page.read_text("utf-8"))]
PUBLIC = public()


def test_each_public_name_is_documented_once():
    names = [name for _, name in DOCUMENTED]
    assert sorted(set(names)) == sorted(names)
    assert public_of_keras() | public_of_jax() <= set(names)
    optional = ("lra.keras.", "lra.jax.")
    objects = [resolve(name) for name in names if not name.startswith(optional)]
    counts = {name: sum(each is value for each in objects) for name, value in PUBLIC.items()}
    assert {name: n for name, n in counts.items() if n != 1} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_list_what_it_documents(page):
    text = page.read_text("utf-8")
    assert summaries(text) == [n for kind, n in directives(text) if f"py:{kind}:: " not in text]


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "api" / "index.md").read_text("utf-8")
    tree = re.search(r"\{toctree\}\n:hidden:\n\n(.*?)```", index, re.DOTALL)[1].split()
    assert [f"{name}.md" for name in tree] == re.findall(r"^\| \[.*?\]\((.*?)\)", index, re.M)
    assert sorted(tree) == [page.stem for page in PAGES if page.stem != "index"]


def has_docstring(value: object) -> bool:
    """Return whether an object is a class or function, and no enum or exception."""
    if isinstance(value, type):
        return not issubclass(value, (enum.Enum, Exception))
    return inspect.isfunction(value)


def test_every_public_name_has_an_example():
    found = {n for n, v in PUBLIC.items() if has_docstring(v) and ">>>" not in (v.__doc__ or "")}
    assert found == WITHOUT_EXAMPLE


NO_VERBS = {"A", "An", "The", "One", "All", "What", "Whether", "Why", "How", "Base"}


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if callable(value)])
def test_docstrings_open_with_a_verb(name):
    first = re.match(r"[A-Z][a-z]+\b", PUBLIC[name].__doc__ or "")
    assert first
    assert first[0] not in NO_VERBS


def arguments(doc: str) -> set[str]:
    """Return the names under "Args:" and "Attributes:" of a docstring."""
    sections = re.findall(r"^(?:Args|Attributes):\n(.*?)(?:\n\n|\Z)", doc, re.DOTALL | re.M)
    return set(re.findall(r"^    \*{0,2}(\w+): ", "\n".join(sections), re.M))


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if has_docstring(value)])
def test_docstrings_name_every_argument(name):
    value = PUBLIC[name]
    if name == "lra.lab.TrainConfig" or getattr(value, "_is_protocol", False):
        pytest.skip("its fields have docstrings of their own, or it has none")
    given = set(inspect.signature(value).parameters) - {"state"}  # of an optimizer, not for users
    assert given <= arguments(inspect.getdoc(value))


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("y = phi(h - beta d)", r"y = \phi (h - \beta d )"),
        ("e = gain (z - y)", r"e = \mathrm{gain} \, (z - y )"),
        ("dE = gamma dW", r"\Delta E = \gamma \Delta W"),
        ("x <- x - step dF/dx", r"x \leftarrow x - \mathrm{step} \, \frac{\partial F}{\partial x}"),
        ("z_l = f_l(x_(l-1))", r"z_{l} = f_{l} (x_{l -1} )"),
        ("E ~ N(0, std^2),  b = 1", r"E \sim N (0, \mathrm{std}^2 ), \quad b = 1"),
        ("e = (e W) * phi'(h)", r"e = (e W ) \odot \phi '(h )"),
        ("b = 1 / sqrt(n)", r"b = 1 / \sqrt{n}"),
    ],
)
def test_equations_become_tex(text, tex):
    from docstrings import to_tex

    assert to_tex(text) == tex


def test_indented_paragraphs_are_equations_and_code_is_not():
    from docstrings import typeset

    lines = inspect.cleandoc(
        """Do it.

            d = e E

        In code::

            d = e @ E

        Args:
            d: the error.

            x: more.
        """
    ).splitlines()
    found = "\n".join(typeset(lines))
    assert found.count(".. math::") == 1
    assert "d &= e E" in found
    assert "    d = e @ E" in found
    assert "    x: more." in found
