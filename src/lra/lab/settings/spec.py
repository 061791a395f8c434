"""The grammar of rules and networks: NAME, or NAME:OPTION=VALUE,OPTION=VALUE.

A name is in a table of the library, or refers to a user's code, as `file.py:Name` or
`package.module:Name`. The values have the types of the parameters that the options stand for.
"""

import enum
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lra.axis import unknown
from lra.crossing import LocalLoss, Surrogate
from lra.errors import OptionError
from lra.inits import Init
from lra.lab.settings import code
from lra.lab.settings.options import LOCAL_LOSSES, SURROGATES, format_init, parse_init
from lra.methods import METHODS, Method
from lra.rules import RULES, Rule, named

RULES_AND_METHODS: dict[str, Callable[..., Any]] = {**RULES, **METHODS}
"""All that can train a network: the rules, and the methods of several passes."""


STEP = (
    *("lr", "feedback_lr", "weight_decay", "momentum", "smoothing", "optimizer"),
    *("mirror_every", "mirror_samples", "mirror_step", "mirror_decay"),
)
"""Settings of a run that a comparison may give to a rule; the budget and the data are not."""


@dataclass(frozen=True)
class Spec:
    """A name and its options.

    Attributes:
        text: the text from which it was parsed.
        name: the name, or the reference to a user's code.
        options: the values of the options that are given.
    """

    text: str
    name: str
    options: Mapping[str, Any]


