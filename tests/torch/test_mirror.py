"""Mirrored feedback: weights estimated from a layer's answer to noise.

The oracles are W itself, which is the mean of E, and the angle between the two:
tan = sqrt(fan_in / samples).
"""

import copy
import math
import pickle

import pytest
import torch
from nets import angle
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lra
from lra.torch.registry import WEIGHT_LAYERS

SAMPLES = 3000
RULE = lra.Rule(
    lra.feedback.Learned(1.0, lra.inits.Mirror(SAMPLES)), lra.crossing.TargetDifference()
)


class OwnProducts(nn.Module):
    """A forward with products in both layouts, one of them with views of a parameter."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(12, 40)
        self.w = nn.Parameter(torch.randn(40, 30) / 6)
        self.v = nn.Parameter(torch.randn(60, 30) / 6)

    def forward(self, x):
        h = torch.tanh(self.stem(x)) @ self.w
        return sum(F.linear(torch.tanh(h), part) for part in self.v.chunk(2))


class FirstOutput(nn.Module):
    """A recurrent layer that returns its first output only."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


VECTOR, IMAGE, TEXT = (5, 12), (5, 4, 9, 9), (5, 7, 12)
LAYERS = {
    "linear": (lambda: nn.Linear(12, 60), VECTOR),
    "convolution": (lambda: nn.Conv2d(4, 60, 3, stride=2, padding=1), IMAGE),
    "grouped": (lambda: nn.Conv2d(4, 60, 3, groups=2, dilation=2), IMAGE),
    "reflected": (lambda: nn.Conv2d(4, 60, 3, padding=1, padding_mode="reflect"), IMAGE),
    "one dimension": (lambda: nn.Conv1d(7, 60, 3), TEXT),
    "three dimensions": (lambda: nn.Conv3d(4, 60, 2), (5, 4, 3, 3, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 60, 3), IMAGE),
    "LSTM": (lambda: FirstOutput(nn.LSTM(12, 30, batch_first=True)), TEXT),
    "attention": (lambda: nn.TransformerEncoderLayer(12, 2, 40, batch_first=True), TEXT),
    "own products": (OwnProducts, VECTOR),
}


def pairs(model):
    """List all feedback weights with their weights, by the names in the state dict."""
    state = model.state_dict()
    found = []
    for name, E in state.items():
        head, dot, leaf = name.rpartition(".")
        if "feedback" in leaf:
            stem = leaf.removesuffix("_feedback")
            names = {leaf.replace("feedback", "weight"), f"{stem}.weight", stem} - {leaf}
            (W,) = (state[key] for key in (head + dot + name for name in names) if key in state)
            found.append((E, W))
    return found


@pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS)
def test_the_angle_between_feedback_and_weights(build, shape):
    model = nn.Sequential(nn.Identity(), build()).double()
    x = torch.randn(shape).double().requires_grad_()
    lra.convert(model, RULE, example=x, input_layers=())
    assert pairs(model)
    for E, W in pairs(model):
        expected = math.degrees(math.atan(math.sqrt(W[0].numel() / SAMPLES)))
        assert angle(E, W) == pytest.approx(expected, rel=0.35)  # the angle of a small layer varies
        assert float(E.norm() / W.norm()) == pytest.approx(1.0, abs=0.1)


def test_a_generator_makes_mirrors_repeatable_and_step_interpolates():
    def net():
        torch.manual_seed(0)
        return lra.convert(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)), RULE)

    one, other = net(), net()
    before = one[2].feedback.detach().clone()
    torch.testing.assert_close(other[2].feedback, one[2].feedback, rtol=0, atol=0)
    whole = lra.mirror(one, 100, generator=torch.Generator().manual_seed(3))[2].feedback
    half = lra.mirror(other, 100, step=0.5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(half[2].feedback, (before + whole) / 2)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("step", "decay"), [(0.25, None), (0.25, 0.0), (0.5, 0.25), (1.0, 1.0)])
def test_decay_and_step_weigh_the_old_and_the_new(step, decay, shared):
    """E <- (1 - decay) E + step times the estimate, also where E - W is stored."""

    def mirrored(**options):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
        lra.convert(net, lra.LRAE())
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        before = net[2].feedback.detach().clone()
        if shared:
            lra.share_feedback(net, optimizer)
        lra.mirror(net, 100, generator=torch.Generator().manual_seed(3), **options)
        state = net.state_dict()
        after = net[2].weight + state["2.feedback_offset"] if shared else state["2.feedback"]
        return before, after.detach()

    before, estimate = mirrored()
    removed = step if decay is None else decay
    torch.testing.assert_close(
        mirrored(step=step, decay=decay)[1], (1 - removed) * before + step * estimate
    )


def small_net():
    return nn.Sequential(
        nn.Linear(6, 80), nn.Tanh(), nn.Linear(80, 70), nn.ReLU(), nn.Linear(70, 5)
    )


def normed_net():
    model = small_net()
    nn.utils.parametrizations.weight_norm(model[2])
    return model


def mirrored_net(rule=RULE, build=small_net, example=None, seed=0):
    torch.manual_seed(seed)
    return lra.convert(build(), rule, example=example)


