"""The grammar of rules and networks: every option is read, and written as text that reads back."""

import dataclasses
import enum
import functools
import inspect
import math
from typing import Any, Literal

import pytest

import lra
from lra.errors import OptionError
from lra.inits import FanIn, LikeWeights, Normal, Orthogonal
from lra.lab.networks.model import Model, parse_model
from lra.lab.networks.table import NETWORKS
from lra.lab.settings import spec
from lra.lab.settings.spec import RULES_AND_METHODS, format_spec, parse_rule

# networks

NETWORK_VALUES: dict[str, list[tuple[str, Any]]] = {
    "hidden": [("7", (7,)), ("7-5", (7, 5)), ("1-1000000-3", (1, 1_000_000, 3))],
    "width": [("1", 1), ("1000000", 1_000_000)],
    "depth": [("1", 1), ("10000", 10_000)],
    "patch": [("3", 3)],
    "context": [("9", 9)],
    "activation": [("sign", "sign"), ("elu:0.5", "elu:0.5"), ("quantized:4", "quantized:4")],
    "straight_through": [("hardtanh", "hardtanh"), ("sigmoid", "sigmoid")],
    "init": [
        *(("normal:0.25", Normal(0.25)), ("orthogonal:0.5", Orthogonal(0.5))),
        *(("fan-in:3", FanIn(3.0)), ("like-weights:2", LikeWeights(2.0))),
    ],
    "bias": [("false", False)],
    "standardize": [("0.5-0.25", (0.5, 0.25))],
    "resize": [("true", True)],
    "scaling": [("mupc", "mupc")],
    "dropout": [("0.25", 0.25)],
}
NETWORK_CASES = [
    (name, option, text, value)
    for name, network in NETWORKS.items()
    for option in network.defaults
    for text, value in NETWORK_VALUES[option]
]


@pytest.mark.parametrize(("name", "option", "text", "value"), NETWORK_CASES)
def test_every_option_of_every_network_is_read_and_written(
    name: str, option: str, text: str, value: object
) -> None:
    more = {"activation": "sign"} if option == "straight_through" else {}
    words = ",".join(f"{k}={v}" for k, v in {**more, option: text}.items())
    model = parse_model(f"{name}:{words}")
    assert (model.name, model.options) == (name, {**more, option: value})
    assert model.settings == NETWORKS[name].defaults | more | {option: value}
    assert str(model) == f"{name}:{words}"
    assert parse_model(str(model)) == model


@pytest.mark.parametrize("name", NETWORKS)
def test_defaults_are_not_written(name: str) -> None:
    defaults = {k: v for k, v in NETWORKS[name].defaults.items() if v is not None}
    model = parse_model(format_spec(name, defaults))
    assert model.options == defaults
    assert str(model) == name


def test_options_are_written_in_the_order_of_the_help() -> None:
    text = "mlp:bias=false,init=lecun,activation=relu,depth=3,width=9"
    assert str(parse_model(text)) == "mlp:width=9,depth=3,activation=relu,init=lecun,bias=false"


# rules and methods

SPECIAL: dict[type, list[tuple[str, Any]]] = {
    lra.crossing.LocalLoss: [
        ("squared", lra.crossing.Squared()),
        ("cauchy", lra.crossing.Cauchy()),
        ("absolute", lra.crossing.Absolute()),
        ("mixed", lra.crossing.Mixed()),
    ],
    lra.crossing.Surrogate: [
        ("identity", lra.crossing.IdentitySurrogate()),
        ("tanh", lra.crossing.TanhSurrogate()),
        ("hardtanh", lra.crossing.HardTanhSurrogate()),
        ("sigmoid", lra.crossing.SigmoidSurrogate()),
    ],
    lra.inits.Init: [("normal:0.5", Normal(0.5)), ("kaiming", FanIn(math.sqrt(6)))],
}


def texts_of(kind: Any) -> list[tuple[str, Any]]:
    """Return texts and values of a type that an option may have."""
    found: list[tuple[str, Any]] = []
    for one in spec._union_types(kind):
        if one is type(None):
            found.append(("none", None))
        elif one is bool:
            found += [("true", True), ("false", False)]
        elif one in (int, float):
            found.append(("3", 3))
        elif isinstance(one, type) and issubclass(one, enum.Enum):
            found += [(str(member.value), member) for member in one]
        else:
            found += next(v for base, v in SPECIAL.items() if issubclass(one, base))
    return found


