"""The one typed configuration of a training run: for the API, the command line, and the file."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import nn

from lra.axis import Axis, unknown
from lra.errors import OptionError
from lra.feedback import FanIn, Init, LikeWeights, Normal
from lra.rules import LRAE, Rule
from lra.torch.layers import NONLINEARITIES

ACTIVATIONS: dict[str, type[nn.Module]] = {
    cls.__name__.lower(): cls for cls in NONLINEARITIES if cls is not nn.Threshold
}
"""The activations by name; each with torch's default settings."""

OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum",),
    "adam": ("betas",),
    "adamw": ("betas",),
    "rmsprop": ("momentum", "smoothing"),
}
"""The optimizers by name, and the options of their own that each one has."""

PRECISIONS = {"32": "32-true", "64": "64-true", "bf16-mixed": "bf16-mixed"}
"""The precisions by name, and what Fabric calls them."""

_INITS: dict[str, Callable[..., Init]] = {
    "fan-in": FanIn,
    "like-weights": LikeWeights,
    "normal": Normal,
}


def parse_init(text: str) -> Init:
    """Read how weights are drawn: "fan-in", "fan-in:SCALE" or "normal:STD".

    Raises:
        OptionError: for anything else.
    """
    name, _, number = text.partition(":")
    if name not in _INITS:
        raise unknown("initialisation", name, _INITS)
    try:
        return _INITS[name](float(number)) if number else _INITS[name]()
    except ValueError as error:
        raise OptionError(f"initialisation {text!r}: {number!r} is no positive number") from error


def format_init(init: Init) -> str:
    """Write an initialisation as `parse_init` reads it."""
    name = next(name for name, cls in _INITS.items() if type(init) is cls)
    return ":".join(
        (name, *(repr(value).removesuffix(".0") for value in dataclasses.astuple(init)))
    )


InitText = Annotated[
    Init,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="fan-in[:SCALE]|normal:STD",
        instance_from_str=lambda args: parse_init(args[0]),
        is_instance=lambda value: isinstance(value, Init),
        str_from_instance=lambda init: [format_init(init)],
    ),
]


def _unless_none(default: str) -> str:
    """Name a default in the help, unless it is None: then the help says what happens."""
    return "" if default == "None" else f"(default: {default})"


