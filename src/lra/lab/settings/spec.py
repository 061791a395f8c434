"""Rules and networks on the command line: NAME, or NAME:OPTION=VALUE,OPTION=VALUE."""

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
from lra.lab.networks.table import NETWORKS
from lra.lab.settings.config import TrainConfig
from lra.lab.settings.options import SURROGATES, parse_init
from lra.lab.settings.rule_options import LOCAL_LOSSES
from lra.methods import METHODS
from lra.rules import RULES

RULES_AND_METHODS: dict[str, Callable[..., Any]] = {**RULES, **METHODS}
"""All that can be compared: the rules, and the methods of several passes."""

STEP = ("lr", "feedback_lr", "weight_decay", "momentum", "smoothing", "optimizer")
"""Settings of `lra train` that may differ between rules; the budget and the data may not."""

SHAPE = (
    *("width", "depth", "patch", "context"),
    *("activation", "straight_through", "bias", "init", "batch_size"),
)
"""Settings of `lra train` that may differ between networks."""


@dataclass(frozen=True)
class Spec:
    """A name and its settings, parsed from `text`."""

    text: str
    name: str
    settings: Mapping[str, Any]


def read_rule(text: str) -> Spec:
    """Parse a rule or method with its options and the settings in `STEP`.

    Raises:
        OptionError: for an unknown name or option, or an invalid value.
    """
    name, words = _split(text)
    if name not in RULES_AND_METHODS:
        raise unknown("rule", name, RULES_AND_METHODS)
    kinds = rule_option_types(name) | {field: _config_option_types()[field] for field in STEP}
    return Spec(text, name, _parse_values(f"rule {name!r}", words, kinds))


def read_model(text: str) -> Spec:
    """Parse a network of `lra train --model` with its settings.

    Raises:
        OptionError: for an unknown name or setting, or an invalid value.
    """
    name, words = _split(text)
    if name not in NETWORKS:
        raise unknown("model", name, NETWORKS)
    kinds = {field: _config_option_types()[field] for field in SHAPE}
    return Spec(text, name, _parse_values(f"model {name!r}", words, kinds))


def rule_option_types(name: str) -> dict[str, Any]:
    """Return the options of a rule and the types of their values.

    The wiring is not an option, since each wiring has a named rule.
    """
    factory = RULES_AND_METHODS[name]
    function = factory.func if isinstance(factory, functools.partial) else factory
    hints = typing.get_type_hints(function)
    options = inspect.signature(factory).parameters
    return {option: hints.get(option, str) for option in options if option != "wiring"}


def _config_option_types() -> dict[str, Any]:
    return typing.get_type_hints(TrainConfig)


def _split(text: str) -> tuple[str, dict[str, str]]:
    """Split a text into its name and its settings."""
    name, colon, rest = text.partition(":")
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


def _parse_values(owner: str, words: Mapping[str, str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    for option in words:
        if option not in kinds:
            raise unknown(f"option of {owner}", option, kinds)
    return {
        option: read_value(f"{option} of {owner}", text, kinds[option])
        for option, text in words.items()
    }


def read_value(what: str, text: str, kind: Any) -> Any:
    """Parse a value of a type: a number, a flag, a name, an initialization, ...

    Raises:
        OptionError: if the text is not a value of the type.
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
    if kind is bool:
        if text not in ("true", "false"):
            raise OptionError("true or false")
        return text == "true"
    if kind in (int, float):
        return kind(text)
    if kind is str:
        return text
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
    raise OptionError(f"{what} cannot be set on the command line")


def check_distinct(what: str, texts: Iterable[str]) -> None:
    """Check that no text occurs twice.

    Raises:
        OptionError: if a text does; the message names it.
    """
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            raise OptionError(f"{what}: {text!r} is given twice")
        seen.add(text)
