"""A user's own rules and networks: finding, loading and recording the code that a text refers to.

A reference is `file.py:Name` or `package.module:Name`. A run records the SHA-256 of the file. Code
that a run on disk refers to is loaded only if its user has named it on this machine before, since
anybody could have written that run.
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from lra.errors import LraError, OptionError, RunError, one_line
from lra.lab.data.sources import cache_folder

_FILE = re.compile(r"(.+\.py):([^:=,]+)")
_MODULE = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)")

Source = tuple[str, str]
"""A file or module, as the reference names it, and the SHA-256 of its content."""

_moved: dict[str, Path] = {}
_loaded: dict[tuple[Path, str], ModuleType] = {}


def split_reference(text: str) -> tuple[str, str, str] | None:
    """Split a text that starts with a reference into file or module, name, and the rest.

    Returns None for a text without a reference. The rest is empty, or begins with a colon.
    """
    for pattern in (_FILE, _MODULE):
        found = pattern.match(text)
        if found and text[found.end() : found.end() + 1] in ("", ":"):
            return found[1], found[2], text[found.end() :]
    return None


def load(reference: str, folder: str = "") -> Any:
    """Return the object that a reference names.

    Args:
        reference: `file.py:Name` or `package.module:Name`.
        folder: the folder in which a file is looked for if the current folder does not have it.

    Raises:
        OptionError: there is no such file, module or name, or its code raises an error.
    """
    parts = split_reference(reference)
    assert parts is not None
    where, name, _ = parts
    module = _load_file(where, folder) if where.endswith(".py") else _import(where)
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            own = ", ".join(_public_names(module)) or "nothing"
            raise OptionError(f"{reference}: {where} has no {name}; it defines {own}")
        value = getattr(value, part)
        if isinstance(value, ModuleType):  # a run that somebody else wrote could reach all of it
            raise OptionError(
                f"{reference}: {part} is a module that {where} imports; name it itself"
            )
    return value


def place(reference: str) -> str:
    """Return the file or module of a reference; of a script or notebook, the reference itself.

    The code of a script or notebook is recorded object by object, since it has no lasting file.
    """
    where, _, _ = split_reference(reference) or ("", "", "")
    return reference if where == "__main__" else where


def parse_sources(sources: Any) -> dict[str, str]:
    """Return the recorded digests by file or module, from the plain data of a configuration.

    Raises:
        OptionError: it is not a list of pairs of texts.
    """
    pairs = sources if isinstance(sources, (list, tuple)) else (None,)
    if not all(
        isinstance(pair, (list, tuple)) and [type(part) for part in pair] == [str, str]
        for pair in pairs
    ):
        raise OptionError(
            f"sources must be pairs of a file or module and its SHA-256; got {sources!r:.200}"
        )
    return dict(pairs)


def record(references: Iterable[str], folder: str = "") -> tuple[Source, ...]:
    """Return the sources of references that the user has named, and remember that they may run."""
    sources = []
    for reference in references:
        sources.append((place(reference), _digest(reference, folder)))
        with suppress(OSError):  # without a cache, the user names the code again with --code
            note = _note(reference, sources[-1][1])
            note.parent.mkdir(parents=True, exist_ok=True)
            note.touch()
    return tuple(dict.fromkeys(sources))


def check(references: Iterable[str], sources: Any, folder: str) -> None:
    """Check that the code of a run on disk is unchanged, and that it may be loaded.

    Args:
        references: the references in the run's configuration.
        sources: the recorded sources.
        folder: the folder from which the run was started.

    Raises:
        RunError: a file is missing or has changed, or the user has not named it on this machine.
    """
    known = parse_sources(sources)
    for reference in references:
        where = place(reference)
        if _moved.get(where) or _moved.get(Path(where).name):
            continue
        remedy = f"name it with --code {where}"
        if where not in known or not _note(reference, known[where]).exists():
            raise RunError(
                f"the run uses {reference}, code that was not named on this machine before. If "
                f"you trust it, {remedy}"
            )
        try:
            digest = _digest(reference, folder)
        except OptionError as error:
            raise RunError(f"{error}; if it moved, name its new place with --code") from error
        if digest != known[where]:
            if where.startswith("__main__:"):
                raise RunError(
                    f"the run uses {reference.partition(':')[2]} of a script or notebook. Define "
                    "it there as it was, and open the run with lra.lab.Run.open"
                )
            raise RunError(
                f"{where} has changed since the run began. Restore it, or accept the change and "
                f"{remedy}"
            )


def check_named(references: Iterable[str]) -> None:
    """Check that code may be loaded that a file names without recording its digest.

    Raises:
        RunError: the user has not named the code as it is now on this machine before.
    """
    for reference in references:
        if not _note(reference, _digest(reference, "")).exists():
            raise RunError(
                f"{reference} is code that was not named on this machine before, or has changed. "
                "If you trust it, run the comparison by its command again"
            )


def allow(places: Sequence[Path | str]) -> None:
    """Allow the code in files or modules, wherever runs on disk say that it was.

    Args:
        places: paths of files, which replace files of the same name, or names of modules.

    Raises:
        OptionError: there is no such file.
    """
    for place in map(str, places):
        if place.endswith(".py") and not Path(place).expanduser().is_file():
            raise OptionError(f"code {place}: there is no such file")
        _moved[place] = _moved[Path(place).name] = Path(place).expanduser().resolve()


def changed(references: Iterable[str], sources: Sequence[Source], folder: str) -> list[str]:
    """Return those references whose code is not the recorded one."""
    known = dict(sources)
    return [r for r in references if _digest(r, folder) != known[place(r)]]


@contextmanager
def errors_of(reference: str) -> Iterator[None]:
    """Raise errors of a user's code as `OptionError`, with the line that raised them."""
    try:
        yield
    except LraError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise OptionError(f"{reference}: {what} ({_line(error, reference)})") from error


