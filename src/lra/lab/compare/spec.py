"""Rules and networks as words of a command: NAME, or NAME:OPTION=VALUE,OPTION=VALUE."""

import enum
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
from lra.lab.config import TrainConfig
from lra.lab.networks import NETWORKS
from lra.lab.options import SURROGATES, parse_init
from lra.lab.rule_options import LOCAL_LOSSES
from lra.methods import METHODS
from lra.rules import RULES

ENTRANTS: dict[str, Callable[..., Any]] = {**RULES, **METHODS}
"""What can be compared: the rules, and the methods whose step takes several passes."""

STEP = ("lr", "feedback_lr", "weight_decay", "momentum", "smoothing", "optimizer")
"""Settings of `lra train` that a rule may have for itself; the budget and the data are the same."""

SHAPE = (
    *("width", "depth", "patch", "context"),
    *("activation", "straight_through", "bias", "init", "batch_size"),
)
"""Settings of `lra train` that a network may have for itself."""


@dataclass(frozen=True)
class Spec:
    """A name and its settings, as read from `text`."""

    text: str
    name: str
    settings: Mapping[str, Any]


def read_rule(text: str) -> Spec:
    """Read a rule or a method with options of its own, and settings of its steps.

    Raises:
        OptionError: for an unknown name or option, or a value that the option cannot have.
    """
    name, words = _parts(text)
    if name not in ENTRANTS:
        raise unknown("rule", name, ENTRANTS)
    kinds = rule_kinds(name) | {field: _config_kinds()[field] for field in STEP}
    return Spec(text, name, _values(f"rule {name!r}", words, kinds))


def read_model(text: str) -> Spec:
    """Read a network of `lra train --model` with its settings; errors as `read_rule`."""
    name, words = _parts(text)
    if name not in NETWORKS:
        raise unknown("model", name, NETWORKS)
    kinds = {field: _config_kinds()[field] for field in SHAPE}
    return Spec(text, name, _values(f"model {name!r}", words, kinds))


def rule_kinds(name: str) -> dict[str, Any]:
    """Give the options of a rule with the types of their values."""
    hints = typing.get_type_hints(ENTRANTS[name])
    options = inspect.signature(ENTRANTS[name]).parameters
    return {option: hints.get(option, str) for option in options}


def _config_kinds() -> dict[str, Any]:
    return typing.get_type_hints(TrainConfig)


def _parts(text: str) -> tuple[str, dict[str, str]]:
    """Split a name from its settings, and these from each other."""
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


def _values(owner: str, words: Mapping[str, str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    for option in words:
        if option not in kinds:
            raise unknown(f"option of {owner}", option, kinds)
    return {
        option: read_value(f"{option} of {owner}", text, kinds[option])
        for option, text in words.items()
    }


def read_value(what: str, text: str, kind: Any) -> Any:
    """Read a value of a type: a number, a flag, one of a few names, how weights are drawn, ...

    Raises:
        OptionError: for a text that stands for no such value.
    """
    kinds = _alternatives(kind)
    if type(None) in kinds and text == "none":
        return None
    errors = []
    for one in kinds:
        try:
            return _read_as(what, text, one)
        except ValueError as error:  # of OptionError too
            errors.append(str(error))
    raise OptionError(f"{what}: {text!r} is no such value ({'; '.join(errors)})")


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """Give the types of a union, names of choices before free text."""
    if typing.get_origin(kind) is typing.Annotated:
        return _alternatives(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = [one for part in typing.get_args(kind) for one in _alternatives(part)]
        choices = any(isinstance(one, type) and issubclass(one, enum.Enum) for one in kinds)
        return tuple(one for one in kinds if not (choices and one is str))
    return (kind,)


def _read_as(what: str, text: str, kind: Any) -> Any:
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
    raise OptionError(f"{what} cannot be written in a word")


def distinct(what: str, texts: Iterable[str]) -> None:
    """Refuse a word that comes twice.

    Raises:
        OptionError: naming it.
    """
    seen: set[str] = set()
    for text in texts:
        if text in seen:
            raise OptionError(f"{what}: {text!r} is given twice")
        seen.add(text)
