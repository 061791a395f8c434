"""Text datasets: characters as class indices, in windows; and the source of Python's library."""

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
from lra.lab.data.dataset import Dataset, Ints
from lra.lab.data.files import open_file

CONTEXT = 128
"""The default number of characters in a window."""

UNKNOWN_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""The class of all characters that are not in the vocabulary."""

MAX_VOCABULARY = 256
"""The most characters in a vocabulary, without `UNKNOWN_CHARACTER`."""
MAX_BYTES = 100_000_000
"""The largest text that is accepted; in memory each character takes eight bytes."""
PYTHON_CHARACTERS = 4_000_000
"""The number of characters in the dataset `python`."""
PYTHON_VOCABULARY = ("\t", "\n", *map(chr, range(0x20, 0x7F)))
"""The vocabulary of the dataset `python`."""
_EXCLUDED = {
    *("distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtledemo"),  # may be missing
    *("encodings", "pydoc_data"),  # tables and help texts
}


def encode(prompt: str, classes: Sequence[str]) -> list[int]:
    """Return the class index of each character of a prompt.

    Args:
        prompt: the text.
        classes: the characters of the vocabulary.

    Raises:
        OptionError: a character is not in the vocabulary.
    """
    index = {character: i for i, character in enumerate(classes)}
    if unknown := sorted(set(prompt) - index.keys()):
        raise OptionError(
            f"the prompt has characters that are not in the network's vocabulary: "
            f"{', '.join(map(repr, unknown))}; known: {''.join(classes)!r}"
        )
    return [index[character] for character in prompt]


def decode(indices: Iterable[int], classes: Sequence[str]) -> str:
    """Return the text of class indices."""
    return "".join(classes[i] for i in indices)


def build_vocabulary(text: str) -> tuple[str, ...]:
    """Return the characters of a text in order; at most the `MAX_VOCABULARY` most frequent ones."""
    counts = Counter(text)
    by_count = sorted(counts, key=lambda character: (-counts[character], character))
    return tuple(sorted(by_count[:MAX_VOCABULARY]))


def make_dataset(
    name: str, text: str, context: int, vocabulary: Sequence[str] | None = None
) -> Dataset:
    """Cut a text into windows, with the next characters as classes. Its last tenth is the test set.

    Args:
        name: the name of the dataset, for messages.
        text: the text.
        context: the number of characters in a window, 1 or more. Windows do not overlap; an
            incomplete one at the end of either part is dropped.
        vocabulary: the characters of the vocabulary; by default those of the training part.
            `UNKNOWN_CHARACTER` is appended.

    Raises:
        OptionError: `context` is below 1.
        DataError: the text is too short, or repeats a single character.
    """
    if context < 1:
        raise OptionError(f"context = {context}: a window must have at least 1 character")
    least = 10 * (context + 1)
    if len(text) < least:
        raise DataError(
            f"{name} has {len(text):,} characters; windows of {context} need at least {least:,}, "
            "since its last tenth must hold one window and the character after it. Remedy: use a "
            "longer text or a smaller context"
        )
    cut = len(text) - len(text) // 10
    vocabulary = build_vocabulary(text[:cut]) if vocabulary is None else vocabulary
    if len(vocabulary) < 2:
        raise DataError(
            f"{name}: its first nine tenths are all {vocabulary[0]!r}, so there is nothing to "
            "predict. Remedy: use another text"
        )
    classes = (*(c for c in vocabulary if c != UNKNOWN_CHARACTER), UNKNOWN_CHARACTER)
    indices = _to_indices(text, classes)
    train, test = _windows(indices[:cut], context), _windows(indices[cut:], context)
    return Dataset(name, *train, *test, classes)


def count_unknown(dataset: Dataset) -> int:
    """Count the characters of a dataset's windows that are not in its vocabulary."""
    assert dataset.x_test is not None
    last = dataset.num_classes - 1
    return int(np.sum(dataset.x_train == last) + np.sum(dataset.x_test == last))


def _to_indices(text: str, classes: Sequence[str]) -> Ints:
    """Return the class index of each character; the last one for unknown characters."""
    table = np.full(sys.maxunicode + 1, len(classes) - 1, np.int64)
    table[[ord(character) for character in classes]] = np.arange(len(classes))
    indices: Ints = table[np.frombuffer(text.encode("utf-32-le"), "<u4")]
    return indices


def _windows(indices: Ints, context: int) -> tuple[Ints, Ints]:
    """Return consecutive windows, and the same windows shifted by one character."""
    n = (len(indices) - 1) // context
    x, y = indices[: n * context], indices[1 : n * context + 1]
    return x.reshape(n, context), y.reshape(n, context)


def read_text(path: Path) -> str:
    r"""Read a text file in UTF-8, with line ends converted to \n.

    Raises:
        DataError: the file cannot be read, is too large, or is not in UTF-8.
    """
    with open_file(path, MAX_BYTES) as stream:
        content = stream.read()
    try:
        return _normalize_newlines(content.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not in UTF-8: byte {error.start:,} is 0x{error.object[error.start]:02x} "
            f"({error.reason}). Remedy: save it as UTF-8"
        ) from error


def _normalize_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def library_folder() -> Path:
    """Return the folder of Python's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def library_files(folder: Path) -> list[Path]:
    """List the source files of Python's standard library, without its tests.

    They are sorted by the SHA-256 of their paths, so that each part of the text mixes all kinds of
    modules.
    """
    files: list[Path] = []
    for name in sys.stdlib_module_names - _EXCLUDED:
        files += [folder / f"{name}.py", *(folder / name).rglob("*.py")]
    paths = [file.relative_to(folder) for file in files if file.is_file()]
    paths = [path for path in paths if not {"test", "tests"} & {*path.parts}]
    paths.sort(key=lambda path: hashlib.sha256(path.as_posix().encode()).digest())
    return [folder / path for path in paths]


def read_library(folder: Path) -> str:
    """Read the first `PYTHON_CHARACTERS` characters of the source of Python's standard library.

    Raises:
        DataError: the source is missing or cannot be read.
    """
    parts: list[str] = []
    length = 0
    try:
        for file in library_files(folder):
            parts.append(_normalize_newlines(file.read_bytes().decode("utf-8", errors="replace")))
            length += len(parts[-1])
            if length >= PYTHON_CHARACTERS:
                break
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror})") from error
    if not parts:
        raise DataError(
            f"dataset 'python' is the source of Python's standard library, and {folder} has no "
            "file of it. Remedy: use a Python that includes its source, or your own .txt file"
        )
    return "".join(parts)[:PYTHON_CHARACTERS]
