"""Wirings other than the chain: the error of each layer, written out by hand in float64."""

import copy
import itertools
import threading

import pytest
import torch
from nets import MODELS, assert_same, images, taken, updates
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import lra

SIZES = (5, 7, 6, 4, 3)
CLOSE = {"rtol": 1e-10, "atol": 1e-13}
LRA = lra.LRAE(0.3, 0.5, wiring=lra.wiring.Direct())


def mlp() -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(SIZES):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).double()


def data(n: int = 6):
    return torch.randn(n, SIZES[0], dtype=torch.float64), torch.arange(n) % SIZES[-1]


def by_hand(model, x, t, every, crossing, gamma):
    """Compute the updates of the perceptron above; `crossing` returns e from h and d."""
    layers = [m for m in model if isinstance(m, nn.Linear)]
    last = len(layers) - 1
    z, h = [x], []
    for layer in layers:
        h.append(z[-1] @ layer.weight.T + layer.bias)
        z.append(torch.tanh(h[-1]))
    e = [torch.zeros(0)] * len(layers)
    e[last] = (h[last].softmax(1) - F.one_hot(t, SIZES[-1])) / len(x)
    found = {}
    for i in reversed(range(len(layers))):
        if i < last:
            source = min(i + every, last)
            e[i] = crossing(h[i], e[source] @ layers[i + 1].feedback)
            if gamma is not None:
                found[f"{2 * i + 2}.feedback"] = gamma * e[source].T @ z[i + 1]
        found[f"{2 * i}.weight"], found[f"{2 * i}.bias"] = e[i].T @ z[i], e[i].sum(0)
    return {key: update.detach() for key, update in found.items()}


def derivative(h, d):
    return (1 - torch.tanh(h) ** 2) * d


def difference(beta, n):
    return lambda h, d: (torch.tanh(h) - torch.tanh(h - beta * n * d)) / n


@pytest.mark.parametrize(
    ("rule", "every", "crossing", "gamma"),
    [
        (lra.DirectFeedbackAlignment(), 9, derivative, None),
        (LRA, 9, difference(0.3, 6), 0.5),
        (
            lra.Rule(lra.feedback.Learned(), lra.crossing.Derivative(), lra.wiring.Stride(2)),
            2,
            derivative,
            1.0,
        ),
        (
            lra.Rule(
                lra.feedback.Random(), lra.crossing.TargetDifference(0.2), lra.wiring.Stride(3)
            ),
            3,
            difference(0.2, 6),
            None,
        ),
        (lra.RecLRA(2, 0.2, 0.7), 2, difference(0.2, 6), 0.7),
    ],
    ids=["dfa", "direct lra", "stride 2", "stride 3", "rec-lra"],
)
def test_updates_equal_those_written_by_hand(rule, every, crossing, gamma):
    (x, t), model = data(), mlp()
    lra.convert(model, rule, example=x[:2])
    last = len(SIZES) - 2
    for i in range(1, last + 1):
        source = min(i - 1 + every, last)
        assert model[2 * i].feedback.shape == (SIZES[source + 1], SIZES[i])
    expected = by_hand(model, x, t, every, crossing, gamma)
    assert_same(updates(model, x, t), expected, **CLOSE)


def test_mixed_local_loss_of_rec_lra():
    h, d = torch.randn(2, 4, 3, dtype=torch.float64)
    crossing = lra.RecLRA(alpha=0.3).crossing
    z, y = torch.tanh(h), torch.tanh(h - 0.1205 * 4 * d)
    expected = (0.3 * (z - y) + 0.7 * (z - y).sign()) / 4
    torch.testing.assert_close(crossing.error(torch.tanh, h, z, d, 4, torch), expected)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_the_least_and_largest_strides_are_chain_and_direct(build):
    x, y = images()
    for other, wiring in (
        (lra.wiring.Chain(), lra.wiring.Stride(1)),
        (lra.wiring.Direct(), lra.wiring.Stride(99)),
    ):
        plain = build().double()
        found = []
        for each in (other, wiring):
            torch.manual_seed(1)
            rule = lra.Rule(lra.feedback.Learned(), lra.crossing.TargetDifference(), each)
            model = lra.convert(copy.deepcopy(plain), rule, example=x[:2])
            found.append(updates(model, x, y))
        assert_same(*found)


