"""Black boxes, which can only be run: functions as activations, and devices as weight layers.

The oracles are NumPy's results, sums written by hand, counts of how often a black box runs, and the
weights that a device multiplies by.
"""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from nets import alone, angle, assert_same, taken
from torch import nn
from torch.nn import functional as F

import lra
from lra.lab.data import load
from lra.torch.registry import WEIGHT_LAYERS

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


# Functions


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("act", "phi"),
    [
        (lra.activations.BlackBox(np.tanh), torch.tanh),
        (lra.activations.BlackBox(np.sign, numpy=True), torch.sign),
        (lra.activations.BlackBox(lambda h: h.round()), torch.round),
        (
            lra.activations.BlackBox(lambda h: (h > 0).astype(int), numpy=True),
            lambda h: (h > 0).to(h.dtype),
        ),
        (lra.activations.BlackBox(lambda h: h[::-1, ::-1], numpy=True), lambda h: h.flip(0, 1)),
        (
            lra.activations.BlackBox(lambda h: np.broadcast_to(1.0, h.shape), numpy=True),
            torch.ones_like,
        ),
        (lra.activations.BlackBox(lambda h: h), lambda h: h),
    ],
    ids=["ufunc", "arrays", "tensors", "integers", "flipped", "read only", "identity"],
)
def test_functions_return_new_tensors_of_the_type_of_h(act, phi, dtype):
    h = torch.randn(5, 3).to(dtype)
    before = h.clone()
    z = act(h)
    torch.testing.assert_close(z, phi(h), rtol=2e-3, atol=1e-3)
    z += 1
    assert torch.equal(h, before)


def test_functions_may_overwrite_their_argument():
    def driver(h):
        np.clip(h, 0, 1, out=h)
        return h

    h = torch.randn(5, 3, requires_grad=True)
    act = alone(lra.activations.BlackBox(driver, numpy=True), lra.MirroredLRA())
    before = h.detach().clone()
    act(h).sum().backward()
    assert torch.equal(h.detach(), before)
    assert h.grad.any()


def test_backprop_through_a_function_is_refused_with_remedies():
    model = nn.Sequential(nn.Linear(3, 4), lra.activations.BlackBox(np.sign), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    loss = model(x).sum()
    with pytest.raises(
        lra.errors.RuleError, match=r"sign can only be evaluated.*MirroredLRA.*straight_through="
    ):
        loss.backward()
    lra.convert(model, lra.FeedbackAlignment())
    with pytest.raises(lra.errors.RuleError, match="autograd knows no derivative"):
        model(x).sum().backward()
    lra.convert(lra.restore(model), lra.MirroredLRA())
    model(x).sum().backward()
    assert model[0].weight.grad.any()


@pytest.mark.parametrize(
    ("rule", "runs"), [(lra.MirroredLRA(), 3), (lra.LRAE(), 2), (lra.LRAE(two_sided=True), 3)]
)
@pytest.mark.parametrize("fused", [True, False])
def test_functions_run_as_often_as_the_rule_needs(rule, runs, fused):
    """Once forward and once for each target. z is stored, not computed again."""
    given = []

    def device(h):
        given.append(h)
        return np.sign(h)

    model = nn.Sequential(
        nn.Linear(3, 4), lra.activations.BlackBox(device, numpy=True), nn.Linear(4, 2)
    )
    lra.convert(model, rule)
    z = torch.randn(5, 3)
    if fused:
        z = model(z)
    else:
        for layer in model:
            z = layer(z)
    z.sum().backward()
    assert len(given) == runs


def test_the_layer_above_a_noisy_function_learns_from_the_z_it_read():
    """dW is e^T z with the z of the forward pass, not with another draw of the noise."""
    rng = np.random.default_rng(0)
    seen = []
    model = nn.Sequential(
        nn.Linear(3, 4),
        lra.activations.BlackBox(lambda h: h + rng.normal(size=h.shape), numpy=True),
        nn.Linear(4, 2),
    ).double()
    lra.convert(model, lra.MirroredLRA())
    handle = model[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model(torch.randn(5, 3).double()).sum().backward()
    handle.remove()
    expected = torch.ones(2, 5).double() @ seen[0]
    torch.testing.assert_close(model[2].weight.grad, expected, **CLOSE)


# Devices


class Device(nn.Module):
    """A crossbar in NumPy: a gain for each cell, dead cells, an offset for each output, noise."""

    def __init__(self, inputs, outputs, noise=0.0, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs).double() / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs).double()) if bias else None
        rng = np.random.default_rng(1)
        self.gain = (rng.random((outputs, inputs)) + 0.5) * (rng.random((outputs, inputs)) > 0.2)
        self.offset = 0.3 * rng.normal(size=outputs)
        self.noise, self.rng = noise, rng

    def effective(self):
        return self.weight.detach().numpy() * self.gain

    def forward(self, z):
        h = z.numpy() @ self.effective().T + self.offset
        h = torch.from_numpy(h + self.noise * self.rng.normal(size=h.shape))
        return h if self.bias is None else h + self.bias.detach()


