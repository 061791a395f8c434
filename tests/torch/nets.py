"""Models of three families, rules, and helpers that the torch tests share."""

import dataclasses
import inspect
import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lra
from lra.torch.registry import TORCH_ACTIVATIONS

M = TypeVar("M", bound=nn.Module)


class Residual(nn.Module):
    """A convolutional residual network with batch norm, in-place activations and a shortcut."""

    def __init__(self, act=lambda: nn.ReLU(inplace=True), classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.act1 = act()
        self.conv1 = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.act2 = act()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.shortcut = nn.Conv2d(4, 8, 1, stride=2, bias=False)
        self.act3 = act()
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.stem(x))
        y = self.bn2(self.conv2(self.act2(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.head(self.act3(y).mean((2, 3)))


class Attention(nn.Module):
    """Softmax attention over tokens, with linear layers as projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / k.shape[-1] ** 0.5, dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """A pre-norm transformer block: attention and a small perceptron, each with a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A vision transformer for 3 x 8 x 8 images, in patches of 4 x 4."""

    def __init__(self, width: int = 8, heads: int = 2, depth: int = 2, classes: int = 4) -> None:
        super().__init__()
        self.patch = nn.Linear(48, width)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 5, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 4, stride=4).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.patch(patches)], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def mlp(act=nn.Tanh) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(192, 10),
        act(),
        nn.Linear(10, 8),
        act(),
        nn.Linear(8, 4),
    )


MODELS = {"mlp": mlp, "residual": Residual, "vit": ViT}
SMOOTH = MODELS | {"residual": lambda: Residual(nn.Softplus)}
"""The same families with smooth activations."""

COMBINATIONS = {
    "sign-symmetric LRA": lra.Rule(
        lra.feedback.SignSymmetric(lra.feedback.Magnitude.FIXED),
        lra.crossing.TargetDifference(0.2, local_loss=lra.crossing.Cauchy()),
    ),
    "LRA, weight transport": lra.Rule(
        lra.feedback.Transpose(), lra.crossing.TargetDifference(0.3, 2.0)
    ),
    "LRA, fixed feedback": lra.Rule(
        lra.feedback.Random(lra.inits.Normal(0.2)),
        lra.crossing.TargetDifference(surrogate=lra.crossing.TanhSurrogate()),
    ),
    "sign symmetry, drawn per batch": lra.SignSymmetry(lra.feedback.Magnitude.BATCH),
    "LRA, absolute": lra.LRAE(
        local_loss=lra.crossing.Absolute(), surrogate=lra.crossing.IdentitySurrogate(), gamma=0.5
    ),
    "LRA, two-sided, relative": lra.LRAE(
        1.0, 0.5, normalized=True, two_sided=True, relative="sample"
    ),
}
ALL_RULES = {name: build() for name, build in lra.RULES.items()} | COMBINATIONS
"""Every named rule, and a few other combinations."""

SETTINGS: dict[type[nn.Module], tuple[dict, ...]] = {
    nn.CELU: ({"alpha": 0.7},),
    nn.ELU: ({"alpha": 1.6},),
    nn.GELU: ({}, {"approximate": "tanh"}),
    nn.Hardshrink: ({"lambd": 0.3},),
    nn.Hardtanh: ({}, {"min_val": -0.4, "max_val": 0.6}),
    nn.LeakyReLU: ({"negative_slope": 0.2},),
    nn.PReLU: ({}, {"num_parameters": 3, "init": 0.1}),
    nn.RReLU: ({}, {"lower": 0.05, "upper": 0.6}),
    nn.Softplus: ({"beta": 2.5, "threshold": 1.2},),
    nn.Softshrink: ({"lambd": 0.2},),
    nn.Threshold: ({"threshold": 0.1, "value": -0.5},),
}
"""Arguments to build an activation with; the other classes are built without."""


def _in_place(cls: type[nn.Module]) -> tuple[bool, ...]:
    return (False, True) if "inplace" in inspect.signature(cls).parameters else (False,)


ACTIVATION_CASES = [
    (cls, settings | ({"inplace": True} if inplace else {}))
    for cls in TORCH_ACTIVATIONS
    for settings in SETTINGS.get(cls, ({},))
    for inplace in _in_place(cls)
]
"""Each of torch's activations, with its settings, and in place where it supports that."""


def name_of(case) -> str:
    """Return the id of a test's parameter: a class name or the settings."""
    if isinstance(case, type):
        return case.__name__
    if isinstance(case, dict):
        return ",".join(f"{k}={v}" for k, v in case.items()) or "default"
    return str(case)


def images(n: int = 6, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Draw a batch of random images, with labels of four classes."""
    return torch.randn(n, 3, 8, 8, dtype=dtype), torch.arange(n) % 4


def alone(layer: nn.Module, rule: lra.Rule, **options) -> nn.Module:
    """Convert one layer by itself, as one that errors cross, under `Chain` wiring."""
    rule = dataclasses.replace(rule, wiring=lra.wiring.Chain())
    holder = nn.ModuleDict({"other": nn.Linear(1, 1), "layer": layer})
    return lra.convert(holder, rule, input_layers=(), **options)["layer"]


def convert(model: M, rule: lra.Rule, **options) -> M:
    """Convert a model of images, with an example if the rule's wiring needs one."""
    if rule.wiring != lra.wiring.Chain():
        like = next(model.parameters())
        options.setdefault("example", torch.zeros(2, 3, 8, 8, dtype=like.dtype))
    return lra.convert(model, rule, **options)


def updates(model: nn.Module, x: Tensor, y: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
    """Compute each parameter's .grad by one backward pass from the cross-entropy."""
    model.zero_grad()
    (scale * F.cross_entropy(model(x), y)).backward()
    return taken(model)


def taken(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the parameters' .grad, without those that are None."""
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


def by_method(method, model: nn.Module, x: Tensor, t: Tensor, reduction="mean", **options):
    """Return a method's loss and its updates for the cross-entropy."""
    model.zero_grad()
    value = method(model, lambda o: F.cross_entropy(o, t, reduction=reduction), x, **options)
    return value, taken(model)


def copy_weights_to_feedback(model: nn.Module) -> None:
    """Set E = W in every layer that has feedback weights."""
    with torch.no_grad():
        for module in model.modules():
            E = getattr(module, "feedback", None)
            if isinstance(E, Tensor):
                E.copy_(module.weight)


def angle(a: Tensor, b: Tensor) -> float:
    """Compute the angle between two tensors by the arc cosine, in degrees."""
    a, b = a.detach().flatten(), b.detach().flatten()
    # The cosine of parallel tensors may be rounded to more than 1.
    return math.degrees(math.acos(min(1.0, float(a @ b / (a.norm() * b.norm())))))


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], **tolerances) -> None:
    """Assert that two models have the same updates, bit for bit unless tolerances are given."""
    assert a.keys() == b.keys()
    for key in a:
        if tolerances:
            torch.testing.assert_close(
                a[key], b[key], msg=lambda m, key=key: f"{key}: {m}", **tolerances
            )
        else:
            assert torch.equal(a[key], b[key]), key


METHOD_SETTINGS = {
    "predictive-coding": {"steps": 3, "step": 0.5},
    "error-predictive-coding": {"steps": 3, "step": 0.5, "precision": 2.0},
    "equilibrium-propagation": {
        "beta": 0.3,
        "free_steps": 5,
        "nudged_steps": 3,
        "symmetric": False,
    },
    "dtp": {"eta": 1.0, "sigma": 0.0},
    "pepita": {"scale": 0.5},
    "forward-forward": {"threshold": 0.1},
    "drtp": {"scale": 0.2},
}
"""Settings of the methods that are not their defaults."""
