"""The one typed configuration of a training run: for the API, the command line, and the file."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from lra.axis import Axis, unknown
from lra.errors import OptionError
from lra.inits import Init
from lra.lab.augment import AUGMENTATIONS
from lra.lab.networks import NETWORKS
from lra.lab.options import (
    INIT_METAVAR,
    OPTIMIZERS,
    PRECISIONS,
    InitText,
    MaybeFloat,
    MaybeInt,
    MaybeName,
    make_activation,
    optional,
)
from lra.lab.schedule import SCHEDULES
from lra.methods import Method
from lra.rules import LRAE, Rule


@dataclass(frozen=True)
class TrainConfig(Axis):
    """Everything that decides a training run's numbers: a network, data, a rule, and the steps."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """digits, mnist, fashion-mnist, cifar-10, python (text), or the path of an .npz or a .txt."""
    rule: tyro.conf.Suppress[Rule | Method] = field(default_factory=LRAE)
    """How errors travel back through the network."""
    model: str = "mlp"
    """The network: mlp, residual-mlp, lenet, resnet, vit or gpt."""
    width: MaybeInt = None
    """By default: mlp 256 units, residual-mlp 128, vit 64, gpt 128, resnet 16 (first channels)."""
    depth: MaybeInt = None
    """By default: mlp 5 layers, residual-mlp 32, resnet 8 (or any 6 n + 2); vit, gpt 4 blocks."""
    hidden: Annotated[tuple[int, ...] | None, optional("INT ...")] = None
    """mlp: sizes of the hidden layers, input side first, in place of width and depth."""
    patch: MaybeInt = None
    """vit: side of a patch, in pixels; by default the least from 2 up that makes at most 64."""
    context: MaybeInt = None
    """gpt: how many characters a sample has; by default 128."""
    activation: MaybeName = None
    """Nonlinearity, such as relu, elu:0.5, sign, quantized:4; by default the network's own."""
    straight_through: MaybeName = None
    """sign, heaviside, bernoulli, quantized, table: surrogate for autograd, such as tanh."""
    bias: bool = True
    """Whether the layers have biases."""
    init: Annotated[InitText | None, optional(INIT_METAVAR)] = None
    """How the forward weights are drawn; by default the network's own way."""
    optimizer: str = "adamw"
    """sgd, adam, adamw or rmsprop."""
    lr: float = 1e-3
    """Step size, the largest of the schedule."""
    schedule: str = "constant"
    """How the step size goes: constant, cosine (down to 0), or one-cycle (up and down in lines)."""
    warmup: MaybeFloat = None
    """Share of all steps in which the step size rises; by default 0.3 for one-cycle, else 0."""
    feedback_lr: MaybeFloat = None
    """Step size of learned feedback weights; by default the same as lr."""
    share_feedback: str = "auto"
    """Keep learned feedback as its difference to the weights, which costs the optimizer nothing, to
    the same numbers: auto, where that is exact; always, or an error; never."""
    weight_decay: MaybeFloat = None
    """Weight decay: 0.01 by default for adamw, decoupled; 0 for others, added to the gradient."""
    momentum: MaybeFloat = None
    """Momentum of sgd and rmsprop; 0 by default."""
    betas: Annotated[tuple[float, float] | None, optional("FLOAT FLOAT")] = None
    """The two averaging factors of adam and adamw; 0.9 0.999 by default."""
    smoothing: MaybeFloat = None
    """The averaging factor of rmsprop; 0.99 by default."""
    augment: Annotated[tuple[str, ...], optional("[flip] [crop]")] = ()
    """How images are changed at random: flip (left to right), crop (moved by up to an eighth)."""
    epochs: MaybeInt = None
    """Passes over the training data; by default 10, or as many as make 1,000 steps if more."""
    batch_size: int = 50
    """Samples a step, over all processes together."""
    validation: MaybeInt = None
    """Training samples set aside for validation; by default 2,000, or a tenth if that is less."""
    patience: MaybeInt = None
    """Stop after this many epochs without a better one by validation samples; by default never."""
    seed: int = 0
    """Seed of the split, the weights, the order of the samples, and how they are augmented."""
    test: bool = True
    """Whether the test pair is measured, once, at the end."""
    device: str = "auto"
    """auto, cpu, cuda or mps; auto takes an accelerator where there is one."""
    devices: int = 1
    """Number of devices, or of processes on the CPU; each sees its own part of a batch, which is
    all that batch norm, and rules relative to the batch, then know of it."""
    precision: str = "32"
    """32, 64 or bf16-mixed."""
    compile: str = "never"
    """Compile the forward pass and the updates into one graph, which takes some seconds before the
    first step and then saves time in each: always, or an error; auto, where that is possible and
    the run has 100,000 steps or more; never. An epoch's smaller last batch goes without it."""
    diagnose: MaybeInt = None
    """Diagnose the rule every so many steps, layer by layer, which changes no number of the run."""

    def __post_init__(self) -> None:
        for name in ("hidden", "betas", "augment"):
            if isinstance(getattr(self, name), list):  # out of JSON
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.dataset, Path):
            object.__setattr__(self, "dataset", str(self.dataset))
        if not isinstance(self.dataset, str) and self.dataset is not tyro.MISSING:
            raise OptionError(f"dataset must be a name or a path; got {self.dataset!r}")
        for name, kind in (
            ("rule", Rule | Method),
            ("bias", bool),
            ("test", bool),
            ("init", Init | None),
        ):
            if not isinstance(getattr(self, name), kind):
                wanted = {"rule": "Rule or a Method", "init": "Init"}.get(name, "bool")
                raise OptionError(f"{name} must be a {wanted}; got {getattr(self, name)!r}")
        for what, table in (
            ("model", NETWORKS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("device", ("auto", "cpu", "cuda", "mps")),
            ("share_feedback", ("auto", "always", "never")),
            ("compile", ("auto", "always", "never")),
        ):
            if getattr(self, what) not in table:
                raise unknown(what, getattr(self, what), table)
        self._check_network()
        if not isinstance(self.augment, tuple):
            raise OptionError(f"augment must be a tuple of names; got {self.augment!r}")
        for name in self.augment:
            if name not in AUGMENTATIONS:
                raise unknown("augmentation", name, AUGMENTATIONS)
        self._belong("optimizer", OPTIMIZERS)
        self._check_numbers()

    def _check_network(self) -> None:
        network = NETWORKS[self.model]
        self._belong("model", {name: network.options for name, network in NETWORKS.items()})
        for name, most in (
            ("width", 10**6),
            ("depth", 10**4),
            ("patch", 10**6),
            ("context", 10**6),
        ):
            if getattr(self, name) is not None:
                self._whole(name, 1, most)
        if self.hidden is not None:
            if not isinstance(self.hidden, tuple) or any(
                type(size) is not int or not 1 <= size <= 10**6 for size in self.hidden
            ):
                raise OptionError(
                    f"hidden: sizes must be whole numbers above 0, at most 1,000,000, got "
                    f"{self.hidden!r:.200}"
                )
            for name in ("width", "depth"):
                if getattr(self, name) is not None:
                    raise OptionError(f"hidden says all sizes; leave it out, or {name}")
        make_activation(self.activation or network.activation, self.straight_through)

    def _belong(self, choice: str, own: Mapping[str, Iterable[str]]) -> None:
        """Refuse options that belong to other values of a choice."""
        chosen = getattr(self, choice)
        for option in {option for options in own.values() for option in options}:
            if getattr(self, option) is not None and option not in own[chosen]:
                having = [name for name, options in own.items() if option in options]
                raise OptionError(
                    f"{option} is an option of {' and '.join(having)}, not of {chosen}; "
                    f"leave it out, or choose another {choice}"
                )

    def _check_numbers(self) -> None:
        self._whole("batch_size", 1)
        self._whole("devices", 1)
        if self.devices > 1 and isinstance(self.rule, Method):
            raise OptionError(f"devices: {self.rule.name} trains on one; got {self.devices}")
        if self.compile == "always" and self.uncompiled:
            raise OptionError(f"compile is always, but {self.uncompiled}; leave --compile out")
        self._whole("seed", 0)
        counts = ("epochs", 1), ("patience", 1), ("validation", 0), ("diagnose", 1)
        for name, least in counts:
            if getattr(self, name) is not None:
                self._whole(name, least)
        if self.patience is not None and self.validation == 0:
            raise OptionError("patience needs validation samples, and validation is 0")
        self._real("lr", 0.0, open_below=True)
        for name in ("feedback_lr", "weight_decay", "momentum"):
            if getattr(self, name) is not None:
                self._real(name, 0.0)
        for name in ("smoothing", "warmup"):
            if getattr(self, name) is not None:
                self._factors(name, (getattr(self, name),))
        if self.betas is not None:
            if not isinstance(self.betas, tuple) or len(self.betas) != 2:
                raise OptionError(f"betas must be two numbers; got {self.betas!r}")
            self._factors("betas", self.betas)

    @property
    def uncompiled(self) -> str:
        """Why a run like this cannot be compiled; "" if it can, as far as settings tell."""
        if isinstance(self.rule, Method):
            return f"{self.rule.name} takes several passes a step"
        if self.devices > 1:
            return "several devices gather updates by hooks"
        return "bf16-mixed reaches the way back too" if self.precision == "bf16-mixed" else ""

    def epochs_of(self, steps: int) -> int:
        """Give the number of epochs, where one has so many steps."""
        return self.epochs or max(10, math.ceil(1000 / steps))

    def _factors(self, name: str, values: tuple[float, ...]) -> None:
        for value in values:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and 0 <= value < 1):
                raise OptionError(f"{name} must be 0 or more, and below 1; got {value!r}")

    def _whole(self, name: str, least: int, most: int = 2**63 - 1) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise OptionError(f"{name} must be a whole number, {least} or more; got {value!r}")
        if value > most:
            raise OptionError(f"{name} must be a whole number, at most {most:,}; got {value!r}")

    def _real(self, name: str, least: float, open_below: bool = False) -> None:
        value = getattr(self, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and value >= least) or (
            open_below and value == least
        ):
            bound = f"above {least:g}" if open_below else f"{least:g} or more"
            raise OptionError(f"{name} must be a number, {bound}; got {value!r}")

    @property
    def sizes(self) -> dict[str, Any]:
        """The options that the network has, as given or by default."""
        own = NETWORKS[self.model].options
        given = {name: getattr(self, name) for name in own}
        return {name: own[name] if given[name] is None else given[name] for name in own}

    @property
    def data_options(self) -> dict[str, Any]:
        """The options of the network that the data have to know."""
        return {name: size for name, size in self.sizes.items() if name == "context"}