@pytest.fixture(autouse=True)
def _registered():
    lra.register_weight_layer(Device, black_box=True)
    yield
    WEIGHT_LAYERS.pop(Device, None)


def network(noise=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        Device(6, 8, noise),
        lra.activations.Quantized(4),
        Device(8, 8, noise),
        lra.activations.Quantized(4),
        Device(8, 3),
    ).double()


def batch():
    return torch.randn(7, 6).double(), torch.arange(7) % 3


def updates(model, x, t, run=None):
    model.zero_grad()
    F.cross_entropy((run or model)(x), t).backward()
    return taken(model)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(7,), (2, 7)], ids=str)
def test_updates_of_a_device_are_those_of_a_linear_layer(bias, leading):
    gamma = 0.7
    layer = alone(Device(6, 4, noise=0.1, bias=bias), lra.KolenPollack(gamma))
    z, e = torch.randn(*leading, 6).double().requires_grad_(), torch.randn(*leading, 4).double()
    layer(z).backward(e)
    rows, inputs = e.reshape(-1, 4), z.detach().reshape(-1, 6)
    torch.testing.assert_close(z.grad, e @ layer.feedback, **CLOSE)
    torch.testing.assert_close(layer.weight.grad, rows.T @ inputs, **CLOSE)
    torch.testing.assert_close(layer.feedback.grad, gamma * rows.T @ inputs, **CLOSE)
    if bias:
        torch.testing.assert_close(layer.bias.grad, rows.sum(0), **CLOSE)


def test_backprop_on_a_device_reads_the_parameters_values():
    """d = e W with the parameter W, though the device multiplies by other weights."""
    x, t = batch()
    model = lra.convert(network(), lra.Backprop())
    e = torch.randn(7, 8).double()
    z = torch.randn(7, 8).double().requires_grad_()
    model[2](z).backward(e)
    torch.testing.assert_close(z.grad, e @ model[2].weight.detach(), **CLOSE)
    found = updates(lra.convert(lra.restore(model), lra.Backprop()), x, t)
    p = torch.softmax(network()(x), 1)
    error = (p - F.one_hot(t, 3)) / 7
    torch.testing.assert_close(found["4.bias"], error.sum(0).detach(), **CLOSE)


@pytest.mark.parametrize(
    "rule", [lra.MirroredLRA(), lra.SignSymmetry(), lra.SignSymmetry("fixed"), lra.LRAE()]
)
def test_a_device_that_sees_the_raw_input_learns(rule):
    x, t = batch()
    model = lra.convert(network(), rule)
    assert model[0].feedback is None
    errors = {}

    def look(module, inputs, h):
        h.register_hook(lambda e: errors.update(e=e))

    model[0].register_forward_hook(look)
    found = updates(model, x, t)
    torch.testing.assert_close(found["0.weight"], errors["e"].T @ x, **CLOSE)
    with pytest.raises(lra.errors.RuleError, match="sees the raw input"):
        model(x.requires_grad_())


