"""Torch: the same weights, E and batch give the updates of `lra.convert`, to 1e-6 in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax
from torch import nn
from torch.nn import functional as F

import lra
import lra.jax


def mlp(activation):
    layers = [nn.Linear(10, 16), activation(), nn.Linear(16, 12), activation()]
    return nn.Sequential(*layers, nn.Linear(12, 8), activation(), nn.Linear(8, 4))


def mlp_in_jax(phi, p, x):
    for name in ("0", "2", "4"):
        x = phi(x @ p[f"{name}.weight"].T + p[f"{name}.bias"])
    return x @ p["6.weight"].T + p["6.bias"]


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(72, 10),
        nn.Tanh(),
        nn.Linear(10, 4),
    )


def cnn_in_jax(p, x):
    def conv(name, x, stride, groups):
        kernel, bias = p[f"{name}.weight"], p[f"{name}.bias"][:, None, None]
        padding = [(1, 1)] * 2
        return bias + lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, feature_group_count=groups
        )

    x = jax.nn.silu(conv("2", jnp.tanh(conv("0", x, 1, 1)), 2, 2)).reshape(len(x), -1)
    return jnp.tanh(x @ p["5.weight"].T + p["5.bias"]) @ p["7.weight"].T + p["7.bias"]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 4)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8, bias=False) for _ in range(4))
        self.up, self.down, self.phi = nn.Linear(8, 12), nn.Linear(12, 8), nn.GELU()

    def forward(self, x):
        x = self.stem(x)
        h = self.norm1(x)
        q, k, v = (f(h).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        h = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        x = x + self.o(h.transpose(1, 2).flatten(2))
        x = x + self.down(self.phi(self.up(self.norm2(x))))
        return self.head(x.mean(1))


def attention_in_jax(p, x):
    def linear(name, x):
        return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0)

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    x = linear("stem", x)
    h = norm("norm1", x)
    q, k, v = (linear(name, h).reshape(*h.shape[:2], 2, 4) for name in "qkv")
    scores = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k) / 2)
    h = jnp.einsum("nhqk,nkhd->nqhd", scores, v)
    x = x + linear("o", h.reshape(*h.shape[:2], 8))
    x = x + linear("down", jax.nn.gelu(linear("up", norm("norm2", x)), approximate=False))
    return linear("head", x.mean(1))


MODELS = {
    "tanh": (functools.partial(mlp, nn.Tanh), functools.partial(mlp_in_jax, jnp.tanh), (10,)),
    "relu": (functools.partial(mlp, nn.ReLU), functools.partial(mlp_in_jax, jax.nn.relu), (10,)),
    "gelu": (
        functools.partial(mlp, nn.GELU),
        functools.partial(mlp_in_jax, functools.partial(jax.nn.gelu, approximate=False)),
        (10,),
    ),
    "silu": (functools.partial(mlp, nn.SiLU), functools.partial(mlp_in_jax, jax.nn.silu), (10,)),
    "cnn": (cnn, cnn_in_jax, (2, 6, 6)),
    "attention": (Attention, attention_in_jax, (5, 5)),
}

RULES = {
    "backprop": lra.Backprop(),
    "lra-e": lra.LRAE(beta=0.3, gamma=0.5),
    "lra-e-two-sided": lra.LRAE(normalized=True, two_sided=True),
    "lra-e-by-sample": lra.LRAE(beta=0.5, relative="sample"),
    "mirrored-lra": lra.MirroredLRA(samples=100),
    "feedback-alignment": lra.FeedbackAlignment(),
    "kolen-pollack": lra.KolenPollack(gamma=0.5),
    "sign-symmetry": lra.SignSymmetry(),
    "sign-symmetry-fixed": lra.SignSymmetry("fixed"),
    "direct-feedback-alignment": lra.DirectFeedbackAlignment(),
    "direct-lra": lra.LRAE(wiring=lra.wiring.Direct()),
    "rec-lra": lra.RecLRA(),
}


def by_torch(model, rule, x, y):
    """Return the value, the updates of parameters, E, and its updates, each by W's name."""
    lra.convert(model, rule, example=x)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    updates = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    E = {name: E for name, E in model.state_dict().items() if name.endswith(".feedback")}
    moved = {name: updates.pop(name) for name in list(updates) if name in E}
    return loss.item(), *map(by_weight, (updates, E, moved))


def by_weight(tensors):
    """Convert tensors to arrays, with those of E by the name of W."""
    return {name.replace("feedback", "weight"): to_numpy(a) for name, a in tensors.items()}


def to_numpy(tensor):
    return tensor.detach().numpy().copy()


def close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].dtype == jnp.float32
        off = np.linalg.norm(ours[name] - expected) / np.linalg.norm(expected)
        assert off < 2e-6, (name, off)  # the sums of some biases nearly cancel


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rule", RULES)
def test_updates_equal_those_of_the_converted_module(name, rule):
    make, net, shape = MODELS[name]
    torch.manual_seed(0)
    model, x, y = make(), torch.randn(6, *shape), torch.randint(0, 4, (6,))
    params = {path: to_numpy(p) for path, p in model.named_parameters()}
    value, updates, E, moved = by_torch(model, RULES[rule], x, y)

    def loss(p, x, y):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(net(p, x)), y[:, None], 1))

    step = lra.jax.value_and_grad(loss, RULES[rule])
    feedback = {f"['{path}']": array for path, array in E.items()}
    ours, (grads, feedback_grads) = jax.jit(step)(params, feedback, to_numpy(x), to_numpy(y))
    np.testing.assert_allclose(ours, value, rtol=1e-6)
    close(grads, updates)
    close({path[2:-2]: dE for path, dE in feedback_grads.items()}, moved)
