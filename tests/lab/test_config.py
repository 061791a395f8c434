"""The configuration: round trips, errors, the recipes and the help texts."""

import inspect
import json
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from workbench import begin, read_train

import lra
from lra.errors import OptionError
from lra.inits import FanIn, Normal
from lra.lab.networks.table import NETWORKS
from lra.lab.runs import files
from lra.lab.settings import options, recipes
from lra.lab.settings.config import TrainConfig
from lra.lab.settings.options import (
    ACTIVATIONS,
    OPTIMIZERS,
    PRECISIONS,
)
from lra.lab.settings.recipes import RECIPES, Recipe
from lra.lab.settings.schedule import SCHEDULES
from lra.lab.training.augment import AUGMENTATIONS
from lra.torch import registry

RULES = [
    *(build() for build in (*lra.RULES.values(), *lra.methods.METHODS.values())),
    lra.LRAE(0.3, 0.5, 2.0, lra.crossing.Cauchy(), lra.crossing.TanhSurrogate(), Normal(0.2)),
    lra.SignSymmetry(lra.feedback.Magnitude.BATCH, Normal(0.3)),
    lra.Rule(lra.feedback.SignSymmetric(), lra.crossing.TargetDifference()),
]


def through_json(config: TrainConfig) -> TrainConfig:
    return TrainConfig.from_config(json.loads(json.dumps(config.to_config())))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rules_survive_json(rule: lra.Rule) -> None:
    config = TrainConfig("digits", rule=rule)
    again = through_json(config)
    assert again == config
    assert again.rule == rule
    assert again.to_config() == config.to_config()


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name: str) -> None:
    config = TrainConfig(**RECIPES[name].settings)
    assert through_json(config) == config


def test_every_field_survives_json() -> None:
    other: dict[str, Any] = {
        "dataset": "a.npz",
        "rule": lra.KolenPollack(0.5),
        "model": "mlp:hidden=3-2,activation=sign,straight_through=tanh,init=normal:0.25,bias=false",
        "loss": "logistic",
        "optimizer": "adam",
        "lr": 0.25,
        "schedule": "cosine",
        "milestones": (2, 5),
        "warmup": 0.125,
        "feedback_lr": 0.125,
        "share_feedback": "never",
        "mirror_every": None,  # excludes two devices
        "mirror_samples": 128,
        "mirror_step": 1.0,
        "mirror_decay": None,
        "weight_decay": 0.5,
        "momentum": None,
        "betas": (0.5, 0.75),
        "smoothing": None,
        "augment": ("crop", "flip"),
        "epochs": 3,
        "batch_size": 7,
        "validation": 9,
        "patience": 2,
        "seed": 11,
        "test": False,
        "test_each_epoch": False,
        "device": "cpu",
        "devices": 2,
        "precision": "64",
        "threads": 2,
        "compile": "auto",  # "always" excludes two devices
        "diagnose": 5,
        "sources": (),
        "source_folder": "",
    }
    assert other.keys() == {f.name for f in fields(TrainConfig)}
    config = TrainConfig(**other)
    again = through_json(config)
    for name, value in other.items():
        assert getattr(again, name) == value
        assert type(getattr(again, name)) is type(value)
    for others in (
        TrainConfig("digits", optimizer="rmsprop", momentum=0.5, smoothing=0.25),
        TrainConfig("digits", model="vit:width=32,depth=2,patch=4,init=orthogonal:0.5"),
        TrainConfig("python", model="gpt:context=16", compile="always"),
        TrainConfig(
            "digits",
            "feedback-alignment",
            mirror_every=5,
            mirror_samples=9,
            mirror_step=0.5,
            mirror_decay=0.25,
            test_each_epoch=True,
        ),
    ):
        assert through_json(others) == others


def test_a_path_may_name_the_data(tmp_path: Path) -> None:
    config = TrainConfig(tmp_path / "mine.npz")  # type: ignore[arg-type]
    assert config.dataset == str(tmp_path / "mine.npz")
    assert through_json(config) == config