def test_the_mirror_of_a_device_estimates_its_effective_weights():
    """The angle is sqrt(fan-in / samples), with the variance of the reading noise added."""
    samples, noise = 4000, 0.5
    torch.manual_seed(0)
    model = nn.Sequential(Device(20, 40), nn.Tanh(), Device(40, 60, noise)).double()
    layer = model[2]
    layer.offset *= 10
    lra.convert(model, lra.LRAE(init=lra.inits.Mirror(samples)))
    W = torch.from_numpy(layer.effective())
    signal = float((W * W).sum()) / 60
    expected = math.degrees(math.atan(math.sqrt(40 / samples * (1 + noise**2 / signal))))
    assert angle(layer.feedback.detach(), W) == pytest.approx(expected, rel=0.15)
    assert float((layer.feedback.detach() * W).sum() / (W * W).sum()) == pytest.approx(1, abs=0.02)
    assert angle(layer.feedback.detach(), layer.weight.detach()) > 3 * expected
    with torch.no_grad():
        layer.weight.copy_(torch.randn(60, 40))
    W = torch.from_numpy(layer.effective())
    assert angle(layer.feedback.detach(), W) > 80
    lra.mirror(model, samples)
    again = angle(layer.feedback.detach(), W)
    assert again == pytest.approx(expected, rel=0.3)  # less noise, beside larger weights


@pytest.mark.parametrize(
    "rule", [lra.LRAE(), lra.Backprop(), lra.SignSymmetry()], ids=lambda rule: rule.name
)
def test_conversion_preserves_the_forward_pass_bit_for_bit(rule):
    x, _ = batch()
    plain, model = network(0.3), lra.convert(network(0.3), rule)
    expected = plain(x)
    assert torch.equal(model(x), expected)  # equal draws: each device has its own generator
    with torch.no_grad():
        assert torch.equal(model(x.requires_grad_()), plain(x.detach()))
    assert [type(m) for m in lra.restore(model)] == [type(m) for m in plain]


def test_devices_are_fully_covered():
    x, _ = batch()
    model = lra.convert(network(), lra.MirroredLRA(), example=x)
    report = lra.coverage(model)
    assert report.full
    assert report.weights == {"Device": sum(p.numel() for p in network().parameters())}
    assert lra.audit(model, x).clean


def test_copies_and_pickles_give_the_same_updates():
    x, t = batch()
    model = lra.convert(network(), lra.MirroredLRA())
    expected = updates(model, x, t)
    assert_same(updates(copy.deepcopy(model), x, t), expected)
    stored = pickle.dumps(model)
    WEIGHT_LAYERS.pop(Device)  # as in another process, where it is not registered
    assert_same(updates(pickle.loads(stored), x, t), expected)


def test_a_loaded_state_dict_gives_the_same_updates():
    x, t = batch()
    model = lra.convert(network(), lra.MirroredLRA())
    expected = updates(model, x, t)
    other = lra.convert(network(), lra.MirroredLRA(samples=10))
    with torch.no_grad():
        for p in other.parameters():
            p.normal_()
    other.load_state_dict(model.state_dict())
    assert_same(updates(other, x, t), expected)
    plain = network()
    lra.restore(other)
    assert other.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch's compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # from its graph breaks
def test_compiled_models_give_the_eager_updates():
    x, t = batch()
    model = lra.convert(network(), lra.MirroredLRA())
    expected = updates(model, x, t)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    assert_same(updates(model, x, t, compiled), expected, rtol=1e-10, atol=1e-14)


def test_a_network_of_black_boxes_learns():
    data = load("digits")
    arrays = (data.x_train, data.y_train, data.x_test, data.y_test)
    x, t, x_test, t_test = (torch.from_numpy(a) for a in arrays)
    x, x_test = x.flatten(1).double(), x_test.flatten(1).double()

    def accuracy(rule):
        torch.manual_seed(0)
        layers = Device(64, 64, 0.05), lra.activations.BlackBox(np.sign), Device(64, 64, 0.05)
        model = nn.Sequential(*layers, lra.activations.BlackBox(np.sign), Device(64, 10, 0.05))
        lra.convert(model, rule)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for _ in range(8):
            for rows in torch.randperm(len(x)).split(50):
                optimizer.zero_grad()
                F.cross_entropy(model(x[rows]), t[rows]).backward()
                optimizer.step()
        with torch.no_grad():
            return float((model(x_test).argmax(1) == t_test).double().mean())

    assert accuracy(lra.MirroredLRA()) > 0.9


# Simulators: custom Functions, an input range beside the weight, noise in training


