"""Following a forward: the functions that it calls become places of the rule."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from lra.crossing import Derivative
from lra.feedback import Feedback, Transpose
from lra.torch.functions.tables import (
    ATTRIBUTES,
    COMPOSITES,
    VIEWS,
    bias_of,
    fan_in_of,
    is_matmul,
    overwrites,
)
from lra.torch.layers.linear import LinearMap, MatmulMap
from lra.torch.layers.state import FeedbackSampler, effective_feedback
from lra.torch.ops import observer
from lra.torch.ops.autograd import apply_activation, apply_weights
from lra.torch.ops.ops import BilinearOp, WeightOp, needs_error
from lra.torch.phi import phi_of_call
from lra.torch.registry import ACTIVATION_FUNCTIONS, BILINEAR_FUNCTIONS, CONVOLUTIONS, F
from lra.torch.user_warnings import check_first_errors


@dataclass(frozen=True)
class Source:
    """Where a tensor that weights alone make up comes from.

    Attributes:
        key: the name of the parameter, with the shape where something was computed from it.
        like: the tensor that the feedback weights of this key look like.
        views: how the feedback weights of the key become those of the tensor.
    """

    key: str
    like: Tensor
    views: tuple[Callable[[Tensor], Tensor], ...] = ()


def tensors_in(tree: Any) -> list[Tensor]:
    """List the tensors in a torch function's arguments or results; faster than pytree."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        return tensors_in(tuple(tree.values()))
    if not isinstance(tree, (tuple, list)):
        return []
    return [tensor for part in tree for tensor in tensors_in(part)]