def test_unknown_fields_and_types_are_refused() -> None:
    plain = TrainConfig("digits").to_config()
    with pytest.raises(OptionError, match=r"'epocs'.*Did you mean 'epochs'"):
        TrainConfig.from_config(plain | {"epocs": 3})
    with pytest.raises(OptionError, match="'Trainconfig'"):
        TrainConfig.from_config(plain | {"type": "Trainconfig"})
    with pytest.raises(OptionError, match="'type'"):
        TrainConfig.from_config({"dataset": "digits"})
    broken = dict(plain["rule"], feedback={"type": "Learned", "gama": 1.0})
    with pytest.raises(OptionError, match=r"'gama'.*Did you mean 'gamma'"):
        TrainConfig.from_config(plain | {"rule": broken})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": "mlp:hidden=4-0"}, r"hidden of network 'mlp' must be .* from 1 to .*; got 0"),
    ({"model": "mlp:hidden=4.0"}, r"hidden of network 'mlp': '4.0' is not a valid value"),
    ({"model": "mlp:hidden=-4"}, r"hidden of network 'mlp': '-4' is not a valid value"),
    ({"model": "lennet"}, r"network 'lennet'; known: gpt, lenet, mlp, .*Did you mean 'lenet'"),
    ({"model": "mlp:widht=4"}, r"option of network 'mlp' 'widht'; known: .*mean 'width'"),
    ({"model": "mlp:width=0"}, r"width of network 'mlp' must be a whole number from 1 .*; got 0"),
    ({"model": "mlp:depth=2.0"}, r"depth of network 'mlp': '2.0' is not a valid value"),
    ({"model": "mlp:depth=10001"}, r"depth of network 'mlp' must be .* 1 to 10,000; got 10001"),
    ({"model": "vit:width=1000001"}, r"width of network 'vit' must be .*1,000,000; got 1000001"),
    ({"model": "mlp:hidden=4,width=4"}, r"hidden already sets all sizes; leave out .* or width"),
    ({"model": "mlp:hidden=4,depth=4"}, r"hidden already sets all sizes; leave out .* or depth"),
    ({"model": "vit:patch=0"}, r"patch of network 'vit' must be a whole number from 1 .*; got 0"),
    ({"model": "gpt:context=-1"}, r"context of network 'gpt' must be .*; got -1"),
    ({"model": "mlp:activation=tahn"}, r"activation 'tahn'.*known: .*Did you mean 'tanh'"),
    ({"model": "mlp:activation=tanh:2"}, r"activation 'tanh' takes no number; got 'tanh:2'"),
    ({"model": "mlp:activation=relu:1"}, r"activation 'relu' takes no"),  # torch would take inplace
    ({"model": "mlp:activation=gelu:1"}, r"activation 'gelu' takes no number"),
    ({"model": "mlp:activation=prelu:4"}, r"activation 'prelu' takes no number"),  # num_parameters
    ({"model": "mlp:activation=sign:4"}, r"activation 'sign' takes no number"),
    ({"model": "mlp:activation=lwta"}, r"activation 'lwta' needs a number, as in lwta:2"),
    ({"model": "mlp:activation=quantized"}, r"activation 'quantized' needs a number"),
    ({"model": "mlp:activation=quantized:"}, r"'quantized:': '' is not a valid number"),
    ({"model": "mlp:activation=quantized:1"}, r"'1' is not a valid number .*2 levels or more"),
    ({"model": "mlp:activation=quantized:2.5"}, r"'2.5' is not a valid number for quantized"),
    ({"model": "mlp:activation=elu:x"}, r"'x' is not a valid number for elu"),
    ({"model": "mlp:straight_through=tanh"}, r"straight_through is an .*sign.*, not of tanh"),
    (
        {"model": "mlp:activation=sign,straight_through=hardtan"},
        r"surrogate 'hardtan'; known: .*Did you mean 'hardtanh'",
    ),
    ({"model": "mlp:dropout=1"}, r"dropout of network 'mlp' must be from 0 to below 1; got 1"),
    ({"model": "mlp:dropout=-0.1"}, r"dropout of network 'mlp' must be from 0 to below 1"),
    ({"model": "mlp:bias=no"}, r"bias of network 'mlp': 'no' is not .*true or false"),
    ({"model": "mlp:init=fanin"}, r"initialisation 'fanin'.*Did you mean 'fan-in'"),
    ({"model": "mlp:init=mirror"}, r"init of network 'mlp': mirror estimates weights that are"),
    ({"model": "mlp:init=low-rank"}, r"initialisation 'low-rank' needs a rank, as in low-rank:8"),
    ({"model": "mlp:width"}, r"expected NAME or NAME:OPTION=VALUE,OPTION=VALUE; got 'width'"),
    ({"model": "mlp:width=4,width=5"}, r"width is given twice"),
    ({"model": 5}, r"model must be a text such as mlp:width=64; got 5"),
    ({"model": "residual-mlp:scaling=mupcc"}, r"scaling .*'mupcc' is not .*one of depth, mupc"),
    ({"model": "lenet:standardize=1"}, r"standardize .* must be MEAN-DEVIATION, .*; got 1.0"),
    ({"model": "mlp:standardize=1-0"}, r"a deviation above 0; got 1.0-0.0"),
    ({"model": "gpt:standardize=1-2"}, r"unknown option of network 'gpt' 'standardize'"),
    ({"loss": "logistc"}, r"loss 'logistc'; known: cross-entropy, logistic.*mean 'logistic'"),
    ({"milestones": (5, 5)}, r"milestones must be .* each above the one before; got \(5, 5\)"),
    ({"milestones": (0,)}, r"milestones must be whole numbers, 1 or more, .*; got \(0,\)"),
    ({"milestones": 5}, r"milestones must be whole numbers"),
    ({"mirror_every": 0}, r"mirror_every must be a whole number, 1 or more; got 0"),
    ({"mirror_samples": 0}, r"mirror_samples must be a whole number, 1 or more; got 0"),
    ({"mirror_samples": 9}, r"mirror_samples has no effect without mirror_every"),
    ({"mirror_step": 0.0}, r"mirror_step must be above 0 and at most 1; got 0.0"),
    ({"mirror_step": 2.0}, r"mirror_step must be above 0 and at most 1; got 2.0"),
    ({"mirror_decay": 1.5}, r"mirror_decay must be 0 or more and at most 1; got 1.5"),
    ({"mirror_every": 1, "rule": "backprop"}, r"mirror_every needs a rule .*; backprop has none"),
    ({"mirror_every": 1, "rule": "dtp"}, r"mirror_every needs a rule .*; dtp has none"),
    ({"mirror_every": 1, "rule": "direct-lra"}, r"mirror_every needs .*; direct-lra has none"),
    ({"mirror_every": 1, "devices": 2}, r"devices must be 1 with mirror_every; got 2"),
    ({"test_each_epoch": 1}, r"test_each_epoch must be true or false; got 1"),
    ({"test_each_epoch": True, "test": False}, r"test_each_epoch needs the test set"),
    ({"compile": "no"}, r"unknown compile 'no'; known: always, auto, never"),
    ({"compile": "always", "devices": 2}, r"compile is always, but several .*; leave --compile"),
    ({"test": "no"}, r"test.*'no'"),
    ({"rule": "lra"}, r"rule 'lra'; known: .*Did you mean 'lra-e'"),
    ({"rule": "lra-e:lr=0.1"}, r"lr is a setting of the run, .*give it as --lr"),
    ({"rule": 5}, r"rule must be a Rule, a Method or a text; got 5"),
    ({"sources": 5}, r"sources"),
    ({"source_folder": 5}, r"source_folder"),
    ({"optimizer": "adamm"}, r"optimizer 'adamm'.*known: adam, adamw, rmsprop, sgd"),
    ({"precision": "16"}, r"precision '16'.*known: 32, 64, bf16-mixed"),
    ({"precision": 16}, r"precision '16'.*known: 32, 64, bf16-mixed"),
    ({"device": "gpu"}, r"device 'gpu'.*known: auto, cpu, cuda, mps"),
    ({"lr": 0}, r"lr must be a number, above 0; got 0"),
    ({"lr": -1e-3}, r"lr must be a number, above 0; got -0.001"),
    ({"lr": math.inf}, r"lr .*inf"),
    ({"lr": math.nan}, r"lr .*nan"),
    ({"lr": "0.1"}, r"lr .*'0.1'"),
    ({"lr": True}, r"lr .*True"),
    ({"schedule": "cosin"}, r"schedule 'cosin'; known: constant, cosine, one-cycle"),
    ({"threads": 0}, r"threads must be a whole number, 1 or more, at most 4,096; got 0"),
    ({"threads": 2**40}, r"threads must be a whole number, 1 or more, at most 4,096"),
    ({"warmup": 1.0}, r"warmup must be 0 or more, and below 1; got 1.0"),
    ({"warmup": -0.1}, r"warmup must be 0 or more, and below 1; got -0.1"),
    ({"augment": ("flop",)}, r"augment 'flop'; known: crop, flip.*Did you mean 'flip'"),
    ({"augment": "flip"}, r"augment must be a tuple of names; got 'flip'"),
    ({"feedback_lr": -1.0}, r"feedback_lr must be a number, 0 or more; got -1.0"),
    ({"feedback_lr": math.nan}, r"feedback_lr"),
    ({"share_feedback": "often"}, r"unknown share_feedback 'often'; known: always, auto, never"),
    ({"weight_decay": -0.1}, r"weight_decay must be a number, 0 or more; got -0.1"),
    ({"optimizer": "sgd", "momentum": -0.5}, r"momentum.*0 or more.*-0.5"),
    ({"optimizer": "sgd", "momentum": math.nan}, r"momentum"),
    ({"betas": (1.0, 0.9)}, r"betas.*0 or more.*below 1.*1.0"),
    ({"betas": (0.9, -0.1)}, r"betas.*-0.1"),
    ({"betas": (0.9,)}, r"betas.*two"),
    ({"betas": (0.9, 0.9, 0.9)}, r"betas.*two"),
    ({"betas": 0.9}, r"betas.*two"),
    ({"optimizer": "rmsprop", "smoothing": 1.5}, r"smoothing.*1.5"),
    ({"optimizer": "rmsprop", "smoothing": -0.5}, r"smoothing.*-0.5"),
    ({"epochs": 0}, r"epochs must be a whole number, 1 or more; got 0"),
    ({"epochs": 2.0}, r"epochs.*2.0"),
    ({"epochs": True}, r"epochs.*True"),
    ({"batch_size": 0}, r"batch_size must be a whole number, 1 or more; got 0"),
    ({"validation": -1}, r"validation must be a whole number, 0 or more; got -1"),
    ({"diagnose": 0}, r"diagnose must be a whole number, 1 or more; got 0"),
    ({"patience": 0}, r"patience must be a whole number, 1 or more; got 0"),
    ({"patience": 2, "validation": 0}, r"patience.*validation"),
    ({"seed": -1}, r"seed must be a whole number, .*got -1"),
    ({"seed": 2**64}, r"seed must be below 2.63; got 18446744073709551616"),
    ({"devices": 0}, r"devices must be a whole number, 1 or more; got 0"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=lambda v: str(v)[:50])
