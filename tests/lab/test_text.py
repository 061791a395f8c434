"""Text: windows compared with slices of the text, vocabularies, and errors for invalid files."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from lra.errors import DataError, OptionError
from lra.lab import data
from lra.lab.data import text

PROSE = "It was a bright cold day in April, and the clocks were striking thirteen.\n" * 40


def write(folder: Path, content: str | bytes, name: str = "prose.txt") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def read(dataset: data.Dataset, windows: np.ndarray | None) -> list[str]:
    """Return windows as strings."""
    assert windows is not None
    return ["".join(dataset.classes[i] for i in window) for window in windows]


# windows


@pytest.mark.parametrize("context", [1, 7, 128])
def test_windows_are_slices_of_the_text(tmp_path: Path, context: int) -> None:
    dataset = data.load(write(tmp_path, PROSE), context=context)
    tenth = len(PROSE) // 10
    for part, x, y in (
        (PROSE[:-tenth], dataset.x_train, dataset.y_train),
        (PROSE[-tenth:], dataset.x_test, dataset.y_test),
    ):
        starts = range(0, len(part) - context, context)  # a character must follow each window
        assert read(dataset, x) == [part[i : i + context] for i in starts]
        assert read(dataset, y) == [part[i + 1 : i + context + 1] for i in starts]
    assert dataset.x_train.dtype == dataset.y_train.dtype == np.int64
    assert dataset.sample_shape == (context,)
    assert dataset.reads == "text"
    assert dataset.name == "prose.txt"


def test_a_window_needs_a_character_after_it() -> None:
    for length, windows in ((2000, 17), (2010, 18)):  # nine tenths are 1800 and 1809
        dataset = text.make_dataset("t", "ab" * (length // 2), context=100)
        assert len(dataset.x_train) == windows


def test_context_is_128_by_default(tmp_path: Path) -> None:
    assert data.load(write(tmp_path, PROSE)).sample_shape == (128,)


def test_split_draws_whole_windows(tmp_path: Path) -> None:
    dataset = data.load(write(tmp_path, PROSE), context=10)
    train, held_out = data.split(dataset, 30, seed=0)
    assert len(held_out) == 30
    assert sorted([*train, *held_out]) == list(range(len(dataset.x_train)))


# the vocabulary


def test_vocabulary_comes_from_the_training_part(tmp_path: Path) -> None:
    messages: list[str] = []
    path = write(tmp_path, "abca" * 450 + "abcz" * 50)
    dataset = data.load(path, on_event=messages.append, context=9)
    assert dataset.classes == ("a", "b", "c", text.UNKNOWN_CHARACTER)
    assert read(dataset, dataset.x_test)[:2] == ["abc�abc�a", "bc�abc�ab"]
    # The last of the 50 characters is in no window.
    assert messages == ["prose.txt: 49 characters are not in the vocabulary of 3 and become �"]


def test_vocabulary_has_the_most_frequent_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "MAX_VOCABULARY", 3)
    dataset = data.load(write(tmp_path, "aaabbcddde" * 100), context=10)
    assert dataset.classes == ("a", "b", "d", text.UNKNOWN_CHARACTER)
    assert read(dataset, dataset.x_train[:2]) == ["aaabb�ddd�"] * 2


def test_a_text_with_the_unknown_character(tmp_path: Path) -> None:
    dataset = data.load(write(tmp_path, "a�b" * 100), context=9)
    assert dataset.classes == ("a", "b", "�")
    assert read(dataset, dataset.x_train[:1]) == ["a�ba�ba�b"]


def test_characters_of_every_encoded_size(tmp_path: Path) -> None:
    dataset = data.load(write(tmp_path, "aé漢😀" * 100), context=8)
    assert dataset.classes == ("a", "é", "漢", "😀", text.UNKNOWN_CHARACTER)
    assert read(dataset, dataset.x_train[:1]) == ["aé漢😀aé漢😀"]


def test_prompts() -> None:
    classes = ("\n", " ", "a", "b", text.UNKNOWN_CHARACTER)
    assert text.encode("ab\nba", classes) == [2, 3, 0, 3, 2]
    assert text.encode("", classes) == []
    assert text.decode([2, 3, 0, 3, 2], classes) == "ab\nba"
    assert text.decode(np.array([4, 1]), classes) == "� "
    message = r"not in the network's vocabulary: 'X', 'é'; known: '\\n ab�'"
    with pytest.raises(OptionError, match=message):
        text.encode("aéXbX", classes)


# files


def test_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    unix = "one\ntwo\n\nthree\n" * 20
    plain = data.load(write(tmp_path, unix), context=15)
    for content in (unix.replace("\n", "\r\n"), unix.replace("\n", "\r"), f"\ufeff{unix}"):
        other = data.load(write(tmp_path, content, "other.TXT"), context=15)
        assert other.classes == plain.classes
        np.testing.assert_array_equal(other.x_train, plain.x_train)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"prose\.txt has 0 characters; windows of 128 need at least 1,290"),
        (PROSE[:1289], r"has 1,289 characters; windows of 128 need at least 1,290.*Remedy"),
        ("a" * 2000, r"its first nine tenths are all 'a', so there is nothing.*Remedy"),
        (b"abc\xff" * 999, r"prose\.txt is not in UTF-8: byte 3 is 0xff .*Remedy"),
        ("naïve ".encode("latin-1") * 999, r"is not in UTF-8: byte 2 is 0xef"),
        (PROSE.encode("utf-16"), r"is not in UTF-8: byte 0 is 0xff"),
    ],
)
def test_invalid_texts(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.load(write(tmp_path, content))


def test_the_shortest_valid_text(tmp_path: Path) -> None:
    dataset = data.load(write(tmp_path, PROSE[:1290]))
    assert dataset.x_test is not None
    assert (len(dataset.x_train), len(dataset.x_test)) == (9, 1)


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"\.txt: there is no such file; .*Remedy: check the path"):
        data.load(str(tmp_path / "none.txt"))
    monkeypatch.setattr(text, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"has more than 1,000 bytes\. Remedy"):
        data.load(write(tmp_path, PROSE))


@pytest.mark.parametrize("context", [0, -3])
def test_context_out_of_range(tmp_path: Path, context: int) -> None:
    for dataset in (write(tmp_path, PROSE), "python"):
        with pytest.raises(OptionError, match=rf"context = {context}: "):
            data.load(dataset, context=context)


def test_fetch_checks_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "short")
    assert data.fetch(path) == [Path(path)]
    with pytest.raises(DataError, match="UTF-8"):
        data.fetch(write(tmp_path, b"\xff"))


# the source of Python's library


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small library, including files that are not part of the text."""
    monkeypatch.setattr(sys, "stdlib_module_names", frozenset({"one", "two", "idlelib", "zlib"}))
    monkeypatch.setattr(text, "library_folder", lambda: tmp_path)
    for name in (
        *("one.py", "two/__init__.py", "two/deep/er.py", "two/data.txt", "two/test/a.py"),
        *("two/tests/b.py", "idlelib/c.py", "site-packages/d.py", "three.py", "two/testing.py"),
        "two/more.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n" * 30, newline="\n")
    return tmp_path


