"""Each rule and method has a page; its tables, its diagram and its figures match their sources."""

import importlib.util
import inspect
import itertools
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

import lra
from lra.crossing import Absolute, Derivative, TargetDifference
from lra.feedback import Learned, Random, SignSymmetric, Transpose
from lra.wiring import Chain, Direct, Stride

DOCS = Path(__file__).parents[2] / "docs"
RULES = DOCS / "rules"
ENTRIES = {**lra.RULES, **lra.methods.METHODS}
SECTIONS = [
    *("Equations", "What is local, and what is not", "Options", "When to take it", "Measured"),
    "Sources",
]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = load(DOCS / "tables.py")
diagrams = load(RULES / "diagrams.py")


def page(name: str) -> str:
    return (RULES / f"{name}.md").read_text("utf-8")


def section(text: str, heading: str) -> str:
    """Return the text below a heading, up to the next one of its level."""
    found = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE
    )
    assert found is not None, heading
    return found[1]


def slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", ENTRIES)
def test_each_page_has_the_same_sections(name: str) -> None:
    assert re.findall(r"^## (.*)", page(name), re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("name", ENTRIES)
def test_each_page_trains_by_its_rule(name: str) -> None:
    block, *_ = re.findall(r"```python\n(.*?)```", page(name), re.DOTALL)
    call = re.search(r"lra\.convert\(model, (.*?\))(?:, example=.*)?\)\n|method = (.*)\n", block)
    assert call is not None
    built = eval(call[1] or call[2], {"lra": lra})
    assert built.name == name
    assert re.search(rf"^lra train digits --rule {name}\b", page(name), re.MULTILINE)


@pytest.mark.parametrize("name", ENTRIES)
def test_each_page_has_the_sources_of_the_docstring(name: str) -> None:
    build = ENTRIES[name]
    docstring = inspect.getdoc(getattr(build, "func", build)) or ""
    _, _, source = docstring.partition("Source: ")
    sources = section(page(name), "Sources")
    assert sources.strip()
    # The first author of each entry, and all years.
    firsts = re.findall(r"(?:^|; |\. For dE with direct wiring: )(?:after )?(\w+)", source)
    for word in {*firsts, *re.findall(r"\b\d{4}\b", source)} - {"The"}:
        assert word in sources


@pytest.mark.parametrize("name", ENTRIES)
def test_option_tables_match_signatures_and_docstrings(name: str) -> None:
    build = ENTRIES[name]
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \| (.*) \|$", section(page(name), "Options"), re.M)
    parameters = inspect.signature(build).parameters
    assert [option for option, _, _ in rows] == list(parameters)
    names = {**vars(lra.crossing), **vars(lra.inits), **vars(lra.wiring)}
    docstring = " ".join((inspect.getdoc(getattr(build, "func", build)) or "").split())
    for option, shown, meaning in rows:
        assert eval(shown, names) == parameters[option].default
        assert f" {option}: {meaning}".replace("\\|", "|") in docstring


@pytest.mark.parametrize("path", sorted(RULES.glob("*.md")), ids=lambda path: path.name)
def test_tables_are_those_of_the_code(path: Path) -> None:
    text = path.read_text("utf-8")
    assert tables.with_tables(text) == text


def test_the_index_lists_every_rule_and_method() -> None:
    toctree = re.search(r"```\{toctree\}(.*?)```", page("index"), re.DOTALL)
    assert toctree is not None
    for name in ENTRIES:
        assert len(re.findall(rf"\]\({name}\.md\)", page("index"))) == 2
        assert re.search(rf"\b{name}(>|$)", toctree[1], re.MULTILINE)
    for table in ("rules", "methods"):
        assert f"<!-- table: {table} -->" in page("index")
    assert "<!-- table: layers -->" in page("layers")


@pytest.mark.parametrize("name", ENTRIES)
def test_measured_tables_equal_the_comparison(name: str) -> None:
    rows = re.findall(
        r"^\| \[.*?\]\(\.\./evidence/comparison\.md#(.*?)\) \| (.*?) \| (.*?) \|$",
        section(page(name), "Measured"),
        re.MULTILINE,
    )
    comparison = (DOCS / "evidence" / "comparison.md").read_text("utf-8")
    headings = {slug(h): h for h in re.findall(r"^## (.*)", comparison, re.MULTILINE)}
    assert len(rows) == (8 if f"\n| {name} |" in comparison else 0)
    for anchor, accuracy, difference in rows:
        row = f"| {name} | {accuracy} | {difference} |"
        row = row.replace("not measured | - ", "not yet |  ").replace("| - |", "|  |")
        assert row in section(comparison, headings[anchor])


@pytest.mark.parametrize("name", ENTRIES)
def test_figures_are_on_the_pages_that_they_link_to(name: str) -> None:
    measured = section(page(name), "Measured")
    linked = ""
    for target, anchor in re.findall(r"\]\(([\w./-]+\.md)(?:#(.*?))?\)", measured):
        text = (RULES / target).read_text("utf-8")
        headings = {slug(h): h for h in re.findall(r"^## (.*)", text, re.MULTILINE)}
        linked += section(text, headings[anchor]) if anchor else ""
    for figure in re.findall(r"\d+\.\d+(?:e-\d+)?|1e-\d+", measured):
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", linked), figure


@pytest.mark.parametrize("name", ["axes", *ENTRIES])
def test_diagrams_are_those_of_the_code(name: str) -> None:
    drawn = diagrams.axes() if name == "axes" else diagrams.draw(lra.named(name))
    assert (RULES / "diagrams" / f"{name}.svg").read_text("utf-8") == drawn


@pytest.mark.parametrize("name", ENTRIES)
def test_diagrams_are_described_in_words(name: str) -> None:
    assert f"![{diagrams.describe(lra.named(name))}](diagrams/{name}.svg)" in page(name)


def test_any_rule_can_be_drawn_and_no_two_look_the_same() -> None:
    feedbacks = (Transpose(), Random(), Learned(), SignSymmetric(), SignSymmetric("batch"))
    crossings = (
        *(Derivative(), TargetDifference(), TargetDifference(local_loss=Absolute())),
        *(TargetDifference(two_sided=True), TargetDifference(relative="sample")),
    )
    wirings = (Chain(), Stride(2), Stride(3), Direct())
    drawn = set()
    for feedback, crossing, wiring in itertools.product(feedbacks, crossings, wirings):
        if isinstance(wiring, Chain) or isinstance(feedback, (Random, Learned)):
            text = diagrams.draw(lra.Rule(feedback, crossing, wiring))
            width = float(ElementTree.fromstring(text).attrib["width"])
            numbers = [float(x) for x in re.findall(r'<text x="(\d+)"', text)]
            assert max(numbers) < width
            drawn.add(text)
    assert len(drawn) == 5 * 5 + 2 * 5 * 3
