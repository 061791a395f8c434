"""Rules as values: they print, compare, hash, pickle, go to plain data and back, and check."""

import json
import math
import pickle
import re
import subprocess
import sys

import pytest

import lra

RULES = [build() for build in lra.RULES.values()] + [
    lra.LRAE(
        0.05, 0.5, 20, lra.crossing.Cauchy(), lra.crossing.TanhSurrogate(), lra.inits.Normal(0.3)
    ),
    lra.LRAE(local_loss=lra.crossing.Absolute(), surrogate=lra.crossing.IdentitySurrogate()),
    lra.SignSymmetry("batch"),
    lra.SignSymmetry(lra.feedback.Magnitude.FIXED, lra.inits.Normal()),
    lra.Rule(lra.feedback.SignSymmetric("fixed"), lra.crossing.TargetDifference(0.2)),
    lra.Rule(
        lra.feedback.Random(lra.inits.FanIn(2.0)),
        lra.crossing.TargetDifference(gain=2),
        lra.wiring.Chain(),
    ),
    lra.Rule(lra.feedback.Transpose(), lra.crossing.TargetDifference()),
]
BAD_NUMBERS = [math.nan, math.inf, -math.inf, True, "0.1", None, [0.1], 1j]

every_rule = pytest.mark.parametrize("rule", RULES, ids=str)


@every_rule
def test_config_round_trip_through_json(rule):
    config = rule.to_config()
    assert json.loads(json.dumps(config)) == config
    for cls in (lra.Rule, type(rule).__mro__[1]):  # the class itself, or its base
        again = cls.from_config(json.loads(json.dumps(config)))
        assert again == rule
        assert type(again) is lra.Rule
        assert repr(again) == repr(rule)
        assert again.to_config() == config


@every_rule
def test_pickle(rule):
    assert pickle.loads(pickle.dumps(rule)) == rule


@every_rule
def test_repr_builds_the_value_again(rule):
    names = {name: getattr(lra, name) for name in lra.__all__ if name[0].isupper()}
    text = re.sub(r"<(\w+\.\w+): '\w+'>", r"\1", repr(rule))  # how an Enum prints itself
    assert eval(text, names) == rule


def test_equality_and_hash():
    assert len({*RULES}) == len({repr(rule) for rule in RULES})
    assert lra.LRAE() == lra.Rule(lra.feedback.Learned(1.0), lra.crossing.TargetDifference(0.1))
    assert hash(lra.LRAE()) == hash(lra.LRAE(beta=0.1))
    assert lra.LRAE(beta=0.2) != lra.LRAE()
    assert lra.Backprop() == lra.Rule()
    assert lra.KolenPollack() != lra.LRAE()
    assert lra.SignSymmetry("fixed") == lra.SignSymmetry(lra.feedback.Magnitude.FIXED)
    assert lra.crossing.Squared() != lra.crossing.Absolute()


def test_a_rule_cannot_be_changed():
    with pytest.raises(AttributeError):
        lra.LRAE().crossing.beta = 1.0


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"type": "Rul"}, r"unknown Rule type 'Rul'; known: Rule\. Did you mean 'Rule'\?"),
        ({"type": "Transpose"}, "unknown Rule type 'Transpose'; known: Rule"),
        ({}, "expected a mapping with 'type'"),
        ("Rule", "expected a mapping with 'type', got 'Rule'"),
        (None, "expected a mapping with 'type'"),
        (
            {"type": "Rule", "feed": {}},
            "unknown field of Rule 'feed'; known: crossing, feedback, wir",
        ),
        ({"type": "Rule", "feedback": {"type": "Lerned"}}, "Did you mean 'Learned'"),
        ({"type": "Rule", "feedback": {"type": "Learned", "gama": 1}}, "Did you mean 'gamma'"),
        ({"type": "Rule", "feedback": {"gamma": 1}}, "expected a mapping with 'type'"),
        ({"type": "Rule", "feedback": {"type": "Derivative"}}, "feedback must be a Feedback"),
        ({"type": "Rule", "crossing": "Derivative"}, "crossing must be a Crossing"),
        ({"type": "Rule", "wiring": None}, "wiring must be a Wiring"),
    ],
)
def test_configs_that_do_not_fit(config, said):
    with pytest.raises(lra.errors.OptionError, match=said):
        lra.Rule.from_config(config)


def test_a_config_may_leave_defaults_out():
    assert lra.Rule.from_config({"type": "Rule"}) == lra.Rule()
    feedback, crossing = {"type": "Learned"}, {"type": "TargetDifference"}
    config = {"type": "Rule", "feedback": feedback, "crossing": crossing}
    assert lra.Rule.from_config(config) == lra.LRAE()


