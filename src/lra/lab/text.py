"""Text as a dataset: characters as numbers, windows of them, and the source of Python's library."""

from __future__ import annotations

import codecs
import hashlib
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lra.errors import DataError, OptionError
from lra.lab.dataset import Dataset, Ints

CONTEXT = 128
"""Characters in a window, unless told otherwise."""

STAND_IN = "\N{REPLACEMENT CHARACTER}"
"""Stands for every character that is not in the vocabulary."""

MAX_KINDS = 256  # of characters in a vocabulary, the stand-in aside
MAX_BYTES = 100_000_000  # of a text: in memory each character takes eight
PYTHON_CHARACTERS = 4_000_000
PYTHON_KINDS = ("\t", "\n", *map(chr, range(0x20, 0x7F)))
_LEFT_OUT = {
    *("distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtledemo"),  # may be missing
    *("encodings", "pydoc_data"),  # tables and help texts
}


def encode(prompt: str, classes: Sequence[str]) -> list[int]:
    """Give the index of each character.

    Args:
        prompt: the text.
        classes: the characters of the vocabulary.

    Raises:
        OptionError: a character is not in the vocabulary.
    """
    index = {character: i for i, character in enumerate(classes)}
    if unknown := sorted(set(prompt) - index.keys()):
        raise OptionError(
            f"the prompt has characters that the network does not know: "
            f"{', '.join(map(repr, unknown))}; known: {''.join(classes)!r}"
        )
    return [index[character] for character in prompt]


def decode(indices: Iterable[int], classes: Sequence[str]) -> str:
    """Give the text of characters' indices."""
    return "".join(classes[i] for i in indices)


def vocabulary(text: str) -> tuple[str, ...]:
    """Give the characters that occur, in order; the most frequent ones where they are too many."""
    counts = Counter(text)
    by_count = sorted(counts, key=lambda character: (-counts[character], character))
    return tuple(sorted(by_count[:MAX_KINDS]))


def make_dataset(name: str, text: str, context: int, kinds: Sequence[str] | None = None) -> Dataset:
    """Cut a text into windows and the characters that come next; its last tenth is the test pair.

    Args:
        name: of the dataset, for messages.
        text: the text.
        context: number of characters in a window, 1 or more. Windows follow each other without
            overlap; what is left at the end of either part is not used.
        kinds: the characters of the vocabulary; by default those of the training part. The
            stand-in comes last.

    Raises:
        OptionError: `context` is below 1.
        DataError: the text is too short, or all of one character.
    """
    if context < 1:
        raise OptionError(f"context = {context}: a window must have at least 1 character")
    least = 10 * (context + 1)
    if len(text) < least:
        raise DataError(
            f"{name} has {len(text):,} characters; windows of {context} need at least {least:,}, "
            "for its last tenth must hold one and the character after it. Remedy: a longer text, "
            "or a smaller context"
        )
    cut = len(text) - len(text) // 10
    kinds = vocabulary(text[:cut]) if kinds is None else kinds
    if len(kinds) < 2:
        raise DataError(
            f"{name}: its first nine tenths are all {kinds[0]!r}, so there is nothing to predict. "
            "Remedy: another text"
        )
    classes = (*(kind for kind in kinds if kind != STAND_IN), STAND_IN)
    numbers = _numbers(text, classes)
    train, test = _windows(numbers[:cut], context), _windows(numbers[cut:], context)
    return Dataset(name, *train, *test, classes)


def count_stand_ins(dataset: Dataset) -> int:
    """Count the characters of a dataset's windows that are not in its vocabulary."""
    assert dataset.x_test is not None
    last = dataset.num_classes - 1
    return int(np.sum(dataset.x_train == last) + np.sum(dataset.x_test == last))


def _numbers(text: str, classes: Sequence[str]) -> Ints:
    """Index of each character; those that are not in the vocabulary get the last one."""
    table = np.full(sys.maxunicode + 1, len(classes) - 1, np.int64)
    table[[ord(character) for character in classes]] = np.arange(len(classes))
    numbers: Ints = table[np.frombuffer(text.encode("utf-32-le"), "<u4")]
    return numbers


def _windows(numbers: Ints, context: int) -> tuple[Ints, Ints]:
    """Consecutive windows, and the same places one character further on."""
    n = (len(numbers) - 1) // context
    x, y = numbers[: n * context], numbers[1 : n * context + 1]
    return x.reshape(n, context), y.reshape(n, context)


def read_text(path: Path) -> str:
    r"""Read a text file in UTF-8; the ends of its lines become \n.

    Raises:
        DataError: it cannot be read, is too large, or is not in UTF-8.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}). Remedy: check the path; it is taken "
            f"relative to {Path.cwd()}"
        ) from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{path} has more than {MAX_BYTES:,} bytes. Remedy: cut it shorter")
    try:
        return _unix(content.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not in UTF-8: byte {error.start:,} is 0x{error.object[error.start]:02x} "
            f"({error.reason}). Remedy: save it as UTF-8"
        ) from error


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def library_folder() -> Path:
    """Folder of Python's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def library_files(folder: Path) -> list[Path]:
    """List the source files of Python's standard library, without its tests.

    They are in the order of the SHA-256 of their paths, so that every part of the text is of all
    kinds of modules.
    """
    files: list[Path] = []
    for name in sys.stdlib_module_names - _LEFT_OUT:
        files += [folder / f"{name}.py", *(folder / name).rglob("*.py")]
    paths = [file.relative_to(folder) for file in files if file.is_file()]
    proper = [path for path in paths if not {"test", "tests"} & {*path.parts}]
    proper.sort(key=lambda path: hashlib.sha256(path.as_posix().encode()).digest())
    return [folder / path for path in proper]


def read_library(folder: Path) -> str:
    """Read the first `PYTHON_CHARACTERS` characters of the source of Python's standard library.

    Raises:
        DataError: the source is not there, or cannot be read.
    """
    parts: list[str] = []
    length = 0
    try:
        for file in library_files(folder):
            parts.append(_unix(file.read_bytes().decode("utf-8", errors="replace")))
            length += len(parts[-1])
            if length >= PYTHON_CHARACTERS:
                break
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror})") from error
    if not parts:
        raise DataError(
            f"dataset 'python' is the source of Python's standard library, and {folder} has no "
            "file of it. Remedy: use a Python that brings its source, or a .txt file of your own"
        )
    return "".join(parts)[:PYTHON_CHARACTERS]
