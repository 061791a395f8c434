"""Diagnoses equal formulas written out by hand and autograd's gradient, and change nothing.

The oracle of the last is the same training without a diagnosis.
"""

import copy
import itertools
import json
import math
import random
import threading

import numpy as np
import pytest
import torch
from nets import ALL_RULES, MODELS, angle, convert, copy_weights_to_feedback, images, mlp
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import lra
from lra.torch.diagnose import Arrival, LayerKind, angle_between
from lra.torch.diagnose.pass_observer import PassObserver

every_rule = pytest.mark.parametrize("rule", ALL_RULES.values(), ids=ALL_RULES)


def stack(*widths, act=nn.Tanh):
    """Build linear layers with activations between them, in float64."""
    layers = []
    for n, m in itertools.pairwise(widths):
        layers += [nn.Linear(n, m), act()]
    return nn.Sequential(*layers[:-1]).double()


def data(n=7, features=6, classes=4):
    return torch.randn(n, features, dtype=torch.float64), torch.arange(n) % classes


def close(a, b, rtol=1e-9):
    """Assert that two numbers are equal up to rounding."""
    a, b = (torch.tensor(v, dtype=torch.float64) for v in (a, b))
    torch.testing.assert_close(a, b, rtol=rtol, atol=0)


# ---------------------------------------------------------------- identities


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_the_angle_of_backprop_to_itself_is_zero(build):
    model = lra.convert(build().double(), lra.Backprop())
    found = lra.diagnose(model, *images())
    names = {name for name, _ in model.named_parameters()}
    assert {u.name for layer in found.layers for u in layer.updates} == names
    assert {u.angle for layer in found.layers for u in layer.updates} == {0.0}
    assert {layer.feedback_angle for layer in found.weights} == {0.0}
    assert not found.without_usable_error


def test_with_e_equal_to_w_the_angle_vanishes_with_beta():
    plain, batch, angles = stack(6, 9, 8, 4), data(), []
    for beta in (1e-2, 1e-3):
        model = lra.convert(copy.deepcopy(plain), lra.LRAE(beta, normalized=True))
        copy_weights_to_feedback(model)
        found = lra.diagnose(model, *batch)
        assert {layer.feedback_angle for layer in found.weights} == {None, 0.0}
        angles.append([u.angle for x in found.weights for u in x.updates if not u.feedback])
    for coarse, fine in zip(*angles, strict=True):
        assert fine < 0.1
        assert fine == 0 or 8 < coarse / fine < 12


