"""Reports of results with known figures: their content, and what hostile names do in them."""

import csv
import dataclasses
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib.image import imread

from lra.errors import OptionError, RunError
from lra.figures import Figure
from lra.lab.comparison import page, pictures, report
from lra.lab.comparison.grid import Grid
from lra.lab.comparison.results import Entry, Run, Table, Tables
from lra.lab.comparison.sentences import cells, headings, verdict, warnings
from lra.lab.comparison.store import Outcome
from lra.lab.settings.spec import Spec

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
PDFLATEX = shutil.which("pdflatex")

ACCURACIES = {
    "backprop": (97.0, 96.0, 98.0),
    "lra-e": (96.9, 96.2, 97.8),
    "kolen-pollack": (95.0, 94.1, 96.0),
    "mirrored-lra": (98.0, 97.1, 99.0),
    "sign-symmetry": (90.0, None, 91.0),
    "feedback-alignment": (),
}
CLOSE = {
    "backprop": (97.0, 96.0, 98.0, 97.0, 97.0),
    "lra-e": (97.1, 96.0, 98.1, 97.0, 96.9),  # within 0.1
    "mirrored-lra": (97.2, 96.3, 98.2, 97.3, 97.2),  # better by 0.2 or 0.3
    "kolen-pollack": (95.9, 96.1, 97.9, 96.8, 96.1),
}


def outcome(accuracy: float | None) -> Outcome:
    if accuracy is None:
        return Outcome("diverged", "the loss became nan")
    figures = {
        **{"test_accuracy": accuracy, "test_loss": 0.1, "validation_accuracy": accuracy - 1},
        **{"weights": 1234, "feedback_weights": 56, "seconds": 4.0, "steps": 2000},
        **{"test_samples": 400},
    }
    return Outcome("done", "", 300 * 2**20, "a machine", figures)


def make_tables(
    grid: Grid, found: dict[str, Sequence[float | None]], shift: float = 0.0, **more: Any
) -> Tables:
    """Return results with the given accuracies; on each further network they are higher."""
    tables = []
    for number, problem in enumerate(grid.problems):
        entries = []
        for experiment in (e for e in grid.experiments if e.problem == problem):
            accuracies = [a and a + number * shift for a in found[experiment.rule.text]]
            curve = [{"validation_accuracy": 50.0 + 10 * i, "epoch": i + 1.0} for i in range(4)]
            runs = tuple(Run(f"run-{i}", i, outcome(a), curve) for i, a in enumerate(accuracies))
            refusal = None if runs else "refused: <b>no</b> feedback | `here` for 'x_1'"
            trials = (({"lr": 0.00316}, 96.5), ({"lr": 0.1}, None))
            entries.append(Entry(experiment, {"lr": 0.00316}, trials, runs, refusal, **more))
        tables.append(Table(problem, tuple(entries)))
    return Tables(tables)


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid(("digits",), rules=tuple(ACCURACIES), trials=1, epochs=4)


@pytest.fixture(scope="module")
def tables(grid: Grid) -> Tables:
    return make_tables(grid, ACCURACIES)