class Clip(torch.autograd.Function):
    """Clip z at a learned range, and round it to steps of 1/64 of that."""

    @staticmethod
    def forward(ctx, z, reach):
        return torch.round(64 * z.clamp(-reach, reach) / reach) * reach / 64

    @staticmethod
    def backward(ctx, d):
        return d, d.sum()


class Tile(nn.Linear):
    """A simulator's layer with the structure of aihwkit-lightning's AnalogLinear."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, dtype=torch.float64)
        self.input_range = nn.Parameter(torch.tensor(4.0).double())
        self.register_buffer("seen", torch.zeros(()))

    def clip(self, z):
        noise = 0.0
        if self.training:
            self.seen += 1
            noise = 0.5 * torch.randn_like(self.weight)
        return Clip.apply(z, self.input_range), self.weight + noise

    def forward(self, z):
        z, W = self.clip(z)
        return z @ W.T + self.bias


class ConvTile(nn.Module):
    """The same for patches, by unfolding."""

    def __init__(self, inputs, outputs, stride, padding, dilation=1):
        super().__init__()
        self.stride, self.padding, self.dilation = stride, (padding, padding), dilation
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 2).double() / 3)
        self.bias = nn.Parameter(torch.randn(outputs).double())
        self.input_range = nn.Parameter(torch.tensor(4.0).double())

    def forward(self, z):
        z = Clip.apply(z, self.input_range)
        rows = F.unfold(z, (3, 2), self.dilation, self.padding, self.stride).mT
        h = (rows @ self.weight.flatten(1).T + self.bias).mT
        reach = [self.dilation * (k - 1) + 1 for k in (3, 2)]
        sizes = zip(z.shape[2:], reach, self.padding, strict=True)
        return h.unflatten(2, [(n + 2 * p - k) // self.stride + 1 for n, k, p in sizes])


@pytest.fixture
def _tiles():
    for cls in (Tile, ConvTile):
        lra.register_weight_layer(cls, black_box=True)
    yield
    for cls in (Tile, ConvTile):
        del WEIGHT_LAYERS[cls]


@pytest.mark.usefixtures("_tiles")
def test_other_parameters_of_a_black_box_are_left_alone():
    torch.manual_seed(0)
    model = nn.Sequential(Tile(6, 5), nn.Tanh(), Tile(5, 3))
    x, t = batch()
    lra.convert(model, lra.MirroredLRA(), example=x)
    before = model.state_dict()
    assert model.training
    assert float(model[2].seen) == 0  # neither the mirror nor the example counts as training
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    F.cross_entropy(model(x), t).backward()
    assert model[2].input_range.grad is None
    assert model[2].weight.grad.any()
    assert float(model[2].seen) == 1
    optimizer.step()
    assert torch.equal(model[2].input_range, before["2.input_range"])
    report = lra.coverage(model)
    assert report.full
    assert report.weights == {"Tile": 6 * 5 + 5 + 5 * 3 + 3}


@pytest.mark.usefixtures("_tiles")
def test_the_mirror_runs_in_eval_mode():
    """The noise of training is one draw for a whole batch, which the mirror could not average."""
    torch.manual_seed(0)
    model = nn.Sequential(Tile(6, 5), nn.Tanh(), Tile(5, 300)).train()
    lra.convert(model, lra.MirroredLRA(samples=20_000))
    assert angle(model[2].feedback.detach(), model[2].weight.detach()) < 2


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (3, 2, 2), (4, 1, 1)]
)
def test_updates_of_a_black_box_convolution_are_those_of_a_convolution(stride, padding, dilation):
    """d, dW and db are autograd's through a convolution with E in place of W."""
    torch.manual_seed(0)
    layer = alone(ConvTile(2, 4, stride, padding, dilation), lra.MirroredLRA(samples=4000))
    z = torch.randn(5, 2, 9, 8).double().requires_grad_()
    h = layer(z)
    assert torch.equal(h, ConvTile.forward(layer, z))
    e = torch.randn_like(h)
    h.backward(e)
    E, b = layer.feedback.detach().requires_grad_(), layer.bias.detach().requires_grad_()
    at = z.detach().requires_grad_()
    F.conv2d(at, E, b, stride, padding, dilation).backward(e)
    torch.testing.assert_close(z.grad, at.grad, **CLOSE)
    torch.testing.assert_close(layer.weight.grad, E.grad, **CLOSE)
    torch.testing.assert_close(layer.feedback.grad, E.grad, **CLOSE)
    torch.testing.assert_close(layer.bias.grad, b.grad, **CLOSE)
    assert layer.input_range.grad is None
    W = layer.weight.detach()
    assert angle(E.detach(), W) < 6  # about atan(sqrt(12 / 4000)) where each weight is used once
    assert float((E.detach() * W).sum() / (W * W).sum()) == pytest.approx(1, abs=0.03)