@every_rule
def test_both_passes_draw_the_same_masks(rule):
    """With equal masks, every rule's update above the last dropout is autograd's."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 20), nn.Dropout(), nn.Tanh(), nn.Linear(20, 20)
    )
    net.extend([nn.RReLU(), nn.Dropout(), nn.Linear(20, 4)])
    found = lra.diagnose(convert(net.double(), rule), *images())
    top = found.weights[-1].updates[:2]
    assert [u.name for u in top] == ["7.weight", "7.bias"]
    assert all(u.angle < 1e-9 for u in top)


def test_feedback_drawn_in_an_intercepted_forward_changes_no_mask():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 30), nn.Linear(30, 30)
            self.head = nn.Linear(30, 4)

        def forward(self, x):
            h = torch.tanh(F.linear(torch.tanh(self.first(x)), self.second.weight))
            return self.head(F.dropout(h))

    x, t = data()
    model = lra.convert(Block().double(), lra.SignSymmetry("batch"), example=x)
    assert lra.diagnose(model, x, t)["head"].angle < 1e-9


def test_what_is_drawn_apart_is_drawn_anew_each_time():
    watch = PassObserver(nn.Linear(2, 2), {})
    state = torch.get_rng_state()
    with watch.separate_random():
        first = torch.rand(3), np.random.rand(), random.random()
    with watch.separate_random():
        second = torch.rand(3), np.random.rand(), random.random()
    assert not torch.equal(first[0], second[0])
    assert first[1:] != second[1:]
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------- closed forms


def test_a_perceptron_equals_its_formulas():
    beta, n = 0.3, 7
    model = lra.convert(stack(6, 5, 8, 4), lra.LRAE(beta))
    x, t = data(n)
    W1, W2, W3 = (model[i].weight.detach() for i in (0, 2, 4))
    E2, E3 = model[2].feedback.detach(), model[4].feedback.detach()
    h1 = x @ W1.T + model[0].bias.detach()
    h2 = h1.tanh() @ W2.T + model[2].bias.detach()
    p = (h2.tanh() @ W3.T + model[4].bias.detach()).softmax(1)
    e3 = (p - F.one_hot(t, 4)) / n
    d2 = e3 @ E3
    e2 = (h2.tanh() - (h2 - beta * n * d2).tanh()) / n
    d1 = e2 @ E2
    e1 = (h1.tanh() - (h1 - beta * n * d1).tanh()) / n
    found = lra.diagnose(model, x, t)

    assert [layer.name for layer in found.layers] == ["0", "1", "2", "3", "4"]
    errors = torch.tensor([layer.error for layer in found.layers])
    expected = torch.stack([e.norm() for e in (e1, d1, e2, d2, e3)])
    torch.testing.assert_close(errors, expected.float())
    for name, h, d in (("1", h1, d1), ("3", h2, d2)):
        far = beta * n * float(d.norm())
        close(found[name].moved, far)
        close(found[name].moved_relative, far / float(h.norm()))
    assert found["0"].feedback_angle is None
    for name, E, W in (("2", E2, W2), ("4", E3, W3)):
        close(found[name].feedback_angle, angle(E, W))

    b1, b2 = (v.detach().requires_grad_() for v in (W1, W2))
    plain = F.linear(F.linear(F.linear(x, b1, model[0].bias).tanh(), b2, model[2].bias).tanh(), W3)
    F.cross_entropy(plain + model[4].bias, t).backward()
    for name, W, dW, own in (("0", W1, e1.T @ x, b1), ("2", W2, e2.T @ h1.tanh(), b2)):
        update = found[name].update
        assert update.name == f"{name}.weight"
        close(update.size, float(dW.norm()))
        close(update.relative, float(dW.norm() / W.norm()))
        close(update.gradient, float(own.grad.norm()))
        close(found[name].angle, angle(dW, own.grad))
    close(found.loss, float(F.cross_entropy(plain + model[4].bias, t).detach()))


@pytest.mark.parametrize("relative", ["unit", "sample", "batch"])
def test_relative_targets_move_by_beta_times_the_relative_error(relative):
    model = lra.convert(stack(6, 5, 4), lra.MirroredLRA(0.7, relative=relative))
    x, t = data()
    h = model[0](x).detach()
    p = (h.tanh() @ model[2].weight.T + model[2].bias).softmax(1).detach()
    d = (p - F.one_hot(t, 4)) / 7 @ model[2].feedback.detach()
    largest = {"unit": d.abs(), "sample": d.abs().amax(1, keepdim=True), "batch": d.abs().max()}
    far = (0.7 * d / largest[relative]).norm()
    close(lra.diagnose(model, x, t)["1"].moved, float(far))


def test_computed_feedback_is_compared_with_the_weights():
    rule = lra.SignSymmetry("fixed")
    model = lra.convert(stack(6, 5, 8, 4), rule)
    found = lra.diagnose(model, *data())
    for i in (2, 4):
        E = model[i].feedback.abs() * model[i].weight.sign()
        close(found[str(i)].feedback_angle, angle(E, model[i].weight))


def test_small_angles_are_exact_and_undefined_ones_none():
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for tilt in (1e-12, 1e-3, 1.0):
        b = torch.tensor([math.cos(tilt), math.sin(tilt)], dtype=torch.float64)
        close(angle_between(a, 5 * b), math.degrees(tilt))
    assert angle_between(a, -a) == 180
    assert angle_between(a, 0 * a) is None
    assert angle_between(a, a * math.inf) is None
    assert angle_between(a, a * math.nan) is None


def test_saturated_and_dead_units_are_counted():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for i in (0, 2):
            model[i].weight.copy_(torch.eye(4))
            model[i].bias.zero_()
        model[2].bias.copy_(torch.tensor([-9.0, 9.0, -9.0, 0.0]))
    x = torch.tensor([[0.1, -0.2, 0.3, 8.0], [9.0, 0.1, 0.2, -0.3]])
    for rule in (lra.LRAE(), lra.FeedbackAlignment()):  # activations of the rule, and torch's
        found = lra.diagnose(lra.convert(copy.deepcopy(model), rule), x, torch.tensor([0, 1]))
        assert found["1"].saturated == 2 / 8  # the 8 and the 9
        assert found["1"].dead == 0
        assert found["3"].saturated == 5 / 8  # two units are never above zero, one is once
        assert found["3"].dead == 2 / 4
    steps = nn.Sequential(nn.Linear(4, 4), lra.activations.Sign(), nn.Linear(4, 2))
    steps[0].load_state_dict(model[0].state_dict())
    found = lra.diagnose(lra.convert(steps, lra.MirroredLRA()), x, torch.tensor([0, 1]))
    assert found["1"].saturated == 2 / 8  # further from the step than a target
    assert found["1"].dead == 2 / 4


# ---------------------------------------------------------------- undefined and zero gradients


def test_below_a_black_box_there_is_no_angle():
    class Around(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.below, self.act, self.above = nn.Linear(6, 5), act, nn.Linear(5, 8)
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            h = self.below(x)
            return self.head(torch.tanh(self.above(h + self.act(h))))  # with a path around it

    x, t = data()
    torch.manual_seed(1)
    act = lra.activations.BlackBox(np.tanh)
    model = lra.convert(Around(act).double(), lra.MirroredLRA(), example=x)
    found = lra.diagnose(model, x, t)
    assert found["below"].angle is None
    assert found["below"].update.gradient is None
    assert found["below"].update.size > 0
    assert set(found.undefined) == {"below.weight", "below.bias"}
    assert found["above"].angle < 30
    assert found["head"].angle < 1e-9
    assert "below a black box: below.weight, below.bias" in str(found)

    torch.manual_seed(1)
    act = lra.activations.BlackBox(np.tanh, straight_through=lra.crossing.TanhSurrogate())
    with_surrogate = lra.convert(Around(act).double(), lra.MirroredLRA(), example=x)
    torch.manual_seed(1)
    smooth = lra.convert(Around(nn.Tanh()).double(), lra.MirroredLRA(), example=x)
    found, expected = (lra.diagnose(m, x, t) for m in (with_surrogate, smooth))
    assert not found.undefined
    close(found["below"].update.gradient, expected["below"].update.gradient)


def test_black_box_weights_have_no_gradient():
    class Device(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
            self.bias = None

        def forward(self, z):
            return torch.from_numpy(z.detach().numpy() @ self.weight.detach().numpy().T)

    lra.register_weight_layer(Device, black_box=True)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), Device(5, 8), nn.Tanh(), nn.Linear(8, 4))
    found = lra.diagnose(lra.convert(model.double(), lra.MirroredLRA()), *data())
    assert set(found.undefined) == {"0.weight", "0.bias", "2.weight"}
    assert found["4"].angle < 1e-9
    assert found["2"].feedback_angle < 10


def test_below_step_functions_backprops_gradient_is_zero():
    found = lra.diagnose(
        lra.convert(stack(6, 5, 4, act=lra.activations.Sign), lra.MirroredLRA()), *data()
    )
    assert found["0"].update.gradient == 0
    assert found["0"].angle is None
    assert found.flat == ("0.weight", "0.bias")

    def with_surrogate():
        return lra.activations.Sign(straight_through=lra.crossing.HardTanhSurrogate())

    model = lra.convert(stack(6, 5, 4, act=with_surrogate), lra.MirroredLRA())
    found = lra.diagnose(model, *data())
    assert found["0"].angle < 60
    assert not found.flat


# ---------------------------------------------------------------- unusable errors


class SlowTanh(nn.Module):
    """tanh as a module whose targets are compared by subtraction."""

    def forward(self, h):
        return (torch.exp(h) - torch.exp(-h)) / (torch.exp(h) + torch.exp(-h))


def test_errors_lost_in_rounding_are_reported():
    """beta shrinks errors by a factor of ten per layer, until subtraction rounds z - y to zero."""
    torch.manual_seed(0)
    model = lra.convert(stack(6, *[12] * 16, 4, act=SlowTanh).float(), lra.LRAE())
    found = lra.diagnose(model, *_single(data()))
    assert found.weights[-1].arrival is Arrival.USABLE
    assert found.weights[0].arrival is Arrival.ZERO
    assert Arrival.UNDERFLOW in {layer.arrival for layer in found.layers}
    assert "no usable error (zero): 0, 1" in str(found)


def test_exact_differences_lose_no_errors():
    torch.manual_seed(0)
    exact = lra.convert(stack(6, *[12] * 16, 4), lra.LRAE())
    x, t = data()
    found, expected = (
        lra.diagnose(model, x.to(model[0].weight.dtype), t)
        for model in (copy.deepcopy(exact).float(), exact)
    )
    assert expected["0"].error < 1e-16
    for layer, there in zip(found.weights, expected.weights, strict=True):
        assert layer.arrival is Arrival.USABLE
        close(layer.error, there.error, 1e-4)


def test_zero_infinite_and_missing_errors():
    x, t = data()
    model = lra.convert(stack(6, 5, 4), lra.LRAE())
    zero = lra.diagnose(model, x, loss=lambda output: 0 * output.sum())
    assert {layer.arrival for layer in zero.layers} == {Arrival.ZERO}
    assert {u.angle for layer in zero.layers for u in layer.updates} == {None}
    with pytest.warns(lra.LraWarning, match="errors of inf"):
        infinite = lra.diagnose(model, x, loss=lambda output: (output * math.inf).sum())
    assert infinite["2"].arrival is Arrival.NOT_FINITE
    nested = nn.ModuleDict({"used": stack(6, 5, 4), "idle": nn.Linear(2, 2)})
    lra.convert(nested, lra.LRAE())
    found = lra.diagnose(nested, loss=lambda: F.cross_entropy(nested["used"](x), t))
    assert found["used.2"].arrival is Arrival.USABLE
    assert found["idle"].arrival is Arrival.NOTHING
    assert found["idle"].update.size == 0


# ---------------------------------------------------------------- no side effects


class Busy(nn.Module):
    """A model with everything that a pass can change."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 12), nn.BatchNorm1d(12)
        self.drawn, self.drop = (
            lra.activations.Bernoulli(lra.crossing.SigmoidSurrogate()),
            nn.Dropout(0.3),
        )
        self.second, self.rrelu = nn.Linear(12, 12), nn.RReLU(inplace=True)
        self.head = nn.Linear(12, 4)
        self.passes, self.history, self.lock = 0, [], threading.Lock()  # which has no deepcopy

    def forward(self, x):
        self.passes += 1
        self.history.append(len(x))
        x = x * (0.5 + random.random()) + np.random.rand()
        return self.head(self.rrelu(self.second(self.drop(self.drawn(self.norm(self.first(x)))))))


