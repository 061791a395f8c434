"""check_rule: named rules keep every identity, and a broken rule or step fails each of them."""

import dataclasses
import re
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import lra
import lra.jax
from lra.crossing import Crossing, Derivative, TargetDifference
from lra.errors import OptionError, RuleError
from lra.feedback import Learned
from lra.jax import testing

RULES = ("backprop", "lra-e", "mirrored-lra", "sign-symmetry", "direct-lra", "rec-lra")


@pytest.mark.parametrize("rule", RULES)
def test_named_rules_keep_every_identity(rule):
    report = lra.jax.check_rule(lra.named(rule))
    assert [outcome.identity for outcome in report.outcomes] == [i.name for i in testing.IDENTITIES]
    measured = {o.identity for o in report.outcomes if o.deviation is not None}
    assert len(measured) >= 9
    assert ("limit" in measured) == (
        isinstance(report.rule.crossing, TargetDifference) and rule != "rec-lra"
    )


def test_the_rule_is_tested_on_tokens():
    assert lra.jax.check_rule(lra.LRAE(), loss_terms="tokens").rule == lra.LRAE()


@dataclass(frozen=True)
class OfSamples(Crossing):
    """Broken: targets ignore N."""

    def error(self, phi, h, z, d, n, xp) -> Any:
        return phi(h) - phi(h - d)


@dataclass(frozen=True)
class Drifting(Crossing):
    """Broken: an error where none arrives."""

    def error(self, phi, h, z, d, n, xp) -> Any:
        return d + 1e-3


@dataclass(frozen=True)
class First(Crossing):
    """Broken: the first sample counts twice."""

    def error(self, phi, h, z, d, n, xp) -> Any:
        return d * xp.where(xp.arange(len(h)) == 0, 2.0, 1.0)[:, None]


@dataclass(frozen=True)
class OfOneLibrary(Crossing):
    """Broken: with NumPy it computes something else."""

    def error(self, phi, h, z, d, n, xp) -> Any:
        return d if xp.__name__ == "numpy" else 2 * d


@dataclass(frozen=True)
class Flipped(TargetDifference):
    """Broken: targets on the wrong side."""

    def error(self, phi, h, z, d, n, xp) -> Any:
        return -super().error(phi, h, z, d, n, xp)


@dataclass(frozen=True)
class Doubled(Derivative):
    """Broken: twice the derivative."""

    def error(self, phi, h, z, d, n, xp) -> Any:
        return 2 * d


@dataclass(frozen=True)
class Narrow(Learned):
    """Broken: E lacks the last column."""

    def draw(self, draw) -> Any:
        return super().draw(draw)[:, :-1]


def with_crossing(crossing):
    return lra.Rule(Learned(), crossing)


BROKEN = {
    "summed loss": with_crossing(OfSamples()),
    "duplicates": with_crossing(OfSamples()),
    "mean of samples": with_crossing(OfSamples()),
    "zero error": with_crossing(Drifting()),
    "order": with_crossing(First()),
    "NumPy": with_crossing(OfOneLibrary()),
    "limit": with_crossing(Flipped()),
    "weight transport": with_crossing(Doubled()),
    "shape": lra.Rule(Narrow(), TargetDifference()),
}


@pytest.mark.parametrize("identity", BROKEN)
def test_a_broken_rule_is_named_with_the_identity_it_breaks(identity):
    with pytest.raises(RuleError, match=rf"\n  - FAILS {re.escape(identity)}: "):
        lra.jax.check_rule(BROKEN[identity])


def is_traced(x):
    return isinstance(x, jax.core.Tracer)


STEPS = {
    "forward": lambda value, grads, moved, x: (value + 1e-9, grads, moved),
    "one layer": lambda value, grads, moved, x: (value, jax.tree.map(jnp.cos, grads), moved),
    "top layer": lambda value, grads, moved, x: (value, jax.tree.map(jnp.cos, grads), moved),
    "learned feedback": lambda value, grads, moved, x: (value, grads, jax.tree.map(jnp.cos, moved)),
    "compiled": lambda value, grads, moved, x: (
        value,
        jax.tree.map(lambda g: g if is_traced(x) else 2 * g, grads),
        moved,
    ),
}
"""What a broken library would return."""


@pytest.mark.parametrize("identity", STEPS)
def test_a_broken_step_is_named_with_the_identity_it_breaks(identity, monkeypatch):
    whole = testing.value_and_grad

    def broken(*args, **options):
        step = whole(*args, **options)

        def run(params, feedback, x, y):
            value, (grads, moved) = step(params, feedback, x, y)
            value, grads, moved = STEPS[identity](value, grads, moved, x)
            return value, (grads, moved)

        return run

    monkeypatch.setattr(testing, "value_and_grad", broken)
    with pytest.raises(RuleError, match=rf"\n  - FAILS {re.escape(identity)}: "):
        lra.jax.check_rule(lra.LRAE())


def test_every_identity_is_broken_above():
    assert BROKEN.keys() | STEPS.keys() == {identity.name for identity in testing.IDENTITIES}


@pytest.mark.parametrize("rule", [lra.LRAE, "lra-e", None])
def test_other_things_than_rules_are_refused(rule):
    with pytest.raises(OptionError, match=r"check_rule: expected a rule such as lra\.LRAE\(\)"):
        lra.jax.check_rule(rule)


def test_other_loss_terms_are_refused():
    with pytest.raises(OptionError, match=r"loss_terms must be 'batch' or 'tokens', got 4"):
        lra.jax.check_rule(lra.LRAE(), loss_terms=4)


def test_the_precision_of_the_user_is_as_before():
    before = jnp.ones(1).dtype
    rule = replace(lra.LRAE(), crossing=dataclasses.replace(lra.LRAE().crossing, beta=0.2))
    lra.jax.check_rule(rule)
    assert jnp.ones(1).dtype == before