def split(what: str, text: str, table: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Split a text into its name, or its reference, and the texts of its options.

    Raises:
        OptionError: the text does not follow the grammar, or its name is unknown.
    """
    name, colon, rest = text.partition(":")
    if name not in table:
        if parts := code.split_reference(text):
            name, rest = f"{parts[0]}:{parts[1]}", parts[2]
            colon, rest = rest[:1], rest[1:]
        elif name.endswith(".py"):
            raise OptionError(f"{text!r}: name the {what} in the file, as in {name}:Name")
        else:
            error = unknown(what, name, table)
            raise OptionError(f"{error} For your own {what}, give file.py:Name.")
    words: dict[str, str] = {}
    for part in rest.split(",") if colon else ():
        option, equals, value = part.partition("=")
        if not (option and equals and value):
            raise OptionError(
                f"{text!r}: expected NAME or NAME:OPTION=VALUE,OPTION=VALUE; got {part!r} after "
                f"{name!r}"
            )
        if option in words:
            raise OptionError(f"{text!r}: {option} is given twice")
        words[option] = value
    return name, words


def is_reference(name: str) -> bool:
    """Return whether a name refers to a user's code."""
    return ":" in name


def reference(text: object, table: Iterable[str]) -> list[str]:
    """Return the reference to a user's code in a text, in a list that is empty without one."""
    found = code.split_reference(text) if isinstance(text, str) else None
    return [f"{found[0]}:{found[1]}"] if found and found[0] not in table else []


def parse_rule(text: str, settings: Mapping[str, Any] | None = None, folder: str = "") -> Spec:
    """Parse a rule or method with its options.

    Args:
        text: the text.
        settings: types of further options, which are not the rule's.
        folder: where a user's file is looked for, besides the current folder.

    Raises:
        OptionError: for an unknown name or option, or an invalid value.
    """
    name, words = split("rule", text, RULES_AND_METHODS)
    kinds = rule_option_types(name, folder) | dict(settings or {})
    if misplaced := [option for option in words if option in STEP and option not in kinds]:
        option = misplaced[0]
        raise OptionError(
            f"{text!r}: {option} is a setting of the run, not an option of the rule; give it as "
            f"--{option.replace('_', '-')}"
        )
    return Spec(text, name, parse_values(f"rule {name!r}", words, kinds))


def build_rule(name: str, options: Mapping[str, Any], folder: str = "") -> Rule | Method:
    """Build a rule or method from its name, or from the reference to a user's code.

    Raises:
        OptionError: the options do not fit, or the user's code does not build a rule.
    """
    if not is_reference(name):
        return named(name, **options)
    made = code.load(name, folder)
    if not isinstance(made, (Rule, Method)):
        if not callable(made):
            raise OptionError(
                f"{name} is {made!r:.80}, neither a rule nor a function that returns one"
            )
        check_required(f"rule {name!r}", made, options)
        with code.errors_of(name):
            made = made(**options)
    if not isinstance(made, (Rule, Method)):
        raise OptionError(
            f"{name} must be or return an lra.Rule or an lra.methods.Method; got {made!r:.80}"
        )
    return made


def rule_option_types(name: str, folder: str = "") -> dict[str, Any]:
    """Return the options of a rule and the types of their values.

    The wiring of a named rule is not an option, since each wiring has a named rule.
    """
    if is_reference(name):
        made = code.load(name, folder)
        return {} if isinstance(made, (Rule, Method)) or not callable(made) else option_types(made)
    kinds = option_types(RULES_AND_METHODS[name])
    return {option: kind for option, kind in kinds.items() if option != "wiring"}


def option_types(function: Callable[..., Any], skip: int = 0) -> dict[str, Any]:
    """Return the names of a function's parameters and their types, without the first `skip`.

    The type of a parameter without an annotation is that of its default, or `Any`.
    """
    plain = function.func if isinstance(function, functools.partial) else function
    try:
        hints = typing.get_type_hints(plain.__init__ if inspect.isclass(plain) else plain)
    except (NameError, TypeError, AttributeError):  # annotations that cannot be evaluated
        hints = {}
    kinds = {}
    for parameter in list(inspect.signature(function).parameters.values())[skip:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        guess = Any if default in (None, parameter.empty) else type(default)
        kinds[parameter.name] = hints.get(parameter.name, guess)
    return kinds


def check_required(
    owner: str, function: Callable[..., Any], options: Iterable[str], skip: int = 0
) -> None:
    """Raise `OptionError` if a parameter without a default is not among the options."""
    for parameter in list(inspect.signature(function).parameters.values())[skip:]:
        variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not variable and parameter.name not in options:
            raise OptionError(
                f"{owner} needs the option {parameter.name}: NAME:{parameter.name}=VALUE"
            )


def parse_values(owner: str, words: Mapping[str, str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the texts of options.

    Raises:
        OptionError: for an unknown option, or an invalid value.
    """
    for option in words:
        if option not in kinds:
            if not kinds:
                raise OptionError(f"{owner} has no options; got {option!r}")
            raise unknown(f"option of {owner}", option, kinds)
    return {
        option: parse_value(f"{option} of {owner}", text, kinds[option])
        for option, text in words.items()
    }


def parse_value(what: str, text: str, kind: Any) -> Any:
    """Parse a value of a type: a number, a flag, a name, sizes, an initialization, ...

    Raises:
        OptionError: the text is not a value of the type.
    """
    kinds = _union_types(kind)
    if type(None) in kinds and text == "none":
        return None
    errors = []
    for one in kinds:
        try:
            return _parse_as(what, text, one)
        except ValueError as error:  # of OptionError too
            errors.append(str(error))
    raise OptionError(f"{what}: {text!r} is not a valid value ({'; '.join(errors)})")


def format_value(value: Any) -> str:
    """Return a value as a text that `parse_value` reads."""
    match value:
        case None | bool():
            return str(value).lower()
        case tuple():
            return "-".join(map(str, value))
        case Init():
            return format_init(value)
        case enum.Enum():
            return str(value.value)
    for table in (LOCAL_LOSSES, SURROGATES):
        for name, factory in table.items():
            if type(value) is factory:
                return name
    return repr(value) if isinstance(value, float) else str(value)


def format_spec(name: str, options: Mapping[str, Any]) -> str:
    """Return a name and its options as text of the grammar."""
    words = ",".join(f"{option}={format_value(value)}" for option, value in options.items())
    return f"{name}:{words}" if words else name


def with_options(text: str, words: str) -> str:
    """Return a text of the grammar with further options, OPTION=VALUE,OPTION=VALUE."""
    separator = "," if "=" in text else ":"
    return f"{text}{separator}{words}" if words else text


def _union_types(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union; an enum replaces plain text."""
    if typing.get_origin(kind) is typing.Annotated:
        return _union_types(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = [one for part in typing.get_args(kind) for one in _union_types(part)]
        choices = any(isinstance(one, type) and issubclass(one, enum.Enum) for one in kinds)
        return tuple(one for one in kinds if not (choices and one is str))
    return (kind,)


def _parse_as(what: str, text: str, kind: Any) -> Any:
    if kind is Any:
        for one in (int, float, bool):
            try:
                return _parse_as(what, text, one)
            except ValueError:
                continue
        return None if text == "none" else text
    if kind is bool:
        if text not in ("true", "false"):
            raise OptionError("true or false")
        return text == "true"
    if kind in (int, float, str):
        return kind(text)
    if typing.get_origin(kind) is tuple:
        return tuple(_parse_as(what, part, typing.get_args(kind)[0]) for part in text.split("-"))
    if typing.get_origin(kind) is typing.Literal:
        choices = {format_value(choice): choice for choice in typing.get_args(kind)}
        if text not in choices:
            raise OptionError(f"one of {', '.join(choices)}")
        return choices[text]
    if isinstance(kind, type):
        if issubclass(kind, enum.Enum):
            if text not in {member.value for member in kind}:
                raise OptionError(f"one of {', '.join(str(member.value) for member in kind)}")
            return kind(text)
        if issubclass(kind, Init):
            return parse_init(text)
        for base, table in ((LocalLoss, LOCAL_LOSSES), (Surrogate, SURROGATES)):
            if issubclass(kind, base):
                if text not in table:
                    raise unknown(base.__name__, text, table)
                return typing.cast("Mapping[str, Any]", table)[text]()
    raise OptionError(f"{what} cannot be given as text")


def check_distinct(what: str, texts: Iterable[str]) -> None:
    """Check that no text occurs twice.

    Raises:
        OptionError: a text does; the message names it.
    """
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            raise OptionError(f"{what}: {text!r} is given twice")
        seen.add(text)