def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    return Busy()


def _state(model):
    python, numpy = random.getstate(), np.random.get_state()[1].tolist()
    tensors = [t.clone() for t in (*model.state_dict().values(), torch.get_rng_state())]
    grads = [p.grad for p in model.parameters()]
    modules = [
        (type(m), m.training, list(m._forward_hooks), list(m._forward_pre_hooks), set(vars(m)),
         [id(t) for t in (*m.parameters(False), *m.buffers(False))])
        for m in model.modules()
    ]  # fmt: skip
    return python, numpy, tensors, grads, modules, (model.passes, list(model.history))


@pytest.mark.parametrize("train", [True, False])
@every_rule
def test_the_model_and_random_states_are_unchanged(rule, train):
    model = lra.convert(_seeded(), rule, example=_single(data())[0]).train(train)
    handle = model.head.register_forward_hook(lambda *_: None)
    x, t = _single(data())
    F.cross_entropy(model(x), t).backward()
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    before = _state(model)
    lra.diagnose(model, x, t)
    after = _state(model)
    assert before[0] == after[0]
    assert before[1] == after[1]
    assert all(torch.equal(a, b) for a, b in zip(before[2], after[2], strict=True))
    assert all(a is b for a, b in zip(before[3], after[3], strict=True))
    for g, p in zip(grads, model.parameters(), strict=True):
        assert p.grad is None or torch.equal(p.grad, g)
    assert before[4:] == after[4:]
    handle.remove()
    assert not model.head._forward_hooks


