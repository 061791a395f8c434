"""Mirrored feedback: what noise tells of the weights.

The oracles are W itself, the mean of what a mirror gives, and the law of its angle to W:
tan = sqrt(fan-in / samples).
"""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lra
from lra.torch.layers.slots import feedback_slots
from lra.torch.registry import WEIGHT_LAYERS

SAMPLES = 3000
RULE = lra.Rule(
    lra.feedback.Learned(1.0, lra.inits.Mirror(SAMPLES)), lra.crossing.TargetDifference()
)


class Own(nn.Module):
    """Products in a forward of its own, with a view and either layout."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(12, 40)
        self.w = nn.Parameter(torch.randn(40, 30) / 6)
        self.v = nn.Parameter(torch.randn(60, 30) / 6)

    def forward(self, x):
        h = torch.tanh(self.stem(x)) @ self.w
        return sum(F.linear(torch.tanh(h), part) for part in self.v.chunk(2))


class First(nn.Module):
    """A recurrent layer's outputs alone."""

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
    "LSTM": (lambda: First(nn.LSTM(12, 30, batch_first=True)), TEXT),
    "attention": (lambda: nn.TransformerEncoderLayer(12, 2, 40, batch_first=True), TEXT),
    "own": (Own, VECTOR),
}


def pairs(model):
    """Feedback weights and the weights that they stand beside, by rows."""
    for _, module, slot in feedback_slots(model):
        if slot.own:
            yield slot.stored(module).detach(), slot.weight(module).detach()


def angle(E, W):
    return math.degrees(math.acos(float((E * W).sum() / E.norm() / W.norm())))


@pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS)
def test_the_angle_to_the_weights_is_the_laws(build, shape):
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Identity(), build()).double(),
        torch.randn(shape).double().requires_grad_(),
    )
    lra.convert(model, RULE, example=x, input_layers=())
    found = list(pairs(model))
    assert found
    for E, W in found:
        expected = math.degrees(math.atan(math.sqrt(W[0].numel() / SAMPLES)))
        assert angle(E, W) == pytest.approx(expected, rel=0.35)  # small layers scatter
        assert float(E.norm() / W.norm()) == pytest.approx(1.0, abs=0.1)


def test_an_angle_may_be_asked_for():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(50, 100), nn.Tanh(), nn.Linear(100, 100))
    lra.convert(net, lra.LRAE(init=lra.inits.Mirror(angle=5.0)), input_layers=())
    for E, W in pairs(net):
        assert angle(E, W) == pytest.approx(5.0, rel=0.1)
    lra.mirror(net, angle=15.0)
    for E, W in pairs(net):
        assert angle(E, W) == pytest.approx(15.0, rel=0.1)


def test_one_seed_gives_one_mirror_and_a_step_goes_part_of_the_way():
    def net():
        torch.manual_seed(0)
        return lra.convert(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)), RULE)

    one, other = net(), net()
    before = one[2].feedback.detach().clone()
    torch.testing.assert_close(other[2].feedback, one[2].feedback, rtol=0, atol=0)
    whole = lra.mirror(one, 100, generator=torch.Generator().manual_seed(3))[2].feedback
    half = lra.mirror(other, 100, step=0.5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(half[2].feedback, (before + whole) / 2)


def test_loaded_weights_are_mirrored_again():
    def net():
        return nn.Sequential(nn.Linear(6, 80), nn.Tanh(), nn.Linear(80, 80))

    model, state = lra.convert(net(), RULE), net().state_dict()
    with pytest.warns(lra.LraWarning, match=r"call lra.mirror\(model\) after loading"):
        model.load_state_dict(state)
    ((E, W),) = pairs(model)
    assert angle(E, W) > 80
    lra.mirror(model, SAMPLES)
    ((E, W),) = pairs(model)
    assert angle(E, W) < 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_state_dict(model.state_dict())
        lra.convert(net(), lra.LRAE()).load_state_dict(state)


def test_a_layer_that_can_only_be_run_is_mirrored_as_it_is():
    class Device(nn.Module):
        """Some cells are dead, and each has a gain of its own."""

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
        torch.manual_seed(0)
        model = lra.convert(nn.Sequential(nn.Linear(6, 50), nn.Tanh(), Device()), RULE)
        E, W, gain = (t.detach() for t in (model[2].feedback, model[2].weight, model[2].gain))
        assert angle(E, W * gain) < 12 < angle(E, W)
        assert not E[::7].any()
        F.cross_entropy(model(torch.randn(5, 6)), torch.arange(5)).backward()
        lra.mirror(model)
    finally:
        del WEIGHT_LAYERS[Device], PRODUCTS[Device]


def test_the_named_rule_is_near_backprop_where_it_starts():
    torch.manual_seed(0)
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
        (lra.Backprop(), {}, "keeps no feedback weights that could mirror W"),
        (lra.SignSymmetry("fixed"), {}, "keeps no feedback weights that could mirror W"),
        (lra.LRAE(), {"step": 0}, "step must be above 0 and at most 1, got 0"),
        (lra.LRAE(), {"step": 1.5}, "step must be above 0 and at most 1, got 1.5"),
        (lra.LRAE(), {"samples": 0}, "samples must be a whole number above 0, got 0"),
        (lra.LRAE(), {"angle": 90}, "angle must be below 90 degrees, got 90"),
    ],
)
def test_what_cannot_be_mirrored_is_refused(rule, options, message):
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    if rule is not None:
        lra.convert(model, rule)
    with pytest.raises(lra.LraError, match=message):
        lra.mirror(model, **options)


def test_weights_that_each_forward_computes_are_refused():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), layer)
    lra.convert(model, RULE, example=torch.randn(3, 6))
    with pytest.raises(lra.errors.ConversionError, match="what each forward computes"):
        lra.mirror(model)
