"""Simulators of hardware and of spikes: aihwkit-lightning, snnTorch, spikingjelly.

    pip install --no-deps --target simulators aihwkit-lightning==2.1.0 snntorch==1.0.0 \
        spikingjelly==2.0.0 loguru
    PYTHONPATH=simulators pytest tests/torch/test_simulators.py

Without them, a stand-in has their structure, here and in `test_black_box.py`.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lra


class ATan(torch.autograd.Function):
    """A step with a surrogate, named like a node of torch's own, as in snnTorch."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).float()

    @staticmethod
    def backward(ctx, d):
        (u,) = ctx.saved_tensors
        return d / (1 + (torch.pi * u) ** 2)


class Neuron(nn.Module):
    """A leaky neuron that subtracts its threshold after a spike."""

    def __init__(self, spike):
        super().__init__()
        self.spike = spike
        self.register_buffer("factor", torch.tensor(1.0))

    def forward(self, current, u):
        reset = self.spike(u - 1).clone().detach()
        u = 0.9 * u + current - reset
        return self.spike(u - 1) * self.factor, u


class Spiking(nn.Module):
    """Two layers over five time steps."""

    def __init__(self, make):
        super().__init__()
        self.first, self.hidden, self.last = nn.Linear(6, 9), make(), nn.Linear(9, 3)

    def forward(self, x):
        u, out = torch.zeros(len(x), 9), 0
        for _ in range(5):
            z, u = self.hidden(self.first(x), u)
            out = out + self.last(z)
        return out


def build(package, way):
    """Return a network, and what `skip` takes to leave its surrogates alone."""
    torch.manual_seed(0)
    step = lra.activations.Heaviside() if way == "step" else None
    if package == "stand-in":
        return Spiking(lambda: Neuron(step or (lambda u: ATan.apply(u)))), ATan
    if package == "snntorch":
        snntorch = pytest.importorskip("snntorch")
        return Spiking(lambda: snntorch.Leaky(0.9, spike_grad=step)), snntorch.Leaky
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import functional, neuron

    class Stateful(Spiking):
        def forward(self, x):
            functional.reset_net(self)
            return sum(self.last(self.hidden(self.first(x))) for _ in range(5))

    options = {} if step is None else {"surrogate_function": step}
    return Stateful(lambda: neuron.LIFNode(**options)), neuron.LIFNode


def batch():
    return 3 * torch.rand(8, 6), torch.arange(8) % 3


def updates(model):
    x, t = batch()
    model.zero_grad()
    torch.manual_seed(1)
    F.cross_entropy(model(x), t).backward()
    return {name: model.get_parameter(name).grad for name in ("first.weight", "last.weight")}


PACKAGES = ["stand-in", "snntorch", "spikingjelly"]


@pytest.mark.parametrize("package", PACKAGES)
def test_surrogates_are_left_alone(package):
    """With E = W, skipped neurons give the updates of surrogate-gradient backprop."""
    torch.manual_seed(2)
    x, _ = batch()
    model, skip = build(package, "surrogate")
    torch.manual_seed(2)
    expected = updates(model)
    lra.convert(model, lra.MirroredLRA(), skip=(skip,), example=x)
    assert lra.coverage(model).share == 1
    with torch.no_grad():
        model.last.feedback.copy_(model.last.weight)
    torch.manual_seed(2)
    found = updates(model)
    assert expected["first.weight"].any()
    for name, update in expected.items():
        torch.testing.assert_close(found[name], update)


@pytest.mark.parametrize("package", PACKAGES)
def test_steps_need_no_surrogate(package):
    x, _ = batch()
    model, _ = build(package, "step")
    torch.manual_seed(2)
    lra.convert(model, lra.MirroredLRA(), example=x)
    assert lra.coverage(model).full
    assert updates(model)["first.weight"].any()


@pytest.mark.filterwarnings("ignore")
def test_aihwkit_lightning_converts_in_two_lines():
    """Tiles, biases and convolutions learn as black boxes; input ranges stay as they are."""
    pytest.importorskip("aihwkit_lightning")
    from aihwkit_lightning.nn.conversion import convert_to_analog
    from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig

    config = TorchInferenceRPUConfig()
    config.forward.inp_res, config.mapping.max_input_size = 62, 16
    config.pre_post.input_range.enable = True
    torch.manual_seed(0)
    plain = nn.Sequential(
        *(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 3, stride=2), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(4 * 9, 5)),
    )
    model = convert_to_analog(plain, config)
    ranges = [model[i].input_range.clone() for i in (0, 2, 5)]
    lra.convert(model, lra.MirroredLRA())
    assert all(torch.equal(model[i].input_range, r) for i, r in zip((0, 2, 5), ranges, strict=True))
    inputs, errors = {}, {}

    def look(module, z, h):
        inputs[module] = z[0].detach()
        h.register_hook(lambda e: errors.update({module: e}))

    for i in (2, 5):
        model[i].register_forward_hook(look)
    x = torch.rand(7, 1, 8, 8)
    F.cross_entropy(model(x), torch.arange(7) % 5).backward()
    torch.testing.assert_close(model[5].weight.grad, errors[model[5]].T @ inputs[model[5]])
    torch.testing.assert_close(model[5].bias.grad, errors[model[5]].sum(0))
    W = plain[2].weight.detach().requires_grad_()
    F.conv2d(inputs[model[2]], W, None, 2).backward(errors[model[2]])
    torch.testing.assert_close(model[2].weight.grad, W.grad)
    assert all(model[i].input_range.grad is None for i in (0, 2, 5))
    for i in (2, 5):
        E, W = model[i].feedback.detach().flatten(), model[i].weight.detach().flatten()
        assert float(F.cosine_similarity(E, W, 0)) > 0.99