@pytest.mark.parametrize("name", RULES_AND_METHODS)
def test_every_option_of_every_rule_is_read_and_written(name: str) -> None:
    kinds = spec.rule_option_types(name)
    parameters = set(inspect.signature(RULES_AND_METHODS[name]).parameters)
    assert kinds.keys() == parameters - {"wiring"}
    for option, kind in kinds.items():
        cases = texts_of(kind)
        assert cases
        for text, value in cases:
            read = parse_rule(f"{name}:{option}={text}")
            assert read.options == {option: value}
            assert parse_rule(format_spec(name, read.options)).options == read.options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lra", "rule 'lra'; known: .*Did you mean 'lra-e'.*your own rule, give file.py:Name"),
        ("lra-e:bta=1", "option of rule 'lra-e' 'bta'; known: .*Did you mean 'beta'"),
        ("dtp:beta=1", "option of rule 'dtp' 'beta'; known: "),
        ("backprop:beta=1", "unknown option of rule 'backprop' 'beta'|has no options"),
        ("lra-e:beta", "expected NAME or NAME:OPTION=VALUE,OPTION=VALUE; got 'beta'"),
        ("lra-e:", "expected NAME or NAME:OPTION=VALUE"),
        ("lra-e:=1", "got '=1'"),
        ("lra-e:beta=1,", "got ''"),
        ("lra-e:beta=1,beta=2", "beta is given twice"),
        ("lra-e:beta=much", "beta of rule 'lra-e': 'much' is not a valid value"),
        ("lra-e:two_sided=1", "two_sided .*'1' is not a valid value .*true or false"),
        ("lra-e:relative=image", "'image' is not a valid value .*unit, sample, batch"),
        ("lra-e:local_loss=hubber", "'hubber'.*known: absolute, cauchy, mixed, squared"),
        ("mirrored-lra:samples=2.5", "samples .*'2.5' is not a valid value"),
        ("lra-e:lr=0.1", "lr is a setting of the run, not an option of the rule; give it as --lr"),
        ("lra-e:weight_decay=0", "give it as --weight-decay"),
        ("backprop:momentum=0.9", "give it as --momentum"),
        ("my_rules.py", "name the rule in the file, as in my_rules.py:Name"),
    ],
)
def test_wrong_rules_are_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_rule(text)


# options of a user's function


class Mode(enum.Enum):
    """A choice."""

    FAST = "fast"
    SLOW = "slow"


def function(
    shape: tuple[int, ...],
    classes: int,
    count: int = 1,
    rate: float = 0.5,
    flag: bool = False,
    name: str = "a",
    sizes: tuple[int, ...] = (),
    mode: Mode = Mode.FAST,
    choice: Literal["x", "y"] = "x",
    maybe: int | None = None,
    init: lra.inits.Init | None = None,
    plain: Any = None,
    *,
    guessed=2,  # type: ignore[no-untyped-def]
    unknown=None,  # type: ignore[no-untyped-def]
    **more: Any,
) -> None:
    """Take options of many types."""


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        *(("count", "3", 3), ("rate", "3", 3.0), ("rate", "1e-3", 0.001), ("flag", "true", True)),
        *(("name", "3", "3"), ("sizes", "3-4", (3, 4)), ("mode", "slow", Mode.SLOW)),
        *(("choice", "y", "y"), ("maybe", "none", None), ("maybe", "4", 4)),
        *(("init", "normal:0.5", Normal(0.5)), ("init", "none", None)),
        *(("plain", "3", 3), ("plain", "0.5", 0.5), ("plain", "true", True), ("plain", "b", "b")),
        *(("guessed", "7", 7), ("unknown", "none", None), ("unknown", "2", 2)),
    ],
)
def test_options_have_the_types_of_the_parameters(option: str, text: str, value: object) -> None:
    kinds = spec.option_types(function, skip=2)
    parsed = spec.parse_values("function", {option: text}, kinds)[option]
    assert (parsed, type(parsed)) == (value, type(value))
    assert spec.parse_value("it", spec.format_value(parsed), kinds[option]) == parsed


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("count", "1.5", "count of function: '1.5' is not a valid value"),
        ("rate", "fast", "rate of function: 'fast'"),
        ("flag", "yes", "flag of function: 'yes' .*true or false"),
        ("sizes", "3-x", "sizes of function: '3-x'"),
        ("mode", "fats", "mode of function: 'fats' .*one of fast, slow"),
        ("choice", "z", "choice of function: 'z' .*one of x, y"),
        ("maybe", "nothing", "maybe of function: 'nothing'"),
        ("guessed", "two", "guessed of function: 'two'"),
        ("shape", "3", "unknown option of function 'shape'"),
        ("more", "3", "unknown option of function 'more'"),
        ("coutn", "3", "Did you mean 'count'"),
    ],
)
def test_values_of_another_type_are_refused(option: str, text: str, message: str) -> None:
    kinds = spec.option_types(function, skip=2)
    with pytest.raises(OptionError, match=message):
        spec.parse_values("function", {option: text}, kinds)


def test_options_of_a_dataclass_and_of_a_partial_function() -> None:
    @dataclasses.dataclass
    class Data:
        beta: float = 0.1
        count: int = 1

    assert spec.option_types(Data) == {"beta": float, "count": int}
    partial = functools.partial(function, (2,), 3)
    assert spec.option_types(partial)["rate"] is float


def test_required_options_are_named() -> None:
    def needs(shape: Any, classes: int, width: int) -> None: ...

    with pytest.raises(OptionError, match="mine needs the option width: NAME:width=VALUE"):
        spec.check_required("mine", needs, {}, skip=2)
    spec.check_required("mine", needs, {"width": 3}, skip=2)


def test_models_are_equal_by_their_content() -> None:
    assert Model("mlp", {"width": 3}, "here") == Model("mlp", {"width": 3}, "there")
    assert Model("mlp", {"width": 3}) != Model("mlp", {"width": 4})