def _apart(function: Any, args: Any, kwargs: Any) -> tuple[Callable[..., Any], list[Tensor]]:
    """Split a call into a function of its floating tensors and these."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    at = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.is_floating_point()]
    rest = [None if i in at else leaf for i, leaf in enumerate(leaves)]

    def call(*tensors: Tensor) -> Any:
        filled = list(rest)
        for i, tensor in zip(at, tensors, strict=True):
            filled[i] = tensor
        args, kwargs = pytree.tree_unflatten(filled, spec)
        return function(*args, **kwargs)

    return call, [leaves[i] for i in at]


def _of(h: Tensor, function: Any, args: Any, kwargs: Any) -> Callable[[Tensor], Any]:
    """Give a call as a function of one of its tensors."""
    if len(args) == 1 and not kwargs:
        return function  # type: ignore[no-any-return]
    leaves, spec = pytree.tree_flatten((args, kwargs))
    at = next(i for i, leaf in enumerate(leaves) if leaf is h)
    leaves[at] = None  # else the graph would hold itself

    def call(v: Tensor) -> Any:
        own, named = pytree.tree_unflatten([*leaves[:at], v, *leaves[at + 1 :]], spec)
        return function(*own, **named)

    return call


class FunctionInterceptor(TorchFunctionMode):
    """Watches the functions that a layer's forward calls, and makes places of them."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        computing = getattr(layer, "parametrizations", None)
        buffers = (*layer.buffers(recurse=False), *(computing.buffers() if computing else ()))
        self.sources: dict[Tensor, Source | None] = dict.fromkeys(buffers)
        self.sources |= layer.sources()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, as a place of the rule where it is one."""
        kwargs = kwargs or {}
        if not torch.is_grad_enabled() or func in ATTRIBUTES or left.depth:
            return func(*args, **kwargs)
        if func in COMPOSITES:
            with self:
                return COMPOSITES[func](*args, **kwargs)
        given = tensors_in((args, kwargs))
        if not given:  # positions and the like, made of nothing
            out = func(*args, **kwargs)
            self.sources.update((t, None) for t in tensors_in(out) if not t.is_floating_point())
            return out
        if func in VIEWS or (func is F.embedding and given[0] in self.sources):  # by whatever index
            given = [t for t in given if t.is_floating_point() or t.is_complex()] or given
        static = [t for t in given if t in self.sources or isinstance(t, nn.Parameter)]
        if static and len(static) == len(given):
            return self._derive(func, args, kwargs, static)
        if func in BILINEAR_FUNCTIONS and static:
            return self._multiply(func, args, kwargs, static)
        if func in ACTIVATION_FUNCTIONS or func in self.layer.units:
            return self._activate(func, args, kwargs, given)
        return func(*args, **kwargs)

    def _derive(self, func: Any, args: Any, kwargs: Any, static: list[Tensor]) -> Any:
        """Follow what is computed from weights alone."""
        out = func(*args, **kwargs)
        known = [(t, self.sources[t]) for t in static if self.sources.get(t) is not None]
        made = tensors_in(out)
        if not known:
            self.sources.update((t, None) for t in made if t not in self.sources)
            return out
        root, source = max(known, key=lambda link_feedback: link_feedback[0].numel())
        assert source is not None
        for i, t in enumerate(made):
            if t in self.sources:
                continue
            if (func in VIEWS or func is F.embedding) and len(static) == 1:

                def view(E: Tensor, i: int = i) -> Tensor:
                    leaves, spec = pytree.tree_flatten((args, kwargs))
                    moved = [E if leaf is root else leaf for leaf in leaves]
                    own, named = pytree.tree_unflatten(moved, spec)
                    return tensors_in(func(*own, **named))[i]

                self.sources[t] = Source(source.key, source.like, (*source.views, view))
            else:
                name = source.key.partition(":")[0]
                self.sources[t] = Source(f"{name}:{'x'.join(map(str, t.shape))}", t)
        return out

    def _multiply(self, func: Any, args: Any, kwargs: Any, static: list[Tensor]) -> Any:
        """Send the error of a product with one weight down by the rule."""
        layer = self.layer
        bias = bias_of(func, args, kwargs)
        operands = [t for t in tensors_in((args, kwargs)) if t is not bias]
        weights = [t for t in static if t is not bias and self.sources.get(t) is not None]
        crossed = [t for t in operands if needs_error(t) and all(t is not W for W in weights)]
        if len(weights) != 1 or not crossed or isinstance(layer._lra.feedback, Transpose):
            return func(*args, **kwargs)
        W = weights[0]
        source = self.sources[W]
        assert source is not None
        kept = layer.feedback_of(source.key, source.like)
        if observer.current is not None:
            observer.current.name_next(layer, source.key)
        router, site = layer._lra.conversion.router, f"{layer._lra.path}:{source.key}"
        feedback, (z, *more) = layer._lra.feedback, crossed
        detach_input = (
            z
            if router is None or more
            else router.detach_input(site, z, kept, func not in CONVOLUTIONS)
        )
        if detach_input is z:
            E = self._effective(func, W, kept, source)
        else:  # no error crosses the product itself
            feedback, E = Transpose(), W.detach()
            args, kwargs = pytree.tree_map(lambda t: detach_input if t is z else t, (args, kwargs))
        op, given = _product(feedback, func, args, kwargs, W, bias)
        h = apply_weights(op, *given, E) if router is None else router.run(site, op, *given, E)
        check_first_errors(layer._lra, h)
        return h

    def _effective(
        self, func: Any, W: Tensor, kept: Tensor | None, source: Source
    ) -> Tensor | None:
        """Give the E of one product."""
        for view in source.views:
            kept = None if kept is None else view(kept)
        if not self.layer.computes:
            return kept
        plain, feedback = W.detach(), self.layer._lra.feedback
        draw = FeedbackSampler(plain, fan_in_of(func, W))
        E: Tensor = effective_feedback(feedback, plain, kept, draw)
        return E

    def _activate(self, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
        """Send the error of a nonlinear function across by the rule."""
        layer = self.layer
        moving = [t for t in given if needs_error(t)]
        if len(moving) != 1 or isinstance(layer.rule.crossing, Derivative):
            return func(*args, **kwargs)  # a choice between activities, or nothing to cross
        (h,) = moving
        if any(t.numel() > 1 and t.shape != h.shape[-t.dim() :] for t in given if t is not h):
            return func(*args, **kwargs)
        call = _of(h, func, args, kwargs)
        if observer.current is not None:
            observer.current.name_next(layer, func.__name__)
        changes = func in layer.table.in_place or overwrites(func, args, kwargs)

        def pure(v: Tensor) -> Any:
            return call(v.clone())

        phi = phi_of_call(func, args, kwargs, h, pure if changes else call)
        in_place = call if changes else None
        return apply_activation(phi, layer.rule.crossing, layer._lra.terms, h, in_place)


def _product(
    feedback: Feedback, func: Any, args: Any, kwargs: Any, W: Tensor, bias: Tensor | None
) -> tuple[WeightOp | BilinearOp, list[Any]]:
    """Give a product of data and a weight W as a place, with the tensors that it takes before E."""
    if func is F.linear and W.dim() == 2 and not {"input", "weight"} & kwargs.keys():
        return WeightOp(LinearMap(), feedback), [args[0], W, bias]
    if is_matmul(func, args, kwargs, W, bias):
        return WeightOp(MatmulMap(func), feedback), [args[-2], W, bias]
    call, given = _apart(func, args, kwargs)
    at = next(i for i, t in enumerate(given) if t is W)
    return BilinearOp(call, feedback, at, len(given)), [*given]


class _Left(threading.local):
    """Counts how deep in modules that are left to autograd a thread's forward is."""

    depth = 0


left = _Left()
