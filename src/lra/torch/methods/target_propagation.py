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
from lra.methods import DTP
from lra.methods.base import Loss
from lra.torch.methods.chain import (
    Segment,
    SegmentedModel,
    is_plain_activation,
    split_into_segments,
)
from lra.torch.methods.runs import Runs, count_loss_terms, detached_copy, raise_if_refused
from lra.torch.model_state import preserve_state

_CONV_TRANSPOSE: list[Any] = [F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d]


class Inverse(nn.Module):
    """g(z) = phi(V z + c): an estimate of a weight layer's input from the next one's input.

    Pooling is undone by repeating, and reshaping by reshaping back. V has the shape of the layer's
    adjoint: (in, out) for a linear layer, and W's own shape for a convolution.

    Args:
        layer: the weight layer.
        shapes: shapes without the batch: of the layer's input, its output, and the outputs of the
            modules after it.
        activation: phi, or None for the identity.
    """

    def __init__(
        self, layer: nn.Module, shapes: Sequence[Size], activation: nn.Module | None
    ) -> None:
        super().__init__()
        self.shapes = [tuple(shape) for shape in shapes[-2:0:-1]]
        weight = cast(Tensor, layer.weight)
        self.conv_options: dict[str, Any] | None = None
        like: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
        if isinstance(layer, _ConvNd):
            self.weight = nn.Parameter(torch.empty(weight.shape, **like))
            self.bias = nn.Parameter(torch.empty(layer.in_channels, **like))
            self.conv_options = {
                "stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation,
                "groups": layer.groups,
                "output_padding": _output_padding(layer, shapes[0], shapes[1]),
            }  # fmt: skip
            fan_in = layer.out_channels // layer.groups * math.prod(layer.kernel_size)
        else:
            outputs, inputs = weight.shape
            self.weight = nn.Parameter(torch.empty(inputs, outputs, **like))
            self.bias = nn.Parameter(torch.empty(inputs, **like))
            fan_in = outputs
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)
        self.activation = copy.deepcopy(activation) if activation is not None else nn.Identity()

    def forward(self, z: Tensor) -> Tensor:
        """Compute g(z)."""
        for shape in self.shapes:
            if z.shape[1:].numel() == math.prod(shape):
                z = z.reshape(-1, *shape)
            else:
                z = F.interpolate(z, shape[1:])
        if self.conv_options is None:
            h = F.linear(z, self.weight, self.bias)
        else:
            conv = _CONV_TRANSPOSE[self.weight.dim() - 3]
            h = conv(z, self.weight, self.bias, **self.conv_options)
        u: Tensor = self.activation(h)
        return u

    def extra_repr(self) -> str:
        """Show the shape of the weights."""
        return f"weight={tuple(self.weight.shape)}"


def _output_padding(layer: _ConvNd, input_shape: Size, output_shape: Size) -> list[int]:
    """Count the input positions in each dimension beyond the kernel's last whole stride."""
    sizes = zip(
        input_shape[1:], output_shape[1:],
        layer.stride, layer.padding, layer.dilation, layer.kernel_size,
        strict=True,
    )  # fmt: skip
    return [n - ((m - 1) * s - 2 * int(p) + d * (k - 1) + 1) for n, m, s, p, d, k in sizes]


def split_model(method: DTP, model: nn.Module) -> SegmentedModel:
    """Split a model into segments whose weight layers have inverses.

    Raises:
        MethodError: for any other model.
    """
    activations = "elementwise activations without parameters"
    found = split_into_segments(method, model, is_plain_activation, activations)
    reason = "its padding has no known inverse; use numbers, and padding_mode='zeros'"
    refused = [
        Refusal(s.path, type(s.layer).__name__, reason)
        for s in found.segments[1:-1]
        if isinstance(s.layer, _ConvNd)
        and (s.layer.padding_mode != "zeros" or isinstance(s.layer.padding, str))
    ]
    supported = "every weight layer but the first and the last needs an inverse"
    raise_if_refused(method, refused, supported)
    return found