def test_a_residual_block_receives_the_output_error_and_that_of_its_shortcut():
    """d arrives at the block's input; the shortcut's error comes from above, by autograd."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner, self.head = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            z = torch.tanh(self.stem(x))
            return self.head(z + torch.tanh(self.inner(z)))

    (x, t), model = data(), Block().double()
    lra.convert(model, lra.DirectFeedbackAlignment(), example=x)
    got = updates(model, x, t)
    z = torch.tanh(x @ model.stem.weight.T + model.stem.bias)
    inner = torch.tanh(z @ model.inner.weight.T + model.inner.bias)
    h = (z + inner) @ model.head.weight.T + model.head.bias
    e = (h.softmax(1) - F.one_hot(t, 3)) / len(x)
    at_sum, at_inner = e @ model.head.feedback, e @ model.inner.feedback
    expected = ((1 - z**2) * (at_sum + at_inner)).T @ x
    torch.testing.assert_close(got["stem.weight"], expected.detach(), **CLOSE)
    expected = ((1 - inner**2) * at_sum).T @ z
    torch.testing.assert_close(got["inner.weight"], expected.detach(), **CLOSE)


# The position of the batch dimension


class Recurrent(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.net, self.first = nn.LSTM(6, 8, 2, batch_first=batch_first), batch_first
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        h, _ = self.net(x if self.first else x.transpose(0, 1))
        return self.head(h[:, -1] if self.first else h[-1])


class Attention(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(40, 4)
        self.net = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=batch_first)
        self.first = batch_first

    def forward(self, x):
        z = self.stem(x)
        h = self.net(z) if self.first else self.net(z.transpose(0, 1)).transpose(0, 1)
        return self.head(h.flatten(1))


@pytest.mark.parametrize("build", [Recurrent, Attention])
@pytest.mark.parametrize("n", [5, 3])
def test_the_batch_may_be_the_second_dimension(build, n):
    """With n = 5 there are as many samples as positions, so shapes do not distinguish them."""
    x, y = torch.randn(n, 5, 6, dtype=torch.float64), torch.arange(n) % 4
    torch.manual_seed(1)
    first = lra.convert(build(True).double(), LRA, example=x, loss_terms=n)
    second = build(False).double()
    second.load_state_dict({k: v for k, v in first.state_dict().items() if "feedback" not in k})
    lra.convert(second, LRA, example=x, loss_terms=n)
    assert any("feedback" in name for name, _ in second.named_parameters())
    second.load_state_dict(first.state_dict())
    assert_same(updates(second, x, y), updates(first, x, y), **CLOSE)


class Words(nn.Module):
    """A model that multiplies tokens as (batch * positions, units), as some do."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 6), nn.Linear(8, 9)
        self.weight = nn.Parameter(torch.randn(6, 8))

    def forward(self, x):
        rows = self.embed(x).flatten(0, 1) @ self.weight
        return self.head(torch.tanh(rows).view(*x.shape, 8))


def test_each_token_receives_its_own_error_for_any_number_of_tokens():
    model = lra.convert(
        Words().double(), LRA, example=torch.randint(9, (2, 4)), loss_terms="tokens"
    )
    assert model.head.feedback.shape == (9, 8)
    assert model.feedback.shape == (9, 6)
    x = torch.randint(9, (3, 5))
    model(x).square().mean().backward()
    embedded = model.embed(x).detach()
    h = torch.tanh(embedded @ model.weight) @ model.head.weight.T + model.head.bias
    e = (2 * h / h.numel()).detach()
    expected = torch.zeros_like(model.embed.weight)
    expected.index_add_(0, x.flatten(), (e @ model.feedback).detach().flatten(0, 1))
    torch.testing.assert_close(model.embed.weight.grad, expected, **CLOSE)


# Machinery