def test_wrong_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TrainConfig("digits", **changes)


def test_wrong_values_cover_every_field() -> None:
    tried = {name for changes, _ in WRONG for name in changes}
    assert tried == {f.name for f in fields(TrainConfig)} - {"dataset"}


def test_edges_are_allowed() -> None:
    TrainConfig(
        "digits", model="mlp:depth=1", validation=0, seed=2**63 - 1, weight_decay=0, feedback_lr=0
    )
    TrainConfig("digits", betas=(0.0, 0.0), patience=1, epochs=1, batch_size=1)
    TrainConfig("digits", optimizer="rmsprop", smoothing=0.0, momentum=0.0)


VALUES = {"momentum": 0.5, "betas": (0.9, 0.9), "smoothing": 0.9}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("option", VALUES)
def test_options_of_another_optimizer_are_refused(optimizer: str, option: str) -> None:
    owners = {
        "momentum": {"sgd", "rmsprop"},
        "betas": {"adam", "adamw"},
        "smoothing": {"rmsprop"},
    }[option]
    settings = {"optimizer": optimizer, option: VALUES[option]}
    if optimizer in owners:
        assert getattr(TrainConfig("digits", **settings), option) == VALUES[option]
        return
    with pytest.raises(OptionError, match=f"^{option} is an option of .*not of {optimizer}") as e:
        TrainConfig("digits", **settings)
    listed = set(re.split(" and ", re.findall(r"an option of (.*), not", str(e.value))[0]))
    assert listed == owners


