"""The grid of a comparison: every rule trains every network with every seed."""

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import tyro

from lra.axis import Axis, unknown
from lra.errors import OptionError
from lra.lab.comparison.digest import digest, slug
from lra.lab.comparison.space import Dimension, read_dimension
from lra.lab.data.datasets import is_text
from lra.lab.networks.model import model_option_types, parse_model
from lra.lab.networks.table import NETWORKS
from lra.lab.settings import code
from lra.lab.settings.config import TrainConfig
from lra.lab.settings.options import MaybeFloat, MaybeInt, optional
from lra.lab.settings.spec import (
    RULES_AND_METHODS,
    STEP,
    Spec,
    build_rule,
    check_distinct,
    format_spec,
    is_reference,
    parse_rule,
    parse_value,
    parse_values,
    reference,
    rule_option_types,
    with_options,
)
from lra.rules import RULES

_CONFIG_TYPES = typing.get_type_hints(TrainConfig)

_OTHERS = {
    name: _CONFIG_TYPES[name]
    for name in (
        *("loss", "milestones", "warmup", "augment", "betas", "momentum", "smoothing"),
        *("feedback_lr", "share_feedback", "patience", "precision", "compile", "test_each_epoch"),
    )
}
"""The settings of a run that `Grid.settings` may hold, and their types."""

TRIAL_SEED = 1000
"""Seed of the trials of a search; the runs have seeds 0, 1, 2, ..."""

SAMPLERS = ("even", "random", "tpe")

Specs = Annotated[tuple[str, ...], optional("NAME[:OPTION=VALUE,...] ...")]


def changed(options: Axis) -> dict[str, Any]:
    """Return the fields of a grid or a search that differ from their defaults."""
    values = {f: getattr(options, f.name) for f in dataclasses.fields(options)}
    return {f.name: v for f, v in values.items() if f.name != "options" and v != f.default}