def test_updates_per_sample_and_of_one_sample():
    x, t = data(3)
    model = lra.convert(mlp(), LRA, example=x, loss_terms=1)
    parameters = dict(model.named_parameters())

    def loss(parameters, x, t):
        return F.cross_entropy(torch.func.functional_call(model, parameters, (x,)), t)

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, t)
    for i in range(len(x)):
        expected = updates(model, x[i : i + 1], t[i : i + 1])
        assert_same({k: g[i] for k, g in per_sample.items()}, expected, **CLOSE)
        assert_same(updates(model, x[i], t[i]), expected, **CLOSE)


def test_checkpointed_layers_receive_their_error_once():
    (x, t), model = data(), mlp()
    lra.convert(model, LRA, example=x)
    expected = updates(model, x, t)
    inner = model[2:6]
    for _ in range(2):  # the second pass must not use tensors of the first
        model.zero_grad()
        h = model[6](checkpoint(inner, model[1](model[0](x)), use_reentrant=False))
        F.cross_entropy(h, t).backward()
        assert_same(taken(model), expected, **CLOSE)


def test_reentrant_checkpoints_are_refused():
    """The refusal also comes after a pass without checkpoints, in which all errors arrived."""

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.checkpointed = mlp(), False

        def forward(self, x):
            z = self.net[:2](x)
            inner = self.net[2:6]
            if self.checkpointed:
                return self.net[6](checkpoint(inner, z, use_reentrant=True))
            return self.net[6](inner(z))

    (x, t), model = data(), Inside()
    lra.convert(model, LRA, example=x)
    updates(model, x, t)
    model.checkpointed = True
    with pytest.raises(lra.errors.RuleError, match="use_reentrant=False"):
        F.cross_entropy(model(x), t).backward()


def test_passes_in_two_threads_are_independent():
    batches = [data(4), data(7)]
    model = lra.convert(mlp(), LRA, example=batches[0][0])
    weights = [*model.parameters()]
    expected = [torch.autograd.grad(F.cross_entropy(model(x), t), weights) for x, t in batches]
    barrier, found = threading.Barrier(2), {}

    def run(i):
        x, t = batches[i]
        for layer in model:
            barrier.wait()
            x = layer(x)
        found[i] = torch.autograd.grad(F.cross_entropy(x, t), weights)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        torch.testing.assert_close(found[i], expected[i], **CLOSE)