def test_a_users_own_value_is_found_by_name():
    class Doubled(lra.crossing.LocalLoss):
        pass

    rule = lra.LRAE(local_loss=Doubled())
    assert lra.Rule.from_config(rule.to_config()) == rule


@pytest.mark.parametrize("bad", [0, -1, -0.0, *BAD_NUMBERS], ids=repr)
@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lra.LRAE, "beta"),
        (lra.LRAE, "gain"),
        (lra.crossing.TargetDifference, "beta"),
        (lra.crossing.TargetDifference, "gain"),
        (lra.inits.FanIn, "scale"),
        (lra.inits.Normal, "std"),
    ],
)
def test_numbers_that_must_be_positive(build, field, bad):
    with pytest.raises(
        lra.errors.OptionError, match=f"{field} must be a finite number above 0, got "
    ):
        build(**{field: bad})


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=repr)
def test_gamma_must_be_a_finite_number(bad):
    with pytest.raises(lra.errors.OptionError, match="gamma must be a finite number, got "):
        lra.LRAE(gamma=bad)
    assert lra.LRAE(gamma=-1).feedback.gamma == -1


@pytest.mark.parametrize(
    ("build", "field", "bad"),
    [
        (lra.LRAE, "local_loss", "cauchy"),
        (lra.LRAE, "local_loss", lra.crossing.Cauchy),
        (lra.LRAE, "local_loss", None),
        (lra.LRAE, "through", lra.crossing.TanhSurrogate),
        (lra.LRAE, "through", "tanh"),
        (lra.LRAE, "init", "normal"),
        (lra.LRAE, "init", lra.inits.Normal),
        (lra.FeedbackAlignment, "init", 0.1),
        (lra.SignSymmetry, "init", None),
        (lra.Rule, "feedback", "learned"),
        (lra.Rule, "feedback", lra.feedback.Learned),
        (lra.Rule, "crossing", lra.feedback.Learned()),
        (lra.Rule, "wiring", "chain"),
    ],
)
def test_fields_that_must_be_values_of_their_axis(build, field, bad):
    with pytest.raises(
        lra.errors.OptionError, match=rf"{field} must be a \w+, such as \w+\(\); got "
    ):
        build(**{field: bad})


@pytest.mark.parametrize("bad", ["unifrom", None, 1, lra.feedback.Magnitude], ids=repr)
def test_magnitudes_that_do_not_exist(bad):
    with pytest.raises(
        lra.errors.OptionError, match="magnitude must be one of uniform, fixed, batch, got"
    ):
        lra.SignSymmetry(bad)


def test_named():
    for name, build in lra.RULES.items():
        assert lra.named(name) == build()
    assert lra.named("lra-e", beta=0.3, gamma=2.0) == lra.LRAE(0.3, 2.0)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("lrae", {}, r"unknown rule 'lrae'; known: backprop, .*Did you mean 'lra-e'\?"),
        (
            "zzz",
            {},
            "unknown rule 'zzz'; known: backprop, direct-feedback-alignment, .*lra-e, mirrored-lra",
        ),
        (None, {}, "unknown rule None"),
        (
            "lra-e",
            {"beat": 1},
            r"unknown option of rule 'lra-e' 'beat'; known: beta, .*mean 'beta'",
        ),
        (
            "kolen-pollack",
            {"beta": 1},
            "unknown option of rule 'kolen-pollack' 'beta'; known: gamma",
        ),
        ("backprop", {"beta": 1}, "rule 'backprop' has no options, got 'beta'"),
        ("lra-e", {"beta": -1}, "beta must be"),
    ],
)
def test_names_and_options_that_do_not_exist(name, options, said):
    with pytest.raises(lra.errors.OptionError, match=said):
        lra.named(name, **options)


def test_errors_are_also_pythons_own():
    assert issubclass(lra.errors.OptionError, ValueError)
    assert issubclass(lra.errors.ConversionError, TypeError)
    assert issubclass(lra.errors.OptionError, lra.LraError)


def test_the_public_face():
    assert dir(lra) == sorted(lra.__all__)
    for name in lra.__all__:
        assert getattr(lra, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'convrt'"):
        _ = lra.convrt


def test_rules_need_no_torch_and_print_nothing():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import lra\n"
        "lra.LRAE().to_config()\n"
        "try: lra.convert\n"
        "except ImportError as error: assert \"pip install 'lra-e[torch]'\" in str(error), error\n"
        "else: raise SystemExit('no error')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")
