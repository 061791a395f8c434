"""check_rule: named rules keep every identity, and a broken rule fails each of them."""

import copy
import itertools
import math
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from nets import ALL_RULES

import lra
from lra.feedback import Stored
from lra.identities import Identities, differing
from lra.torch.layers import sequential
from lra.torch.testing import check_rule, rules
from lra.torch.testing.identities import gap
from lra.torch.testing.rules import IDENTITIES

CALLS = itertools.count()
NAMES = [identity.name for identity in IDENTITIES]


@dataclass(frozen=True)
class Centred(lra.crossing.Crossing):
    """A user's crossing that keeps every identity: a finite difference around h."""

    beta: float = 0.01

    def error(self, phi, h, z, d, n, xp) -> Any:
        step = self.beta * n * d
        return (phi(h + step) - phi(h - step)) / (2 * self.beta * n)


@dataclass(frozen=True)
class Decayed(lra.feedback.Feedback):
    """A user's feedback that keeps every identity: learned, with dE a fraction of dW."""

    scale: float = 0.3
    init: lra.inits.Init = field(default_factory=lra.inits.Normal)

    @property
    def stored(self) -> Stored:
        return Stored.LEARNED

    def draw(self, draw) -> Any:
        return self.init.draw(draw)

    def update(self, dW) -> Any:
        return self.scale * dW


@dataclass(frozen=True)
class Bounded(lra.crossing.LocalLoss):
    """A user's local loss."""

    def derivative(self, difference, xp) -> Any:
        return xp.tanh(difference)


@dataclass(frozen=True)
class Halved(lra.inits.Init):
    """A user's initialisation."""

    def draw(self, draw) -> Any:
        return 0.5 * draw("normal", draw.fan_in**-0.5)


USERS_RULES = {
    "crossing": lra.Rule(lra.feedback.Learned(), Centred()),
    "feedback": lra.Rule(Decayed(), lra.crossing.Derivative()),
    "local loss": lra.LRAE(local_loss=Bounded()),
    "init": lra.FeedbackAlignment(Halved()),
    "tiny beta": lra.LRAE(beta=1e-6, gain=1e6),
    "gamma 0": lra.LRAE(gamma=0.0),
}


@pytest.mark.parametrize("loss_terms", ["batch", "tokens"])
@pytest.mark.parametrize("rule", (ALL_RULES | USERS_RULES).values(), ids=ALL_RULES | USERS_RULES)
def test_rules_keep_every_identity(rule, loss_terms):
    report = check_rule(rule, loss_terms=loss_terms)
    assert [outcome.identity for outcome in report.outcomes] == NAMES
    assert all(outcome.passed for outcome in report.outcomes)


def applying(rule: lra.Rule) -> set[str]:
    outcomes = check_rule(rule).outcomes
    return {outcome.identity for outcome in outcomes if outcome.deviation is not None}


@pytest.mark.parametrize(
    ("rule", "not_applying"),
    [
        (lra.LRAE(), {"weight transport"}),
        (lra.LRAE(local_loss=lra.crossing.Cauchy()), {"weight transport", "limit"}),
        (lra.LRAE(surrogate=lra.crossing.TanhSurrogate()), {"weight transport", "limit"}),
        (
            lra.Rule(lra.feedback.Random(), Centred()),
            {"weight transport", "limit", "learned feedback"},
        ),
        (lra.KolenPollack(), {"NumPy", "limit"}),
        (lra.Backprop(), {"NumPy", "limit", "learned feedback"}),
    ],
    ids=str,
)
def test_identities_that_do_not_apply_to_a_rule_are_left_out(rule, not_applying):
    assert applying(rule) == set(NAMES) - not_applying


# Broken rules, with the identities that must fail, and whether all others must hold.


@dataclass(frozen=True)
class ForgetsN(lra.crossing.TargetDifference):
    def error(self, phi, h, z, d, n, xp) -> Any:
        return self.gain * (z - phi(h - self.beta * n * d))


