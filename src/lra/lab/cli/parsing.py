"""Parsing of a command's options. Each mistake is one error that names the option."""

import contextlib
import difflib
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

import tyro
import tyro._errors as tyro_errors

from lra.errors import OptionError, one_line


def parse_options(command: Any, prog: str, words: Sequence[str]) -> Any:
    """Parse the options of a command.

    Args:
        command: a dataclass, or a function that returns one.
        prog: the command as the help names it.
        words: the options.

    Raises:
        OptionError: an option is unknown, misses its value, or has a wrong one.
        SystemExit: with code 0 after help.
    """

    def refuse(event: tyro_errors.ParseErrorEvent) -> None:
        flags = flags_of(command)
        given = [word for word in words if word.startswith("--")]
        unknown = [word for word in given if word.partition("=")[0].replace("_", "-") not in flags]
        if isinstance(event, tyro_errors.UnrecognizedArgs):
            unknown += event.tokens
        raise OptionError(
            _refuse_unknown(unknown[0], given, flags) if unknown else _describe(event, words)
        )

    with tyro_errors.on_parse_error(refuse):
        return tyro.cli(command, prog=prog, args=words)


def flags_of(command: Any) -> list[str]:
    """Return all flags of a command, as its help lists them."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        tyro.cli(command, prog="lra", args=["--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", output.getvalue())))


def name_option(message: str, flags: Sequence[str]) -> str:
    """Return an error's message with the flag for the setting that it begins with."""
    name = re.match(r"\w+(?=:? )", message)
    flag = "--" + name[0].replace("_", "-") if name else ""
    return flag + message[len(flag) - 2 :] if flag in flags else message


def _describe(event: tyro_errors.ParseErrorEvent, words: Sequence[str]) -> str:
    """Return a line that names the option and what is wrong with it."""
    match event:
        case tyro_errors.MissingArgs():
            return "missing " + ", ".join(_missing(each.arg) for each in event.missing_arguments)
        case tyro_errors.BadValue() if event.argument.is_positional():
            return f"missing {_missing(event.argument)}"
        case tyro_errors.InvalidChoice():
            hint = _nearest(event.value, event.choices)
            return (
                f"{_name(event.argument)}: {event.value!r} is not one of "
                f"{', '.join(c for c in event.choices if c != 'None')}{hint}"
            )
        case tyro_errors.BadValue():
            return f"{_name(event.argument)} misses its value, {event.argument.lowered.metavar}"
        case tyro_errors.InstantiationFailure(argument=None):
            return one_line(ValueError(event.message))
        case tyro_errors.InstantiationFailure():
            return f"{_name(event.argument)}: {_reason(event, words)}"
        case _:
            return f"wrong options: {type(event).__name__}"


def _reason(event: tyro_errors.InstantiationFailure, words: Sequence[str]) -> str:
    """Return why a value is wrong: an error of this library, or the expected form."""
    reasons = re.findall(r"^ *- .*?: (.*)$", event.message, re.MULTILINE) or [event.message]
    reason = next((r for r in reversed(reasons) if not _CONVERSION.match(r)), None)
    if reason is not None:
        return one_line(ValueError(reason))
    assert event.argument is not None
    argument, flat = event.argument, [part for word in words for part in word.split("=", 1)]
    form = re.sub(r"\{None\}\|", "", str(argument.lowered.metavar))
    start = flat.index(_name(argument)) + 1 if _name(argument) in flat else len(flat)
    given = itertools.takewhile(lambda word: not word.startswith("--"), flat[start:])
    return f"expected {form}, got {' '.join(given)!r}"


_CONVERSION = re.compile(
    "could not convert|invalid literal|input length|Could not find valid parse|"
    r"\['.*'\] does not match choices|no type matching"
)
"""What Python and tyro say of a text that is not a value of the option's type."""


def _missing(argument: Any) -> str:
    """Return the name of an argument, and its help in one line."""
    text = argument.field.helptext
    words = str(text() if callable(text) else text or "").split()
    return f"{_name(argument)} ({' '.join(words).rstrip('.')})"


def _refuse_unknown(word: str, given: Sequence[str], flags: Sequence[str]) -> str:
    name = word.partition("=")[0]
    if any(other.partition("=")[0] == "--resume" for other in given):
        return (
            f"{name} cannot be given with --resume: a run continues with its own settings; leave "
            "it out, or start a new run"
        )
    if not name.startswith("--"):
        return f"unexpected {word!r}"
    return f"unknown option {name}{_nearest(name, flags)}"


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f". Did you mean {near[0]}?" if near else ""


def _name(argument: Any) -> str:
    """Return an option's flag, or the name of a positional argument."""
    names: tuple[str, ...] = argument.lowered.name_or_flags
    return str(argument.lowered.metavar) if argument.is_positional() else names[-1]
