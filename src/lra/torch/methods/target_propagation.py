"""Difference target propagation for torch: targets through learned inverses of the layers."""

import copy
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Size, Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from lra.errors import MethodError, Refusal
from lra.loss_terms import LossTerms
from lra.methods import DTP, Loss
from lra.torch.layers import is_activation
from lra.torch.methods.chain import Chain, Segment, take_apart
from lra.torch.methods.runs import Runs, exact, refuse, terms_of
from lra.torch.model_state import preserve_state
from lra.torch.registry import TORCH_ACTIVATIONS

_BACK: list[Any] = [F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d]


class Inverse(nn.Module):
    """g(z) = phi(V z + c): what a weight layer read, from what the next one reads.

    Pools are undone by repeating, reshaping by reshaping back; V has the weights of the layer's
    adjoint: (in, out) for a linear one, W's own shape for a convolution.

    Args:
        layer: the weight layer.
        shapes: without the batch, of what the layer reads, what it gives, and what each module
            after it gives.
        unit: phi, or None for the identity.
    """

    def __init__(self, layer: nn.Module, shapes: Sequence[Size], unit: nn.Module | None) -> None:
        super().__init__()
        self.back, self.shape = [tuple(shape) for shape in shapes[-2:0:-1]], tuple(shapes[0])
        weight = cast(Tensor, layer.weight)
        self.kernel: dict[str, Any] | None = None
        like: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
        if isinstance(layer, _ConvNd):
            self.weight = nn.Parameter(torch.empty(weight.shape, **like))
            self.bias = nn.Parameter(torch.empty(layer.in_channels, **like))
            self.kernel = {
                "stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation,
                "groups": layer.groups, "output_padding": _left_over(layer, shapes[0], shapes[1]),
            }  # fmt: skip
            fan_in = layer.out_channels // layer.groups * math.prod(layer.kernel_size)
        else:
            outputs, inputs = weight.shape
            self.weight = nn.Parameter(torch.empty(inputs, outputs, **like))
            self.bias = nn.Parameter(torch.empty(inputs, **like))
            fan_in = outputs
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)
        self.unit = copy.deepcopy(unit) if unit is not None else nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        """Give g(z)."""
        for shape in self.back:
            if z.shape[1:].numel() == math.prod(shape):
                z = z.reshape(-1, *shape)
            else:
                z = F.interpolate(z, shape[1:])
        if self.kernel is None:
            h = F.linear(z, self.weight, self.bias)
        else:
            h = _BACK[self.weight.dim() - 3](z, self.weight, self.bias, **self.kernel)
        u: Tensor = self.unit(h)
        return u

    def extra_repr(self) -> str:
        """Give the shape of the weights."""
        return f"weight={tuple(self.weight.shape)}"


def _left_over(layer: _ConvNd, read: Size, given: Size) -> list[int]:
    """Give the rows and columns that the layer's kernel does not reach by whole strides."""
    sizes = zip(
        read[1:], given[1:], layer.stride, layer.padding, layer.dilation, layer.kernel_size,
        strict=True,
    )  # fmt: skip
    return [n - ((m - 1) * s - 2 * int(p) + d * (k - 1) + 1) for n, m, s, p, d, k in sizes]


def _is_activation(module: nn.Module) -> bool:
    known = type(module) in TORCH_ACTIVATIONS and type(module) is not nn.RReLU
    known = known and next(module.parameters(), None) is None
    return known or is_activation(module)


def chain_of(method: DTP, model: nn.Module) -> Chain:
    """Take a model apart.

    Raises:
        MethodError: for anything but a chain whose weight layers have inverses.
    """
    found = take_apart(method, model, _is_activation, "elementwise units without parameters")
    refused = [
        Refusal(s.path, type(s.layer).__name__, "of its padding no inverse is known; use zeros")
        for s in found.segments[1:-1]
        if isinstance(s.layer, _ConvNd)
        and (s.layer.padding_mode != "zeros" or isinstance(s.layer.padding, str))
    ]
    refuse(method, refused, "every weight layer but the first and the last has an inverse")
    return found


