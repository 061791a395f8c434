"""What names stand for in scripts: activations, initialisations, optimizers; and back to text."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import tyro
from torch import nn

import lra
from lra.axis import unknown
from lra.crossing import (
    HardTanhSurrogate,
    IdentitySurrogate,
    SigmoidSurrogate,
    Surrogate,
    TanhSurrogate,
)
from lra.errors import OptionError
from lra.inits import FanIn, Init, LikeWeights, Normal, Orthogonal
from lra.lab.parts import KAIMING, LECUN, Table
from lra.torch.registry import TORCH_ACTIVATIONS

UNITS = (
    lra.activations.Sign,
    lra.activations.Heaviside,
    lra.activations.Bernoulli,
    lra.activations.Quantized,
    lra.activations.LWTA,
    Table,
)
"""The library's own units, most of which have no useful derivative."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    cls.__name__.lower(): cls for cls in (*TORCH_ACTIVATIONS, *UNITS) if cls is not nn.Threshold
}
"""The activations by name; each with its class's own settings, but for a number after a colon."""

STRAIGHT = tuple(
    name
    for name, cls in ACTIVATIONS.items()
    if "straight_through" in inspect.signature(cls).parameters
)
"""The activations that may have a surrogate for backprop."""

SURROGATES: dict[str, Callable[[], Surrogate]] = {
    "identity": IdentitySurrogate,
    "tanh": TanhSurrogate,
    "hardtanh": HardTanhSurrogate,
    "sigmoid": SigmoidSurrogate,
}
"""Surrogates of units, by name."""

OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum",),
    "adam": ("betas",),
    "adamw": ("betas",),
    "rmsprop": ("momentum", "smoothing"),
}
"""The optimizers by name, and the options of their own that each one has."""

PRECISIONS = {"32": "32-true", "64": "64-true", "bf16-mixed": "bf16-mixed"}
"""The precisions by name, and what Fabric calls them."""

INITS: dict[str, Callable[..., Init]] = {
    "fan-in": FanIn,
    "like-weights": LikeWeights,
    "normal": Normal,
    "orthogonal": Orthogonal,
}
"""The initialisations by name; each takes a number, or has one of its own."""

NAMED_INITS: dict[str, Init] = {"lecun": LECUN, "kaiming": KAIMING}
"""Initialisations with their numbers, by name."""


def make_activation(text: str, straight_through: str | None = None) -> nn.Module:
    """Make a unit as named: "tanh", or with a number "elu:0.5", "quantized:4", "lwta:2".

    Args:
        text: its name and number.
        straight_through: the name of a surrogate that autograd takes in its stead.

    Raises:
        OptionError: for an unknown name, a number that is missing, wrong, or of no use, or a
            surrogate of no use.
    """
    name, colon, number = text.partition(":") if isinstance(text, str) else (text, "", "")
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    cls = ACTIVATIONS[name]
    kind = _number_of(cls)
    options: dict[str, Any] = {}
    if straight_through is not None:
        if straight_through not in SURROGATES:
            raise unknown("surrogate", straight_through, SURROGATES)
        if name not in STRAIGHT:
            raise OptionError(
                f"straight_through is an option of the activations {', '.join(STRAIGHT)}, not of "
                f"{name}; leave it out, or choose another activation"
            )
        options = {"straight_through": SURROGATES[straight_through]()}
    if not colon:
        if kind is int:
            raise OptionError(f"activation {name!r} needs a number, as in {name}:2")
        return cls(**options)
    if kind is None:
        raise OptionError(f"activation {name!r} takes no number; got {text!r}")
    try:
        return cls(kind(number), **options)
    except ValueError as error:  # of OptionError too
        raise OptionError(
            f"activation {text!r}: {number!r} is no number that {name} can have ({error})"
        ) from error


def _number_of(cls: type[nn.Module]) -> type[int] | type[float] | None:
    """Tell what number a unit takes: a whole one, which it needs, or one in place of its own."""
    first = next(iter(inspect.signature(cls).parameters.values()), None)
    if cls in UNITS:
        return int if first is not None and first.annotation is int else None
    return float if first is not None and first.annotation is float else None


def parse_init(text: str) -> Init:
    """Read how weights are drawn: "fan-in", "fan-in:SCALE", "normal:STD", "lecun", ...

    Raises:
        OptionError: for anything else.
    """
    name, colon, number = text.partition(":")
    if name in NAMED_INITS:
        if colon:
            raise OptionError(f"initialisation {name!r} takes no number; got {text!r}")
        return NAMED_INITS[name]
    if name not in INITS:
        raise unknown("initialisation", name, [*INITS, *NAMED_INITS])
    try:
        return INITS[name](float(number)) if number else INITS[name]()
    except ValueError as error:
        raise OptionError(f"initialisation {text!r}: {number!r} is no positive number") from error


def format_init(init: Init) -> str:
    """Write an initialisation as `parse_init` reads it."""
    for name, value in NAMED_INITS.items():
        if init == value:
            return name
    name = next(name for name, cls in INITS.items() if type(init) is cls)
    return ":".join(
        (name, *(repr(value).removesuffix(".0") for value in dataclasses.astuple(init)))
    )


INIT_METAVAR = "fan-in[:SCALE]|like-weights[:SCALE]|normal:STD|orthogonal[:GAIN]|lecun|kaiming"

InitText = Annotated[
    Init,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=INIT_METAVAR,
        instance_from_str=lambda args: parse_init(args[0]),
        is_instance=lambda value: isinstance(value, Init),
        str_from_instance=lambda init: [format_init(init)],
    ),
]


def _unless_none(default: str) -> str:
    """Name a default in the help, unless it is nothing: then the help says what happens."""
    return f"(default: {default})" if default not in ("None", "") else ""


def optional(metavar: str, text: str | None = None) -> Any:
    """Show an option that may be left out as `metavar` in the help, with a text of its own."""
    return tyro.conf.arg(metavar=metavar, help=text, help_behavior_hint=_unless_none)


MaybeFloat = Annotated[float | None, optional("FLOAT")]
MaybeInt = Annotated[int | None, optional("INT")]
MaybeName = Annotated[str | None, optional("NAME")]