def test_default_sizes() -> None:
    sizes = {name: dict(network.options) for name, network in NETWORKS.items()}
    assert sizes == {
        "mlp": {"hidden": None, "width": 256, "depth": 5, "dropout": 0.0},
        "residual-mlp": {"width": 128, "depth": 32, "scaling": "depth"},
        "lenet": {"resize": False},
        "resnet": {"width": 16, "depth": 8},
        "vit": {"width": 64, "depth": 4, "patch": None},
        "gpt": {"width": 128, "depth": 4, "context": 128},
    }
    assert TrainConfig("python", model="gpt:context=9").data_options == {"context": 9}
    assert TrainConfig("digits").data_options == {}


# recipes, compared with the numbers of their sources

SEED = {
    "optimizer": "adamw",
    "lr": 0.001,
    "weight_decay": 0.01,
    "batch_size": 50,
    "epochs": 100,
    "validation": 2000,
}
EXPECTED = {
    "seed-mnist": (
        lra.Rule(lra.feedback.Learned(1.0, Normal(0.1)), lra.crossing.TargetDifference(0.1, 1.0)),
        {**SEED, "model": "mlp:hidden=256-256-256-256,init=normal:0.1,bias=false"},
    ),
    "seed-fashion-mnist": (
        lra.Rule(lra.feedback.Learned(1.0, FanIn(1.0)), lra.crossing.TargetDifference(0.1, 1.0)),
        {**SEED, "model": "mlp:hidden=256-256-256-256,bias=false"},
    ),
    "paper": (
        lra.Rule(
            lra.feedback.Learned(1.0, Normal(math.sqrt(0.05))),
            lra.crossing.TargetDifference(0.1, 1.0),
        ),
        {
            "model": f"mlp:hidden=256-256-256,init=normal:{math.sqrt(0.05)!r}",
            "optimizer": "sgd",
            "lr": 0.01,
            "weight_decay": 0.0,
            "batch_size": 50,
            "epochs": 100,
        },
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_recipes_hold_the_numbers_of_their_sources(name: str) -> None:
    rule, settings = EXPECTED[name]
    config, _ = read_train(["--recipe", name])
    assert config.rule == rule
    assert config.dataset == ("fashion-mnist" if "fashion" in name else "mnist")
    defaults = TrainConfig("mnist")
    for f in fields(TrainConfig):
        if f.name not in ("dataset", "rule"):
            expected = settings.get(f.name, getattr(defaults, f.name))
            assert getattr(config, f.name) == expected, f.name
    assert config.feedback_lr is None
    assert config.momentum is None
    assert config.betas is None
    assert config.patience is None


OWN_RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "mnist-deep": ("mnist", {"model": "mlp:width=128,depth=32,init=lecun"}),
    "mnist-128": ("mnist", {"model": "residual-mlp:depth=128"}),
    "mnist-binary": ("mnist", {"model": "mlp:depth=4,activation=sign,init=lecun"}),
    "mnist-blackbox": ("mnist", {"model": "mlp:depth=4,activation=table,init=lecun"}),
    "fashion-lenet": ("fashion-mnist", {"model": "lenet"}),
    "cifar-resnet": ("cifar-10", {"model": "resnet", "augment": ("flip", "crop")}),
    "text-gpt": ("python", {"model": "gpt"}),
}


@pytest.mark.parametrize("name", OWN_RECIPES)
def test_recipes_need_no_other_options(name: str) -> None:
    """Each sets MirroredLRA and its dataset; both can be overridden."""
    dataset, settings = OWN_RECIPES[name]
    config, _ = read_train(["--recipe", name])
    assert config.rule == lra.MirroredLRA()
    assert config.dataset == dataset
    assert {field: getattr(config, field) for field in settings} == settings
    assert config.epochs is not None
    other, _ = read_train(["digits", "--recipe", name, "--rule", "backprop"])
    assert (other.dataset, other.rule) == ("digits", lra.Backprop())
    same = {f.name for f in fields(TrainConfig)} - {"dataset", "rule"}
    assert all(getattr(other, field) == getattr(config, field) for field in same)


def test_recipes_are_all_tested() -> None:
    assert RECIPES.keys() == EXPECTED.keys() | OWN_RECIPES.keys()
    assert all(isinstance(recipe, Recipe) and recipe.summary for recipe in RECIPES.values())


def test_unknown_recipe() -> None:
    assert recipes.recipe("paper") is RECIPES["paper"]
    with pytest.raises(OptionError, match=r"recipe 'seed-mnits'; known: .*Did you mean 'seed-m"):
        recipes.recipe("seed-mnits")


def test_defaults() -> None:
    config = TrainConfig("mnist")
    assert config.rule == lra.LRAE(beta=0.1, gamma=1.0)
    assert (config.model, config.optimizer) == ("mlp", "adamw")
    assert (NETWORKS["mlp"].activation, NETWORKS["mlp"].init) == ("tanh", FanIn())
    assert (config.lr, config.schedule, config.batch_size) == (1e-3, "constant", 50)


# initialisations as text


@pytest.mark.parametrize(
    ("text", "init"),
    [
        ("fan-in", FanIn()),
        ("fan-in:0.5", FanIn(0.5)),
        ("normal", Normal()),
        ("normal:0.1", Normal(0.1)),
        ("normal:1e-9", Normal(1e-9)),
        ("xavier:0.5", lra.inits.Xavier(0.5)),
        ("low-rank:3", lra.inits.LowRank(3)),
        ("mirror", lra.inits.Mirror()),
        ("mirror:50", lra.inits.Mirror(50)),
        ("orthogonal", lra.inits.Orthogonal()),
        ("orthogonal:1.5", lra.inits.Orthogonal(1.5)),
        ("lecun", FanIn(math.sqrt(3))),
        ("kaiming", FanIn(math.sqrt(6))),
    ],
)
def test_initialisations_are_read(text: str, init: lra.inits.Init) -> None:
    assert options.parse_init(text) == init


@pytest.mark.parametrize(
    "init",
    [
        *(FanIn(), FanIn(2.5), FanIn(math.sqrt(3)), FanIn(math.sqrt(6)), lra.inits.Orthogonal(0.7)),
        *(
            Normal(),
            Normal(0.1),
            Normal(math.sqrt(0.05)),
            Normal(1 / 3),
            lra.inits.LikeWeights(2.0),
            lra.inits.LowRank(3),
            lra.inits.Mirror(50),
        ),
    ],
)
def test_initialisations_survive_formatting(init: lra.inits.Init) -> None:
    assert options.parse_init(options.format_init(init)) == init


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "fanin",
            r"initialisation 'fanin'; known: fan-in, kaiming, lecun.*Did you mean 'fan-in'",
        ),
        (
            "",
            r"initialisation ''; known: fan-in, kaiming, lecun, like-weights, low-rank, mirror, n",
        ),
        ("lecun:2", r"initialisation 'lecun' takes no number; got 'lecun:2'"),
        ("orthogonal:-1", r"'-1' is not a positive number"),
        ("normal:x", r"'normal:x': 'x' is not a positive number"),
        ("normal:0", r"'normal:0': '0' is not a positive number"),
        ("fan-in:-1", r"'-1' is not a positive number"),
        ("normal:nan", r"'nan' is not a positive number"),
        ("normal:inf", r"'inf' is not a positive number"),
    ],
)
def test_wrong_initialisations_are_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        options.parse_init(text)