@dataclass(frozen=True)
class MixesSamples(lra.crossing.TargetDifference):
    def error(self, phi, h, z, d, n, xp) -> Any:
        return super().error(phi, h, z, d - d.mean(0), n, xp)


@dataclass(frozen=True)
class WeighsByPosition(lra.crossing.TargetDifference):
    def error(self, phi, h, z, d, n, xp) -> Any:
        position = xp.cumsum(xp.ones_like(d), 0)
        return super().error(phi, h, z, d * position / d.shape[0], n, xp)


@dataclass(frozen=True)
class NeverAtRest(lra.crossing.TargetDifference):
    def error(self, phi, h, z, d, n, xp) -> Any:
        return super().error(phi, h, z, d, n, xp) + 1e-3 * z / n


@dataclass(frozen=True)
class ForgetsBeta(lra.crossing.TargetDifference):
    def error(self, phi, h, z, d, n, xp) -> Any:
        return (self.gain / n) * self.beta * (z - phi(h - n * d))


@dataclass(frozen=True)
class TorchOnly(lra.crossing.TargetDifference):
    def error(self, phi, h, z, d, n, xp) -> Any:
        return super().error(phi, h, z, torch.clone(d), n, xp)


@dataclass(frozen=True)
class Remembers(lra.crossing.TargetDifference):
    def error(self, phi, h, z, d, n, xp) -> Any:
        return super().error(phi, h, z, d, n, xp) * (1 + 0.01 * next(CALLS))


@dataclass(frozen=True)
class UpdateTransposed(lra.feedback.Learned):
    def update(self, dW) -> Any:
        return self.gamma * dW.T


@dataclass(frozen=True)
class UpdateInPlace(lra.feedback.Learned):
    def update(self, dW) -> Any:
        dW *= self.gamma
        return dW


@dataclass(frozen=True)
class UpdateDrawn(lra.feedback.Learned):
    def update(self, dW) -> Any:
        return self.gamma * dW * torch.rand_like(dW)


@dataclass(frozen=True)
class CarriedTransposed(lra.feedback.Random):
    def effective(self, W, kept, draw, xp) -> Any:
        return kept.swapaxes(0, 1)


@dataclass(frozen=True)
class CarriesNothing(lra.feedback.Random):
    def effective(self, W, kept, draw, xp) -> Any:
        return None


@dataclass(frozen=True)
class CountsRows(lra.crossing.TargetDifference):
    """Correct if the rows are the terms of the loss, or if there is one term."""

    def error(self, phi, h, z, d, n, xp) -> Any:
        return super().error(phi, h, z, d, n if n == 1 else len(h), xp)


@dataclass(frozen=True)
class CarriedFloat32(lra.feedback.Random):
    def effective(self, W, kept, draw, xp) -> Any:
        return kept.float()


@dataclass(frozen=True)
class OverwritesW(lra.feedback.SignSymmetric):
    def effective(self, W, kept, draw, xp) -> Any:
        return W.sign_()


class NoDataclass(lra.feedback.Random):
    """Its strength is no field, so configs and comparisons leave it out."""

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        object.__setattr__(self, "strength", strength)

    def draw(self, draw) -> Any:
        return self.strength * super().draw(draw)


@dataclass(frozen=True)
class HoldsFunction(lra.feedback.Random):
    function: Any = field(default_factory=lambda: lambda E: E)


