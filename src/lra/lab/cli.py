"""The command `lra`: its table of commands, and how it ends."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable

import torch.distributed as dist
from rich.console import Console
from tyro.extras import SubcommandApp

import lra
from lra.axis import unknown
from lra.errors import LraError
from lra.lab import training
from lra.lab.commands import (
    Command,
    DataFetch,
    DataList,
    DataShow,
    Diagnose,
    Evaluate,
    Predict,
    Write,
    say,
)
from lra.lab.compare.command import Compare, Tune
from lra.lab.stop import end_with_parent
from lra.lab.train_command import Train, train_command

COMMANDS: dict[str, Callable[..., Command]] = {
    "train": Train,
    "evaluate": Evaluate,
    "diagnose": Diagnose,
    "predict": Predict,
    "write": Write,
    "compare": Compare,
    "tune": Tune,
    "data list": DataList,
    "data fetch": DataFetch,
    "data show": DataShow,
}
"""The commands by name, which is one word, or a group's and one: dataclasses that `execute`."""

GROUPS = {"data": "List datasets, fetch them, and look at them."}
"""The groups of commands."""


def parse(words: list[str]) -> Command:
    """Read a command and its options.

    Raises:
        OptionError: for an unknown command, or options that do not fit together.
        SystemExit: after help (0), or for words that cannot be read (2).
    """
    if words[:1] not in ([], ["-h"], ["--help"]):
        _check_command(words)
    app = SubcommandApp()
    groups = {name: SubcommandApp() for name in GROUPS}
    for name, listed in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        made = train_command(words[1:]) if words[:1] == [name] == ["train"] else listed
        (groups[group] if group else app).command(name=last)(made)
    for name, group_app in groups.items():
        app.command(group_app, name=name, help=GROUPS[name])
    about = (
        f"lra {lra.__version__}: networks trained without backpropagation. "
        "lra COMMAND --help tells a command's options."
    )
    command: Command = app.cli(prog="lra", description=about, args=words or ["--help"])
    return command


def _check_command(words: list[str]) -> None:
    """Refuse words that start with no command."""
    grouped = words[0] in GROUPS
    name = " ".join(words[: 1 + grouped])
    if name not in COMMANDS and not (grouped and words[1:2] in (["-h"], ["--help"])):
        raise unknown("command", name, COMMANDS)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit with 0, 1 after an error, 2 for wrong options, 130 after Ctrl-C.

    Args:
        arguments: the words after `lra`; by default the process's own.
    """
    words = sys.argv[1:] if arguments is None else arguments
    rank = os.environ.get("LOCAL_RANK", "0")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):  # files' names may have any characters
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    console, errors = Console(), Console(stderr=True)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.showwarning = lambda message, *_, **__: say(errors, f"lra: {message}")
    if rank != "0":
        end_with_parent()
    try:
        try:
            if words[:1] == ["--version"]:
                say(console, lra.__version__)
            else:
                parse(words).execute(console)
        finally:
            sys.stdout.flush()
        _end_beside_others(0)
    except (LraError, OSError, KeyboardInterrupt) as error:
        if rank == "0" and not isinstance(error, BrokenPipeError):  # all of a run's processes stop
            with contextlib.suppress(OSError):
                say(errors, f"lra: {str(error) or 'stopped'}")
        _forget_output()
        _end_beside_others(_exit_code(error))
        sys.exit(_exit_code(error))
    except Exception as error:
        if rank == "0":
            raise
        say(errors, f"lra: process {rank} of the run: {error}")  # the first one says more
        _end_beside_others(1)
        sys.exit(1)


def _end_beside_others(code: int) -> None:
    """End this process at once, where it is one of several of a run.

    What torch does at the end of such a process can abort it, with a line of C++, or wait for good
    for a thread that waits for Python.
    """
    if dist.is_available() and dist.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _exit_code(error: BaseException) -> int:
    match error:
        case training.Interrupted():
            return 128 + error.signal
        case KeyboardInterrupt():
            return 130
        case lra.errors.OptionError():
            return 2
        case _:
            return 1


def _forget_output() -> None:
    """Drop what cannot be written: Python would try once more, and fail, at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
