"""The name of a run by what it trains, so that the same run is found again."""

import dataclasses
import hashlib
import json
from typing import Any

from lra.axis import Axis


def digest(value: Axis) -> str:
    """Give ten hexadecimal digits that stand for a configuration."""
    return hashlib.sha256(json.dumps(_essence(value)).encode()).hexdigest()[:10]


def _essence(value: Any) -> Any:
    """Give a value as plain data without what is as by default: options to come change no name."""
    if not isinstance(value, Axis):
        return str(value)
    plain = {
        f.name: _essence(getattr(value, f.name))
        for f in sorted(dataclasses.fields(value), key=lambda f: f.name)
        if f.default is dataclasses.MISSING or getattr(value, f.name) != f.default
    }
    return {"type": type(value).__name__} | plain


def slug(text: str) -> str:
    """Give a text as part of a file's name."""
    return "".join(c if c.isalnum() else "-" for c in text)
