"""check_rule for methods: ours keep every identity, and a broken method fails each of them."""

import itertools
import re
import weakref
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from nets import METHOD_SETTINGS
from torch import nn

import lra
from lra.torch.testing import check_rule
from lra.torch.testing.methods import IDENTITIES

CALLS = itertools.count()
KNOWN: weakref.WeakSet[nn.Module] = weakref.WeakSet()
NAMES = [identity.name for identity in IDENTITIES]


@dataclass(frozen=True)
class Gradient(lra.methods.Method):
    """A user's method that keeps every identity: backprop."""

    def attach(self, model, example):
        return model

    def look(self, x):
        return x

    def change(self, name, p, g):
        return g

    def __call__(self, model, loss, x, *, loss_terms="batch"):
        value = loss(model(self.look(x)))
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        grads = torch.autograd.grad(value, [p for _, p in named], allow_unused=True)
        for (name, p), g in zip(named, grads, strict=True):
            if g is not None:
                new = self.change(name, p, g)
                p.grad = new if p.grad is None or new is None else p.grad + new
        return value.detach()


@dataclass(frozen=True)
class Loaded(Gradient):
    """A user's method that adds parameters, with noise in their updates."""

    def attach(self, model, example):
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.extra = nn.Parameter(torch.zeros(3, dtype=layer.weight.dtype))
        return model

    def detach(self, model):
        for layer in model:
            if hasattr(layer, "extra"):
                del layer.extra
        return model

    def feedback_parameters(self, model):
        return [layer.extra for layer in model if hasattr(layer, "extra")]

    def __call__(self, model, loss, x, *, loss_terms="batch"):
        value = super().__call__(model, loss, x, loss_terms=loss_terms)
        scale = x.shape[: 2 if loss_terms == "tokens" else 1].numel() if loss_terms == 1 else 1
        for p in self.feedback_parameters(model):
            new = scale * (p.detach() + torch.randn(3, dtype=p.dtype))
            p.grad = new if p.grad is None else p.grad + new
        return value


@pytest.mark.parametrize(
    ("settings", "loss_terms"),
    [({}, "batch"), (METHOD_SETTINGS, "batch"), (METHOD_SETTINGS, "tokens")],
    ids=["default", "batch", "tokens"],
)
@pytest.mark.parametrize("name", lra.methods.METHODS)
def test_methods_keep_every_identity(name, settings, loss_terms):
    report = check_rule(lra.named(name, **settings.get(name, {})), loss_terms=loss_terms)
    assert [outcome.identity for outcome in report.outcomes] == NAMES
    skipped = {outcome.identity for outcome in report.outcomes if outcome.deviation is None}
    estimates = {"one layer"} if lra.methods.METHODS[name].estimates else set()
    needs_labels = {"zero gradient"} if name in ("forward-forward", "drtp") else set()
    assert skipped == estimates | needs_labels


@pytest.mark.parametrize("method", [Gradient(), Loaded()], ids=str)
def test_users_methods_keep_what_applies(method):
    report = check_rule(method)
    assert str(report).startswith(f"check_rule: {type(method).__name__}()\n  ok    forward: ")
    assert all(outcome.deviation is not None for outcome in report.outcomes)


# Broken methods, with the identities that must fail, and whether all others must hold.


class Doubles(Gradient):
    def attach(self, model, example):
        with torch.no_grad():
            model[0].weight.mul_(2)
        return model


class StaysAttached(Gradient):
    def attach(self, model, example):
        model[0].register_buffer("mark", torch.ones(1))
        return model


class MovesWeights(Gradient):
    def __call__(self, model, loss, x, *, loss_terms="batch"):
        value = super().__call__(model, loss, x)
        with torch.no_grad():
            model[0].weight.mul_(1.01)
        return value


class LeavesHook(Gradient):
    def __call__(self, model, loss, x, *, loss_terms="batch"):
        model[0].register_forward_hook(lambda *_: None)
        return super().__call__(model, loss, x)


class LeavesEval(Gradient):
    def __call__(self, model, loss, x, *, loss_terms="batch"):
        model.eval()
        return super().__call__(model, loss, x)


class RunsTwice(Gradient):
    def __call__(self, model, loss, x, *, loss_terms="batch"):
        model(x)
        return super().__call__(model, loss, x)


class ForgetsBias(Gradient):
    def change(self, name, p, g):
        return None if name == "0.bias" else g


class Diverges(Gradient):
    def change(self, name, p, g):
        return g * torch.inf


class KeepsGraph(Gradient):
    def __call__(self, model, loss, x, *, loss_terms="batch"):
        super().__call__(model, loss, x)
        return loss(model(x))


class OtherAnswer(Gradient):
    def output(self, model, x):
        return 2 * super().output(model, x)


class Remembers(Gradient):
    def change(self, name, p, g):
        return g * (1 + 0.01 * next(CALLS))