class Switchable(nn.Module):
    """A model that fails or skips its head, according to `mode`."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.mode = ""

    def forward(self, x):
        z = torch.tanh(self.b(torch.tanh(self.a(x))))
        if self.mode == "fails":
            raise ArithmeticError
        return z if self.mode == "no head" else self.head(z)


def test_a_failed_pass_does_not_affect_the_next():
    (x, t), model = data(), Switchable().double()
    lra.convert(model, LRA, example=x)
    expected = updates(model, x, t)
    model.mode = "fails"
    with pytest.raises(ArithmeticError):
        model(x)
    model.mode = ""
    assert_same(updates(model, x, t), expected)


def test_a_pass_in_which_an_error_would_not_arrive_is_refused():
    (x, t), model = data(), Switchable().double()
    lra.convert(model, LRA, example=x)
    expected = updates(model, x, t)
    model.mode = "no head"
    with pytest.raises(
        lra.errors.RuleError,
        match=r"b would learn nothing .* error comes from head, which did not run",
    ):
        model(x)
    with torch.no_grad():
        assert model(x).shape == (6, 4)
    model.mode = ""
    assert_same(updates(model, x, t), expected)


def test_frozen_layers_leave_the_other_updates_unchanged():
    (x, t), model = data(), mlp()
    lra.convert(model, LRA, example=x)
    expected = updates(model, x, t)
    model[2].requires_grad_(False)
    got = updates(model, x, t)
    frozen = {"2.weight", "2.bias", "2.feedback"}
    frozen |= {"4.feedback"}  # frozen layer 2 computes what 4 reads, from a detached input
    assert_same(got, {k: g for k, g in expected.items() if k not in frozen})


def test_reset_parameters_draws_feedback_of_the_same_shape():
    x, _ = data()
    model = lra.convert(mlp(), LRA, example=x)
    before = model[2].feedback.clone()
    model[2].reset_parameters()
    assert model[2].feedback.shape == before.shape
    assert not torch.equal(model[2].feedback, before)


def test_feedback_has_the_scale_of_the_weights_of_its_layer():
    x, _ = data()
    model = mlp()
    with torch.no_grad():
        model[2].weight.mul_(100)
    lra.convert(model, lra.DirectFeedbackAlignment(), example=x)
    for layer in (model[2], model[4], model[6]):
        ratio = layer.feedback.square().mean().sqrt() / layer.weight.square().mean().sqrt()
        assert 0.5 < ratio < 2


# Refusals


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.policy, self.value = nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x):
        z = torch.tanh(self.stem(x))
        return self.policy(z), self.value(z)


def test_a_wiring_without_an_example_is_refused():
    with pytest.raises(lra.errors.ConversionError, match=r"Direct.* needs example="):
        lra.convert(mlp(), LRA)


def test_a_wiring_with_two_output_layers_is_refused():
    x, _ = data()
    model = TwoHeads().double()
    kinds = [type(m) for m in model.modules()]
    with pytest.raises(lra.errors.ConversionError, match=r"several layers here .'policy', 'value'"):
        lra.convert(model, LRA, example=x)
    assert [type(m) for m in model.modules()] == kinds
    assert not model._forward_hooks
    lra.convert(model, LRA, example=x, skip="value")


def test_mirror_refuses_a_wired_model():
    x, _ = data()
    with pytest.raises(lra.errors.ConversionError, match=r"mirror: errors skip layers"):
        lra.mirror(lra.convert(mlp(), LRA, example=x))


@pytest.mark.parametrize(
    ("feedback", "name"),
    [(lra.feedback.Transpose(), "Transpose"), (lra.feedback.SignSymmetric(), "SignSymmetric"),
     (lra.feedback.Learned(init=lra.inits.Mirror()), "Mirror")],
    ids=str,
)  # fmt: skip
def test_feedback_derived_from_a_weight_is_refused(feedback, name):
    message = rf"{name}\(\) derives feedback from a layer's own weight, .*use Random"
    with pytest.raises(lra.errors.OptionError, match=message):
        lra.Rule(feedback, lra.crossing.Derivative(), lra.wiring.Direct())


@pytest.mark.parametrize("every", [0, -1, 1.5, True, None, "2"])
def test_a_stride_must_be_a_whole_number(every):
    with pytest.raises(lra.errors.OptionError, match="every must be a whole number above 0"):
        lra.wiring.Stride(every)


def test_an_example_that_does_not_show_the_batch_dimension_is_refused():
    """There are as many samples as positions, and the errors that would show which are zero."""
    silent = nn.Sequential(nn.Linear(5, 3), nn.Unflatten(1, (3, 1)), nn.Linear(1, 1), nn.ReLU())
    silent.extend([nn.Linear(1, 1), nn.Flatten(), nn.Linear(3, 2)])
    nn.init.constant_(silent[2].bias, -9.0)  # so that ReLU is always zero
    with pytest.raises(
        lra.errors.ConversionError, match=r"does not show which part .*\(two at least\)"
    ):
        lra.convert(silent, lra.DirectFeedbackAlignment(), example=torch.zeros(3, 5))
    lra.convert(silent, lra.DirectFeedbackAlignment(), example=torch.zeros(4, 5))


def test_too_many_feedback_weights_are_refused(monkeypatch):
    monkeypatch.setattr("lra.torch.convert.wiring._MOST", 20)
    x, _ = data()
    with pytest.raises(
        lra.errors.ConversionError, match="through 21 feedback weights, more than 20"
    ):
        lra.convert(mlp(), LRA, example=x)


def test_an_input_of_another_shape_than_the_example_is_refused():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv1d(1, 2, 3), nn.Conv1d(2, 2, 3)
            self.head = nn.Linear(2, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.b(torch.tanh(self.a(x)))).mean(2))

    model = lra.convert(Pooled(), LRA, example=torch.randn(2, 1, 9))
    model(torch.randn(3, 1, 9))
    with pytest.raises(
        lra.errors.RuleError,
        match=r"layer 'b' reads \(3, 2, 10\) and receives its error from 'head'",
    ):
        model(torch.randn(3, 1, 12))
