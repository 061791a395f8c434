"""The configuration of a training run, shared by the API, the command line and config.json."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import tyro

from lra.axis import Axis
from lra.errors import OptionError
from lra.feedback import Learned, Offset, Random
from lra.lab.networks.model import Model, parse_model
from lra.lab.networks.table import NETWORKS
from lra.lab.runs.measure import LOSSES
from lra.lab.settings import code
from lra.lab.settings.checks import (
    check_fields,
    flag,
    fraction,
    fractions,
    increasing,
    not_negative,
    one_of,
    positive,
    positive_share,
    share,
    some_of,
    whole,
)
from lra.lab.settings.options import (
    OPTIMIZERS,
    PRECISIONS,
    MaybeFloat,
    MaybeInt,
    optional,
)
from lra.lab.settings.schedule import SCHEDULES
from lra.lab.settings.spec import (
    RULES_AND_METHODS,
    build_rule,
    is_reference,
    parse_rule,
    reference,
)
from lra.lab.training.augment import AUGMENTATIONS
from lra.methods import Method
from lra.rules import LRAE, Rule
from lra.wiring import Chain

RuleText = Annotated[
    Rule | Method | str,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME[:OPTION=VALUE,...]",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, (Rule, Method, str)),
        str_from_instance=lambda rule: [rule if isinstance(rule, str) else rule.name],
    ),
]


@dataclass(frozen=True)
class TrainConfig(Axis):
    """Hold all settings that determine a run's results: network, data, rule and optimizer.

    `lra.lab.train` takes the same settings as arguments, and `lra train` as options.

    Raises:
        OptionError: for an unknown or invalid setting.

    >>> import lra.lab
    >>> config = lra.lab.TrainConfig("digits", rule="lra-e:beta=0.2", epochs=3)
    >>> print(config.built_rule)
    Rule(feedback=Learned(), crossing=TargetDifference(beta=0.2))
    >>> lra.lab.TrainConfig.from_config(config.to_config()) == config
    True
    """

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """digits, mnist, fashion-mnist, cifar-10, python (text), or a path: an .npz, .csv, .txt or a
    folder (docs/guides/data.md)."""
    rule: RuleText = field(default_factory=LRAE)
    """The learning rule: lra-e, mirrored-lra, backprop, feedback-alignment, kolen-pollack,
    sign-symmetry, direct-feedback-alignment, direct-lra, rec-lra; a method: predictive-coding,
    error-predictive-coding, equilibrium-propagation, dtp, pepita, forward-forward, drtp; or your
    own, my_rules.py:Centred. With options, as in lra-e:beta=0.2,normalized=true."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME[:OPTION=VALUE,...]")] = "mlp"
    """The network: mlp, residual-mlp, lenet, resnet, vit, gpt, or your own, my_nets.py:Net.
    Options, as in mlp:width=64,depth=3: hidden=256-128 or width and depth (mlp), dropout (mlp),
    width and depth (residual-mlp, resnet, vit, gpt), patch (vit), context (gpt), resize (lenet:
    enlarge small images instead of padding them), scaling (residual-mlp: depth or mupc), and for
    each activation, init, bias, straight_through, and for all but gpt standardize=MEAN-DEVIATION.
    Your own is called with the shape of a sample, the number of classes and its options."""
    loss: Annotated[str, one_of(LOSSES)] = "cross-entropy"
    """cross-entropy, or logistic (of each class by itself, summed over the classes)."""
    optimizer: Annotated[str, one_of(OPTIMIZERS)] = "adamw"
    """sgd, adam, adamw or rmsprop."""
    lr: Annotated[float, positive] = 1e-3
    """Learning rate, the maximum of the schedule."""
    schedule: Annotated[str, one_of(SCHEDULES)] = "constant"
    """Learning rate schedule: constant, cosine (to 0), or one-cycle (linearly up and down)."""
    milestones: Annotated[tuple[int, ...], increasing, optional("EPOCHS [EPOCHS ...]")] = ()
    """Numbers of epochs after which the learning rate is divided by 10, such as 50 75."""
    warmup: Annotated[MaybeFloat, fraction] = None
    """Share of all steps in which the learning rate rises; by default 0.3 for one-cycle, else 0."""
    feedback_lr: Annotated[MaybeFloat, not_negative] = None
    """Learning rate of learned feedback weights; by default lr."""
    share_feedback: Annotated[str, one_of(("auto", "always", "never"))] = "auto"
    """Store learned feedback as its difference from the weights: auto, always or never.
    This costs the optimizer nothing and gives the same results.
    auto does so where it is exact; always fails where it is not."""
    mirror_every: Annotated[MaybeInt, whole(1)] = None
    """Number of steps between mirrors of the feedback weights (lra.mirror); by default none."""
    mirror_samples: Annotated[int, whole(1)] = 128
    """Number of noise samples of a mirror."""
    mirror_step: Annotated[float, positive_share] = 1.0
    """Weight of a mirror's estimate of W in the new feedback weights."""
    mirror_decay: Annotated[MaybeFloat, share] = None
    """Share of the old feedback weights that a mirror removes; by default mirror_step."""
    weight_decay: Annotated[MaybeFloat, not_negative] = None
    """Weight decay; by default 0.01 for adamw (decoupled), 0 for others (added to the gradient)."""
    momentum: Annotated[MaybeFloat, fraction] = None
    """Momentum of sgd and rmsprop; by default 0."""
    betas: Annotated[tuple[float, float] | None, fractions, optional("FLOAT FLOAT")] = None
    """The two averaging factors of adam and adamw; by default 0.9 0.999."""
    smoothing: Annotated[MaybeFloat, fraction] = None
    """The averaging factor of rmsprop; by default 0.99."""
    augment: Annotated[tuple[str, ...], some_of(AUGMENTATIONS), optional("[flip] [crop]")] = ()
    """Random augmentation of images: flip (left to right), crop (shift by up to an eighth)."""
    epochs: Annotated[MaybeInt, whole(1)] = None
    """Passes over the training data; by default 10, or enough for 1,000 steps if that is more."""
    batch_size: Annotated[int, whole(1)] = 50
    """Samples per step, over all processes together."""
    validation: Annotated[MaybeInt, whole(0)] = None
    """Training samples held out for validation; by default 2,000, or a tenth if that is less."""
    patience: Annotated[MaybeInt, whole(1)] = None
    """Stop after this many epochs without improvement on validation samples; by default never."""
    seed: Annotated[int, whole(0)] = 0
    """Seed of the split, the weights, the order of the samples, and their augmentation."""
    test: Annotated[bool, flag] = True
    """Whether to evaluate on the test set once, at the end."""
    test_each_epoch: Annotated[bool, flag] = False
    """Whether to evaluate on the test set after each epoch as well, only for the record."""
    device: Annotated[str, one_of(("auto", "cpu", "cuda", "mps"))] = "auto"
    """auto, cpu, cuda or mps; auto uses an accelerator if there is one."""
    devices: Annotated[int, whole(1)] = 1
    """Number of devices, or of processes on the CPU.
    Each sees only its own part of a batch, also in batch norm and rules relative to the batch."""
    precision: Annotated[str, one_of(PRECISIONS)] = "32"
    """32, 64 or bf16-mixed."""
    compile: Annotated[str, one_of(("auto", "always", "never"))] = "never"
    """Compile the forward pass and the updates into one graph: always (or fail), auto, or never.
    auto compiles if that is possible and the run has at least 100,000 steps.
    Compiling takes seconds before the first step, and saves time in each.
    A smaller last batch of an epoch is not compiled."""
    threads: Annotated[MaybeInt, whole(1, 4096)] = None
    """Number of CPU threads; by default one for a small network, else those of this machine.
    The last bits of the results depend on it."""
    diagnose: Annotated[MaybeInt, whole(1)] = None
    """Number of steps between diagnoses of the rule, layer by layer; results do not change."""

    sources: tyro.conf.Suppress[tuple[code.Source, ...]] = ()
    """The files or modules of the user's own rule and network, and the SHA-256 of each."""
    source_folder: tyro.conf.Suppress[str] = field(default="", compare=False)
    """The folder from which they were named."""

    def __post_init__(self) -> None:
        for name in ("betas", "augment", "milestones"):
            if isinstance(getattr(self, name), list):  # from JSON
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.dataset, Path):
            object.__setattr__(self, "dataset", str(self.dataset))
        precision: object = self.precision
        if isinstance(precision, int):  # as YAML reads it
            object.__setattr__(self, "precision", str(precision))
        if not isinstance(self.dataset, str) and self.dataset is not tyro.MISSING:
            raise OptionError(f"dataset must be a name or a path; got {self.dataset!r}")
        self._resolve_code()
        if not isinstance(self.rule, (Rule, Method, str)):
            raise OptionError(f"rule must be a Rule, a Method or a text; got {self.rule!r}")
        check_fields(self)
        self._check_optimizer_options()
        if self.devices > 1 and isinstance(self.built_rule, Method):
            raise OptionError(
                f"devices must be 1 for the method {self.rule_name}; got {self.devices}"
            )
        self._check_mirror_options()
        if self.test_each_epoch and not self.test:
            raise OptionError("test_each_epoch needs the test set, and test is false")
        if self.compile == "always" and self.compile_obstacle:
            raise OptionError(
                f"compile is always, but {self.compile_obstacle}; leave --compile out"
            )
        if self.patience is not None and self.validation == 0:
            raise OptionError("patience needs validation samples, and validation is 0")

    def _resolve_code(self) -> None:
        """Parse the rule and the network, and record the files of the user's own."""
        own = self.references
        known = code.parse_sources(self.sources)
        if not isinstance(self.source_folder, str):
            raise OptionError(f"source_folder must be a path; got {self.source_folder!r:.200}")
        places = list(dict.fromkeys(map(code.place, own)))
        if not all(place in known for place in places):  # named just now, or beside a saved run's
            known = dict(code.record(own, self.source_folder))
            object.__setattr__(self, "source_folder", self.source_folder or str(Path.cwd()))
        object.__setattr__(self, "sources", tuple((place, known[place]) for place in places))
        object.__setattr__(self, "model", str(parse_model(self.model, self.source_folder)))
        if isinstance(self.rule, str):
            spec = parse_rule(self.rule, folder=self.source_folder)
            rule = build_rule(spec.name, spec.options, self.source_folder)  # raises errors early
            if not is_reference(spec.name):
                object.__setattr__(self, "rule", rule)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build a configuration from the plain data of `to_config`, such as config.json.

        Code of a user's own that it names is loaded only as `lra.lab.settings.code` allows.

        Raises:
            OptionError: for an unknown or invalid setting.
            RunError: the user's own code is missing, has changed, or must be named first.
        """
        if isinstance(config, dict):
            own = _references(config.get("model"), config.get("rule"))
            code.check(own, config.get("sources", ()), str(config.get("source_folder", "")))
        return super().from_config(config)

    @property
    def references(self) -> list[str]:
        """The references to the user's own code."""
        return _references(self.model, self.rule)

    @property
    def built_rule(self) -> Rule | Method:
        """The rule or method, built if it is a user's own."""
        if not isinstance(self.rule, str):
            return self.rule
        spec = parse_rule(self.rule, folder=self.source_folder)
        return build_rule(spec.name, spec.options, self.source_folder)

    @property
    def rule_name(self) -> str:
        """The name of the rule in scripts and reports."""
        return self.rule if isinstance(self.rule, str) else self.rule.name

    @property
    def network(self) -> Model:
        """The network, with its options."""
        return parse_model(self.model, self.source_folder)

    def _check_optimizer_options(self) -> None:
        """Raise `OptionError` for an option that the chosen optimizer does not have."""
        for option in {option for options in OPTIMIZERS.values() for option in options}:
            if getattr(self, option) is not None and option not in OPTIMIZERS[self.optimizer]:
                owners = [name for name, options in OPTIMIZERS.items() if option in options]
                raise OptionError(
                    f"{option} is an option of {' and '.join(owners)}, not of {self.optimizer}; "
                    "leave it out, or choose another optimizer"
                )

    def _check_mirror_options(self) -> None:
        """Raise `OptionError` for options of mirrors that have no effect here."""
        options = ("mirror_samples", "mirror_step", "mirror_decay")
        given = [name for name in options if getattr(self, name) != getattr(type(self), name)]
        if self.mirror_every is None:
            if given:
                raise OptionError(f"{given[0]} has no effect without mirror_every; give both")
        elif not _has_own_feedback(self.built_rule):
            raise OptionError(
                f"mirror_every needs a rule with feedback weights between the layers, such as "
                f"lra-e or feedback-alignment; {self.rule_name} has none. Leave it out"
            )
        elif self.devices > 1:
            raise OptionError(f"devices must be 1 with mirror_every; got {self.devices}")

    @property
    def compile_obstacle(self) -> str:
        """The reason why these settings rule out a compiled step; "" if they do not."""
        if isinstance(self.built_rule, Method):
            return f"{self.rule_name} takes several passes per step"
        if self.devices > 1:
            return "several devices reduce updates in hooks"
        applies = self.precision == "bf16-mixed"
        return "bf16-mixed also applies to the backward pass" if applies else ""

    def count_epochs(self, steps: int) -> int:
        """Return the number of epochs, given the number of steps in one."""
        return self.epochs or max(10, math.ceil(1000 / steps))

    @property
    def data_options(self) -> dict[str, Any]:
        """The options of the network that loading the data depends on."""
        return {k: v for k, v in self.network.settings.items() if k == "context"}


def _has_own_feedback(rule: Rule | Method) -> bool:
    """Return whether a rule stores feedback weights that `lra.mirror` can move."""
    stored = (Learned, Random, Offset)
    return isinstance(rule, Rule) and isinstance(rule.feedback, stored) and rule.wiring == Chain()


def _references(model: object, rule: object) -> list[str]:
    return [*reference(model, NETWORKS), *reference(rule, RULES_AND_METHODS)]
