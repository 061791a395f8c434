"""Rules as values: printing, comparing, hashing, pickling, plain data, and checked options."""

import dataclasses
import inspect
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
    again = pickle.loads(pickle.dumps(rule))
    assert again == rule
    assert again.name == rule.name


def evaluate(text):
    """Evaluate the text of a rule, with the names of all axes."""
    homes = lra, lra.feedback, lra.crossing, lra.wiring, lra.inits
    text = re.sub(r"<(\w+\.\w+): '\w+'>", r"\1", text)  # an enum's repr
    return eval(text, {name: value for home in homes for name, value in vars(home).items()})


@every_rule
def test_text_builds_the_rule_again(rule):
    assert evaluate(str(rule)) == rule
    again = evaluate(repr(rule))
    assert again == rule
    assert again.name == rule.name


def test_str_shows_only_what_differs_from_the_defaults():
    assert str(lra.Rule()) == str(lra.Backprop()) == "Rule()"
    assert str(lra.LRAE(gamma=0.5, two_sided=True)) == (
        "Rule(feedback=Learned(gamma=0.5), crossing=TargetDifference(two_sided=True))"
    )
    assert str(lra.FeedbackAlignment(lra.inits.Normal(0.3))) == (
        "Rule(feedback=Random(init=Normal(std=0.3)))"
    )
    assert str(lra.RecLRA(every=3).wiring) == "Stride(every=3)"


@pytest.mark.parametrize("init", [lra.inits.LikeWeights(), lra.inits.Normal()], ids=str)
def test_repr_shows_every_field(init):
    rule = lra.FeedbackAlignment(init)
    for field in dataclasses.fields(rule):
        assert f"{field.name}={getattr(rule, field.name)!r}" in repr(rule)
    assert f"init={init!r}" in repr(rule)
    assert repr(rule).endswith("name='feedback-alignment')")


def test_a_rule_carries_its_script_name():
    assert {build().name: name for name, build in lra.RULES.items()} == {n: n for n in lra.RULES}
    assert lra.Rule().name == "custom"
    assert lra.LRAE(beta=0.3).name == "lra-e"
    assert lra.LRAE(wiring=lra.wiring.Direct()).name == "direct-lra"
    assert lra.Rule.from_config(lra.LRAE().to_config()).name == "lra-e"


def test_comparisons_ignore_the_name():
    rule, renamed = lra.LRAE(), dataclasses.replace(lra.LRAE(), name="mine")
    assert renamed.name == "mine"
    assert renamed == rule
    assert hash(renamed) == hash(rule)


def test_equality_and_hash():
    assert len({*RULES}) == len({repr(rule) for rule in RULES})
    assert lra.LRAE() == lra.Rule(lra.feedback.Learned(1.0), lra.crossing.TargetDifference(0.1))
    assert hash(lra.LRAE()) == hash(lra.LRAE(beta=0.1))
    assert lra.LRAE(beta=0.2) != lra.LRAE()
    assert lra.Backprop() == lra.Rule()
    assert lra.KolenPollack() != lra.LRAE()
    assert lra.SignSymmetry("fixed") == lra.SignSymmetry(lra.feedback.Magnitude.FIXED)
    assert lra.crossing.Squared() != lra.crossing.Absolute()
    assert lra.LRAE(wiring=lra.wiring.Direct()) != lra.LRAE()


def test_rules_are_immutable():
    with pytest.raises(AttributeError):
        lra.LRAE().crossing.beta = 1.0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "Rul"}, r"unknown Rule type 'Rul'; known: .*Rule\. Did you mean 'Rule'\?"),
        ({"type": "Transpose"}, "unknown Rule type 'Transpose'; known: .*Rule"),
        ({}, "expected a mapping with 'type'"),
        ("Rule", "expected a mapping with 'type', got 'Rule'"),
        (None, "expected a mapping with 'type'"),
        (
            {"type": "Rule", "feed": {}},
            "unknown field of Rule 'feed'; known: crossing, feedback, name, wir",
        ),
        ({"type": "Rule", "feedback": {"type": "Lerned"}}, "Did you mean 'Learned'"),
        ({"type": "Rule", "feedback": {"type": "Learned", "gama": 1}}, "Did you mean 'gamma'"),
        ({"type": "Rule", "feedback": {"gamma": 1}}, "expected a mapping with 'type'"),
        ({"type": "Rule", "feedback": {"type": "Derivative"}}, "feedback must be a Feedback"),
        ({"type": "Rule", "crossing": "Derivative"}, "crossing must be a Crossing"),
        ({"type": "Rule", "wiring": None}, "wiring must be a Wiring"),
        ({"type": "Rule", "name": 3}, "name must be a string"),
    ],
)
def test_invalid_configs_are_refused(config, message):
    with pytest.raises(lra.errors.OptionError, match=message):
        lra.Rule.from_config(config)