def backward(model):
    F.cross_entropy(model(torch.ones(4, 6)), torch.arange(4)).backward()


FIXED = lra.Rule(lra.feedback.Random(lra.inits.Mirror(SAMPLES)), lra.crossing.Derivative())
RULES = {"learned": RULE, "fixed": FIXED}


def draw_plain_weights(model):
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)


def copy_data(model):
    for layer in (model[2], model[4]):
        layer.weight.data.copy_(torch.randn(layer.weight.shape))


def copy_vector(model):
    plain = [p for name, p in model.named_parameters() if "feedback" not in name]
    nn.utils.vector_to_parameters(torch.randn(sum(p.numel() for p in plain)), plain)


def replace_parameters(model):
    for layer in (model[2], model[4]):
        layer.weight = nn.Parameter(torch.randn(layer.weight.shape))


@torch.no_grad()
def scale(model):
    for layer in (model[2], model[4]):
        layer.weight *= 3


CHANGES = {
    "init": draw_plain_weights,
    "data": copy_data,
    "vector": copy_vector,
    "new parameters": replace_parameters,
    "scaled": scale,
    "loaded": lambda model: model.load_state_dict(small_net().state_dict()),
    "loaded as they are": lambda m: m.load_state_dict(small_net().state_dict(), assign=True),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_weights_that_change_before_training_need_a_new_mirror(change, rule):
    models = [mirrored_net(rule) for _ in range(2)]
    models.append(copy.deepcopy(models[0]))
    models.append(pickle.loads(pickle.dumps(models[0])))
    for model in models:
        model(torch.ones(4, 6))
        change(model)
        model(torch.ones(4, 6))
        with pytest.warns(lra.LraWarning, match=r"'2.weight', '4.weight'\).* lra.mirror"):
            backward(model)
        backward(model)  # without a warning
    model = mirrored_net(rule)
    change(model)
    lra.mirror(model, SAMPLES)
    for E, W in pairs(model):
        assert angle(E, W) < 15
    backward(model)
    lra.mirror(model, SAMPLES)
    change(model)
    with pytest.warns(lra.LraWarning, match=r"lra.mirror\(model\)"):
        backward(model)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_loading_weights_in_the_middle_of_training_needs_a_new_mirror(rule):
    model = mirrored_net(rule)
    backward(model)
    backward(model)
    model.load_state_dict(small_net().state_dict())
    with pytest.warns(lra.LraWarning, match=r"lra.mirror\(model\)"):
        backward(model)


def test_derived_weights_that_change_need_a_new_conversion():
    model = mirrored_net(build=normed_net, example=torch.ones(4, 6))
    nn.init.normal_(model[2].parametrizations.weight.original1)
    with pytest.warns(lra.LraWarning, match=r"\('2.parametrizations.weight.original1'\)"):
        backward(model)


@pytest.mark.parametrize("name", ["in_proj_weight", "out_proj.weight"])
def test_weights_of_an_attention_that_change_need_a_new_mirror(name):
    x = torch.randn(3, 7, 12, requires_grad=True)
    model = nn.MultiheadAttention(12, 2, batch_first=True)
    lra.convert(model, RULE, example=(x, x, x))
    nn.init.xavier_uniform_(model.get_parameter(name))
    with pytest.warns(lra.LraWarning, match=rf"\({name!r}\)"):
        model(x, x, x)[0].sum().backward()


def test_a_submodules_weights_that_change_need_a_new_mirror():
    class Reads(nn.Module):
        """Multiplies with a submodule's weights without calling it."""

        def __init__(self):
            super().__init__()
            self.inner, self.first = nn.Linear(30, 5), nn.Linear(6, 30)

        def forward(self, x):
            return F.linear(torch.tanh(self.first(x)), self.inner.weight)

    model = lra.convert(Reads(), RULE, example=torch.ones(4, 6))
    assert [name for name, _ in model.named_parameters() if "feedback" in name] == [
        "inner.feedback"
    ]
    nn.init.xavier_uniform_(model.inner.weight)
    with pytest.warns(lra.LraWarning, match=r"\('inner.weight'\)"):
        backward(model)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_training_needs_a_new_mirror_too(compile):
    torch._dynamo.reset()
    model = mirrored_net(FIXED)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = lra.compile_step(model, F.cross_entropy, optimizer, backend="eager")
    whole = torch.compile(model, backend="eager")

    def train():
        if compile:
            F.cross_entropy(whole(torch.ones(4, 6)), torch.arange(4)).backward()
            optimizer.step()
        else:
            step(torch.ones(4, 6), torch.arange(4))

    draw_plain_weights(model)
    with pytest.warns(lra.LraWarning, match=r"lra.mirror\(model\)"):
        train()
    with torch.no_grad():
        model[2].weight.normal_()  # as training moves it
    train()
    backward(model)


def pruned(model):
    with torch.no_grad():
        model[2].weight[:2] = 0
    return model


def resumed(model):
    state = copy.deepcopy(model.state_dict())
    for name in ("2.weight", "4.weight"):
        state[name].normal_()
    model.load_state_dict(state)
    return model


@torch.no_grad()
def received(model):
    """Take all numbers of another process."""
    other = mirrored_net(model[2].rule, seed=1)
    for name, value in model.state_dict().items():
        value.copy_(other.state_dict()[name])
    return model


def loaded_as_it_is(model):
    model.load_state_dict({k: v for k, v in model.state_dict().items() if "feedback" not in k})
    return model


def shared(model):
    if model[2].rule.feedback == RULE.feedback:
        lra.share_feedback(model, torch.optim.SGD(model.parameters(), 0.1))
        draw_plain_weights(model)
    return model


def averaged(model):
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    draw_plain_weights(model)
    lra.mirror(model)
    mean.update_parameters(model)
    mean.update_parameters(model)
    mean(torch.ones(4, 6))
    return model


def drawn_by_layers(model):
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


SILENT = {
    "nothing": lambda model: model,
    "another precision": lambda model: model.bfloat16().float(),
    "moved": lambda model: model.to("cpu", torch.float64).float(),
    "copied": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "pruned a little": pruned,
    "resumed": resumed,
    "received": received,
    "loaded as it is": loaded_as_it_is,
    "shared": shared,
    "averaged": averaged,
    "reset": drawn_by_layers,
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("do", SILENT.values(), ids=SILENT)
def test_what_keeps_a_mirror_or_trains_needs_no_new_one(do, rule):
    model = do(mirrored_net(rule).requires_grad_())
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0, weight_decay=0.3)
    before = model[2].weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
    assert (model[2].weight - before).norm() > 0.5 * before.norm()
    backward(model)


def test_a_diagnosis_does_not_begin_training():
    model = mirrored_net()
    lra.diagnose(model, torch.ones(4, 6), torch.arange(4))
    draw_plain_weights(model)
    with pytest.warns(lra.LraWarning, match=r"lra.mirror\(model\)"):
        backward(model)


def test_a_registered_layer_is_mirrored_by_its_product():
    class Device(nn.Module):
        """Each cell multiplies with a gain, and some cells are dead."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(50, 40) / 7)
            self.bias = None
            self.register_buffer("gain", torch.rand(50, 40) + 0.5)
            self.gain[::7] = 0

        def forward(self, z):
            return z @ (self.weight * self.gain)

    lra.register_weight_layer(Device, lambda layer, z, W, b: z @ (W * layer.gain))
    try:
        model = lra.convert(nn.Sequential(nn.Linear(6, 50), nn.Tanh(), Device()), RULE)
        E, W, gain = (t.detach() for t in (model[2].feedback, model[2].weight, model[2].gain))
        assert angle(E, W * gain) < 12 < angle(E, W)
        assert not E[::7].any()
        F.cross_entropy(model(torch.randn(5, 6)), torch.arange(5)).backward()
        lra.mirror(model)
    finally:
        del WEIGHT_LAYERS[Device]


def test_mirrored_lra_starts_close_to_backprop():
    net = nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(20, 20), nn.Tanh())])
    net = net.append(nn.Linear(20, 4)).double()
    x, t = torch.randn(30, 20).double(), torch.arange(30) % 4
    F.cross_entropy(net(x), t).backward()
    truth = torch.cat([p.grad.flatten() for p in net.parameters()])

    def cosine(rule):
        torch.manual_seed(1)
        model = lra.convert(net, rule)
        model.zero_grad()
        F.cross_entropy(model(x), t).backward()
        found = torch.cat(
            [p.grad.flatten() for n, p in model.named_parameters() if "feed" not in n]
        )
        lra.restore(model)
        return float(F.cosine_similarity(found, truth, 0))

    assert cosine(lra.MirroredLRA(beta=0.1, samples=100_000)) > 0.999
    assert cosine(lra.MirroredLRA()) > 0.9
    assert cosine(lra.LRAE()) < 0.9


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (None, {}, "no layer of this Sequential is converted"),
        (lra.Backprop(), {}, "stores no feedback weights that could mirror W"),
        (lra.SignSymmetry("fixed"), {}, "stores no feedback weights that could mirror W"),
        (lra.LRAE(), {"step": 0}, "step must be above 0 and at most 1, got 0"),
        (lra.LRAE(), {"step": 1.5}, "step must be above 0 and at most 1, got 1.5"),
        (lra.LRAE(), {"decay": -0.5}, "decay must be 0 or more and at most 1, got -0.5"),
        (lra.LRAE(), {"decay": True}, "decay must be 0 or more and at most 1, got True"),
        (lra.LRAE(), {"samples": 0}, "samples must be a whole number above 0, got 0"),
    ],
)
def test_models_and_options_that_mirror_refuses(rule, options, message):
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    if rule is not None:
        lra.convert(model, rule)
    with pytest.raises(lra.LraError, match=message):
        lra.mirror(model, **options)


def test_weights_computed_in_each_forward_are_refused():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), layer)
    lra.convert(model, RULE, example=torch.randn(3, 6))
    with pytest.raises(
        lra.errors.ConversionError,
        match=r"\.weight\.original1: .* that each forward derives from these",
    ):
        lra.mirror(model)
