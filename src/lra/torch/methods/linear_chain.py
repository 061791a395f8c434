"""Chains of linear layers: their segments, random projections, and labels from the loss."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lra.errors import Diverged, MethodError, Refusal
from lra.methods import Method
from lra.methods.base import Loss
from lra.torch.methods.chain import Segment, is_plain_activation, split_into_segments
from lra.torch.methods.runs import detached_copy, raise_if_refused

_NAME = "projection"
"""The name of the buffer with a layer's fixed random matrix."""

_ONE_HOT = 0.01
"""How far recovered labels may be from one-hot: rounding in 16 bits is a fifth of it."""


@dataclass
class LinearSegment(Segment):
    """A linear layer and the modules between it and the next one."""

    layer: nn.Linear


def split_model(method: Method, model: nn.Module) -> list[LinearSegment]:
    """Split a chain of linear layers, elementwise activations and dropout into segments.

    Raises:
        MethodError: for any other model.
    """
    activations = "elementwise activations without parameters, and nn.Dropout,"
    segments = split_into_segments(
        *(method, model, lambda m: type(m) is nn.Dropout or is_plain_activation(m), activations),
        only_linear=True,
    ).segments
    last = segments[-1]
    refused = [
        Refusal(last.path, type(module).__name__, f"a {type(module).__name__} follows it")
        for module in last.rest
    ]
    raise_if_refused(method, refused, "the loss must read the last linear layer")
    return [LinearSegment(s.path, cast(nn.Linear, s.layer), s.rest) for s in segments]


def add_projections(
    method: Method, sizes: list[tuple[LinearSegment, int]], outputs: int, scale: float
) -> None:
    """Add a fixed random matrix (outputs, size) to the linear layer of each segment.

    Raises:
        MethodError: a layer has an attribute of its name.
    """
    if taken := [segment.path for segment, _ in sizes if hasattr(segment.layer, _NAME)]:
        raise MethodError(
            f"{type(method).__name__}: {', '.join(taken)}: the attribute {_NAME!r} is taken; call "
            "detach(model) first"
        )
    for segment, size in sizes:
        drawn = nn.init.kaiming_uniform_(segment.layer.weight.new_empty(outputs, size))
        segment.layer.register_buffer(_NAME, scale * drawn)


def projections(method: Method, segments: Iterable[LinearSegment]) -> list[Tensor]:
    """Return the fixed random matrices of segments.

    Raises:
        MethodError: a layer has none.
    """
    if missing := [s.path for s in segments if not hasattr(s.layer, _NAME)]:
        raise MethodError(
            f"{type(method).__name__}: {', '.join(missing)}: no {_NAME} yet; call "
            "method.attach(model, example) first"
        )
    return [segment.layer.get_buffer(_NAME) for segment in segments]


def remove_projections(model: nn.Module) -> nn.Module:
    """Remove the fixed random matrices."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and _NAME in module._buffers:
            delattr(module, _NAME)
    return model


def loss_and_gradient(loss: Loss, output: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the loss of an output and its gradient with respect to the output."""
    leaf = output.detach().requires_grad_()
    value = loss(leaf)
    (d,) = torch.autograd.grad(value, leaf)
    return value.detach(), d


def recover_labels(method: Method, output: Tensor, d: Tensor, N: float) -> Tensor:
    """Compute the labels of a cross-entropy from its gradient, (softmax(output) - one-hot) / N.

    Args:
        method: the method, for messages.
        output: the logits, (..., classes).
        d: the gradient of the loss with respect to them.
        N: the number of terms that the loss is a mean over.

    Raises:
        Diverged: the logits are not finite.
        MethodError: the gradient is that of another loss, or N is not its number of terms.
    """
    targets = torch.softmax(detached_copy(output), -1) - N * detached_copy(d)
    labels = targets.argmax(-1)
    distance = float((targets - F.one_hot(labels, output.shape[-1])).abs().max())
    name = type(method).__name__
    if not torch.isfinite(targets).all():
        raise Diverged(f"{name}: the output is not finite, so there is no update")
    if distance > _ONE_HOT:
        raise MethodError(
            f"{name}: the loss is not the cross-entropy of the model's output with one label for "
            f"each of {N:g} terms, from which {name} computes the labels; use F.cross_entropy "
            "without class weights, label smoothing and ignored labels, and check loss_terms"
        )
    return labels