def attach(method: DTP, model: nn.Module, example: Tensor) -> nn.Module:
    """Add inverses to the weight layers between the first and the last."""
    split = split_model(method, model)
    inner = split.segments[1:-1]
    taken = [s.path for s in inner if hasattr(s.layer, "inverse")]
    if taken:
        raise MethodError(
            f"DTP: {', '.join(taken)}: the attribute 'inverse' is taken; call detach(model) first"
        )
    with preserve_state(model):
        shapes = _shapes(split, example)
    for below, segment, own in zip(split.segments, inner, shapes[1:], strict=False):
        activation = next((m for m in reversed(below.rest) if is_plain_activation(m)), None)
        segment.layer.add_module("inverse", Inverse(segment.layer, own, activation))
    return model


@torch.no_grad()
def _shapes(split: SegmentedModel, z: Tensor) -> list[list[Size]]:
    """List the shapes of each segment's input and of its modules' outputs, without the batch."""
    for module in split.before:
        z = module(z)
    found = []
    for segment in split.segments:
        found.append([z.shape[1:]])
        for module in (segment.layer, *segment.rest):
            z = module(z)
            found[-1].append(z.shape[1:])
    return found


def detach(model: nn.Module) -> nn.Module:
    """Remove the inverses."""
    for module in model.modules():
        if isinstance(getattr(module, "inverse", None), Inverse):
            del module.inverse
    return model


def feedback_parameters(model: nn.Module) -> list[nn.Parameter]:
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
    """Send targets down, and add the gradients of the local losses to `.grad`."""
    segments = split_model(method, model).segments
    missing = [s.path for s in segments[1:-1] if not hasattr(s.layer, "inverse")]
    if missing:
        raise MethodError(
            f"DTP: {', '.join(missing)}: no inverse yet; call method.attach(model, example) before "
            "you build the optimizer"
        )
    given: list[Tensor] = []  # the input of each weight layer
    inputs: list[Tensor] = []  # what all but the first read instead: detached

    def detach_input(module: nn.Module, z: Tensor) -> Tensor:
        given.append(z)
        if len(given) == 1:
            return z
        inputs.append(z.detach().requires_grad_())
        return inputs[-1]

    with Runs(method, model, x) as run:
        run.replace_inputs([s.layer for s in segments], detach_input)
        output = run(last=True)
        value = loss(output)
        N = count_loss_terms(loss_terms, output)
        total = value
        if inputs:
            (d,) = torch.autograd.grad(value, inputs[-1], retain_graph=True)
            y = detached_copy(inputs[-1]) - method.eta * N * d
    if inputs:
        with torch.autocast(x.device.type, enabled=False):  # targets are close to outputs
            total = value + _local_losses(method, segments, given[1:], inputs, y, N)
    total.backward()  # type: ignore[no-untyped-call]
    return value.detach()


def _local_losses(
    method: DTP,
    segments: list[Segment],
    outputs: list[Tensor],
    inputs: list[Tensor],
    y: Tensor,
    N: float,
) -> Tensor:
    """Sum the local losses of hidden layers and inverses; y is the last hidden layer's target."""
    losses = []
    for at in reversed(range(len(outputs))):
        losses.append((outputs[at].to(y.dtype) - y).square().sum() / (2 * method.eta * N))
        if at == 0:
            break
        below, z, segment = detached_copy(inputs[at - 1]), detached_copy(inputs[at]), segments[at]
        inverse = cast(Inverse, segment.layer.inverse)
        with torch.no_grad():
            noisy = below + method.sigma * torch.randn_like(below)
            there = segment(noisy)
            y = below - (inverse(z) - inverse(y))
        if method.difference_loss:
            back, far = inverse(z), inverse(z + method.sigma * torch.randn_like(z))
            gain = ((noisy - below) * (inverse(there) - back)).sum()
            size = (far - back).square().sum() / 2
            losses.append((size - gain) / (method.sigma**2 * N))
        else:
            losses.append((inverse(there) - noisy).square().sum() / (2 * N))
    return torch.stack(losses).sum()
