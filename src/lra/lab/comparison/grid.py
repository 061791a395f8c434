"""The grid of a comparison: every rule trains every network with every seed."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import tyro

from lra.axis import Axis, unknown
from lra.errors import OptionError
from lra.lab.comparison.digest import digest, slug
from lra.lab.comparison.space import Dimension, read_dimension
from lra.lab.networks.table import NETWORKS
from lra.lab.settings.config import TrainConfig
from lra.lab.settings.options import MaybeFloat, MaybeInt, MaybeName, optional
from lra.lab.settings.spec import (
    STEP,
    Spec,
    check_distinct,
    read_model,
    read_rule,
    read_value,
    rule_option_types,
)
from lra.rules import RULES, named

TRIAL_SEED = 1000
"""Seed of the trials of a search; the runs have seeds 0, 1, 2, ..."""

SAMPLERS = ("even", "random", "tpe")

Specs = Annotated[tuple[str, ...], optional("NAME[:OPTION=VALUE,...] ...")]


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
    storage: Annotated[MaybeName, optional("URL")] = None
    """Database of the trials, for several machines (default: an SQLite file in the folder)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "search", tuple(self.search))  # JSON gives a list


@dataclass(frozen=True)
class Grid(Axis):
    """Rules that train the same networks from the same weights on the same batches."""

    datasets: Annotated[tyro.conf.Positional[tuple[str, ...]], optional("DATASET [DATASET ...]")]
    """digits, mnist, fashion-mnist, cifar-10, python (text), or paths of .npz or .txt files."""
    rules: Specs = ()
    """Rules, such as lra-e:beta=0.1; the first is the baseline (default: all single-pass rules)."""
    models: Specs = ("mlp",)
    """Networks, such as mlp:width=128,activation=relu."""
    depths: Annotated[tuple[int, ...], optional("[INT ...]")] = ()
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
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    margin: MaybeFloat = None
    """Largest difference that counts as equal (default: 0.5 points; for text, 0.02 nats)."""
    trials: Annotated[int, tyro.conf.arg(aliases=["--tune"])] = 0
    """Trials of each rule on each network to choose its settings; 0 uses the given settings."""
    options: Annotated[Search, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Search)

    def __post_init__(self) -> None:
        for name in ("datasets", "rules", "models", "depths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("seeds", "trials"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} must be 0 or more; got {getattr(self, name)}")
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise OptionError(f"margin must be above 0 and finite; got {self.margin:g}")
        if not self.datasets:
            raise OptionError("no dataset is given; name one, such as digits")
        if self.options.sampler not in SAMPLERS:
            raise unknown("sampler", self.options.sampler, SAMPLERS)
        for what in ("datasets", "rules", "models"):
            check_distinct(what, getattr(self, what))
        self._check_search()
        for problem in self.problems:  # raise invalid settings before anything is trained
            self._config(problem, {}, {}, seed=0)

    def _check_search(self) -> None:
        options = self.options
        check_distinct("search", (one.name for one in self.space))
        for one in self.space:
            owners = [e.text for e in self.rule_specs if one.name in rule_option_types(e.name)]
            if one.name not in STEP and not owners:
                known = {*STEP, *(o for e in self.rule_specs for o in rule_option_types(e.name))}
                raise unknown("setting to search", one.name, known)
        if self.trials and not options.search:
            raise OptionError(
                f"trials is {self.trials}, but search is empty; name the settings to search"
            )
        if self.trials and self.validation == 0:
            raise OptionError("trials need validation samples, but validation is 0")

    @cached_property
    def rule_specs(self) -> tuple[Spec, ...]:
        """The rules; the first is the baseline."""
        return tuple(read_rule(text) for text in self.rules or tuple(RULES))

    @cached_property
    def space(self) -> tuple[Dimension, ...]:
        """The dimensions of the search."""
        return tuple(read_dimension(text) for text in self.options.search)

    @cached_property
    def problems(self) -> tuple["Problem", ...]:
        """The networks on the datasets."""
        problems = []
        for dataset in self.datasets:
            for spec in (read_model(text) for text in self.models):
                free = "depth" in NETWORKS[spec.name].options and "depth" not in spec.settings
                if not (free and self.depths):
                    problems.append(Problem(dataset, spec, None))
                else:
                    problems += [Problem(dataset, spec, depth) for depth in self.depths]
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
        own |= problem.settings | {"model": problem.model.name}
        settings = own | dict(steps) | dict(rule) | more
        return TrainConfig(problem.dataset, **settings)


@dataclass(frozen=True)
class Problem:
    """A network on a dataset; `depth` comes from `Grid.depths`."""

    dataset: str
    model: Spec
    depth: int | None

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of `TrainConfig` that define the network."""
        return dict(self.model.settings) | ({} if self.depth is None else {"depth": self.depth})

    @property
    def model_text(self) -> str:
        """The network in the form that `--models` accepts."""
        if self.depth is None:
            return self.model.text
        separator = "," if ":" in self.model.text else ":"
        return f"{self.model.text}{separator}depth={self.depth}"

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
        fixed = self.rule.settings
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
        given = dict(self.rule.settings) | {
            name: self._parse_found(name, value) for name, value in found.items()
        }
        rule = named(self.rule.name, **{k: v for k, v in given.items() if k in kinds})
        steps = {k: v for k, v in given.items() if k not in kinds}
        return self.grid._config(self.problem, steps, {"rule": rule}, seed=seed, **more)

    def _parse_found(self, name: str, value: Any) -> Any:
        """Convert a searched value to the option's type; texts are read as on the command line."""
        kinds = rule_option_types(self.rule.name)
        if isinstance(value, str):
            kind = kinds[name] if name in kinds else TrainConfig.__annotations__[name]
            return read_value(name, value, kind)
        return round(value) if kinds.get(name) is int else float(f"{value:.3g}")

    def trial_config(self, found: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration of a trial: `trial_epochs` long, without the test split."""
        more: dict[str, Any] = {"test": False}
        if self.grid.options.trial_epochs is not None:
            more["epochs"] = self.grid.options.trial_epochs
        return self.config(TRIAL_SEED, found, **more)

    def name_of(self, config: TrainConfig) -> str:
        """Return the name of a run, derived from its configuration."""
        return f"{slug(str(self))[-100:]}-{digest(config)}"

    @property
    def key(self) -> str:
        """The name of the record that says that the rule cannot train the network."""
        return self.name_of(self.trial_config({}))

    def __str__(self) -> str:
        return f"{self.problem}: {self.rule.text}"