@pytest.fixture(scope="module")
def folder(grid: Grid, tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report."""
    out = tmp_path_factory.mktemp("report")
    report.write(grid, tables, out)
    return out


# what a report says


def test_the_verdict_states_which_differences_are_significant(tables: Tables) -> None:
    error = 100 * np.sqrt(0.97 * 0.03 / 400)
    assert verdict(tables[0]) == [
        f"backprop: 97.00 ± 1.00, on 400 test samples (binomial standard error {error:.2f}).",
        "Better than backprop: mirrored-lra.",
        "Worse than backprop: kolen-pollack.",
        "Undecided with these 3 seeds, neither different from backprop nor equivalent: lra-e.",
        "Not compared, since results are missing: sign-symmetry, feedback-alignment.",
    ]


def test_the_verdict_states_which_rules_are_equivalent() -> None:
    grid = Grid(("digits",), rules=tuple(CLOSE), seeds=5)
    (table,) = make_tables(grid, CLOSE)
    assert verdict(table)[1:] == [
        "Better than backprop: mirrored-lra.",
        "Equivalent to backprop within ±0.5 points: lra-e, mirrored-lra.",
        "Undecided with these 5 seeds, neither different from backprop nor equivalent: "
        "kolen-pollack.",
    ]
    (narrow,) = make_tables(dataclasses.replace(grid, margin=0.05), CLOSE)
    assert not any("Equivalent" in sentence for sentence in verdict(narrow))


def test_a_margin_is_a_finite_number_above_0() -> None:
    for margin in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(OptionError, match="margin must be above 0"):
            Grid(("digits",), margin=margin)


def test_one_seed_distinguishes_nothing() -> None:
    grid = Grid(("digits",), rules=("backprop", "lra-e"), seeds=1)
    (table,) = make_tables(grid, {"backprop": (97.0,), "lra-e": (90.0,)})
    assert verdict(table)[1:] == [
        "With one seed for each rule, no difference can be distinguished from chance."
    ]
    assert cells(table, table.entries[1])[2:4] == ["-7.00", ""]


def test_the_table_has_the_figures(tables: Tables) -> None:
    rows = {entry.label: cells(tables[0], entry)[1:] for entry in tables[0].entries}
    assert rows["backprop"] == [
        *("97.00 ± 1.00", "", "", "3", "lr=0.00316", "1,234", "56", "2.00", "300"),
    ]
    # Of -2.0, -1.9, -2.0 with three rules compared: mean -1.967, deviation 0.05774, and t of two
    # degrees at p = 1 - 0.05 / 3, which is p sqrt(2 / (1 - p^2)) = 7.6488.
    assert rows["kolen-pollack"][1] == "-1.97 (-2.22 to -1.71)"
    assert rows["kolen-pollack"][2] == "not shown, p = 1.000"
    assert rows["sign-symmetry"][:4] == ["90.50 ± 0.71", "not compared", "", "2, 1 diverged"]
    assert rows["feedback-alignment"][0] == "refused"
    assert headings(tables[0])[1:4] == [
        *("test accuracy (%) ↑", "minus backprop (95 %) ↑", "equal within ±0.5 points")
    ]


def test_losses_are_better_if_lower() -> None:
    grid = Grid(("python",), rules=("backprop", "lra-e"), models=("gpt",), seeds=3)
    (table,) = make_tables(grid, {"backprop": (1.0, 1.0, 1.0), "lra-e": (1.0, 1.0, 1.0)})
    losses = {"backprop": (1.5, 1.6, 1.7), "lra-e": (1.4, 1.5, 1.6)}
    for entry in table.entries:
        for run, loss in zip(entry.runs, losses[entry.label], strict=True):
            assert run.outcome.result is not None
            run.outcome.result["test_loss"] = loss
    assert verdict(table) == [
        "backprop: 1.600 ± 0.100, on 400 characters of test text.",
        "Better than backprop: lra-e.",
    ]
    assert table.best == {"lra-e"}
    assert headings(table)[1:4] == [
        *("test loss (nats) ↓", "minus backprop (95 %) ↓", "equal within ±0.02 nats")
    ]


@pytest.mark.parametrize("seeds", [1, 4])
def test_few_seeds_are_warned_of(seeds: int) -> None:
    grid = Grid(("digits",), rules=("backprop", "lra-e"), seeds=seeds)
    found = warnings(make_tables(grid, {"backprop": (97.0,) * seeds, "lra-e": (97.0,) * seeds}))
    assert len(found) == 1
    assert found[0].startswith(f"Few seeds: with {seeds}, intervals are wide")


def test_best_trials_at_the_edge_of_a_range_are_warned_of() -> None:
    grid = Grid(("digits",), rules=tuple(CLOSE), models=("mlp", "lenet"), seeds=5)
    assert warnings(make_tables(grid, CLOSE)) == []
    mlp, lenet = make_tables(grid, CLOSE, edges=("lr", "beta"))
    plain = dataclasses.replace(lenet, entries=make_tables(grid, CLOSE)[1].entries)
    (found,) = warnings(Tables([mlp, plain]))
    assert found.startswith("The best trial lies at the edge of the searched range")
    assert "digits, mlp: backprop (lr, beta), lra-e (lr, beta), mirrored-lra (lr, beta)" in found
    assert "lenet" not in found
    assert cells(mlp, mlp.entries[1])[5] == "lr=0.00316 (edge)"


def test_missing_results_are_warned_of(tables: Tables) -> None:
    assert warnings(tables)[1] == (
        "Results are missing. "
        "digits, mlp: sign-symmetry (1 diverged), feedback-alignment (refused)."
    )
    (table,) = tables
    begun = dataclasses.replace(table.entries[1], runs=table.entries[1].runs[:1])
    (table,) = (dataclasses.replace(table, entries=(table.base, begun)),)
    assert warnings([table])[1] == "Results are missing. digits, mlp: lra-e (2 not finished)."


def test_rules_are_ranked_over_networks(tmp_path: Path) -> None:
    grid = Grid(("digits",), rules=tuple(CLOSE), models=("mlp", "lenet", "residual-mlp"), seeds=5)
    found = make_tables(grid, CLOSE, 0.5)
    report.write(grid, found, tmp_path)
    rows = markdown_tables(tmp_path / "report.md")[0]
    assert [row[0] for row in rows[1:]] == list(CLOSE)
    assert [row[-1] for row in rows] == ["mean rank ↓", "3.00", "2.00", "1.00", "4.00"]
    assert [row[1] for row in rows[1:3]] == ["97.00 ± 0.71", "97.02 ± 0.75"]
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "p = 0.029" in text  # chi squared is 9 of three degrees, if all networks agree
    assert "at least 2.71 apart" in text  # 2.569 sqrt(4 5 / (6 3))
    assert "has no power" not in text
    assert "has no power" in render_markdown(grid, Tables(found[:2]), tmp_path / "two")


def test_rules_without_complete_results_have_no_rank(tmp_path: Path) -> None:
    grid = Grid(("digits",), rules=tuple(ACCURACIES), models=("mlp", "lenet"))
    found = make_tables(grid, ACCURACIES)
    assert found.ranked == ["backprop", "lra-e", "kolen-pollack", "mirrored-lra"]
    report.write(grid, found, tmp_path)
    rows = markdown_tables(tmp_path / "report.md")[0]
    assert [row[-1] for row in rows[1:]] == ["2.00", "3.00", "4.00", "1.00", "", ""]


def test_the_report_states_how_it_was_made(folder: Path) -> None:
    text = (folder / "report.md").read_text("utf-8")
    for part in (
        "lra compare digits --rules backprop lra-e",
        "Seeds 0 to 2 determine the split",
        "the best of 1 trials for each rule on each network, judged by validation data alone",
        "lr=0.00316: 96.50; lr=0.1: stopped",
        "Machine: a machine.",
        "lra compare digits --rules kolen-pollack:lr=0.00316 --epochs 4",
    ):
        assert part in text, part


def test_the_best_values_are_marked_in_every_format(folder: Path) -> None:
    best = "98.03 ± 0.95"
    html, markdown, tex = ((folder / f"report.{kind}").read_text("utf-8") for kind in KINDS)
    assert re.findall("<td[^>]*><strong>([^<]*)</strong>", html) == [best]
    assert re.findall(r"\| \*\*([^*]*)\*\* \|", markdown) == [best]
    assert re.findall(r"\\textbf\{([^}]*)\}", tex) == [best.replace("±", r"$\pm$")]


def test_the_runs_are_a_csv_file(folder: Path) -> None:
    with (folder / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    assert {row["state"] for row in rows} == {"done", "diverged"}
    assert [row["test_accuracy"] for row in rows[:3]] == ["97.0", "96.0", "98.0"]


# the files


KINDS = ("html", "md", "tex")


def render_markdown(grid: Grid, tables: Tables, out: Path) -> str:
    """Write a report and return its Markdown."""
    report.write(grid, tables, out)
    return (out / "report.md").read_text("utf-8")


def markdown_tables(path: Path) -> list[list[list[str]]]:
    """Return the texts of the tables of a Markdown file, by table, row and column."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(path.read_text("utf-8")):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and token.level >= 4:  # a cell
            tables[-1][-1].append(plain(token))
    return tables


def plain(token: Any) -> str:
    return "".join(t.content for t in token.children if t.type in ("text", "text_special"))


def test_every_file_is_written_and_returned(grid: Grid, tables: Tables, tmp_path: Path) -> None:
    paths = report.write(grid, tables, tmp_path / "out", tmp_path / "docs" / "my page.md")
    assert sorted(paths) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    names = {str(path.relative_to(tmp_path)) for path in paths}
    kinds = ("svg", "pdf", "png")
    plots = {f"{name}-1.{kind}" for name in ("gaps", "curves") for kind in kinds}
    assert names == {
        *(f"out/{name}" for name in ("runs.csv", "report.html", "report.md", "report.tex")),
        *(f"{where}/{plot}" for where in ("out/report", "docs/my page") for plot in plots),
        "docs/my page.md",
    }
    for path in paths:
        start = {".pdf": b"%PDF-", ".png": b"\x89PNG", ".svg": b"<?xml"}.get(path.suffix, b"")
        assert path.read_bytes().startswith(start)
    shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (tmp_path / "docs/my page.md").read_text("utf-8"))
    assert shown == ["my%20page/gaps-1.svg", "my%20page/curves-1.svg"]