LEARNED = lra.crossing.TargetDifference()
BROKEN = {
    "forgets 1/n": (
        lra.Rule(lra.feedback.Learned(), ForgetsN()),
        {"duplicates", "mean of samples", "summed loss"},
        False,
    ),
    "mixes samples": (lra.Rule(lra.feedback.Learned(), MixesSamples()), {"mean of samples"}, False),
    "weighs by position": (lra.Rule(lra.feedback.Learned(), WeighsByPosition()), {"order"}, False),
    "moves at d = 0": (lra.Rule(lra.feedback.Learned(), NeverAtRest()), {"zero error"}, False),
    "forgets beta": (lra.Rule(lra.feedback.Learned(), ForgetsBeta()), {"limit"}, True),
    "torch only": (lra.Rule(lra.feedback.Learned(), TorchOnly()), {"NumPy"}, True),
    "remembers": (lra.Rule(lra.feedback.Learned(), Remembers()), {"fused", "deepcopy"}, False),
    "update transposed": (lra.Rule(UpdateTransposed(), LEARNED), {"learned feedback"}, False),
    "update in place": (
        lra.Rule(UpdateInPlace(0.5), LEARNED),
        {"one layer", "top layer", "learned feedback"},
        True,
    ),
    "update drawn": (lra.Rule(UpdateDrawn(), LEARNED), {"learned feedback"}, True),
    "carried transposed": (lra.Rule(CarriedTransposed(), LEARNED), {"shape"}, False),
    "carries nothing": (lra.Rule(CarriesNothing(), LEARNED), {"shape"}, False),
    "carried in float32": (lra.Rule(CarriedFloat32(), LEARNED), {"shape"}, True),
    "overwrites W": (lra.Rule(OverwritesW()), {"forward", "top layer", "restore"}, False),
    "no dataclass": (lra.Rule(NoDataclass(2.0)), {"config"}, True),
    "holds a function": (lra.Rule(HoldsFunction()), {"config", "pickle"}, False),
}


def broken_by(rule: lra.Rule) -> tuple[set[str], str]:
    with pytest.raises(lra.errors.RuleError) as caught:
        check_rule(rule)
    message = str(caught.value)
    return set(re.findall(r"^  - FAILS ([^:]+):", message, re.MULTILINE)), message


@pytest.mark.parametrize(("rule", "named", "only"), BROKEN.values(), ids=BROKEN)
def test_broken_rules_fail_the_identities_they_break(rule, named, only):
    failed, _ = broken_by(rule)
    assert named <= failed
    assert failed == named or not only


@pytest.mark.parametrize("name", ["mixes samples", "moves at d = 0"])
def test_a_broken_rule_passes_the_other_identities(name):
    failed, _ = broken_by(BROKEN[name][0])
    assert failed.isdisjoint({"forward", "shape", "one layer", "top layer", "order", "duplicates"})


def test_broken_machinery_fails(monkeypatch):
    monkeypatch.setattr(rules, "restore", lambda model: model)
    assert broken_by(lra.FeedbackAlignment())[0] == {"restore"}
    assert broken_by(lra.Backprop())[0] == {"restore"}  # by the classes; the gradients are equal
    monkeypatch.undo()
    run_layers = sequential._run_layers
    monkeypatch.setattr(sequential, "_run_layers", lambda run, x: 2 * run_layers(run, x))
    assert "fused" in broken_by(lra.LRAE())[0]
    monkeypatch.undo()
    monkeypatch.setattr(rules, "Transpose", lra.feedback.Random)
    assert broken_by(lra.FeedbackAlignment())[0] == {"weight transport"}


def test_every_identity_has_a_broken_rule():
    covered = set().union(*(named for _, named, _ in BROKEN.values()))
    assert covered | {"restore", "weight transport"} == set(NAMES)


def test_loss_terms_select_the_shape_of_the_data():
    rule = lra.Rule(lra.feedback.Learned(), CountsRows())
    check_rule(rule)
    with pytest.raises(lra.errors.RuleError, match="FAILS summed loss"):
        check_rule(rule, loss_terms="tokens")


ONE = torch.ones(2)