# the help texts list what the tables hold


def field_texts(cls: type) -> dict[str, str]:
    """Return the docstring of each field, which is its help text."""
    pairs = re.findall(r'^    (\w+): .*\n    """([^"]*)"""', inspect.getsource(cls), re.M)
    return {name: " ".join(text.split()) for name, text in pairs}


def listed(text: str) -> set[str]:
    return set(re.findall(r"[\w.-]+\w", text.split(";")[0])) - {
        "or",
        "default",
        "and",
        "own",
        "your",
    }


def test_help_lists_the_tables() -> None:
    texts = field_texts(TrainConfig)
    assert listed(texts["optimizer"]) == set(OPTIMIZERS)
    assert listed(texts["precision"]) == set(PRECISIONS)
    assert listed(texts["device"]) == {"auto", "cpu", "cuda", "mps"}
    assert listed(texts["model"].partition(":")[2].partition(", or your own")[0]) == set(NETWORKS)
    for name in SCHEDULES:
        assert re.search(rf"\b{name}\b", texts["schedule"])
    for name in AUGMENTATIONS:
        assert f"{name} (" in texts["augment"]
    for option in ("momentum", "betas", "smoothing"):
        owners = {name for name, names in OPTIMIZERS.items() if option in names}
        assert {name for name in OPTIMIZERS if re.search(rf"\b{name}\b", texts[option])} == owners
    rules = texts["rule"].partition(":")[2].replace("; a method:", ",").replace(";", ",")
    assert listed(rules.partition(", or your own")[0]) == {*lra.RULES, *lra.methods.METHODS}