class Overwrites(Gradient):
    def __call__(self, model, loss, x, *, loss_terms="batch"):
        model.zero_grad()
        return super().__call__(model, loss, x)


class TrainsAll(Gradient):
    def __call__(self, model, loss, x, *, loss_terms="batch"):
        frozen = [p for p in model.parameters() if not p.requires_grad]
        model.requires_grad_()
        value = super().__call__(model, loss, x)
        for p in frozen:
            p.requires_grad_(False)
        return value


class Half(Gradient):
    def change(self, name, p, g):
        return g / 2


class Decays(Gradient):
    def change(self, name, p, g):
        return g + 0.01 * p.detach()


class MixesSamples(Gradient):
    def look(self, x):
        return x - x.mean(0, keepdim=True)


class Normalises(Gradient):
    def change(self, name, p, g):
        return g / g.norm().clamp(min=1e-30)


class KnowsItsModel(Gradient):
    def attach(self, model, example):
        KNOWN.add(model)
        return model

    def __call__(self, model, loss, x, *, loss_terms="batch"):
        value = super().__call__(model, loss, x)
        if model not in KNOWN:
            model.zero_grad(set_to_none=False)
        return value


class NotDefined(Gradient):
    def attach(self, model, example):
        raise lra.errors.MethodError("not on this model")


@dataclass(frozen=True)
class HoldsFunction(Gradient):
    function: Any = field(default_factory=lambda: lambda g: g)


BROKEN = {
    "attaching changes the forward pass": (Doubles(), {"forward", "detach", "one layer"}, False),
    "nothing is detached": (StaysAttached(), {"detach"}, True),
    "weights move": (MovesWeights(), {"unchanged", "repeats", "detach"}, False),
    "a hook stays": (LeavesHook(), {"unchanged"}, True),
    "the mode changes": (LeavesEval(), {"unchanged", "buffers"}, False),
    "buffers move twice": (RunsTwice(), {"buffers", "one draw"}, True),
    "a bias gets nothing": (ForgetsBias(), {"filled", "one layer"}, False),
    "not finite": (Diverges(), {"filled"}, False),
    "a graph is returned": (KeepsGraph(), {"value", "buffers"}, True),
    "another answer": (OtherAnswer(), {"value"}, True),
    "remembers": (Remembers(), {"repeats", "adds up", "frozen"}, False),
    "overwrites": (Overwrites(), {"adds up"}, True),
    "trains what is frozen": (TrainsAll(), {"frozen"}, True),
    "half": (Half(), {"one layer"}, True),
    "decays": (Decays(), {"zero gradient", "summed loss", "one layer"}, False),
    "mixes samples": (MixesSamples(), {"mean of samples"}, False),
    "normalises": (Normalises(), {"summed loss", "mean of samples", "one layer"}, True),
    "knows its model": (KnowsItsModel(), {"deepcopy"}, True),
    "holds a function": (HoldsFunction(), {"config", "pickle"}, True),
}


def broken_by(method: lra.methods.Method) -> tuple[set[str], str]:
    with pytest.raises(lra.errors.RuleError) as caught:
        check_rule(method)
    message = str(caught.value)
    return set(re.findall(r"^  - FAILS ([^:]+):", message, re.MULTILINE)), message


@pytest.mark.parametrize(("method", "named", "only"), BROKEN.values(), ids=BROKEN)
def test_broken_methods_fail_the_identities_they_break(method, named, only):
    failed, _ = broken_by(method)
    assert named <= failed
    assert failed == named or not only


def test_every_identity_has_a_broken_method():
    assert set().union(*(named for _, named, _ in BROKEN.values())) == set(NAMES)


def test_exceptions_of_a_method_are_failures():
    failed, message = broken_by(NotDefined())
    assert {"forward", "filled", "one layer"} <= failed
    assert "inf, allowed 0; MethodError: not on this model" in message


class Narrow(Gradient):
    """Supports linear layers and activations only."""

    def attach(self, model, example):
        if any(isinstance(m, (nn.BatchNorm1d, nn.Dropout)) for m in model.modules()):
            raise lra.errors.MethodError("neither a layer nor an activation")
        return model


def test_identities_on_networks_that_a_method_refuses_do_not_apply():
    skipped = [o.identity for o in check_rule(Narrow()).outcomes if o.deviation is None]
    assert {"buffers", "one draw"} <= set(skipped)


class Estimate(Gradient):
    estimates = True

    def change(self, name, p, g):
        return 1.001 * g


def test_estimates_need_not_equal_backprop():
    outcomes = {outcome.identity: outcome for outcome in check_rule(Estimate()).outcomes}
    assert outcomes["one layer"].deviation is None


def test_the_callers_settings_neither_matter_nor_change():
    state = torch.get_rng_state()
    expected = str(check_rule(lra.methods.DTP()))
    with torch.inference_mode(), torch.device("meta"):
        assert str(check_rule(lra.methods.DTP())) == expected
    assert torch.equal(torch.get_rng_state(), state)
