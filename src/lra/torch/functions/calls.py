"""Calls of torch's functions: the tensors in them, and the same calls as functions of these."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lra.torch.ops.nodes import nodes_below
from lra.torch.ops.ops import physical, transforming


@dataclass(frozen=True)
class Source:
    """Where a tensor that is made of weights alone comes from.

    Attributes:
        key: the name of the parameter, with the shape of what is derived from it after a colon.
        like: a tensor of the shape and type of this key's feedback weights.
        views: the functions that turn these feedback weights into those of the tensor.
    """

    key: str
    like: Tensor
    views: tuple[Callable[[Tensor], Tensor], ...] = ()


def derived_source(source: Source, t: Tensor) -> Source:
    """Return the source of a tensor that is computed from weights, with an E of its own."""
    name = source.key.partition(":")[0]
    return Source(f"{name}:{'x'.join(map(str, t.shape))}", t)


def leaves_below(node: Any) -> list[Tensor]:
    """List the leaves below a node."""
    leaf = getattr(node, "variable", None)
    if leaf is not None:
        return [leaf]
    return [
        leaf for below in nodes_below(node) if below is not None for leaf in leaves_below(below)
    ]


def tensors_in(tree: Any) -> list[Tensor]:
    """List the tensors in a torch function's arguments or results; faster than pytree."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        return tensors_in(tuple(tree.values()))
    if not isinstance(tree, (tuple, list)):
        return []
    return [tensor for part in tree for tensor in tensors_in(part)]


def split_tensors(function: Any, args: Any, kwargs: Any) -> tuple[Any, list[Tensor]]:
    """Split a call into a function of its floating-point tensors, and these tensors."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    at = [
        i
        for i, x in enumerate(leaves)
        if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())
    ]
    rest = [None if i in at else leaf for i, leaf in enumerate(leaves)]

    def call(*tensors: Tensor) -> Any:
        filled = list(rest)
        for i, tensor in zip(at, tensors, strict=True):
            filled[i] = tensor
        args, kwargs = pytree.tree_unflatten(filled, spec)
        return function(*args, **kwargs)

    return call, [leaves[i] for i in at]


def as_function_of(h: Tensor, function: Any, args: Any, kwargs: Any) -> Callable[[Tensor], Any]:
    """Return a call as a function of one of its tensors."""
    if len(args) == 1 and not kwargs:
        return function  # type: ignore[no-any-return]
    leaves, spec = pytree.tree_flatten((args, kwargs))
    at = next(i for i, leaf in enumerate(leaves) if leaf is h)
    leaves[at] = None  # or the graph would hold a reference to itself

    def call(v: Tensor) -> Any:
        own, named = pytree.tree_unflatten([*leaves[:at], v, *leaves[at + 1 :]], spec)
        return function(*own, **named)

    return call


def is_flat(phi: Callable[[Tensor], Tensor], h: Tensor) -> bool:
    """Return whether a function is constant almost everywhere beside its arguments h."""
    if transforming() and physical(h) is h:
        return False  # a transform that shows no numbers
    with torch.no_grad():
        h = physical(h).detach()
        z = phi(h)
        near = phi(h + 1e-4 * (h.abs().mean() + 1e-3))
        return bool((z == near).float().mean() > 0.95) and bool((z != z.flatten()[0]).any())
