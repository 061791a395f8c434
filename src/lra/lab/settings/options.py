"""Names on the command line: tables of activations, initialisations, optimizers, and parsers."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import tyro
from torch import nn

import lra
from lra.axis import unknown
from lra.crossing import (
    Absolute,
    Cauchy,
    HardTanhSurrogate,
    IdentitySurrogate,
    LocalLoss,
    Mixed,
    SigmoidSurrogate,
    Squared,
    Surrogate,
    TanhSurrogate,
)
from lra.errors import OptionError
from lra.inits import FanIn, Init, LikeWeights, LowRank, Mirror, Normal, Orthogonal, Xavier
from lra.lab.networks.parts import KAIMING, LECUN, Table
from lra.torch.registry import TORCH_ACTIVATIONS

LIBRARY_ACTIVATIONS = (
    lra.activations.Sign,
    lra.activations.Heaviside,
    lra.activations.Bernoulli,
    lra.activations.Quantized,
    lra.activations.LWTA,
    Table,
)
"""Activations of this library, most of which have no useful derivative."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    cls.__name__.lower(): cls
    for cls in (*TORCH_ACTIVATIONS, *LIBRARY_ACTIVATIONS)
    if cls is not nn.Threshold
}
"""The activations by name. All settings are defaults, except a number after a colon."""

STRAIGHT_THROUGH = tuple(
    name
    for name, cls in ACTIVATIONS.items()
    if "straight_through" in inspect.signature(cls).parameters
)
"""The activations that take a surrogate for autograd."""

SURROGATES: dict[str, Callable[[], Surrogate]] = {
    "identity": IdentitySurrogate,
    "tanh": TanhSurrogate,
    "hardtanh": HardTanhSurrogate,
    "sigmoid": SigmoidSurrogate,
}
"""The surrogate functions by name."""

LOCAL_LOSSES: dict[str, Callable[[], LocalLoss]] = {
    "squared": Squared,
    "absolute": Absolute,
    "cauchy": Cauchy,
    "mixed": Mixed,
}
"""The local losses by name."""

OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum",),
    "adam": ("betas",),
    "adamw": ("betas",),
    "rmsprop": ("momentum", "smoothing"),
}
"""The optimizers by name, with their specific options."""

PRECISIONS = {"32": "32-true", "64": "64-true", "bf16-mixed": "bf16-mixed"}
"""The precisions by name, with Fabric's names."""

INITS: dict[str, Callable[..., Init]] = {
    "fan-in": FanIn,
    "like-weights": LikeWeights,
    "normal": Normal,
    "orthogonal": Orthogonal,
    "xavier": Xavier,
    "low-rank": LowRank,
    "mirror": Mirror,
}
"""The initialisations by name. Each takes a number, which is optional but for low-rank."""

NAMED_INITS: dict[str, Init] = {"lecun": LECUN, "kaiming": KAIMING}
"""The initialisations with a fixed number, by name."""


def make_activation(text: str, straight_through: str | None = None) -> nn.Module:
    """Build an activation from text: "tanh", or with a number "elu:0.5", "quantized:4", "lwta:2".

    Args:
        text: the name, with an optional number.
        straight_through: the name of a surrogate for autograd.

    Raises:
        OptionError: a name is unknown, the number is missing, invalid or not allowed, or the
            activation takes no surrogate.
    """
    name, colon, number = text.partition(":") if isinstance(text, str) else (text, "", "")
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    cls = ACTIVATIONS[name]
    number_type = _number_type(cls)
    options: dict[str, Any] = {}
    if straight_through is not None:
        if straight_through not in SURROGATES:
            raise unknown("surrogate", straight_through, SURROGATES)
        if name not in STRAIGHT_THROUGH:
            raise OptionError(
                f"straight_through is an option of the activations {', '.join(STRAIGHT_THROUGH)}, "
                f"not of {name}; leave it out, or choose another activation"
            )
        options = {"straight_through": SURROGATES[straight_through]()}
    if not colon:
        if number_type is int:
            raise OptionError(f"activation {name!r} needs a number, as in {name}:2")
        return cls(**options)
    if number_type is None:
        raise OptionError(f"activation {name!r} takes no number; got {text!r}")
    try:
        return cls(number_type(number), **options)
    except ValueError as error:  # includes OptionError
        raise OptionError(
            f"activation {text!r}: {number!r} is not a valid number for {name} ({error})"
        ) from error


def _number_type(cls: type[nn.Module]) -> type[int] | type[float] | None:
    """Return the type of an activation's number: int if required, float if optional, or None."""
    first = next(iter(inspect.signature(cls).parameters.values()), None)
    if cls in LIBRARY_ACTIVATIONS:
        return int if first is not None and first.annotation is int else None
    return float if first is not None and first.annotation is float else None


def parse_init(text: str) -> Init:
    """Parse an initialisation: "fan-in", "fan-in:SCALE", "normal:STD", "lecun", ...

    Raises:
        OptionError: the name is unknown, or the number is invalid or not allowed.
    """
    name, colon, number = text.partition(":")
    if name in NAMED_INITS:
        if colon:
            raise OptionError(f"initialisation {name!r} takes no number; got {text!r}")
        return NAMED_INITS[name]
    if name not in INITS:
        raise unknown("initialisation", name, [*INITS, *NAMED_INITS])
    whole = INITS[name] in (LowRank, Mirror)
    if INITS[name] is LowRank and not number:
        raise OptionError(f"initialisation {name!r} needs a rank, as in {name}:8")
    try:
        return INITS[name]((int if whole else float)(number)) if number else INITS[name]()
    except ValueError as error:
        kind = "whole number" if whole else "number"
        raise OptionError(
            f"initialisation {text!r}: {number!r} is not a positive {kind}"
        ) from error


def format_init(init: Init) -> str:
    """Return an initialisation as text that `parse_init` reads."""
    for name, value in NAMED_INITS.items():
        if init == value:
            return name
    name = next(name for name, cls in INITS.items() if type(init) is cls)
    return ":".join(
        (name, *(repr(value).removesuffix(".0") for value in dataclasses.astuple(init)))
    )


def _default_hint(default: str) -> str:
    """Return the help text for a default; "" for None, which the help of the option explains."""
    return f"(default: {default})" if default not in ("None", "") else ""


def optional(metavar: str, text: str | None = None) -> Any:
    """Return the tyro annotation of an optional option: its metavar and its help."""
    return tyro.conf.arg(metavar=metavar, help=text, help_behavior_hint=_default_hint)


MaybeFloat = Annotated[float | None, optional("FLOAT")]
MaybeInt = Annotated[int | None, optional("INT")]
MaybeName = Annotated[str | None, optional("NAME")]
