"""What is compared: datasets and networks, each trained by every rule with every seed."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import tyro

from lra.axis import Axis, unknown
from lra.errors import OptionError
from lra.lab.compare.digest import digest, slug
from lra.lab.compare.space import Dimension, read_dimension
from lra.lab.compare.spec import (
    STEP,
    Spec,
    distinct,
    read_model,
    read_rule,
    read_value,
    rule_kinds,
)
from lra.lab.config import TrainConfig
from lra.lab.networks import NETWORKS
from lra.lab.options import MaybeFloat, MaybeInt, MaybeName, optional
from lra.rules import RULES, named

TRIAL_SEED = 1000
"""Seed of the trials of a search; those of the runs are 0, 1, 2, ..."""

SAMPLERS = ("even", "random", "tpe")

Words = Annotated[tuple[str, ...], optional("NAME[:OPTION=VALUE,...] ...")]


@dataclass(frozen=True)
class Search(Axis):
    """Settings that each rule is given by a search on the validation split."""

    search: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME=LOW..HIGH[:log]|NAME=VALUE,VALUE ...")
    ] = ("lr=1e-4..3e-2:log",)
    """What to choose: a step setting (lr, weight_decay, ...) or an option of rules that have it."""
    trial_epochs: MaybeInt = None
    """Epochs of a trial; by default as many as of a run."""
    sampler: str = "even"
    """even: points that cover the space, the same for each rule; random; or tpe, which learns."""
    prune: bool = False
    """Stop trials whose validation curve is below the median; then order may change the choice."""
    storage: Annotated[MaybeName, optional("URL")] = None
    """Database of the trials, for many machines; by default an SQLite file in the folder."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "search", tuple(self.search))  # a list, out of JSON