@dataclass(frozen=True)
class Search(Axis):
    """Options of the search for each rule's settings on the validation split."""

    search: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME=LOW..HIGH[:log]|NAME=VALUE,VALUE ...")
    ] = ("lr=1e-4..3e-2:log",)
    """Settings to choose: of the optimizer (lr, weight_decay, ...), or options of the rules."""
    trial_epochs: MaybeInt = None
    """Epochs of a trial (default: the epochs of a run)."""
    sampler: str = "even"
    """even (points that cover the space, the same for each rule), random, or tpe (adaptive)."""
    prune: bool = False
    """Stop trials whose validation curve is below the median; makes the choice order-dependent."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "search", tuple(self.search))  # JSON gives a list


@dataclass(frozen=True)
class Grid(Axis):
    """Rules that train the same networks from the same weights on the same batches."""

    datasets: Annotated[
        tyro.conf.Positional[tuple[str, ...]], optional("DATASET [DATASET ...]")
    ] = ()
    """digits, mnist, fashion-mnist, cifar-10, python (text), or paths (docs/guides/data.md)."""
    rules: Specs = tuple(RULES)
    """Rules, such as lra-e:beta=0.1; the first is the baseline."""
    models: Specs = ("mlp",)
    """Networks, such as mlp:width=128,activation=relu."""
    depths: Annotated[tuple[int, ...] | None, optional("INT ...")] = None
    """Depths of the networks that have a depth and do not set it."""
    seeds: int = 3
    """Number of runs of each rule on each network, with seeds 0, 1, 2, ..."""
    epochs: MaybeInt = None
    """Passes over the training data (default: 10, or enough for 1,000 steps if more)."""
    batch_size: int = 50
    """Samples per step."""
    optimizer: str = "adamw"
    """sgd, adam, adamw or rmsprop."""
    lr: float = 1e-3
    """Learning rate of rules that do not set it, if it is not searched."""
    schedule: str = "constant"
    """Learning rate schedule: constant, cosine or one-cycle."""
    weight_decay: MaybeFloat = None
    """Weight decay (default: the optimizer's)."""
    validation: MaybeInt = None
    """Training samples held out for validation (default: 2,000, or a tenth if that is less)."""
    settings: Annotated[tuple[str, ...], optional("NAME=VALUE [NAME=VALUE ...]")] = ()
    """Other settings of lra train for all runs, such as loss=logistic milestones=50-75."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    margin: MaybeFloat = None
    """Largest difference that counts as equal (default: 0.5 points; for text, 0.02 nats)."""
    trials: Annotated[int, tyro.conf.arg(aliases=["--tune"])] = 0
    """Trials of each rule on each network, which choose its settings."""
    options: Annotated[Search, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Search)

    def __post_init__(self) -> None:
        for name in ("datasets", "rules", "models", "depths", "settings"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, tuple(values))
            if values is not None and not values and name not in ("datasets", "settings"):
                raise OptionError(f"{name} has no values; name at least one, or leave it out")
        for name in ("seeds", "trials"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} must be 0 or more; got {getattr(self, name)}")
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise OptionError(f"margin must be above 0 and finite; got {self.margin:g}")
        if self.options.sampler not in SAMPLERS:
            raise unknown("sampler", self.options.sampler, SAMPLERS)
        for what in ("datasets", "rules", "models"):
            check_distinct(what, getattr(self, what))
        self._check_search()
        self._check_effects()
        for problem in self.problems:  # raise invalid settings before anything is trained
            self._config(problem, {}, {}, seed=0)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build a grid from the plain data of `to_config`, such as those in grid.json.

        Raises:
            OptionError: for an unknown or invalid option.
            RunError: a rule or network is code that has not been named on this machine before.
        """
        rules, models = (config.get(name, ()) for name in ("rules", "models"))
        own = [r for text in rules for r in reference(text, RULES_AND_METHODS)]
        code.check_named([*own, *(r for text in models for r in reference(text, NETWORKS))])
        return super().from_config(config)

    def _check_search(self) -> None:
        check_distinct("search", (one.name for one in self.space))
        for one in self.space:
            owners = [e.text for e in self.rule_specs if one.name in rule_option_types(e.name)]
            if one.name not in STEP and not owners:
                known = {*STEP, *(o for e in self.rule_specs for o in rule_option_types(e.name))}
                raise unknown("setting to search", one.name, known)
        if not self.space:
            raise OptionError("search has no settings; name at least one, or leave it out")
        if self.trials and self.validation == 0:
            raise OptionError("trials need validation samples, but validation is 0")

    def _check_effects(self) -> None:
        """Raise `OptionError` for options that have no effect together with the others."""
        idle: dict[str, str] = {}
        searched = [{one.name for one in e.space} if self.trials else () for e in self.experiments]
        if not self.trials:
            idle = dict.fromkeys(changed(self.options), "without trials; add --trials 8")
        elif unused := [
            d.name for d in self.space if all(d.name not in names for names in searched)
        ]:
            idle["search"] = f"on {unused[0]}, since every rule that has it sets it"
        if self.depths and all(problem.depth is None for problem in self.problems):
            idle["depths"] = "since every model sets its depth or has none"
        for name in (changed(self).keys() | self.other_settings.keys()) & set(STEP):
            pairs = zip(self.experiments, searched, strict=True)
            if all(name in e.rule.options or name in names for e, names in pairs):
                idle[name] = "since every rule sets or searches it"
        for name, reason in idle.items() if self.datasets else ():
            raise OptionError(f"{name} has no effect {reason}")

    @cached_property
    def rule_specs(self) -> tuple[Spec, ...]:
        """The rules; the first is the baseline."""
        settings = {name: _CONFIG_TYPES[name] for name in STEP}
        return tuple(parse_rule(text, settings) for text in self.rules)

    @cached_property
    def other_settings(self) -> dict[str, Any]:
        """The values of `settings`, by name."""
        words = dict(_split_setting(text) for text in self.settings)
        check_distinct("settings", (text.partition("=")[0] for text in self.settings))
        for name in words:
            if name in _CONFIG_TYPES and name not in _OTHERS:
                own = f"it is an option of its own here, --{name.replace('_', '-')}"
                reason = (
                    own if hasattr(self, name) else "it differs between runs, or is given to a rule"
                )
                raise OptionError(f"settings: {name} cannot be set so: {reason}")
        return parse_values("a run", words, _OTHERS)

    @cached_property
    def space(self) -> tuple[Dimension, ...]:
        """The dimensions of the search."""
        return tuple(read_dimension(text) for text in self.options.search)

    @cached_property
    def problems(self) -> tuple["Problem", ...]:
        """The networks on the datasets."""
        problems = []
        for dataset in self.datasets:
            for text in self.models:
                text, batch_size = _split_batch_size(text)
                model = parse_model(text)
                free = "depth" in model_option_types(model.name) and "depth" not in model.options
                depths = self.depths if free and self.depths else (None,)
                problems += [Problem(dataset, text, batch_size, depth) for depth in depths]
        return tuple(problems)

    @cached_property
    def experiments(self) -> tuple["Experiment", ...]:
        """One experiment for each rule on each network."""
        return tuple(Experiment(self, p, e) for p in self.problems for e in self.rule_specs)

    def _config(
        self, problem: "Problem", steps: Mapping[str, Any], rule: Mapping[str, Any], **more: Any
    ) -> TrainConfig:
        names = ("epochs", "batch_size", "optimizer", "lr", "schedule", "validation", "device")
        own = {name: getattr(self, name) for name in names} | {"weight_decay": self.weight_decay}
        own |= self.other_settings | problem.settings
        settings = own | dict(steps) | dict(rule) | more
        return TrainConfig(problem.dataset, **settings)


def _split_setting(text: str) -> tuple[str, str]:
    """Split NAME=VALUE.

    Raises:
        OptionError: the text is not of this form.
    """
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise OptionError(f"settings must be NAME=VALUE, such as loss=logistic; got {text!r}")
    return name, value


def _split_batch_size(text: str) -> tuple[str, int | None]:
    """Split a network's text into the network alone and its `batch_size`, if it has that."""
    found = re.search(r"([:,])batch_size=([^,]*)(,?)", text)
    if not found:
        return text, None
    size = parse_value(f"batch_size of network {text!r}", found[2], int)
    return text[: found.start()] + (found[1] if found[3] else "") + text[found.end() :], size


@dataclass(frozen=True)
class Problem:
    """A network on a dataset.

    Attributes:
        dataset: the name or path of the dataset.
        model: the network as text, without the next two.
        batch_size: the batch size, if the network states one.
        depth: the depth, if it comes from `Grid.depths`.
    """

    dataset: str
    model: str
    batch_size: int | None = None
    depth: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of `TrainConfig` that define the network."""
        batch = {} if self.batch_size is None else {"batch_size": self.batch_size}
        return {"model": self._text(depth=self.depth)} | batch

    @property
    def model_text(self) -> str:
        """The network in the form that `--models` accepts."""
        return self._text(batch_size=self.batch_size, depth=self.depth)

    def _text(self, **options: int | None) -> str:
        """Return the network's text with further options, without those that are None."""
        words = ",".join(f"{k}={v}" for k, v in options.items() if v is not None)
        return with_options(self.model, words)

    @property
    def text(self) -> bool:
        """Whether the data are text, which is judged by the loss."""
        return is_text(self.dataset)

    def __str__(self) -> str:
        return f"{Path(self.dataset).stem}, {self.model_text}"


@dataclass(frozen=True)
class Experiment:
    """A rule on a network: its trials, and its runs."""

    grid: Grid
    problem: Problem
    rule: Spec

    @property
    def space(self) -> tuple[Dimension, ...]:
        """The dimensions searched for this rule: options that it has and does not set."""
        options = (*STEP, *rule_option_types(self.rule.name))
        fixed = self.rule.options
        return tuple(d for d in self.grid.space if d.name in options and d.name not in fixed)

    @property
    def trials(self) -> int:
        """The number of trials from which the rule's settings are chosen."""
        return self.grid.trials if self.space else 0

    def config(self, seed: int, found: Mapping[str, Any], **more: Any) -> TrainConfig:
        """Return the configuration of a run.

        Args:
            seed: the seed of the run.
            found: the settings chosen by a search, by name.
            more: other fields of `TrainConfig`.

        Raises:
            OptionError: if settings are incompatible.
        """
        kinds = rule_option_types(self.rule.name)
        given = dict(self.rule.options) | {
            name: self._parse_found(name, value) for name, value in found.items()
        }
        options = {k: v for k, v in given.items() if k in kinds}
        if is_reference(self.rule.name):
            rule: object = format_spec(self.rule.name, options)
        else:
            rule = build_rule(self.rule.name, options)
        steps = {k: v for k, v in given.items() if k not in kinds}
        return self.grid._config(self.problem, steps, {"rule": rule}, seed=seed, **more)

    def _parse_found(self, name: str, value: Any) -> Any:
        """Convert a searched value to the option's type; texts are read as on the command line."""
        kinds = rule_option_types(self.rule.name)
        if isinstance(value, str):
            kind = kinds[name] if name in kinds else _CONFIG_TYPES[name]
            return parse_value(name, value, kind)
        return round(value) if kinds.get(name) is int else float(f"{value:.3g}")

    def trial_config(self, found: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration of a trial: `trial_epochs` long, without the test split."""
        more: dict[str, Any] = {"test": False, "test_each_epoch": False}
        if self.grid.options.trial_epochs is not None:
            more["epochs"] = self.grid.options.trial_epochs
        return self.config(TRIAL_SEED, found, **more)

    def name_of(self, config: TrainConfig) -> str:
        """Return the name of a run, derived from its configuration."""
        return f"{slug(str(self))[-100:]}-{digest(config)}"

    def __str__(self) -> str:
        return f"{self.problem}: {self.rule.text}"