def _line(error: Exception, reference: str) -> str:
    """Return the last line of a user's file that an error passed; else the line that raised it."""
    if isinstance(error, SyntaxError):
        return f"{Path(error.filename or '').name}, line {error.lineno}"
    where = (place(reference) or reference).removesuffix(".py").replace(".", "/")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).stem == Path(where).name]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def reference_to(value: Callable[..., Any]) -> str:
    """Return the reference to a function or class of a module, script or notebook.

    Raises:
        OptionError: it is not defined at the top level of a module.
    """
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "<object>")
    if getattr(sys.modules.get(module), name.partition(".")[0], None) is None or "<" in name:
        raise OptionError(
            f"{name} cannot be found again by its name. Define it at the top level of a module, "
            "script or notebook, or name it as text: file.py:Name"
        )
    return f"{module}:{name}"


def _find(where: str, folder: str) -> Path:
    """Return the path of a file."""
    moved = _moved.get(where) or _moved.get(Path(where).name)
    path = Path(where).expanduser()
    for candidate in (moved, path, Path(folder) / path):
        if candidate is not None and candidate.is_file():
            return candidate.resolve()
    also = f" and not in {folder}" if folder and Path(folder) != Path.cwd() else ""
    raise OptionError(f"{where}: there is no such file in {Path.cwd()}{also}")


def _digest(reference: str, folder: str) -> str:
    """Return the SHA-256 of the file of a reference; of its own source in a script or notebook."""
    where, name, _ = split_reference(reference) or ("", "", "")
    if where == "__main__":
        with suppress(Exception):  # a notebook's cell may be gone
            return hashlib.sha256(inspect.getsource(load(reference)).encode()).hexdigest()
        return ""
    if where.endswith(".py"):
        return hashlib.sha256(_find(where, folder).read_bytes()).hexdigest()
    with errors_of(where):
        found = importlib.util.find_spec(where)
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise OptionError(f"{where}:{name}: there is no module {where} on Python's path")
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()


def _load_file(where: str, folder: str) -> ModuleType:
    """Run a file as a module, once for each content; it may import files beside it."""
    path = _find(where, folder)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if (path, digest) not in _loaded:
        found = importlib.util.spec_from_file_location(f"lra_user_{path.stem}_{digest[:8]}", path)
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module  # dataclasses look their module up
        sys.path.insert(0, str(path.parent))
        try:
            with errors_of(where):
                found.loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
        _loaded[path, digest] = module
    return _loaded[path, digest]


def _import(where: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise OptionError(f"{where}: {error}. Install it, or name a file: file.py:Name") from error
    except Exception as error:
        with errors_of(where):
            raise error


def _public_names(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def _note(reference: str, digest: str) -> Path:
    """Return the empty file whose presence says that the user has named this code."""
    where, name, _ = split_reference(reference) or ("", "", "")
    key = f"{Path(where).name}:{name} {digest}"
    return cache_folder() / "named-code" / hashlib.sha256(key.encode()).hexdigest()