def test_help_lists_the_networks_with_a_size() -> None:
    text = field_texts(TrainConfig)["model"]
    for option in {name for network in NETWORKS.values() for name in network.options}:
        owners = {name for name, network in NETWORKS.items() if option in network.options}
        (found,) = re.findall(
            rf"{option}(?:=256-128)?(?: or width)?(?: and depth)? \(([^):]*)[:)]", text
        )[-1:]
        assert owners - {"mlp"} == set(found.split(", ")) - {"mlp"}, option
    for option in NETWORKS["mlp"].defaults:
        assert option in text


def test_activations_are_torchs_and_the_librarys() -> None:
    others = {cls for cls in ACTIVATIONS.values() if cls not in options.LIBRARY_ACTIVATIONS}
    torchs = {cls for cls in registry.ACTIVATIONS if cls.__module__.startswith("torch.")}
    assert others == torchs - {nn.Threshold}
    assert all(name == cls.__name__.lower() for name, cls in ACTIVATIONS.items())
    assert {"tanh", "relu", "sigmoid", "gelu"} <= set(ACTIVATIONS)


def test_the_saved_configuration_is_readable(tmp_path: Path) -> None:
    begin(tmp_path / "run", TrainConfig("digits", model="mlp:hidden=3"))
    plain = json.loads((tmp_path / "run" / files.CONFIG).read_text())
    assert plain["model"] == "mlp:hidden=3"
    assert plain["rule"]["crossing"]["beta"] == 0.1
    assert files.read_config(tmp_path / "run") == TrainConfig("digits", model="mlp:hidden=3")
