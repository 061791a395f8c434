"""How results are shown: escapes, tables as text and as HTML, names in plots."""

from html.parser import HTMLParser

import pytest

from lra.display import as_html, as_text, label, printable

HOSTILE = (
    "\x1b[31mred",
    "a\nb",
    "\r\x07",
    "\x9b2J",
    "\u202eright to left",
    "\ud800",
    "<img src=x onerror=alert(1)>",
    '"&<td>',
)


class Cells(HTMLParser):
    """The text of each cell, and the names of all tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_shown_is_printable_and_says_what_it_was(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode().decode("unicode_escape") == text


@pytest.mark.parametrize("text", ["layer.0", "größe 層", "C:\\new", ""])
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_html_is_inert(text: str) -> None:
    page = as_html(text, [text, "b"], [[text, "1"]], [text])
    parsed = Cells(page)
    assert parsed.tags == {"div", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert parsed.cells[:2] == [printable(text), "b"]
    assert parsed.cells[2] == printable(text)
    assert "color" not in page  # the notebook's own colours, light or dark


def test_html_keeps_numbers_on_one_line_and_lets_text_wrap() -> None:
    page = as_html("title", ["layer", "error"], [["a b", "1e-08 |h|"]])
    assert '<td style="text-align:left">a b</td>' in page
    assert '<td style="text-align:right;white-space:nowrap">1e-08 |h|</td>' in page


def test_html_without_rows_has_no_table() -> None:
    assert "table" not in as_html("title", ["a"], [], ["note"])


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_table_has_a_line_for_each_row(text: str) -> None:
    lines = as_text(["name", "n"], [[text, "1"], ["b", "1,000"]]).split("\n")
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert lines[1].startswith(printable(text))


@pytest.mark.parametrize(
    "name",
    ["0", "", "x" * 80, "encoder.layers.17.attention.projection", ".".join("abcdefgh" * 5), "\x1b"],
)
def test_a_label_is_short_and_names_the_type(name: str) -> None:
    text = label(name, "Linear")
    assert len(text) <= 32 + len("  Linear")
    assert text.endswith("  Linear")
    assert text.isprintable()


def test_labels_of_layers_that_differ_in_a_number_differ() -> None:
    names = [f"encoder.layers.{i}.attention.output.projection" for i in range(120)]
    assert len({label(name, "Linear") for name in names}) == 120
