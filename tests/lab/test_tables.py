"""CSV tables: valid ones compared with what was written, and errors for all others."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest

from lra.errors import DataError
from lra.lab import data
from lra.lab.data import tables

ROWS = [(1.5, -2.0, "cat, big"), (0.1, 3e-3, "dog"), (7.0, 8.0, "cat, big"), (4, 5, 'the "cow"')]
X = np.array([row[:2] for row in ROWS], np.float32)


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def table(delimiter: str = ",", end: str = "\n") -> str:
    def quoted(cell: object) -> str:
        return '"' + str(cell).replace('"', '""') + '"' if isinstance(cell, str) else repr(cell)

    rows = [("a", "b", "species"), *ROWS]
    return "".join(delimiter.join(map(quoted, row)) + end for row in rows)


@pytest.mark.parametrize(
    "text",
    [
        *(table(), table(end="\r\n"), table(end="\r"), table(";"), table("\t")),
        *(f"\ufeff{table()}", table() + "\n\n", table().rstrip("\n")),
    ],
    ids=["plain", "crlf", "cr", "semicolons", "tabs", "bom", "blank lines", "no last line end"],
)
def test_dialects(tmp_path: Path, text: str) -> None:
    dataset = data.load(write(tmp_path / "own.CSV", text))
    np.testing.assert_array_equal(dataset.x_train, X)
    assert dataset.classes == ("cat, big", "dog", 'the "cow"')
    assert dataset.y_train.tolist() == [0, 1, 0, 2]
    assert (dataset.name, dataset.sample_shape, dataset.x_test) == ("own.CSV", (2,), None)
    assert dataset.x_train.dtype == np.float32


@pytest.mark.parametrize("label", ["label", "Class", "TARGET", "y", "kind"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_column_of_classes(tmp_path: Path, label: str, at: int) -> None:
    if label == "kind" and at < 2:
        pytest.skip("a column of any other name must be the last")
    columns = [("a", ["1", "2"]), ("b", ["3", "4"])]
    columns.insert(at, (label, ["10", "9"]))
    lines = [",".join(name for name, _ in columns)]
    lines += [",".join(cells[i] for _, cells in columns) for i in range(2)]
    dataset = data.load(write(tmp_path / "own.csv", "\n".join(lines)))
    assert dataset.x_train.tolist() == [[1, 3], [2, 4]]
    assert dataset.classes == ("9", "10")  # whole numbers are sorted by value
    assert dataset.y_train.tolist() == [1, 0]


def test_it_agrees_with_the_csv_module(tmp_path: Path) -> None:
    rng = random.Random(0)
    names = ["one", "two\nlines", "three; parts", "vier\t", "cinq ä"]
    rows = [[rng.uniform(-9, 9), rng.gauss(0, 1e-9), rng.choice(names)] for _ in range(200)]
    with (tmp_path / "own.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["p", "q", "class"], *rows])
    with pytest.raises(DataError, match="control characters"):
        data.load(tmp_path / "own.csv")
    table = tables.read_table(tmp_path / "own.csv")
    np.testing.assert_array_equal(table.x, np.array([row[:2] for row in rows], np.float32))
    assert table.labels == [str(row[2]).strip() for row in rows]


def test_a_folder_with_a_test_set(tmp_path: Path) -> None:
    folder = tmp_path / "iris"
    folder.mkdir()
    write(folder / "train.csv", "a,b,class\n1,2,x\n3,4,y\n")
    assert data.load(folder).x_test is None
    write(folder / "test.csv", "class,a,b\ny,5,6\n")
    dataset = data.load(folder)
    assert (dataset.name, dataset.classes) == ("iris", ("x", "y"))
    assert dataset.x_test is not None
    assert dataset.y_test is not None
    assert (dataset.x_test.tolist(), dataset.y_test.tolist()) == ([[5, 6]], [1])
    for text, message in (
        (
            "b,a,class\n5,6,y\n",
            r"test\.csv has other columns than .*train\.csv: 'b' instead of 'a'",
        ),
        ("a,class\n5,y\n", "1 columns of numbers instead of 2"),
        ("a,b\n5,6\n", "has no column 'class'"),
    ):
        write(folder / "test.csv", text)
        with pytest.raises(DataError, match=f"{message}.*Remedy"):
            data.load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("a,b,label\n", r"x has shape \(0, 2\), so it is empty"),
        ("1,2,3\n4,5,6\n", "first line holds numbers"),
        (",a,label\n0,1,x\n", r"column 1 has no name.*index=False"),
        ("a,a,label\n0,1,x\n", "column 2 has the name 'a' again"),
        ("label\nx\n", "it has only the column 'label'"),
        ("a,label,class\n0,x,y\n", "columns label and class could both hold the classes"),
        ("a,b,label\n1,2,x\n\n1,x\n", "line 4 has 2 cells, and the header 3"),
        ("a,b,label\n1,2,x,3\n", "line 2 has 4 cells, and the header 3"),
        ("a,b,label\n1,2,x\n1,,x\n", "line 3, column 'b': no value"),
        ("a,b,label\n1,nan,x\n", "line 2, column 'b': 'nan' is not a finite number"),
        ("a,b,label\n-inf,2,x\n", "line 2, column 'a': '-inf' is not a finite number"),
        ("a;b;label\n1,5;2;x\n", "'1,5' has a decimal comma"),
        ("a,sex,label\n1,male,x\n", "line 2, column 'sex': 'male' is not a finite number.*0 and 1"),
        ("a,b,label\n1,2, \n", "line 2 has no class"),
        ("a,b,price\n1,2,3.5\n1,2,4\n", "classes, 'price', holds numbers such as 3.5"),
        ("a,b,label\n1e300,2,x\n", "x has 1 values that are not finite in float32"),
        ('a,b,label\n1,2,"x\n', "after line 1: unexpected end of data"),
        ('a,b,label\n1,2,"x"y\n', "after line 1: ',' expected after '\"'"),
        (f'a,b,label\n1,2,"{"x" * 200_000}', "field larger than field limit"),
        (f"a,b,{'label' * 4_000_000}", "field larger than field limit"),
    ],
)
def test_invalid_tables(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "own.csv", text)
    with pytest.raises(DataError, match=rf"own\.csv: .*{message}.*"):
        data.load(path)
    with pytest.raises(DataError, match="Remedy"):
        data.load(path)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-32"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "own.csv", "a,b,label\n1,2,käse\n", encoding)
    with pytest.raises(DataError, match=r"own\.csv: .*codec.*Remedy: save it as CSV in UTF-8"):
        data.load(path)


def test_tables_for_prediction(tmp_path: Path) -> None:
    like = write(tmp_path / "train.csv", "class,a,b\nx,1,2\n")
    header = tables.read_header(like)
    assert header == ("class", ("a", "b"))
    for text in ("a,b\n3,4\n", "a,class,b\n3,y,4\n", "a,b,class\n3,4,y\n"):
        table = tables.read_table(write(tmp_path / "new.csv", text), (header, like))
        assert table.x.tolist() == [[3, 4]]
    for text, labels in (("a,b\n3,4\n", []), ("a,b,c\n3,4,5\n", ["5"]), ("y,b,c\n3,4,5\n", ["3"])):
        table = tables.read_table(write(tmp_path / "new.csv", text), size=2)
        assert table.x.shape == (1, 2)
        assert table.labels == labels
    with pytest.raises(DataError, match=r"new\.csv has other columns than .*train\.csv"):
        tables.read_table(write(tmp_path / "new.csv", "b,a\n3,4\n"), (header, like))