@dataclass(frozen=True)
class Grid(Axis):
    """Rules that train the same networks on the same batches from the same weights."""

    datasets: Annotated[tyro.conf.Positional[tuple[str, ...]], optional("DATASET [DATASET ...]")]
    """digits, mnist, fashion-mnist, cifar-10, python (text), or paths of an .npz or a .txt."""
    rules: Words = ()
    """Rules, the first one to compare with, as lra-e:beta=0.1; by default all of one pass."""
    models: Words = ("mlp",)
    """Networks, as mlp:width=128,activation=relu."""
    depths: Annotated[tuple[int, ...], optional("[INT ...]")] = ()
    """Depths of the networks that have one and do not state it."""
    seeds: int = 3
    """How many runs each rule has on each network, with seeds 0, 1, 2, ..."""
    epochs: MaybeInt = None
    """Passes over the training data; by default 10, or as many as make 1,000 steps if more."""
    batch_size: int = 50
    """Samples a step."""
    optimizer: str = "adamw"
    """sgd, adam, adamw or rmsprop."""
    lr: float = 1e-3
    """Step size, where a rule does not state its own and none is searched."""
    schedule: str = "constant"
    """How the step size goes: constant, cosine or one-cycle."""
    weight_decay: MaybeFloat = None
    """Weight decay; by default the optimizer's own."""
    validation: MaybeInt = None
    """Training samples set aside for validation; by default 2,000, or a tenth if that is less."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    trials: Annotated[int, tyro.conf.arg(aliases=["--tune"])] = 0
    """How many trials each rule has on each network to choose its settings; 0 takes the stated."""
    options: Annotated[Search, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Search)

    def __post_init__(self) -> None:
        for name in ("datasets", "rules", "models", "depths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, least in (("seeds", 0), ("trials", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} must be {least} or more; got {getattr(self, name)}")
        if not self.datasets:
            raise OptionError("name a dataset, such as digits")
        if self.options.sampler not in SAMPLERS:
            raise unknown("sampler", self.options.sampler, SAMPLERS)
        for what in ("datasets", "rules", "models"):
            distinct(what, getattr(self, what))
        self._check_search()
        for problem in self.problems:  # what no rule may have is an error at once
            self._config(problem, {}, {}, seed=0)

    def _check_search(self) -> None:
        options = self.options
        distinct("search", (one.name for one in self.space))
        for one in self.space:
            owners = [e.text for e in self.entrants if one.name in rule_kinds(e.name)]
            if one.name not in STEP and not owners:
                known = {*STEP, *(o for e in self.entrants for o in rule_kinds(e.name))}
                raise unknown("setting to search", one.name, known)
        if self.trials and not options.search:
            raise OptionError("trials are given, and search names nothing to choose")
        if self.trials and self.validation == 0:
            raise OptionError("trials need validation samples, and validation is 0")

    @cached_property
    def entrants(self) -> tuple[Spec, ...]:
        """The rules, the first one to compare with."""
        return tuple(read_rule(text) for text in self.rules or tuple(RULES))

    @cached_property
    def space(self) -> tuple[Dimension, ...]:
        """What is searched."""
        return tuple(read_dimension(text) for text in self.options.search)

    @cached_property
    def problems(self) -> tuple["Problem", ...]:
        """The networks on the datasets."""
        found = []
        for dataset in self.datasets:
            for spec in (read_model(text) for text in self.models):
                free = "depth" in NETWORKS[spec.name].options and "depth" not in spec.settings
                if not (free and self.depths):
                    found.append(Problem(dataset, spec, None))
                else:
                    found += [Problem(dataset, spec, depth) for depth in self.depths]
        return tuple(found)

    @cached_property
    def contests(self) -> tuple["Contest", ...]:
        """Each rule on each network."""
        return tuple(Contest(self, p, e) for p in self.problems for e in self.entrants)

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
    """A network on a dataset; `depth` is what the grid adds to the network's own settings."""

    dataset: str
    model: Spec
    depth: int | None

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of `TrainConfig` that make the network."""
        return dict(self.model.settings) | ({} if self.depth is None else {"depth": self.depth})

    @property
    def model_text(self) -> str:
        """The network as `--models` takes it."""
        if self.depth is None:
            return self.model.text
        mark = "," if ":" in self.model.text else ":"
        return f"{self.model.text}{mark}depth={self.depth}"

    def __str__(self) -> str:
        return f"{Path(self.dataset).stem}, {self.model_text}"


@dataclass(frozen=True)
class Contest:
    """A rule on a network: its trials, and its runs."""

    grid: Grid
    problem: Problem
    entrant: Spec

    @property
    def space(self) -> tuple[Dimension, ...]:
        """What is searched for this rule: what it has, and does not state."""
        own = (*STEP, *rule_kinds(self.entrant.name))
        stated = self.entrant.settings
        return tuple(d for d in self.grid.space if d.name in own and d.name not in stated)

    @property
    def trials(self) -> int:
        """How many trials its settings are chosen by."""
        return self.grid.trials if self.space else 0

    def config(self, seed: int, found: Mapping[str, Any], **more: Any) -> TrainConfig:
        """Configure a run.

        Args:
            seed: of the run.
            found: what a search chose, by name.
            more: other fields of `TrainConfig`.

        Raises:
            OptionError: for settings that do not belong together.
        """
        kinds = rule_kinds(self.entrant.name)
        given = dict(self.entrant.settings) | {
            name: self._typed(name, value) for name, value in found.items()
        }
        rule = named(self.entrant.name, **{k: v for k, v in given.items() if k in kinds})
        steps = {k: v for k, v in given.items() if k not in kinds}
        return self.grid._config(self.problem, steps, {"rule": rule}, seed=seed, **more)

    def _typed(self, name: str, value: Any) -> Any:
        """Give a searched value as the option takes it; words are read as on the command line."""
        kinds = rule_kinds(self.entrant.name)
        if isinstance(value, str):
            kind = kinds[name] if name in kinds else TrainConfig.__annotations__[name]
            return read_value(name, value, kind)
        return round(value) if kinds.get(name) is int else float(f"{value:.3g}")

    def trial_config(self, found: Mapping[str, Any]) -> TrainConfig:
        """Configure a trial: shorter where the grid says so, and blind to the test split."""
        more: dict[str, Any] = {"test": False}
        if self.grid.options.trial_epochs is not None:
            more["epochs"] = self.grid.options.trial_epochs
        return self.config(TRIAL_SEED, found, **more)

    def name_of(self, config: TrainConfig) -> str:
        """Name a run by what it trains."""
        return f"{slug(str(self))[-100:]}-{digest(config)}"

    @property
    def key(self) -> str:
        """The name under which a refusal of the rule on the network is written down."""
        return self.name_of(self.trial_config({}))

    def __str__(self) -> str:
        return f"{self.problem}: {self.entrant.text}"