INCLUDED = ("one.py", "two/__init__.py", "two/deep/er.py", "two/more.py", "two/testing.py")
IN_ORDER = sorted(INCLUDED, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def test_library_is_the_sorted_modules_without_tests(library: Path) -> None:
    assert text.library_files(library) == [library / name for name in IN_ORDER]
    whole = "".join(f"# {name}\n" * 30 for name in IN_ORDER)
    assert text.read_library(library) == whole
    dataset = data.load("python", context=100)
    assert read(dataset, dataset.x_train[:2]) == [whole[:100], whole[100:200]]
    assert data.fetch("python") == [library]
    assert data.catalogue()[4].where == library


def test_library_is_cut(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PYTHON_CHARACTERS", 700)
    opened: list[Path] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path) or real(path))
    assert text.read_library(library) == "".join(f"# {name}\n" * 30 for name in IN_ORDER)[:700]
    assert opened == [library / name for name in IN_ORDER[:2]]  # no more than needed


def test_library_has_a_fixed_vocabulary(library: Path) -> None:
    (library / IN_ORDER[0]).write_bytes("a\r\nb\tc\x0c\x00é\n".encode() + b"\xff" + b"x" * 90)
    dataset = data.load("python", context=10)
    assert dataset.classes == ("\t", "\n", *map(chr, range(32, 127)), text.UNKNOWN_CHARACTER)
    assert dataset.num_classes == 98
    assert read(dataset, dataset.x_train[:1]) == ["a\nb\tc���\n�"]


def test_missing_library(library: Path) -> None:
    for name in INCLUDED:
        (library / name).unlink()
    assert data.catalogue()[4].where is None
    for call in (data.load, data.fetch):
        with pytest.raises(DataError, match=r"has no file of it\. Remedy"):
            call("python")


def test_the_real_library() -> None:
    dataset = data.load("python")
    assert dataset.x_test is not None
    assert dataset.x_train.shape == (28_124, 128)
    assert dataset.x_test.shape == (3_124, 128)
    assert "import " in "".join(read(dataset, dataset.x_test[:200]))
    assert text.count_unknown(dataset) < 4_000  # 1 in 1,000
    again = data.load("python")
    np.testing.assert_array_equal(again.x_train, dataset.x_train)