@every_rule
def test_training_is_the_same_bit_for_bit(rule):
    trained = []
    for diagnosing in (False, True):
        model = lra.convert(_seeded(), rule, example=_single(data())[0])
        optimizer = torch.optim.AdamW(model.parameters())
        for step in range(3):
            x, t = _single(data())
            if diagnosing:
                lra.diagnose(model, x, t)
            loss = F.cross_entropy(model(x), t)
            if diagnosing and step == 1:  # between the passes too
                lra.diagnose(model, x, t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        trained.append(model.state_dict())
    for key, value in trained[0].items():
        assert torch.equal(trained[1][key], value), key


def test_the_model_is_unchanged_after_an_exception():
    model = lra.convert(_seeded(), lra.LRAE())
    x, t = _single(data())
    before = _state(model)
    with pytest.raises(ZeroDivisionError):
        lra.diagnose(model, x, loss=lambda output: 1 / 0)
    assert before[4:] == _state(model)[4:]
    assert torch.isfinite(model(x)).all()
    assert lra.diagnose(model, x, t).loss > 0


def test_gradient_hooks_of_parameters_are_not_called():
    model = lra.convert(stack(6, 5, 4), lra.LRAE())
    called = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(
            called.append
        )  # like an optimizer in the backward pass
    lra.diagnose(model, *data())
    assert not called


def test_feedback_not_yet_drawn_is_drawn_once():
    with torch.device("meta"):
        model = stack(6, 50, 4)
    lra.convert(model, lra.FeedbackAlignment())
    model.to_empty(device="cpu")
    for i in (0, 2):
        nn.init.normal_(model[i].weight)
        nn.init.zeros_(model[i].bias)
    model[2].feedback.fill_(1e9)
    lra.diagnose(model, *data())
    assert float(model[2].feedback.abs().max()) < 100


# ---------------------------------------------------------------- kinds of models and batches


def test_functions_get_the_numbers_of_modules():
    class Functional(nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.one, self.two, self.three = layers

        def forward(self, x):
            h = F.relu(F.linear(x, self.one.weight, self.one.bias))
            h = torch.tanh(h @ self.two.weight.T + self.two.bias)
            return F.linear(h, self.three.weight, self.three.bias)

    x, t = data()
    layers = nn.Linear(6, 5), nn.Linear(5, 8), nn.Linear(8, 4)
    one, two, three = copy.deepcopy(layers)
    modules = nn.Sequential(one, nn.ReLU(), two, nn.Tanh(), three).double()
    functional = Functional(layers).double()
    lra.convert(modules, lra.LRAE(0.2))
    lra.convert(functional, lra.LRAE(0.2), example=x)
    with torch.no_grad():
        functional.two.feedback.copy_(two.feedback)
        functional.three.feedback.copy_(three.feedback)
    expected, found = lra.diagnose(modules, x, t), lra.diagnose(functional, x, t)
    names = [
        "relu()",
        "two",
        "tanh()",
        "three",
        "one",
    ]  # no error crosses the first product, listed last
    assert [layer.name for layer in found.layers] == names
    for name, there in zip(names[:4], ("1", "2", "3", "4"), strict=True):
        mine, other = found[name], expected[there]
        assert mine.kind == other.kind
        for key in ("error", "feedback_angle", "moved", "moved_relative", "saturated", "dead"):
            torch.testing.assert_close(getattr(mine, key), getattr(other, key), msg=key)
        angles = [[u.angle for u in layer.updates] for layer in (mine, other)]
        torch.testing.assert_close(*([a for a in each if a is not None] for each in angles))
    close(found["one"].angle, expected["0"].angle, 1e-6)


def test_any_output_with_a_loss_or_a_closure():
    class WithLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = stack(6, 5, 4)

        def forward(self, x, labels=None):
            logits = self.net(x)
            return {"logits": logits, "loss": F.cross_entropy(logits, labels)}

    x, t = data()
    model = lra.convert(WithLoss(), lra.LRAE())
    expected = lra.diagnose(model.net, x, t)
    several = (
        lra.diagnose(model, {"x": x, "labels": t}, loss=lambda output: output["loss"]),
        lra.diagnose(model, (x, t), loss=lambda output: output["loss"]),
        lra.diagnose(model, loss=lambda: model(x, t)["loss"]),
        lra.diagnose(model.net, x, t, loss=F.cross_entropy),
    )
    for found in several:
        assert found.loss == expected.loss
        assert [one.angle for one in found.layers] == [one.angle for one in expected.layers]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_are_counted_once(reentrant):
    class Saving(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = stack(6, 5, 8, 4)

        def forward(self, x):
            h = self.net[:2](x)
            return self.net[4](checkpoint(self.net[2:4], h, use_reentrant=reentrant))

    x, t = data()
    model = lra.convert(Saving(), lra.LRAE())
    assert lra.diagnose(model, x, t).rows() == [
        row | {"layer": f"net.{row['layer']}"} for row in lra.diagnose(model.net, x, t).rows()
    ]


def test_tied_weights_are_reported_in_both_layers():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.mid, self.write = nn.Embedding(9, 5), nn.Linear(5, 5), nn.Linear(5, 9)
            self.write.weight = self.read.weight

        def forward(self, x):
            return self.write(torch.tanh(self.mid(torch.tanh(self.mid(self.read(x))))))

    x = torch.randint(9, (3, 4))
    model = lra.convert(Tied(), lra.LRAE(), example=x, loss_terms="tokens")
    found = lra.diagnose(model, x, x)
    assert found["read"].update.size == found["write"].update.size > 0
    assert found["mid"].calls == 2
    assert found["mid"].kind is LayerKind.WEIGHTS


def test_bfloat16_models_are_measured_in_float32():
    model = lra.convert(stack(6, 5, 4).to(torch.bfloat16), lra.LRAE())
    x, t = data()
    found = lra.diagnose(model, x.to(torch.bfloat16), t)
    assert found["1"].arrival is Arrival.USABLE
    assert 0 < found["1"].moved_relative < 1


def test_compiled_models_are_diagnosed_in_eager_mode():
    model = lra.convert(stack(6, 5, 4), lra.LRAE())
    x, t = data()
    assert lra.diagnose(torch.compile(model, backend="eager"), x, t) == lra.diagnose(model, x, t)


def test_reports_convert_to_plain_data():
    found = lra.diagnose(lra.convert(mlp().double(), lra.LRAE()), *images())
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["layers"][0]["name"] == "1"
    assert plain["layers"][0]["updates"][0]["name"] == "1.weight"
    rows = found.rows()
    assert [row["layer"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert rows[0]["angle"] == found["1"].angle
    with pytest.raises(KeyError, match="there are 1, 2, 3, 4, 5"):
        found["nowhere"]


@pytest.mark.parametrize(
    "method", [build() for build in lra.methods.METHODS.values()], ids=lra.methods.METHODS
)
def test_updates_of_methods_are_compared_with_backprops(method):
    model = method.attach(stack(6, 9, 8, 4), data()[0])
    x, t = data()
    F.cross_entropy(model(x), t).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    random_state = torch.get_rng_state()
    found = lra.diagnose(model, x, t, method=method)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(p.grad is None for p in model.parameters())
    method(model, lambda output: F.cross_entropy(output, t), x)
    assert [layer.name for layer in found.layers][:5] == ["0", "1", "2", "3", "4"]
    for layer in found.weights:
        W = model.get_parameter(layer.update.name)
        close(layer.update.size, float(W.grad.norm()))
        expected = angle(W.grad, gradients[layer.update.name])
        torch.testing.assert_close(layer.angle, expected, rtol=1e-5, atol=1e-5)
        assert layer.arrival is Arrival.USABLE
    assert found["1"].saturated is not None
    with pytest.raises(lra.errors.OptionError, match="a method takes a tensor"):
        lra.diagnose(model, (x,), t, method=method)


# ---------------------------------------------------------------- refusals


def test_invalid_arguments_are_refused():
    x, t = data()
    model = stack(6, 5, 4)
    with pytest.raises(lra.errors.ConversionError, match=r"call lra\.convert"):
        lra.diagnose(model, x, t)
    lra.convert(model, lra.LRAE())
    with pytest.raises(lra.errors.OptionError, match="give targets t"):
        lra.diagnose(model, x)
    with pytest.raises(lra.errors.OptionError, match="give a batch x"):
        lra.diagnose(model, loss=F.cross_entropy, t=t)
    with pytest.raises(lra.errors.OptionError, match="must be a function"):
        lra.diagnose(model, x, t, loss="cross-entropy")
    with pytest.raises(lra.errors.OptionError, match="must be one number"):
        lra.diagnose(model, x, loss=lambda output: output)
    with pytest.raises(lra.errors.OptionError, match="must be one number"):
        lra.diagnose(model, x, loss=lambda output: output.sum().detach())
    with pytest.raises(lra.errors.OptionError, match="name another loss"):
        lra.diagnose(model, x, 3)


def _single(batch):
    return batch[0].float(), batch[1]
