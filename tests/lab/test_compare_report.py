"""Reports of results with known figures, as Markdown, as HTML and in a browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from lra.lab.comparison.grid import Grid
from lra.lab.comparison.page import html, write_html, write_markdown
from lra.lab.comparison.report import Report, make_report
from lra.lab.comparison.results import Entry, Run, Table
from lra.lab.comparison.sentences import verdict
from lra.lab.comparison.store import Outcome

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")

ACCURACIES = {
    "backprop": (97.0, 96.0, 98.0),
    "lra-e": (96.9, 96.2, 97.8),
    "kolen-pollack": (95.0, 94.1, 96.0),
    "mirrored-lra": (98.0, 97.1, 99.0),
    "sign-symmetry": (90.0, None, 91.0),
    "feedback-alignment": (),
}


def outcome(accuracy: float | None) -> Outcome:
    if accuracy is None:
        return Outcome("diverged", "the loss became nan")
    figures = {
        **{"test_accuracy": accuracy, "test_loss": 0.1, "validation_accuracy": accuracy - 1},
        **{"weights": 1234, "feedback_weights": 56, "seconds": 4.0, "steps": 2000},
    }
    return Outcome("done", "", 300 * 2**20, "a machine", figures)


def entries(grid: Grid) -> Any:
    for experiment in grid.experiments:
        found = ACCURACIES[experiment.rule.text]
        curve = [{"validation_accuracy": 50.0 + 10 * i, "epoch": i + 1.0} for i in range(4)]
        runs = tuple(Run(f"run-{i}", i, outcome(a), curve) for i, a in enumerate(found))
        refusal = None if found else "refused: <b>no</b> feedback | `here` for 'x_1'"
        yield Entry(experiment, {"lr": 0.00316}, (({"lr": 0.00316}, 96.5),), runs, refusal)


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid(("digits",), rules=tuple(ACCURACIES), trials=1, epochs=4)


@pytest.fixture(scope="module")
def table(grid: Grid) -> Table:
    return Table(grid.problems[0], tuple(entries(grid)))


@pytest.fixture(scope="module")
def report(grid: Grid, table: Table) -> Report:
    return make_report(grid, [table], Path("runs/x"))


def test_the_verdict_states_which_differences_are_significant(table: Table) -> None:
    assert verdict(table) == [
        "backprop: 97.00 ± 1.00.",
        "No significant difference from backprop with these 3 seeds: lra-e.",
        "Better than backprop: mirrored-lra.",
        "Worse than backprop: kolen-pollack.",
        "Not compared, since results are missing: sign-symmetry, feedback-alignment.",
    ]


def test_the_table_has_the_figures(report: Report) -> None:
    rows = [line for line in report.markdown.splitlines() if line.startswith("| ")]
    split = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    lines = {cells[0]: cells[1:] for cells in split if len(cells) > 5}
    assert lines["backprop"] == [
        *("97.00 ± 1.00", "", "3", "lr=0.00316", "1,234", "56", "2.00", "300"),
    ]
    gap = lines["kolen-pollack"][1]  # of -2.0, -1.9, -2.0: mean -1.967, 4.3027 * 0.05774 / sqrt(3)
    assert gap == "-1.97 (-2.11 to -1.82)"
    assert lines["sign-symmetry"][:3] == ["90.50 ± 0.71", "not compared", "2, 1 diverged"]
    assert lines["feedback-alignment"][0] == "refused"


def test_the_report_states_how_it_was_made(report: Report) -> None:
    text = report.markdown
    for part in (
        "lra compare digits --rules backprop lra-e",
        "Seeds 0 to 2 determine the split",
        "the best of 1 trials for each rule on each network, judged by validation data alone",
        "lr=0.00316: 96.50",
        "Machine: a machine.",
        "lra compare digits --rules kolen-pollack:lr=0.00316 --epochs 4",
    ):
        assert part in text, part


class PageParser(HTMLParser):
    """Collects a page's ids, its external references, and its unclosed tags."""

    def __init__(self) -> None:
        super().__init__()
        self.external: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br", "hr", "link"):
            self.open.append(tag)
        values = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        for name in ("src", "href", "xlink:href"):
            if (values.get(name) or "#")[0] != "#":
                self.external.append(str(values[name]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_self_contained(report: Report) -> None:
    page = html(report)
    parser = PageParser()
    parser.feed(page)
    assert parser.open == []
    assert parser.external == []
    assert len(set(parser.ids)) == len(parser.ids)
    assert page.count("<svg ") == 2
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "<b>no</b>" not in page
    assert "&lt;b&gt;no&lt;/b&gt; feedback | `here` for 'x_1'" in page


def test_plots_are_files_beside_the_markdown(report: Report, tmp_path: Path) -> None:
    write_markdown(report, tmp_path / "page.md")
    shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (tmp_path / "page.md").read_text())
    assert shown == ["page/gaps-1.svg", "page/curves-1.svg"]
    for name in shown:
        root = ElementTree.parse(tmp_path / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = (tmp_path / shown[1]).read_text()
    for rule in ("backprop", "lra-e", "kolen-pollack", "mirrored-lra"):
        assert f">{rule}</text>" in text


def test_plots_are_reproducible(grid: Grid, table: Table, report: Report) -> None:
    assert make_report(grid, [table], Path("runs/x")) == report


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
def test_the_page_in_a_browser(report: Report, tmp_path: Path, width: int, dark: bool) -> None:
    page = tmp_path / "report.html"
    write_html(report, page)
    probe = (
        "<script>document.title = [document.documentElement.scrollWidth, innerWidth, "
        "document.querySelectorAll('svg text').length].join(' ')</script></body>"
    )
    page.write_text(page.read_text().replace("</body>", probe))
    scheme = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    size = f"--window-size={width},1500"
    dom = browse(*scheme, size, "--dump-dom", page=page)
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", dom)
    assert found, dom[:500]
    content, window, texts = map(int, found.groups())
    assert content <= window  # nothing overflows
    assert texts > 20
    browse(*scheme, size, f"--screenshot={tmp_path / 'shot.png'}", page=page)
    picture = imread(tmp_path / "shot.png")[..., :3]
    assert picture.shape[1] == width
    corner = picture[2, 2]
    assert (corner.max() < 0.2) if dark else (corner.min() > 0.9)
    contrast = np.abs(picture - corner).max(-1)
    assert (contrast > 0.6).mean() > 0.01  # the text is legible


@needs_browser
@pytest.mark.slow
def test_the_page_prints(report: Report, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_html(report, page)
    browse(f"--print-to-pdf={tmp_path / 'report.pdf'}", page=page)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF-")