def test_a_subclass_whose_functions_hide_its_product_is_refused():
    model = nn.Sequential(Tile(6, 5), nn.Tanh(), Tile(5, 3))
    with pytest.raises(
        lra.errors.ConversionError,
        match=r"2 \(Tile\): its forward calls Clip.apply, .*register_weight_layer\(Tile, black_box",
    ):
        lra.convert(model, lra.MirroredLRA())


def test_a_known_simulator_is_a_black_box_and_keeps_its_backprop(monkeypatch):
    name = f"{Tile.__module__}.{Tile.__qualname__}"
    monkeypatch.setattr("lra.torch.registry.SIMULATORS", frozenset((name,)))
    try:
        model = lra.convert(nn.Sequential(Tile(6, 5), nn.Tanh(), Tile(5, 3)), lra.MirroredLRA())
        assert lra.coverage(model).weights["Tile"] == 53
        x, t = batch()
        F.cross_entropy(lra.convert(lra.restore(model), lra.Backprop())(x), t).backward()
        assert model[2].input_range.grad.any()
    finally:
        WEIGHT_LAYERS.pop(Tile, None)


# Refusals


class Kernels(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 2, 3, 3)), None

    def forward(self, z):
        return F.conv2d(z, self.weight)


class Shortened(Device):
    def forward(self, z):
        return super().forward(z)[:, 1:]


class Nested(Device):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.inner = nn.Linear(1, 1)


class ReturnsArray(Device):
    def forward(self, z):
        return super().forward(z).numpy()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((Device,), {}, r"expected a function of \(layer, z, W, b\), got None.*use black_box=True"),
        (
            (Device, lambda layer, z, W, b: z),
            {"black_box": True},
            "black box Device runs its own forward; leave out the product, or leave out black_box",
        ),
        ((nn.Linear,), {"black_box": True}, "Linear is a weight layer already"),
        ((3,), {"black_box": True}, "expected a subclass of torch.nn.Module, got 3"),
    ],
)
def test_invalid_registrations_are_refused(arguments, options, message):
    with pytest.raises(lra.errors.OptionError, match=message):
        lra.register_weight_layer(*arguments, **options)


def test_weights_and_results_of_other_shapes_are_refused():
    for cls in (Kernels, Nested, Shortened, ReturnsArray):
        lra.register_weight_layer(cls, black_box=True)
    try:
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), Kernels())
        with pytest.raises(
            lra.errors.ConversionError, match=r"weight of a Kernels is \(4, 2, 3, 3\)"
        ):
            lra.convert(model, lra.MirroredLRA())
        assert not lra.is_converted(model)
        with pytest.raises(lra.errors.ConversionError, match="black box with the submodules inner"):
            lra.convert(nn.Sequential(Device(6, 4), nn.Tanh(), Nested(4, 2)), lra.LRAE())
        model = lra.convert(nn.Sequential(Shortened(6, 4), nn.Tanh(), Device(3, 2)), lra.LRAE())
        with pytest.raises(
            lra.errors.RuleError,
            match=r"'0' \(Shortened\) returned \(7, 3\) for \(7, 6\) with a weight of \(4, 6\)",
        ):
            model(torch.randn(7, 6).double())
        model = lra.convert(nn.Sequential(ReturnsArray(6, 4), nn.Tanh(), Device(4, 2)), lra.LRAE())
        with pytest.raises(
            lra.errors.RuleError, match="forward of a ReturnsArray returned a ndarray"
        ):
            model(torch.randn(7, 6).double())
    finally:
        for cls in (Kernels, Nested, Shortened, ReturnsArray):
            del WEIGHT_LAYERS[cls]
