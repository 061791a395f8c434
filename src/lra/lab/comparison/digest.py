"""Names of runs, derived from their configuration, so that a run is found again."""

import dataclasses
import hashlib
import json
from typing import Any

from lra.axis import Axis


def digest(value: Axis) -> str:
    """Return ten hexadecimal digits that identify a configuration."""
    return hashlib.sha256(json.dumps(_plain_data(value)).encode()).hexdigest()[:10]


def _plain_data(value: Any) -> Any:
    """Return a value as plain data without defaults, so that new options change no name.

    Fields that comparisons ignore, such as a rule's name, are left out.
    """
    if not isinstance(value, Axis):
        return str(value)
    plain = {
        f.name: _plain_data(getattr(value, f.name))
        for f in sorted(dataclasses.fields(value), key=lambda f: f.name)
        if f.compare and (f.default is dataclasses.MISSING or getattr(value, f.name) != f.default)
    }
    return {"type": type(value).__name__} | plain


def slug(text: str) -> str:
    """Return a text as a valid part of a file name."""
    return "".join(c if c.isalnum() else "-" for c in text)