def test_configs_may_omit_defaults():
    assert lra.Rule.from_config({"type": "Rule"}) == lra.Rule()
    feedback, crossing = {"type": "Learned"}, {"type": "TargetDifference"}
    config = {"type": "Rule", "feedback": feedback, "crossing": crossing}
    assert lra.Rule.from_config(config) == lra.LRAE()


def test_configs_find_user_defined_values_by_name():
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
def test_nonpositive_numbers_are_refused(build, field, bad):
    with pytest.raises(
        lra.errors.OptionError, match=f"{field} must be a finite number above 0, got "
    ):
        build(**{field: bad})


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=repr)
def test_gamma_must_be_finite_but_may_be_negative(bad):
    with pytest.raises(lra.errors.OptionError, match="gamma must be a finite number, got "):
        lra.LRAE(gamma=bad)
    assert lra.LRAE(gamma=-1).feedback.gamma == -1


@pytest.mark.parametrize(
    ("build", "field", "bad"),
    [
        (lra.LRAE, "local_loss", "cauchy"),
        (lra.LRAE, "local_loss", lra.crossing.Cauchy),
        (lra.LRAE, "local_loss", None),
        (lra.LRAE, "surrogate", lra.crossing.TanhSurrogate),
        (lra.LRAE, "surrogate", "tanh"),
        (lra.LRAE, "init", "normal"),
        (lra.LRAE, "init", lra.inits.Normal),
        (lra.FeedbackAlignment, "init", 0.1),
        (lra.SignSymmetry, "init", None),
        (lra.Rule, "feedback", "learned"),
        (lra.Rule, "feedback", lra.feedback.Learned),
        (lra.Rule, "crossing", lra.feedback.Learned()),
        (lra.Rule, "wiring", "chain"),
        (lra.LRAE, "wiring", lra.wiring.Direct),
    ],
)
def test_fields_must_be_values_of_their_axis(build, field, bad):
    with pytest.raises(
        lra.errors.OptionError, match=rf"{field} must be a \w+, such as \w+\(\); got "
    ):
        build(**{field: bad})


@pytest.mark.parametrize("bad", ["unifrom", None, 1, lra.feedback.Magnitude], ids=repr)
def test_unknown_magnitudes_are_refused(bad):
    with pytest.raises(
        lra.errors.OptionError, match="magnitude must be one of uniform, fixed, batch, got"
    ):
        lra.SignSymmetry(bad)


def test_named_builds_every_rule():
    for name, build in lra.RULES.items():
        assert lra.named(name) == build()
    assert lra.named("lra-e", beta=0.3, gamma=2.0) == lra.LRAE(0.3, 2.0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
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
        ("backprop", {"beta": 1}, "rule 'backprop' has no options; got 'beta'"),
        ("lra-e", {"beta": -1}, "beta must be"),
    ],
)
def test_unknown_names_and_options_are_refused(name, options, message):
    with pytest.raises(lra.errors.OptionError, match=message):
        lra.named(name, **options)


def test_errors_derive_from_builtin_ones():
    assert issubclass(lra.errors.OptionError, ValueError)
    assert issubclass(lra.errors.ConversionError, TypeError)
    assert issubclass(lra.errors.OptionError, lra.LraError)


PUBLIC = {
    *("convert", "restore", "is_converted", "feedback_parameters", "set_loss_terms", "mirror"),
    *("share_feedback", "compile_step", "audit", "coverage", "diagnose", "check_rule"),
    *("register_activation", "register_weight_layer", "Rule", "RULES", "named"),
    *("LRAE", "MirroredLRA", "RecLRA", "Backprop", "FeedbackAlignment", "KolenPollack"),
    *("DirectFeedbackAlignment", "SignSymmetry", "LraError", "LraWarning"),
}
"""The names at the top level."""

MODULES = {
    *("feedback", "crossing", "wiring", "inits", "methods", "errors", "loss_terms"),
    *("activations", "ensemble", "testing", "pseudocode"),
}
"""The modules that hold all other public names, except those of `FRAMEWORKS`."""

FRAMEWORKS = {"jax", "keras"}
"""The modules that need another framework than torch."""


def test_the_top_level_has_the_public_names_and_no_others():
    assert {*PUBLIC, *MODULES, *FRAMEWORKS} <= {*dir(lra)}
    assert dir(lra) == sorted(dir(lra))
    names = [n for n in dir(lra) if not n.startswith("_") and n not in FRAMEWORKS]
    assert {n for n in names if not inspect.ismodule(getattr(lra, n))} == PUBLIC
    for name in MODULES:
        assert inspect.ismodule(getattr(lra, name))
    with pytest.raises(AttributeError, match="no attribute 'convrt'"):
        _ = lra.convrt


def test_rules_need_no_torch():
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
