"""Parsing of a comparison's command line, names of runs, and points of a search."""

import dataclasses
import json
import shlex

import pytest

import lra
from lra.axis import Axis
from lra.inits import Normal
from lra.lab.cli import main
from lra.lab.comparison.digest import digest
from lra.lab.comparison.grid import Grid, Search
from lra.lab.comparison.space import Choice, Range, even_point, read_dimension
from lra.lab.comparison.words import command
from lra.lab.settings.config import TrainConfig
from lra.lab.settings.spec import RULES_AND_METHODS, parse_rule


def grid(*datasets: str, **changes: object) -> Grid:
    return Grid(datasets or ("digits",), **changes)


def test_names_of_runs_match_those_of_earlier_versions() -> None:
    settings = {"dataset": "mnist", "model": "mlp:width=128,depth=8,activation=sigmoid,init=lecun"}
    more = {"schedule": "one-cycle", "batch_size": 100, "validation": 38_000}
    config = TrainConfig(rule=lra.Backprop(), seed=1000, epochs=1, lr=1e-4, **settings, **more)
    assert digest(config) == "edd37fae8d"
    assert digest(dataclasses.replace(config, lr=1e-3)) == "725dbc5578"


def test_new_options_change_no_name() -> None:
    @dataclasses.dataclass(frozen=True)
    class Small(Axis):
        beta: float = 0.1

    small = Small(0.2)

    @dataclasses.dataclass(frozen=True)
    class Small(Axis):
        beta: float = 0.1
        new: int = 3

    assert digest(Small(0.2)) == digest(small)
    assert digest(Small(0.2, 4)) != digest(small)


# parsing


def test_a_rule_with_options_of_each_type() -> None:
    settings = {"lr": float, "optimizer": str}
    spec = parse_rule(
        "lra-e:beta=0.2,init=normal:0.1,relative=batch,local_loss=absolute,two_sided=true,"
        "surrogate=tanh,lr=0.01,optimizer=sgd",
        settings,
    )
    assert spec.name == "lra-e"
    assert spec.options == {
        **{"beta": 0.2, "init": Normal(0.1), "relative": lra.crossing.Relative.BATCH},
        **{
            "local_loss": lra.crossing.Absolute(),
            "two_sided": True,
            "surrogate": lra.crossing.TanhSurrogate(),
        },
        **{"lr": 0.01, "optimizer": "sgd"},
    }
    assert parse_rule("mirrored-lra:relative=none,samples=100").options == {
        "relative": None,
        "samples": 100,
    }


@pytest.mark.parametrize("name", RULES_AND_METHODS)
def test_every_rule_and_method_can_be_named(name: str) -> None:
    (experiment,) = grid(rules=(name,)).experiments
    assert experiment.config(3, {}).rule == lra.rules.named(name)
    assert experiment.config(3, {}).seed == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backprop:beta=1", "unknown option of rule 'backprop' 'beta'; known: "),
        ("lra-e:bta=1", "Did you mean 'beta'"),
        ("lra-e:beta", "expected NAME or NAME:OPTION=VALUE"),
        ("lra-e:beta=1,beta=2", "beta is given twice"),
        ("lra-e:beta=much", "beta of rule 'lra-e': 'much' is not a valid value"),
        ("lra-e:two_sided=1", "'1' is not a valid value .true or false"),
        ("lra-e:relative=image", "'image' is not a valid value .*unit, sample, batch"),
        ("lra-e:local_loss=huber", "known: absolute, cauchy, mixed, squared"),
        ("lra-e:epochs=3", "unknown option of rule 'lra-e' 'epochs'"),
        ("lra", "unknown rule 'lra'; known: "),
    ],
)
def test_invalid_rules_are_refused(text: str, message: str) -> None:
    with pytest.raises(lra.errors.OptionError, match=message):
        grid(rules=(text,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": ("backprop", "backprop")}, "rules: 'backprop' is given twice"),
        (
            {"models": ("mlp:hiden=3",)},
            "unknown option of network 'mlp' 'hiden'.*Did you mean 'hidden'",
        ),
        ({"models": ("lenet:width=3",)}, "unknown option of network 'lenet' 'width'"),
        ({"rules": ()}, "rules has no values; name at least one"),
        ({"models": ()}, "models has no values"),
        ({"depths": ()}, "depths has no values"),
        ({"trials": 2, "options": Search(())}, "search has no settings"),
        ({"seeds": -1}, "seeds must be 0 or more"),
        ({"epochs": 0}, "epochs must be a whole number, 1 or more"),
        ({"trials": 2, "validation": 0}, "trials need validation samples"),
        ({"options": Search(search=("temperature=1..2",))}, "unknown setting to search"),
        ({"options": Search(search=("lr=1..2", "lr=1..3"))}, "search: 'lr' is given twice"),
        ({"options": Search(sampler="grid")}, "unknown sampler 'grid'; known: even, random, tpe"),
    ],
)
def test_invalid_grids_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(lra.errors.OptionError, match=message):
        grid(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": Search(("beta=0.1..1",))}, "search has no effect without trials; add"),
        ({"options": Search(sampler="tpe")}, "sampler has no effect without trials"),
        ({"options": Search(prune=True)}, "prune has no effect without trials"),
        ({"options": Search(trial_epochs=2)}, "trial_epochs has no effect without trials"),
        ({"depths": (3, 5), "models": ("lenet", "mlp:depth=4")}, "depths has no effect since"),
        ({"rules": ("backprop:lr=0.1",), "trials": 4}, "search has no effect on lr, since every"),
        ({"rules": ("backprop:lr=0.1",), "lr": 0.2}, "lr has no effect since every rule sets"),
        ({"trials": 4, "lr": 0.2}, "lr has no effect since every rule sets or searches it"),
        ({"rules": ("backprop:optimizer=sgd",), "optimizer": "adam"}, "optimizer has no effect"),
        (
            {"rules": ("lra-e:weight_decay=0.1",), "weight_decay": 0.2},
            "weight_decay has no effect since every rule",
        ),
    ],
)
def test_options_without_effect_are_refused(changes: dict[str, object], message: str) -> None:
    settings = {"rules": ("backprop", "lra-e")} | changes
    with pytest.raises(lra.errors.OptionError, match=message):
        grid(**settings)