def test_a_report_that_fails_changes_no_file(
    grid: Grid, tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.write(grid, tables, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def render(name: str, **values: object) -> str:
        if name == "report.html":
            raise MemoryError
        return page.render(name, **values)

    monkeypatch.setattr(report, "render", render)
    with pytest.raises(MemoryError):
        report.write(grid, Tables(tables[:1] * 2), tmp_path)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before == after


def test_pages_that_cannot_be_written_are_errors(
    grid: Grid, tables: Tables, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=r"page .*docs must have a suffix, such as .*docs\.md"):
        report.write(grid, tables, tmp_path, tmp_path / "docs")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot make the folder"):
        report.write(grid, tables, tmp_path, tmp_path / "file" / "page.md")


def test_files_are_reproducible(grid: Grid, tables: Tables, folder: Path, tmp_path: Path) -> None:
    for path in report.write(grid, tables, tmp_path):
        if path.suffix in (".svg", ".pdf", ".png", ".csv"):
            assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path


def test_plots_are_figures(tables: Tables) -> None:
    gaps, curves = pictures.gaps(tables[0]), pictures.curves(tables[0])
    assert isinstance(gaps, Figure)  # which notebooks show
    assert isinstance(curves, Figure)
    assert [label.get_text() for label in gaps.axes[0].get_yticklabels()] == [
        *("lra-e", "kolen-pollack", "mirrored-lra")
    ]
    assert gaps.axes[0].get_xlabel().endswith("better →")
    assert "← better" in curves.axes[0].get_ylabel()
    low, high = curves.axes[0].get_ylim()
    assert low < 20 < 50 < high  # errors, from 50 to 20 %


def test_without_results_there_are_no_plots(grid: Grid, tmp_path: Path) -> None:
    empty = make_tables(grid, dict.fromkeys(ACCURACIES, ()))
    assert pictures.pictures(empty[0]) == {}
    assert verdict(empty[0]) == ["backprop has no result here, so no rule is compared with it."]
    report.write(grid, empty, tmp_path)
    assert not (tmp_path / "report").exists()


def test_tables_print_briefly(tables: Tables) -> None:
    assert repr(tables[0]).splitlines()[:2] == [
        "digits, mlp         test accuracy",
        "backprop            97.00 ± 1.00",
    ]
    assert repr(Tables([*tables, *tables])) == f"{tables[0]!r}\n\n{tables[0]!r}"
    hostile = make_tables(Grid((DATASET,), rules=("backprop",)), ACCURACIES)
    parser = PageParser()
    parser.feed(hostile._repr_html_())
    assert parser.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert "x onerror" in repr(hostile)
    assert "\x1b" not in repr(make_tables(Grid(("\x1b[31m.npz",), rules=("lra-e",)), ACCURACIES))
    assert f"{Path(DATASET).stem}, mlp" in parser.text


# hostile names


class PageParser(HTMLParser):
    """Collects a page's tags, attributes, references, ids and text, and its unclosed tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.references: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "source", "wbr"):
            self.open.append(tag)
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "srcset", "href", "xlink:href"):
                self.references.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


HOSTILE = (
    '"><img src=x onerror="document.title=\'owned\'">',
    "$^_&%#{}~\\|*`$[a](http://example.org)<b>![x](y)</b>",
    "*</style></title></pre><script>document.title='owned'</script>",
    "[9em]}}{{ 7 * 7 }}{% raw %}<< 7 * 7 >>\\input{/etc/passwd}",
    "_a\n\n# b\n```\n\x1b[31mc\x00\u202e\udcff ﬁ 数据 é -- https://example.org",
    "```",
)
DATASET = '"><img src=x onerror=alert(1)>.npz'


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report whose names try to be markup."""
    out = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:  # stands for rules in files with such names
        patch.setattr(
            "lra.lab.comparison.grid.parse_rule", lambda text, more: Spec(text, "backprop", {})
        )
        grid = Grid((DATASET, "a\n\x1b]0;b\x07.npz"), rules=HOSTILE, trials=1, epochs=4)
        found = dict(zip(HOSTILE, ACCURACIES.values(), strict=True))
        report.write(grid, make_tables(grid, found), out)
    return out


def shown(name: str) -> str:
    """Return a name as a report shows it: on one line, unprintable characters as escapes."""
    line = re.sub(r"\s+", " ", name)
    for character in "\x00\x07\x1b\u202e\udcff":
        line = line.replace(character, ascii(character)[1:-1])
    return line


def test_names_are_text_in_html(hostile: Path) -> None:
    parser = PageParser()
    parser.feed((hostile / "report.html").read_text("utf-8"))
    assert parser.open == []
    assert parser.tags <= {
        *("html", "head", "meta", "title", "style", "body", "main", "section", "div", "pre"),
        *("h1", "h2", "h3", "p", "ul", "li", "strong", "table", "thead", "tbody", "tr", "th", "td"),
        *("figure", "picture", "source", "img", "figcaption", "details", "summary", "wbr"),
    }
    assert not any(name.startswith("on") for name in parser.attributes)
    assert len(parser.references) == 8  # two plots of two networks, light and dark
    assert all(url.startswith("data:image/svg+xml;base64,") for url in parser.references)
    assert parser.ids == []
    for name in (*HOSTILE, f"{Path(DATASET).stem}, mlp"):
        assert shown(name) in parser.text, name


def test_names_are_text_in_markdown(hostile: Path) -> None:
    text = (hostile / "report.md").read_text("utf-8")
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    inline = [token for token in tokens if token.type == "inline"]
    kinds = {child.type for token in inline for child in token.children or ()}
    assert kinds <= {
        *("text", "text_special", "image", "softbreak"),
        *("strong_open", "strong_close", "em_open", "em_close"),
    }
    assert not any(token.type.startswith("html") for token in tokens)
    images = [c.attrs["src"] for t in inline for c in t.children or () if c.type == "image"]
    assert images == [f"report/{name}-{i}.svg" for i in (1, 2) for name in ("gaps", "curves")]
    assert len([token for token in tokens if token.type == "fence"]) == 2
    texts = [plain(token) for token in inline]
    headings = [texts[inline.index(tokens[i + 1])] for i, t in enumerate(tokens) if t.tag == "h2"
                and t.type == "heading_open"]  # fmt: skip
    assert shown(f"{Path(DATASET).stem}, mlp") in headings
    assert len(headings) == 6  # at a glance, two networks, how to read, how made, reproduce
    for name in HOSTILE:
        assert shown(name) in texts, name


TEX_TOKEN = re.compile(
    r"(?P<comment>%[^\n]*)|\\(?P<command>[a-zA-Z]+|.)|(?P<special>[{}&$#^_~])|(?P<text>[^\\{}&$#^_~%]+)"
)
TEX_CHARACTERS = {
    **{c: c for c in "#$%&_{}"},
    **{"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "pm": "±"},
    **{"textasciigrave": "`", "textless": "<", "textgreater": ">", "textbar": "|"},
    **{"uparrow": "↑", "downarrow": "↓"},
}
TEX_COMMANDS = {
    *("documentclass", "usepackage", "newcommand", "fit", "resizebox", "ifdim", "width", "else"),
    *("linewidth", "fi", "begin", "end", "centering", "caption", "label", "toprule", "midrule"),
    *(
        "bottomrule",
        "textbf",
        "setlength",
        "belowcaptionskip",
        "shortstack",
        "includegraphics",
        "\\",
    ),
}


def read_tex(source: str) -> list[str]:
    """Return the texts of the groups and cells of a LaTeX source that uses known commands only."""
    texts, depth, environments = [""], 0, []
    for match in TEX_TOKEN.finditer(source):
        kind, value = match.lastgroup, match[match.lastgroup or 0]
        if kind == "text":
            texts[-1] += value
        elif kind == "command" and value in TEX_CHARACTERS:
            texts[-1] += TEX_CHARACTERS[value]
        elif kind == "command":
            assert value in TEX_COMMANDS, value
            if value == "\\":
                texts.append("")
        elif value == "{":
            depth += 1
        elif value == "}":
            depth -= 1
            assert depth >= 0
        elif value == "&":
            texts.append("")
    assert depth == 0
    for which, name in re.findall(r"(?<!\\)\\(begin|end)\{(\w+)\}", source):
        if which == "begin":
            environments.append(name)
        else:
            assert environments.pop() == name
    assert environments == []
    assert "".join(match[0] for match in TEX_TOKEN.finditer(source)) == source
    return [text.strip() for text in texts]


def test_names_are_text_in_latex(hostile: Path) -> None:
    source = (hostile / "report.tex").read_text("utf-8")
    assert not re.search(r"\\\\\s*[\[*]", source)  # would be an argument of the line break
    texts = read_tex(source)
    for name in HOSTILE:
        expected = re.sub("[ﬁ数据]", lambda match: f"U+{ord(match[0]):04X}", shown(name))
        assert any(expected in text for text in texts), name


@pytest.mark.slow
@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex is installed")
@pytest.mark.parametrize("which", ["folder", "hostile"])
def test_the_latex_compiles(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    assert PDFLATEX is not None
    done = subprocess.run(
        [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={tmp_path}",
         "report.tex"],
        cwd=request.getfixturevalue(which), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")
    assert "Missing character" not in (tmp_path / "report.log").read_text("latin-1")
    assert "Overfull" not in (tmp_path / "report.log").read_text("latin-1")


@pytest.mark.parametrize("which", ["folder", "hostile"])
def test_plots_are_inert_svg(which: str, request: pytest.FixtureRequest) -> None:
    files = sorted(request.getfixturevalue(which).glob("report/*.svg"))
    assert len(files) in (2, 4)
    for path in files:
        elements = list(ElementTree.parse(path).getroot().iter())
        assert elements[0].tag == "{http://www.w3.org/2000/svg}svg"
        names = {element.tag.rpartition("}")[2] for element in elements}
        assert names.isdisjoint({"script", "image", "a", "foreignObject", "b", "img"})
        for element in elements:
            for name, value in element.attrib.items():
                assert not name.startswith("on")
                assert "href" not in name or value.startswith("#")
        texts = {"".join(e.itertext()) for e in elements if e.tag.endswith("}text")}
        assert texts & {"mirrored-lra", "$^_&%#{}~\\|*`$[a](http://exa"}, texts


# in a browser


def browse(*words: str, page: Path) -> str:
    """Open a page in the browser and return its output."""
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *words,
         f"--user-data-dir={page.parent / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (1280, True)])
@pytest.mark.parametrize("which", ["folder", "hostile"])
def test_the_page_in_a_browser(
    which: str, request: pytest.FixtureRequest, tmp_path: Path, width: int, dark: bool
) -> None:
    page = tmp_path / "report.html"
    source = (request.getfixturevalue(which) / "report.html").read_text("utf-8")
    probe = (
        "<script>addEventListener('load', () => { const pictures = [...document.images];"
        "document.body.dataset.found = [document.documentElement.scrollWidth, innerWidth, "
        "pictures.length, pictures.filter(i => i.naturalWidth > 100).length, "
        "document.scripts.length, "
        "pictures.filter(i => i.currentSrc != i.src).length].join(' ') })</script></body>"
    )
    page.write_text(source.replace("</body>", probe), "utf-8")
    scheme = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    size = f"--window-size={width},1500"
    dom = browse(*scheme, size, "--dump-dom", page=page)
    found = re.search(r'data-found="([\d ]+)"', dom)
    assert found, dom[:500]
    content, window, images, drawn, scripts, in_dark = map(int, found[1].split())
    assert content <= window  # nothing overflows
    assert images == drawn == (2 if which == "folder" else 4)
    assert in_dark == (images if dark else 0)
    assert scripts == 1
    assert "<title>6 learning rules compared: " in dom  # no name has changed it
    browse(*scheme, size, f"--screenshot={tmp_path / 'shot.png'}", page=page)
    picture = imread(tmp_path / "shot.png")[..., :3]
    assert picture.shape[1] == width
    corner = picture[2, 2]
    assert (corner.max() < 0.2) if dark else (corner.min() > 0.9)
    contrast = np.abs(picture - corner).max(-1)
    assert (contrast > 0.6).mean() > 0.01  # the text is legible


@needs_browser
@pytest.mark.slow
def test_the_page_prints(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    shutil.copy(folder / "report.html", page)
    browse(f"--print-to-pdf={tmp_path / 'report.pdf'}", page=page)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")