def optional(metavar: str) -> Any:
    """Show an option that may be left out as `metavar` in the help."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=_unless_none)


MaybeFloat = Annotated[float | None, optional("FLOAT")]
MaybeInt = Annotated[int | None, optional("INT")]


@dataclass(frozen=True)
class TrainConfig(Axis):
    """Everything that decides a training run's numbers: a multilayer perceptron, data, a rule."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """digits, mnist, fashion-mnist, or the path of an .npz with arrays x and y."""
    rule: tyro.conf.Suppress[Rule] = field(default_factory=LRAE)
    """How errors travel back through the network."""
    hidden: tuple[int, ...] = (256, 256, 256, 256)
    """Sizes of the hidden layers, input side first."""
    activation: str = "tanh"
    """Nonlinearity of the hidden layers, by the name of torch.nn's class in lower case."""
    bias: bool = True
    """Whether the layers have biases."""
    init: InitText = field(default_factory=FanIn)
    """How the forward weights are drawn; fan-in is torch's own way."""
    optimizer: str = "adamw"
    """sgd, adam, adamw or rmsprop."""
    lr: float = 1e-3
    """Step size."""
    feedback_lr: MaybeFloat = None
    """Step size of learned feedback weights; by default the same as lr."""
    weight_decay: float = 0.01
    """Weight decay: decoupled for adamw, added to the gradient for the others."""
    momentum: MaybeFloat = None
    """Momentum of sgd and rmsprop; 0 by default."""
    betas: Annotated[tuple[float, float] | None, optional("FLOAT FLOAT")] = None
    """The two averaging factors of adam and adamw; 0.9 0.999 by default."""
    smoothing: MaybeFloat = None
    """The averaging factor of rmsprop; 0.99 by default."""
    epochs: MaybeInt = None
    """Passes over the training data; by default 10, or as many as make 1,000 steps if more."""
    batch_size: int = 50
    """Samples a step, over all processes together."""
    validation: MaybeInt = None
    """Training samples set aside for validation; by default 2,000, or a tenth if that is less."""
    patience: MaybeInt = None
    """Stop after this many epochs without a better validation accuracy; by default never."""
    seed: int = 0
    """Seed of the split, the weights, and the order of the samples."""
    device: str = "auto"
    """auto, cpu, cuda or mps; auto takes an accelerator where there is one."""
    devices: int = 1
    """Number of devices, or of processes on the CPU."""
    precision: str = "32"
    """32, 64 or bf16-mixed."""

    def __post_init__(self) -> None:
        for name in ("hidden", "betas"):
            if isinstance(getattr(self, name), list):  # out of JSON
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.dataset, Path):
            object.__setattr__(self, "dataset", str(self.dataset))
        for name, kind in (("rule", Rule), ("bias", bool), ("init", Init)):
            if not isinstance(getattr(self, name), kind):
                raise OptionError(f"{name} must be a {kind.__name__}; got {getattr(self, name)!r}")
        for what, table in (
            ("activation", ACTIVATIONS),
            ("optimizer", OPTIMIZERS),
            ("precision", PRECISIONS),
            ("device", ("auto", "cpu", "cuda", "mps")),
        ):
            if getattr(self, what) not in table:
                raise unknown(what, getattr(self, what), table)
        for option in {own for options in OPTIMIZERS.values() for own in options}:
            if getattr(self, option) is not None and option not in OPTIMIZERS[self.optimizer]:
                having = [name for name, own in OPTIMIZERS.items() if option in own]
                raise OptionError(
                    f"{option} is an option of {' and '.join(having)}, not of {self.optimizer}; "
                    f"leave it out, or choose another optimizer"
                )
        self._whole("batch_size", 1)
        self._whole("devices", 1)
        self._whole("seed", 0)
        if self.seed >= 2**63:
            raise OptionError(f"seed must be a whole number, below 2**63; got {self.seed}")
        for name, least in (("epochs", 1), ("patience", 1), ("validation", 0)):
            if getattr(self, name) is not None:
                self._whole(name, least)
        if self.patience is not None and self.validation == 0:
            raise OptionError("patience needs validation samples, and validation is 0")
        if not isinstance(self.hidden, tuple) or any(
            type(size) is not int or size < 1 for size in self.hidden
        ):
            raise OptionError(f"hidden: sizes must be whole numbers above 0, got {self.hidden}")
        self._real("lr", 0.0, open_below=True)
        self._real("weight_decay", 0.0)
        if self.momentum is not None:
            self._real("momentum", 0.0)
        if self.feedback_lr is not None:
            self._real("feedback_lr", 0.0)
        if self.smoothing is not None:
            self._factors("smoothing", (self.smoothing,))
        if self.betas is not None:
            if not isinstance(self.betas, tuple) or len(self.betas) != 2:
                raise OptionError(f"betas must be two numbers; got {self.betas!r}")
            self._factors("betas", self.betas)

    def _factors(self, name: str, values: tuple[float, ...]) -> None:
        for value in values:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and 0 <= value < 1):
                raise OptionError(f"{name} must be 0 or more, and below 1; got {value!r}")

    def _whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise OptionError(f"{name} must be a whole number, {least} or more; got {value!r}")

    def _real(self, name: str, least: float, open_below: bool = False) -> None:
        value = getattr(self, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and value >= least) or (
            open_below and value == least
        ):
            bound = f"above {least:g}" if open_below else f"{least:g} or more"
            raise OptionError(f"{name} must be a number, {bound}; got {value!r}")


@dataclass(frozen=True)
class Recipe:
    """A known set-up in full.

    Attributes:
        summary: what it reproduces.
        rule: the rule's name in `lra.RULES`.
        options: the rule's options.
        settings: fields of `TrainConfig`.
    """

    summary: str
    rule: str
    options: dict[str, Any]
    settings: dict[str, Any]


_SEED = {
    "hidden": (256, 256, 256, 256),
    "activation": "tanh",
    "bias": False,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "batch_size": 50,
    "epochs": 100,
    "validation": 2000,
}

RECIPES: dict[str, Recipe] = {
    "seed-mnist": Recipe(
        "the MNIST script in PyTorch of the authors' repository",
        "lra-e",
        {"beta": 0.1, "gamma": 1.0, "init": Normal(0.1)},
        _SEED | {"init": Normal(0.1)},
    ),
    "seed-fashion-mnist": Recipe(
        "the Fashion-MNIST script in PyTorch of the authors' repository",
        "lra-e",
        {"beta": 0.1, "gamma": 1.0, "init": FanIn()},
        _SEED | {"init": FanIn()},
    ),
    "paper": Recipe(
        "the paper's set-up as later work quotes it (second-hand), with three hidden layers",
        "lra-e",
        {"beta": 0.1, "gamma": 1.0, "init": Normal(math.sqrt(0.05))},
        {
            "hidden": (256, 256, 256),
            "activation": "tanh",
            "init": Normal(math.sqrt(0.05)),
            "optimizer": "sgd",
            "lr": 0.01,
            "weight_decay": 0.0,
            "batch_size": 50,
            "epochs": 100,
        },
    ),
}
"""The set-ups that `--recipe` knows."""


def recipe(name: str) -> Recipe:
    """Look a recipe up.

    Raises:
        OptionError: for an unknown name.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]
