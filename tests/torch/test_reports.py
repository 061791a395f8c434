"""Reports as they are shown: one line at a prompt, a table in a notebook, text by print."""

from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import lra

NAME = "\x1b[31m<b>&$x$"


class Table(HTMLParser):
    """The rows of cells in HTML, and the names of all tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside &= tag not in ("th", "td")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


class Net(nn.Module):
    """A network whose layers have hostile names, and which calls tanh as a function."""

    def __init__(self):
        super().__init__()
        self.add_module(NAME, nn.Linear(4, 3))
        self.add_module("out", nn.Linear(3, 2))

    def forward(self, x):
        return self.out(torch.tanh(self.get_submodule(NAME)(x)))


def reports():
    torch.manual_seed(0)
    x, t = torch.randn(6, 4), torch.randint(2, (6,))
    model = lra.convert(Net(), lra.FeedbackAlignment(), example=x)
    skipped = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    lra.convert(skipped, lra.LRAE(), skip=["1"])
    return {
        "diagnosis": lra.diagnose(model, x, t),
        "coverage": lra.coverage(model),
        "audit": lra.audit(skipped, x),
        "clean audit": lra.audit(model, x),
        "check": lra.check_rule(lra.Rule(name=NAME)),
    }


@pytest.fixture(scope="module")
def shown():
    return reports()


@pytest.mark.parametrize("name", ["diagnosis", "coverage", "audit", "clean audit", "check"])
def test_a_report_is_one_printable_line_at_a_prompt_and_inert_html(shown, name):
    report = shown[name]
    assert repr(report).isprintable()
    assert len(repr(report)) < 160
    assert str(report).replace("\n", "").isprintable()
    assert Table(report._repr_html_()).tags <= {
        *("div", "b", "table", "thead", "tbody", "tr", "th", "td")
    }


def test_reprs_have_the_essential_numbers(shown):
    found = shown["diagnosis"]
    angle = found.weights[0].angle
    low, high = sorted((angle, found["out"].angle))
    assert repr(found) == (
        f"<Diagnosis of feedback-alignment: loss {found.loss:.4g}, 2 weight layers, "
        f"angles to backprop {low:.1f}° to {high:.1f}°>"
    )
    assert repr(shown["coverage"]) == (
        "<Coverage: 100.0% of the weights follow the rule (23 in all), verified>"
    )
    assert repr(shown["audit"]).startswith("<Audit: errors cross 1 operation as in backprop")
    outcomes = shown["check"].outcomes
    applies = sum(outcome.deviation is not None for outcome in outcomes)
    results = {f"{applies} ok", f"{len(outcomes) - applies} n/a"}
    start, _, counts = repr(shown["check"]).removesuffix(">").partition(": ")
    assert start == "<RuleReport of \\x1b[31m<b>&$x$"
    assert set(counts.split(", ")) == results


def test_a_diagnosis_without_errors_says_so_in_its_repr():
    model = lra.convert(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), lra.LRAE())
    found = lra.diagnose(model, torch.randn(6, 4), loss=lambda output: 0 * output.sum())
    assert "no usable error in 3 layers" in repr(found)
    assert "angles" not in repr(found)


def test_tables_in_notebooks_have_the_cells_of_the_text(shown):
    for name in ("diagnosis", "coverage"):
        rows = Table(shown[name]._repr_html_()).rows
        lines = str(shown[name]).splitlines()
        start = 1 if name == "diagnosis" else 0
        for row, line in zip(rows, lines[start:], strict=False):
            assert "".join(row).replace(" ", "") == line.replace(" ", "")
    rows = Table(shown["audit"]._repr_html_()).rows[1:]
    assert [row[0] for row in rows] == [f.operation for f in shown["audit"].findings]
    rows = Table(shown["check"]._repr_html_()).rows[1:]
    assert [row[:2] for row in rows] == [[o.identity, o.statement] for o in shown["check"].outcomes]


def test_a_diagnosis_plots_the_angle_and_size_of_each_layer(shown):
    found = shown["diagnosis"]
    angles, sizes = found.plot().axes
    for i, layer in enumerate(found.weights):
        assert list(angles.lines[i].get_xdata()) == [layer.angle]
        assert list(sizes.lines[i].get_xdata()) == [layer.update.relative]
    labels = [text.get_text() for text in angles.get_yticklabels()]
    assert labels == ["\\x1b[31m<b>&\\$x\\$  Linear", "out  Linear"]
