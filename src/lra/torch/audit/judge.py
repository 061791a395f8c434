"""What a function does to its data, tested by calling it again on other numbers."""

import enum
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lra.torch.ops.ops import physical


class Nature(enum.Enum):
    """What a function does to its data."""

    #: Affine, or an identity.
    LINEAR = enum.auto()
    #: Nonlinear, each result depending on one number of the data.
    ELEMENTWISE = enum.auto()
    #: Anything else, or random.
    OTHER = enum.auto()


def judge(func: Any, args: Any, kwargs: Any, data: list[Tensor]) -> Nature:
    """Return what a call does to its data.

    Args:
        func: the function.
        args: its arguments.
        kwargs: its keyword arguments.
        data: the tensors among them that errors go to. The others stay as they are.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    at = [
        i
        for i, t in enumerate(leaves)
        if isinstance(t, Tensor) and any(physical(t) is h for h in data)
    ]

    def call(change: Any) -> Tensor:
        given = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        for i in at:
            given[i] = change(given[i])
        own, named = pytree.tree_unflatten(given, spec)
        out: Tensor = func(*own, **named)
        return out

    try:
        with torch.no_grad(), torch.random.fork_rng():
            return _judge(call, [leaves[i] for i in at])
    except Exception:  # it takes no other numbers, so the test says nothing
        return Nature.OTHER


def _judge(call: Any, data: list[Tensor]) -> Nature:
    z = call(lambda h: h)
    if not isinstance(z, Tensor) or not _close(call(lambda h: h), z):
        return Nature.OTHER
    zero = call(torch.zeros_like)
    scaled = [(a, call(lambda h, a=a: a * h)) for a in (-1.0, 0.5)]
    if all(_close(out - zero, a * (z - zero)) for a, out in scaled):
        return Nature.LINEAR
    if any(h.shape != z.shape for h in data):
        return Nature.OTHER
    every = torch.arange(z.numel(), device=z.device)
    moved = (every * 2654435761 % 65537 < 32768).view(z.shape)  # half of them, scattered
    out = call(lambda h: torch.where(moved, 0.7 * h + 0.1, h))
    stays = _close(out.masked_fill(moved, 0), z.masked_fill(moved, 0))
    return Nature.ELEMENTWISE if stays else Nature.OTHER


def _close(a: Tensor, b: Tensor) -> bool:
    a, b = physical(a), physical(b)
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