def test_an_option_that_one_rule_uses_is_accepted() -> None:
    assert grid(rules=("backprop:lr=0.1", "lra-e"), lr=0.2).experiments[1].config(0, {}).lr == 0.2
    assert grid(models=("lenet", "mlp"), depths=(3,)).problems[1].depth == 3


def test_depths_apply_to_networks_that_have_a_depth_and_do_not_set_it() -> None:
    made = grid("digits", "mnist", models=("mlp", "lenet", "mlp:depth=4"), depths=(3, 8))
    assert [str(problem) for problem in made.problems] == [
        *("digits, mlp:depth=3", "digits, mlp:depth=8", "digits, lenet", "digits, mlp:depth=4"),
        *("mnist, mlp:depth=3", "mnist, mlp:depth=8", "mnist, lenet", "mnist, mlp:depth=4"),
    ]
    assert [e.config(0, {}).model for e in made.experiments[:: len(lra.RULES)]] == [
        *("mlp:depth=3", "mlp:depth=8", "lenet", "mlp:depth=4")
    ] * 2


def test_a_grid_survives_its_command_line_and_its_configuration() -> None:
    made = grid(
        *("digits", "mnist"), rules=("backprop", "lra-e:beta=0.2"), models=("mlp:width=32",),
        depths=(3, 5), seeds=2, epochs=4, lr=0.01, weight_decay=0.0, trials=6,
        options=Search(("momentum=0..0.9", "gamma=0,1"), 2, "tpe", True),
    )  # fmt: skip
    words = shlex.split(command(made))
    assert main.parse(words[1:]).grid == made  # type: ignore[attr-defined]
    assert Grid.from_config(json.loads(json.dumps(made.to_config()))) == made


# a search


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("lr=1e-4..1e-1:log", Range("lr", 1e-4, 1e-1, True)),
        ("beta=0.1..2", Range("beta", 0.1, 2.0)),
        ("gamma=0,0.5,1", Choice("gamma", ("0", "0.5", "1"))),
    ],
)
def test_dimensions_are_parsed(text: str, dimension: object) -> None:
    assert read_dimension(text) == dimension


@pytest.mark.parametrize(
    "text",
    ["lr", "lr=", "lr=2..1", "lr=0..1:log", "lr=1..2:log10", "lr=a..b", "g=1,1", "lr=1..nan"],
)
def test_invalid_dimensions_are_refused(text: str) -> None:
    with pytest.raises(lra.errors.OptionError, match="search"):
        read_dimension(text)


def test_points_cover_a_range_and_a_square() -> None:
    log = [Range("lr", 1e-4, 1.0, True)]
    assert even_point(log, 0)["lr"] == pytest.approx(1e-2)
    for count in (5, 8, 13):  # no gap exceeds three times that of even steps
        marks = sorted(even_point([Range("x", 0, 1)], i)["x"] for i in range(count))
        gaps = [b - a for a, b in zip([0.0, *marks], [*marks, 1.0], strict=True)]
        assert max(gaps) < 3 / (count + 1)
    square = [Range("x", 0, 1), Range("y", 0, 1)]
    cells = {(int(p["x"] * 4), int(p["y"] * 4)) for p in (even_point(square, i) for i in range(32))}
    assert len(cells) >= 15
    choice = [Choice("gamma", ("0", "1"))]
    assert {even_point(choice, i)["gamma"] for i in range(4)} == {"0", "1"}


def test_each_rule_is_searched_over_options_that_it_has_and_does_not_set() -> None:
    made = grid(
        rules=("backprop", "lra-e", "lra-e:beta=0.3", "backprop:lr=0.1"),
        trials=4,
        options=Search(("lr=1e-4..1e-1:log", "beta=0.1..1", "gamma=0,1")),
    )
    names = [[d.name for d in experiment.space] for experiment in made.experiments]
    assert names == [["lr"], ["lr", "beta", "gamma"], ["lr", "gamma"], []]
    assert [experiment.trials for experiment in made.experiments] == [4, 4, 4, 0]
    config = made.experiments[1].config(0, {"lr": 0.0123456, "beta": 0.25, "gamma": "0"})
    assert config.lr == 0.0123
    assert config.rule == lra.LRAE(0.25, 0.0)
