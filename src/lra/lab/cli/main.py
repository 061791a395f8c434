"""The command `lra`: the table of its subcommands, and exit codes. Loads only the chosen one."""

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lra
from lra.axis import unknown
from lra.errors import LraError, OptionError
from lra.lab.cli.terminal import Terminal, say
from lra.lab.training.stop import Interrupted, exit_on_interrupt, exit_with_parent

if TYPE_CHECKING:
    from lra.lab.cli.commands import Command

COMMANDS: dict[str, tuple[str, str]] = {
    "train": (
        "train:train_command",
        "Train a network, by default with LRA-E, and save the run to a folder.",
    ),
    "evaluate": ("commands:Evaluate", "Evaluate the best weights of a run on its test set."),
    "diagnose": (
        "commands:Diagnose",
        "Plot the diagnoses of a run, and print the last one with a verdict.",
    ),
    "predict": (
        "commands:Predict",
        "Predict the classes of samples and print CSV: index or file, class, probability.",
    ),
    "write": ("commands:Write", "Continue a text with the network of a run."),
    "compare": (
        "compare:Compare",
        "Compare rules on the same networks, data, weights and batches, and write a report.",
    ),
    "tune": (
        "compare:Tune",
        "Search each rule's settings on the validation split, with the same number of trials each.",
    ),
    "reproduce": (
        "reproduce:Reproduce",
        "Train a published set-up, and print what is measured beside what was published.",
    ),
    "data list": (
        "commands:DataList",
        "List the datasets and show which are on this machine.",
    ),
    "data fetch": (
        "commands:DataFetch",
        "Fetch a dataset into the cache and verify every file.",
    ),
    "data show": ("commands:DataShow", "Describe a dataset, and plot samples of it."),
}
"""By name, the class of each subcommand below `lra.lab.cli`, and the first line of its help.

A class is a dataclass with an `execute` method. A function returns one for the words of a command.
A name may start with a group."""

GROUPS = {"data": "List, fetch and plot datasets."}
"""The groups of subcommands."""


def parse(words: Sequence[str]) -> "Command":
    """Load a command and parse its options.

    Raises:
        OptionError: the command or an option is unknown, a value is missing or wrong, or options
            contradict each other.
        SystemExit: with code 0 after help.
    """
    name, rest = _split(words)
    if name not in COMMANDS:
        sys.stdout.write(_help(name))
        raise SystemExit(0)
    from lra.lab.cli.parsing import parse_options

    command: Command = parse_options(_load(name, rest), f"lra {name}", rest)
    return command


def _load(name: str, rest: list[str]) -> Any:
    """Load the class of a command, or the function that builds it for its options."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    loaded = getattr(importlib.import_module(f"lra.lab.cli.{module}"), attribute)
    return loaded if isinstance(loaded, type) else loaded(rest)


def _split(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command and its options. Help is asked of a group, or of "" for all commands.

    Raises:
        OptionError: the command is unknown.
    """
    first, rest = (words[0] if words else "--help"), list(words[1:])
    if first in ("-h", "--help"):
        return "", []
    if first in GROUPS:
        second = rest[0] if rest else "--help"
        if second in ("-h", "--help"):
            return first, []
        first, rest = f"{first} {second}", rest[1:]
    if first not in COMMANDS:
        raise unknown("command", first, COMMANDS)
    return first, rest


def _help(group: str) -> str:
    """Return the help of a group of commands, or with "" that of all."""
    about = GROUPS.get(group) or f"lra {lra.__version__}: networks trained without backpropagation."
    names = [name for name in COMMANDS if name.startswith(f"{group} " if group else "")]
    width = max(map(len, names)) + 2
    lines = [f"  {name:<{width}}{COMMANDS[name][1]}" for name in names]
    prog = f"lra {group}".rstrip()
    return "\n".join(
        (
            *(f"usage: {prog} [-h] COMMAND ...", "", about, "", "commands:", *lines, ""),
            "lra COMMAND --help shows the options of a command.\n",
        )
    )


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
    console, errors = Terminal(), Terminal(stderr=True)
    warnings.showwarning = lambda message, *_, **__: say(errors, f"lra: {message}")
    if rank != "0":
        exit_with_parent()
    try:
        try:
            if words[:1] == ["--version"]:
                say(console, lra.__version__)
            else:
                with exit_on_interrupt():
                    command = parse(words)
                command.execute(console)
        finally:
            sys.stdout.flush()
        _exit_if_distributed(0)
    except (LraError, OSError, KeyboardInterrupt) as error:
        if rank == "0" and not isinstance(error, BrokenPipeError):  # all processes end here
            with contextlib.suppress(OSError):
                say(errors, f"lra: {_message(error, words)}")
        _discard_output()
        _exit_if_distributed(_exit_code(error))
        sys.exit(_exit_code(error))
    except Exception as error:
        if rank == "0":
            raise
        say(errors, f"lra: process {rank} of the run: {error}")  # rank 0 prints the traceback
        _exit_if_distributed(1)
        sys.exit(1)


def _message(error: BaseException, words: Sequence[str]) -> str:
    """Return an error's message. For an option, it points to the command's help."""
    text, name = str(error) or "stopped", ""
    if not isinstance(error, OptionError):
        return text
    with contextlib.suppress(OptionError):
        name, rest = _split(words)
        from lra.lab.cli.parsing import flags_of, name_option

        text = name_option(text, flags_of(_load(name, rest)))
    end = "" if text.endswith(("?", ".")) else "."
    return f"{text}{end} See {f'lra {name}'.rstrip()} --help"


def _exit_if_distributed(code: int) -> None:
    """Exit at once if this is one of several processes of a run.

    torch's cleanup in such a process can abort it with a C++ error, or deadlock.
    """
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _exit_code(error: BaseException) -> int:
    match error:
        case Interrupted():
            return 128 + error.signal
        case KeyboardInterrupt():
            return 130
        case OptionError():
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