@pytest.mark.parametrize(
    ("found", "expected", "apart"),
    [
        ({"a": 3 * ONE}, {"a": 2 * ONE}, 0.5),
        ({"a": ONE, "b": 3 * ONE}, {"a": ONE, "b": 4 * ONE}, 0.25),
        ({"a": 0 * ONE}, {"a": 0 * ONE}, 0.0),
        ({"a": ONE}, {"a": ONE, "b": ONE}, math.inf),
        ({"a": ONE, "b": ONE}, {"a": ONE}, math.inf),
        ({"a": ONE}, {"a": torch.ones(3, 2)}, math.inf),
        ({"a": 2 * ONE, "b": math.nan * ONE, "c": 9 * ONE}, dict.fromkeys("abc", ONE), math.nan),
    ],
)
def test_gap_is_relative_to_the_largest_number(found, expected, apart):
    assert gap(found, expected) == pytest.approx(apart, nan_ok=True)
    assert gap({"a": ONE}, {"a": 0 * ONE}) > 1e100


def test_differing_counts_attributes_that_equality_ignores():
    a, b = NoDataclass(1.0), NoDataclass(2.0)
    assert a == b
    assert differing(a, b) == 1
    assert differing(lra.Rule(a), lra.Rule(b)) == 1
    assert differing(lra.LRAE(), lra.LRAE(beta=0.2, gamma=2.0)) == 2
    assert differing(lra.feedback.Learned(), lra.feedback.Random()) == 1


def test_messages_show_measured_and_allowed_numbers():
    _, message = broken_by(lra.Rule(lra.feedback.Learned(), ForgetsBeta()))
    assert re.search(r"breaks 1 of \d+ identities", message)
    assert re.search(r"shape: .*\(5, allowed 0\)", broken_by(lra.Rule(CarriesNothing()))[1])
    assert re.search(r"limit: .*\(\d\S*, allowed 0.12\)", message)
    _, message = broken_by(lra.Rule(UpdateTransposed(), LEARNED))
    assert re.search(r"learned feedback: .*\(inf, allowed 0; RuntimeError: .*shape", message)


def test_reports_have_a_line_for_each_identity():
    rule = lra.LRAE(beta=0.2)
    lines = str(check_rule(rule)).splitlines()
    assert lines[0] == f"check_rule: {rule}"
    assert "TargetDifference(beta=0.2)" in lines[0]
    assert len(lines) == 1 + len(IDENTITIES)
    assert "  n/a   weight transport: " in "\n".join(lines)
    assert re.fullmatch(r"  ok    order: The order .* \(\S+, allowed 1e-07\)", lines[7])


def test_identities_are_added_as_functions(monkeypatch):
    identities: Identities[rules.RuleBench] = Identities()
    monkeypatch.setattr(rules, "IDENTITIES", identities)

    @identities.add("never", allowed=0.5)
    def _never(bench: rules.RuleBench) -> float:
        """Always far off."""
        return math.nan if isinstance(bench.rule.feedback, lra.feedback.Random) else 0.75

    for rule, number in ((lra.LRAE(), "0.75"), (lra.FeedbackAlignment(), "nan")):
        with pytest.raises(
            lra.errors.RuleError, match=rf"never: Always far off \({number}, allowed 0.5\)"
        ):
            check_rule(rule)


def test_the_callers_settings_neither_matter_nor_change():
    state = torch.get_rng_state()
    expected = str(check_rule(lra.LRAE()))
    with torch.inference_mode(), torch.device("meta"):
        assert str(check_rule(lra.LRAE())) == expected
    with torch.no_grad():
        assert str(check_rule(lra.LRAE())) == expected
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)


@pytest.mark.parametrize(
    "what", [lra.LRAE, "lra-e", lra.feedback.Learned(), lra.methods.PredictiveCoding]
)
def test_anything_but_rules_and_methods_is_refused(what):
    with pytest.raises(lra.errors.OptionError, match="expected a rule"):
        check_rule(what)


@pytest.mark.parametrize("terms", [1, "rows"])
def test_other_loss_terms_are_refused(terms):
    with pytest.raises(lra.errors.OptionError, match=r"loss_terms must be"):
        check_rule(lra.LRAE(), loss_terms=terms)


def test_outcomes_copy_and_compare():
    report = check_rule(lra.Backprop())
    assert copy.deepcopy(report) == report
