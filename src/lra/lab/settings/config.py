"""The configuration of a training run, shared by the API, the command line and config.json."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from lra.axis import Axis, unknown
from lra.errors import OptionError
from lra.inits import Init
from lra.lab.networks.table import NETWORKS
from lra.lab.settings.options import (
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
from lra.lab.settings.schedule import SCHEDULES
from lra.lab.training.augment import AUGMENTATIONS
from lra.methods import Method
from lra.rules import LRAE, Rule


@dataclass(frozen=True)
class TrainConfig(Axis):
    """All settings that determine a training run's results: network, data, rule and optimizer."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """digits, mnist, fashion-mnist, cifar-10, python (text), or the path of an .npz or .txt."""
    rule: tyro.conf.Suppress[Rule | Method] = field(default_factory=LRAE)
    """The learning rule or method."""
    model: str = "mlp"
    """The network: mlp, residual-mlp, lenet, resnet, vit or gpt."""
    width: MaybeInt = None
    """Width; by default mlp 256, residual-mlp 128, vit 64, gpt 128, resnet 16 (first stage)."""
    depth: MaybeInt = None
    """Depth; by default mlp 5 layers, residual-mlp 32, resnet 8 (6 n + 2), vit and gpt 4 blocks."""
    hidden: Annotated[tuple[int, ...] | None, optional("INT ...")] = None
    """mlp: sizes of the hidden layers, input side first, instead of width and depth."""
    patch: MaybeInt = None
    """vit: side of a patch in pixels; by default the smallest, from 2, for at most 64 patches."""
    context: MaybeInt = None
    """gpt: number of characters in a sample; by default 128."""
    activation: MaybeName = None
    """Activation, such as relu, elu:0.5, sign, quantized:4; by default the network's own."""
    straight_through: MaybeName = None
    """sign, heaviside, bernoulli, quantized, table: surrogate for autograd, such as tanh."""
    bias: bool = True
    """Whether the layers have biases."""
    init: Annotated[InitText | None, optional(INIT_METAVAR)] = None
    """Initialisation of the forward weights; by default the network's own."""
    optimizer: str = "adamw"
    """sgd, adam, adamw or rmsprop."""
    lr: float = 1e-3
    """Learning rate, the maximum of the schedule."""
    schedule: str = "constant"
    """Learning rate schedule: constant, cosine (to 0), or one-cycle (linearly up and down)."""
    warmup: MaybeFloat = None
    """Share of all steps in which the learning rate rises; by default 0.3 for one-cycle, else 0."""
    feedback_lr: MaybeFloat = None
    """Learning rate of learned feedback weights; by default lr."""
    share_feedback: str = "auto"
    """Store learned feedback as its difference from the weights: auto, always or never.
    This costs the optimizer nothing and gives the same results.
    auto does so where it is exact; always fails where it is not."""
    weight_decay: MaybeFloat = None
    """Weight decay; by default 0.01 for adamw (decoupled), 0 for others (added to the gradient)."""
    momentum: MaybeFloat = None
    """Momentum of sgd and rmsprop; by default 0."""
    betas: Annotated[tuple[float, float] | None, optional("FLOAT FLOAT")] = None
    """The two averaging factors of adam and adamw; by default 0.9 0.999."""
    smoothing: MaybeFloat = None
    """The averaging factor of rmsprop; by default 0.99."""
    augment: Annotated[tuple[str, ...], optional("[flip] [crop]")] = ()
    """Random augmentation of images: flip (left to right), crop (shift by up to an eighth)."""
    epochs: MaybeInt = None
    """Passes over the training data; by default 10, or enough for 1,000 steps if that is more."""
    batch_size: int = 50
    """Samples per step, over all processes together."""
    validation: MaybeInt = None
    """Training samples held out for validation; by default 2,000, or a tenth if that is less."""
    patience: MaybeInt = None
    """Stop after this many epochs without improvement on validation samples; by default never."""
    seed: int = 0
    """Seed of the split, the weights, the order of the samples, and their augmentation."""
    test: bool = True
    """Whether to evaluate on the test set once, at the end."""
    device: str = "auto"
    """auto, cpu, cuda or mps; auto uses an accelerator if there is one."""
    devices: int = 1
    """Number of devices, or of processes on the CPU.
    Each sees only its own part of a batch, also in batch norm and rules relative to the batch."""
    precision: str = "32"
    """32, 64 or bf16-mixed."""
    compile: str = "never"
    """Compile the forward pass and the updates into one graph: always (or fail), auto, or never.
    auto compiles if that is possible and the run has at least 100,000 steps.
    Compiling takes seconds before the first step, and saves time in each.
    A smaller last batch of an epoch is not compiled."""
    threads: MaybeInt = None
    """Number of CPU threads; by default one for a small network, else those of this machine.
    The last bits of the results depend on it."""
    diagnose: MaybeInt = None
    """Number of steps between diagnoses of the rule, layer by layer; results do not change."""

    def __post_init__(self) -> None:
        for name in ("hidden", "betas", "augment"):
            if isinstance(getattr(self, name), list):  # from JSON
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
                expected = {"rule": "Rule or a Method", "init": "Init"}.get(name, "bool")
                raise OptionError(f"{name} must be a {expected}; got {getattr(self, name)!r}")
        for name, table in (
            ("model", NETWORKS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("device", ("auto", "cpu", "cuda", "mps")),
            ("share_feedback", ("auto", "always", "never")),
            ("compile", ("auto", "always", "never")),
        ):
            if getattr(self, name) not in table:
                raise unknown(name, getattr(self, name), table)
        self._check_network()
        if not isinstance(self.augment, tuple):
            raise OptionError(f"augment must be a tuple of names; got {self.augment!r}")
        for name in self.augment:
            if name not in AUGMENTATIONS:
                raise unknown("augmentation", name, AUGMENTATIONS)
        self._check_owners("optimizer", OPTIMIZERS)
        self._check_numbers()

    def _check_network(self) -> None:
        network = NETWORKS[self.model]
        self._check_owners("model", {name: network.options for name, network in NETWORKS.items()})
        for name, most in (
            ("width", 10**6),
            ("depth", 10**4),
            ("patch", 10**6),
            ("context", 10**6),
        ):
            if getattr(self, name) is not None:
                self._check_integer(name, 1, most)
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
                    raise OptionError(f"hidden already sets all sizes; leave out hidden or {name}")
        make_activation(self.activation or network.activation, self.straight_through)

    def _check_owners(self, choice: str, table: Mapping[str, Iterable[str]]) -> None:
        """Raise `OptionError` for an option that the chosen model or optimizer does not have."""
        chosen = getattr(self, choice)
        for option in {option for options in table.values() for option in options}:
            if getattr(self, option) is not None and option not in table[chosen]:
                owners = [name for name, options in table.items() if option in options]
                raise OptionError(
                    f"{option} is an option of {' and '.join(owners)}, not of {chosen}; "
                    f"leave it out, or choose another {choice}"
                )

    def _check_numbers(self) -> None:
        self._check_integer("batch_size", 1)
        self._check_integer("devices", 1)
        if self.devices > 1 and isinstance(self.rule, Method):
            raise OptionError(
                f"devices must be 1 for the method {self.rule.name}; got {self.devices}"
            )
        if self.compile == "always" and self.compile_obstacle:
            raise OptionError(
                f"compile is always, but {self.compile_obstacle}; leave --compile out"
            )
        self._check_integer("seed", 0)
        counts = ("epochs", 1), ("patience", 1), ("validation", 0), ("diagnose", 1), ("threads", 1)
        for name, least in counts:
            if getattr(self, name) is not None:
                self._check_integer(name, least)
        if self.patience is not None and self.validation == 0:
            raise OptionError("patience needs validation samples, and validation is 0")
        self._check_number("lr", 0.0, open_below=True)
        for name in ("feedback_lr", "weight_decay", "momentum"):
            if getattr(self, name) is not None:
                self._check_number(name, 0.0)
        for name in ("smoothing", "warmup"):
            if getattr(self, name) is not None:
                self._check_fractions(name, (getattr(self, name),))
        if self.betas is not None:
            if not isinstance(self.betas, tuple) or len(self.betas) != 2:
                raise OptionError(f"betas must be two numbers; got {self.betas!r}")
            self._check_fractions("betas", self.betas)

    @property
    def compile_obstacle(self) -> str:
        """The reason why these settings rule out a compiled step; "" if they do not."""
        if isinstance(self.rule, Method):
            return f"{self.rule.name} takes several passes per step"
        if self.devices > 1:
            return "several devices reduce updates in hooks"
        applies = self.precision == "bf16-mixed"
        return "bf16-mixed also applies to the backward pass" if applies else ""

    def count_epochs(self, steps: int) -> int:
        """Return the number of epochs, given the number of steps in one."""
        return self.epochs or max(10, math.ceil(1000 / steps))

    def _check_fractions(self, name: str, values: tuple[float, ...]) -> None:
        for value in values:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and 0 <= value < 1):
                raise OptionError(f"{name} must be 0 or more, and below 1; got {value!r}")

    def _check_integer(self, name: str, least: int, most: int = 2**63 - 1) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise OptionError(f"{name} must be a whole number, {least} or more; got {value!r}")
        if value > most:
            raise OptionError(f"{name} must be a whole number, at most {most:,}; got {value!r}")

    def _check_number(self, name: str, least: float, open_below: bool = False) -> None:
        value = getattr(self, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and value >= least) or (
            open_below and value == least
        ):
            bound = f"above {least:g}" if open_below else f"{least:g} or more"
            raise OptionError(f"{name} must be a number, {bound}; got {value!r}")

    @property
    def sizes(self) -> dict[str, Any]:
        """The options of the network, with defaults for those that are not set."""
        defaults = NETWORKS[self.model].options
        values = {name: getattr(self, name) for name in defaults}
        return {name: defaults[name] if values[name] is None else values[name] for name in defaults}

    @property
    def data_options(self) -> dict[str, Any]:
        """The options of the network that loading the data depends on."""
        return {name: size for name, size in self.sizes.items() if name == "context"}
