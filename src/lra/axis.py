"""The base of all axis values: checked fields, and conversion to plain data and back."""

import dataclasses
import difflib
import enum
import math
from collections.abc import Iterable
from typing import Any, Self

from lra.errors import OptionError


def unknown(what: str, name: object, known: Iterable[str]) -> OptionError:
    """Build the error for a name that is not in a table, with the nearest known one."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return OptionError(f"unknown {what} {name!r}; known: {', '.join(names)}.{hint}")


def finite(owner: object, field: str, *, above: float = -math.inf) -> None:
    """Check that a field is a finite number greater than a bound.

    Raises:
        OptionError: naming the class, the field, its value and what is allowed.
    """
    value = getattr(owner, field)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value > above):
        allowed = "a finite number" + (f" above {above:g}" if above > -math.inf else "")
        raise OptionError(f"{type(owner).__name__}: {field} must be {allowed}, got {value!r}")


def instance(owner: object, field: str, base: type[Any]) -> None:
    """Check that a field is an instance of a class, not a name or the class itself.

    Raises:
        OptionError: naming the class, the field, its value and what is allowed.
    """
    value = getattr(owner, field)
    if not isinstance(value, base):
        example = base.__subclasses__()[0].__name__
        raise OptionError(
            f"{type(owner).__name__}: {field} must be a {base.__name__}, such as {example}(); "
            f"got {value!r}"
        )


def count(owner: object, field: str) -> None:
    """Check that a field is a whole number above 0.

    Raises:
        OptionError: naming the class, the field and its value.
    """
    value = getattr(owner, field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(
            f"{type(owner).__name__}: {field} must be a whole number above 0, got {value!r}"
        )


def flag(owner: object, field: str) -> None:
    """Check that a field is True or False.

    Raises:
        OptionError: naming the class, the field and its value.
    """
    value = getattr(owner, field)
    if not isinstance(value, bool):
        raise OptionError(f"{type(owner).__name__}: {field} must be True or False, got {value!r}")


def choice(owner: object, field: str, kind: type[enum.StrEnum]) -> None:
    """Check that a field names a member of an enum, and replace it by that member.

    Raises:
        OptionError: naming the class, the field, its value and what is allowed.
    """
    value = getattr(owner, field)
    if value not in tuple(kind):
        raise OptionError(
            f"{type(owner).__name__}: {field} must be one of {', '.join(kind)}, got {value!r}"
        )
    object.__setattr__(owner, field, kind(value))


def _subclasses(cls: type[Any]) -> dict[str, type[Any]]:
    """Map names to a class and all its subclasses, including those that users define."""
    found = {cls.__name__: cls}
    for child in cls.__subclasses__():
        found |= _subclasses(child)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Axis):
        return value.to_config()
    return value.value if isinstance(value, enum.Enum) else value


@dataclasses.dataclass(frozen=True)
class Axis:
    """Hold settings as an immutable value: base of rules, axes and methods.

    Values compare, hash, print and pickle by their fields.

    >>> lra.feedback.Learned(0.5) == lra.feedback.Learned(gamma=0.5)
    True
    >>> print(lra.feedback.Learned(0.5))
    Learned(gamma=0.5)
    """

    def __str__(self) -> str:
        """Show the fields that differ from their defaults."""
        shown = []
        for f in dataclasses.fields(self):
            value, default = getattr(self, f.name), f.default
            if f.default_factory is not dataclasses.MISSING:
                default = f.default_factory()
            if f.compare and value != default:
                text = str(value) if isinstance(value, Axis) else repr(_plain(value))
                shown.append(f"{f.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def to_config(self) -> dict[str, Any]:
        """Return the value as plain data for JSON: the name of its class and its fields.

        >>> lra.wiring.Stride(3).to_config()
        {'type': 'Stride', 'every': 3}
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"type": type(self).__name__} | {
            name: _plain(value) for name, value in fields.items()
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build a value of this class or a subclass from the plain data of `to_config`.

        Args:
            config: a mapping with the name of the class as "type", and its fields.

        Raises:
            OptionError: for an unknown type or field, listing the known ones.

        >>> lra.wiring.Wiring.from_config({"type": "Stride", "every": 3})
        Stride(every=3)
        """
        if not isinstance(config, dict) or "type" not in config:
            raise OptionError(f"{cls.__name__}: expected a mapping with 'type', got {config!r}")
        known = _subclasses(cls)
        if config["type"] not in known:
            raise unknown(f"{cls.__name__} type", config["type"], known)
        target = known[config["type"]]
        fields = {f.name for f in dataclasses.fields(target)}
        for name in config.keys() - {"type"} - fields:
            raise unknown(f"field of {target.__name__}", name, fields)
        values = {
            name: Axis.from_config(value) if isinstance(value, dict) else value
            for name, value in config.items()
            if name != "type"
        }
        built: Self = target(**values)
        return built