def attach(method: DTP, model: nn.Module, example: Tensor) -> nn.Module:
    """Give the weight layers between the first and the last their inverses."""
    chain = chain_of(method, model)
    inner = chain.segments[1:-1]
    taken = [s.path for s in inner if hasattr(s.layer, "inverse")]
    if taken:
        raise MethodError(
            f"DTP: {', '.join(taken)}: the attribute 'inverse' is taken; call detach(model) first"
        )
    with preserve_state(model):
        shapes = _shapes(chain, example)
    for below, segment, along in zip(chain.segments, inner, shapes[1:], strict=False):
        unit = next((m for m in reversed(below.rest) if _is_activation(m)), None)
        segment.layer.add_module("inverse", Inverse(segment.layer, along, unit))
    return model


@torch.no_grad()
def _shapes(chain: Chain, z: Tensor) -> list[list[Size]]:
    """Give the shapes along each segment, without the batch."""
    for module in chain.before:
        z = module(z)
    found = []
    for segment in chain.segments:
        found.append([z.shape[1:]])
        for module in (segment.layer, *segment.rest):
            z = module(z)
            found[-1].append(z.shape[1:])
    return found


def detach(model: nn.Module) -> nn.Module:
    """Take the inverses away."""
    for module in model.modules():
        if isinstance(getattr(module, "inverse", None), Inverse):
            del module.inverse
    return model


def parameters(model: nn.Module) -> list[nn.Parameter]:
    """List the parameters of the inverses."""
    return [
        p for module in model.modules() if isinstance(module, Inverse) for p in module.parameters()
    ]


def step(
    method: DTP,
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    loss_terms: LossTerms | str | float,
) -> Tensor:
    """Send targets down, and leave the gradients of the local losses in `.grad`."""
    chain = chain_of(method, model).segments
    missing = [s.path for s in chain[1:-1] if not hasattr(s.layer, "inverse")]
    if missing:
        raise MethodError(
            f"DTP: {', '.join(missing)}: without an inverse; call method.attach(model, example) "
            "before the optimizer is built"
        )
    made: list[Tensor] = []
    read: list[Tensor] = []

    def cut(module: nn.Module, z: Tensor) -> Tensor:
        if module is chain[0].layer and not made:
            made.append(z)
            return z
        made.append(z)
        read.append(z.detach().requires_grad_())
        return read[-1]

    with Runs(method, model, x) as run:
        run.watch([s.layer for s in chain], cut)
        output = run(last=True)
        value = loss(output)
        N = terms_of(loss_terms, output)
        total = value
        if read:
            (d,) = torch.autograd.grad(value, read[-1], retain_graph=True)
            y = exact(read[-1]) - method.eta * N * d
    if read:
        with torch.autocast(x.device.type, enabled=False):  # targets lie near what they are for
            total = value + _local(method, chain, made[1:], read, y, N)
    total.backward()  # type: ignore[no-untyped-call]
    return value.detach()


def _local(
    method: DTP, chain: list[Segment], made: list[Tensor], read: list[Tensor], y: Tensor, N: float
) -> Tensor:
    """Give the local losses of the hidden layers and their inverses; y is the last one's target."""
    losses = []
    for at in reversed(range(len(made))):
        losses.append((made[at].to(y.dtype) - y).square().sum() / (2 * method.eta * N))
        if at == 0:
            break
        below, z, segment = exact(read[at - 1]), exact(read[at]), chain[at]
        inverse = cast(Inverse, segment.layer.inverse)
        with torch.no_grad():
            noisy = below + method.sigma * torch.randn_like(below)
            there = segment(noisy)
            y = below - (inverse(z) - inverse(y))
        losses.append((inverse(there) - noisy).square().sum() / (2 * N))
    return torch.stack(losses).sum()
