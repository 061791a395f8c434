"""Checks that stand beside the fields of a configuration, as `Annotated[int, whole(1)]`."""

import functools
import itertools
import math
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from lra.axis import unknown
from lra.errors import OptionError


@dataclass(frozen=True, eq=False)
class Check:
    """A condition for the value of a field.

    Attributes:
        expected: the allowed values, for the error message.
        good: whether a value is allowed.
        known: the allowed names, if there are only some.
    """

    expected: str
    good: Callable[[Any], bool]
    known: Collection[str] = ()


def whole(least: int, most: int = 2**63 - 1) -> Check:
    """Allow whole numbers from `least` to `most`."""
    up_to = "" if most == 2**63 - 1 else f", at most {most:,}"
    return Check(
        f"a whole number, {least} or more{up_to}",
        lambda value: type(value) is int and least <= value <= most,
    )


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


positive = Check("a number, above 0", lambda value: _number(value) and value > 0)
not_negative = Check("a number, 0 or more", lambda value: _number(value) and value >= 0)
share = Check("0 or more and at most 1", lambda value: _number(value) and 0 <= value <= 1)
positive_share = Check("above 0 and at most 1", lambda value: _number(value) and 0 < value <= 1)
fraction = Check("0 or more, and below 1", lambda value: _number(value) and 0 <= value < 1)
fractions = Check(
    "two numbers, 0 or more, and below 1",
    lambda value: isinstance(value, tuple) and len(value) == 2 and all(map(fraction.good, value)),
)
increasing = Check(
    "whole numbers, 1 or more, each above the one before",
    lambda value: (
        isinstance(value, tuple)
        and all(type(one) is int and one >= 1 for one in value)
        and all(a < b for a, b in itertools.pairwise(value))
    ),
)
flag = Check("true or false", lambda value: isinstance(value, bool))


def one_of(names: Collection[str]) -> Check:
    """Allow the names in a table."""
    return Check(
        f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names, names
    )


def some_of(names: Collection[str]) -> Check:
    """Allow tuples of the names in a table."""
    return Check(
        "a tuple of names",
        lambda value: isinstance(value, tuple) and all(one in names for one in value),
        names,
    )


@functools.cache
def _checks(cls: Any) -> dict[str, tuple[Check, ...]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    checks = {
        name: tuple(one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Check))
        for name, hint in hints.items()
    }
    return {name: found for name, found in checks.items() if found}


def check_fields(owner: Any) -> None:
    """Check the fields of a dataclass; None is allowed where it is the default.

    Raises:
        OptionError: a value is not allowed.
    """
    for name, checks in _checks(owner.__class__).items():
        value = getattr(owner, name)
        if value is None and getattr(type(owner), name, ...) is None:
            continue
        if type(value) is int and value >= 2**63:
            raise OptionError(f"{name} must be below 2^63; got {value}")
        for check in checks:
            if not check.good(value):
                parts = value if isinstance(value, tuple) else (value,)
                wrong = [one for one in parts if isinstance(one, str) and one not in check.known]
                if check.known and wrong:
                    raise unknown(name, wrong[0], check.known)
                raise OptionError(f"{name} must be {check.expected}; got {value!r:.200}")
