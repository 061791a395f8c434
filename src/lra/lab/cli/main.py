"""The command `lra`: the table of its subcommands, parsing, and exit codes."""

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
from lra.lab.cli.commands import (
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
from lra.lab.cli.compare import Compare, Tune
from lra.lab.cli.train import Train, train_command
from lra.lab.training import loop
from lra.lab.training.stop import exit_with_parent

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
"""The subcommands by name: dataclasses with an `execute` method. A name may start with a group."""

GROUPS = {"data": "List, fetch and plot datasets."}
"""The groups of subcommands."""


def parse(words: list[str]) -> Command:
    """Parse a command and its options.

    Raises:
        OptionError: the command is unknown, or options contradict each other.
        SystemExit: with code 0 after help, with 2 for words that cannot be parsed.
    """
    if words[:1] not in ([], ["-h"], ["--help"]):
        _check_command(words)
    app = SubcommandApp()
    groups = {name: SubcommandApp() for name in GROUPS}
    for name, default in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        factory = train_command(words[1:]) if words[:1] == [name] == ["train"] else default
        (groups[group] if group else app).command(name=last)(factory)
    for name, group_app in groups.items():
        app.command(group_app, name=name, help=GROUPS[name])
    description = (
        f"lra {lra.__version__}: networks trained without backpropagation. "
        "lra COMMAND --help shows the options of a command."
    )
    command: Command = app.cli(prog="lra", description=description, args=words or ["--help"])
    return command


def _check_command(words: list[str]) -> None:
    """Raise `OptionError` unless the words start with a command."""
    grouped = words[0] in GROUPS
    name = " ".join(words[: 1 + grouped])
    if name not in COMMANDS and not (grouped and words[1:2] in (["-h"], ["--help"])):
        raise unknown("command", name, COMMANDS)


def main(arguments: list[str] | None = None) -> None:
    """Run the command. The exit code is 0, 1 after an error, 2 for wrong options, 130 after Ctrl-C.

    Args:
        arguments: the words after `lra`; by default those of the process.
    """
    words = sys.argv[1:] if arguments is None else arguments
    rank = os.environ.get("LOCAL_RANK", "0")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):  # file names may be undecodable
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    console, errors = Console(), Console(stderr=True)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.showwarning = lambda message, *_, **__: say(errors, f"lra: {message}")
    if rank != "0":
        exit_with_parent()
    try:
        try:
            if words[:1] == ["--version"]:
                say(console, lra.__version__)
            else:
                parse(words).execute(console)
        finally:
            sys.stdout.flush()
        _exit_if_distributed(0)
    except (LraError, OSError, KeyboardInterrupt) as error:
        if rank == "0" and not isinstance(error, BrokenPipeError):  # all processes end here
            with contextlib.suppress(OSError):
                say(errors, f"lra: {str(error) or 'stopped'}")
        _discard_output()
        _exit_if_distributed(_exit_code(error))
        sys.exit(_exit_code(error))
    except Exception as error:
        if rank == "0":
            raise
        say(errors, f"lra: process {rank} of the run: {error}")  # rank 0 prints the traceback
        _exit_if_distributed(1)
        sys.exit(1)


def _exit_if_distributed(code: int) -> None:
    """Exit at once if this is one of several processes of a run.

    torch's cleanup in such a process can abort it with a C++ error, or deadlock.
    """
    if dist.is_available() and dist.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _exit_code(error: BaseException) -> int:
    match error:
        case loop.Interrupted():
            return 128 + error.signal
        case KeyboardInterrupt():
            return 130
        case lra.errors.OptionError():
            return 2
        case _:
            return 1


def _discard_output() -> None:
    """Drop buffered output that cannot be written, since Python would fail on it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
