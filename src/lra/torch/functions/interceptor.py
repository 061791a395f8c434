"""The function mode that intercepts a module's forward and turns its calls into ops."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from lra.crossing import Derivative, crossing_at
from lra.errors import RuleError
from lra.feedback import Feedback, Transpose
from lra.torch.functions.calls import (
    Source,
    as_function_of,
    derived_source,
    is_flat,
    leaves_below,
    split_tensors,
    tensors_in,
)
from lra.torch.functions.recurrent import sequence
from lra.torch.functions.tables import (
    ATTRIBUTES,
    COMPOSITES,
    CONSTANTS,
    VIEWS,
    bias_of,
    fan_in_of,
    is_matmul,
    overwrites,
)
from lra.torch.layers.active import active
from lra.torch.layers.backward_check import check_backward
from lra.torch.layers.linear import LinearMap, MatmulMap
from lra.torch.layers.sampler import FeedbackSampler
from lra.torch.layers.slots import FeedbackSlot
from lra.torch.ops import autograd, observer
from lra.torch.ops.autograd import apply_activation, apply_weights
from lra.torch.ops.nodes import by_rule, is_pure, nodes_below
from lra.torch.ops.ops import BilinearOp, WeightOp, needs_error, physical
from lra.torch.phi import phi_of_call
from lra.torch.registry import (
    ACTIVATION_FUNCTIONS,
    BILINEAR_FUNCTIONS,
    CONVOLUTIONS,
    MULTIPLICATIONS,
    SURROGATES,
    F,
    multiplies_units,
)
from lra.torch.user_warnings import check_first_errors
from lra.torch.visible import CHECKPOINTS


class FunctionInterceptor(TorchFunctionMode):
    """Runs a module's forward and turns the functions that it calls into ops of the rule."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        derived = getattr(layer, "parametrizations", None)
        buffers = (*layer.buffers(recurse=False), *(derived.buffers() if derived else ()))
        self.buffers = frozenset(buffers)
        self.sources: dict[Tensor, Source | None] = dict.fromkeys(buffers)
        """The tensors that are made of weights and constants alone; None for constants."""
        self.sources |= layer.sources()
        self._from_weights: dict[Any, bool] = {}  # by node of the graph

    def __enter__(self) -> Any:
        active.layers.append(self.layer)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        active.layers.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, as an op of the rule where it is one."""
        kwargs = kwargs or {}
        if func in CHECKPOINTS and not active.skipped:
            return func(self._recomputed(*args), *args[1:], **kwargs)
        if not torch.is_grad_enabled() or func in ATTRIBUTES or active.skipped:
            return func(*args, **kwargs)
        if func in COMPOSITES:
            with self:
                return COMPOSITES[func](*args, **kwargs)
        given = tensors_in((args, kwargs))
        if not given:  # made of no tensor, such as positions
            out = func(*args, **kwargs)
            known = func in CONSTANTS
            made = (t for t in tensors_in(out) if known or not t.is_floating_point())
            self.sources.update((t, None) for t in made)
            return out
        if func in VIEWS or (func is F.embedding and given[0] in self.sources):  # indices aside
            given = [t for t in given if t.is_floating_point() or t.is_complex()] or given
        multiplies = func in BILINEAR_FUNCTIONS or func in MULTIPLICATIONS
        static = [t for t in given if self._is_static(t, multiplies)]
        if static and len(static) == len(given):
            return self._derive(func, args, kwargs, static)
        if multiplies and static:
            return self._multiply(func, args, kwargs, static)
        if func in ACTIVATION_FUNCTIONS or func in self.layer._lra.activations:
            return self._activate(func, args, kwargs, given)
        return func(*args, **kwargs)

    def _recomputed(self, function: Any, *given: Any) -> Any:
        """Return a checkpointed function that is intercepted in its recomputation too.

        Args:
            function: the function.
            *given: what the checkpoint was called with: some settings, and the arguments.
        """

        def run(*args: Any, **kwargs: Any) -> Any:
            for old, new in zip(given[len(given) - len(args) :], args, strict=True):
                if isinstance(old, Tensor) and self.sources.get(old) is not None:
                    self.sources[new] = self.sources[old]  # a weight, recomputed from a copy
            with self:
                return function(*args, **kwargs)

        return run

    def _is_static(self, t: Tensor, search: bool) -> bool:
        """Return whether a tensor is made of weights and constants alone.

        Args:
            t: the tensor.
            search: whether to search its graph, for what autograd Functions, TorchScript and caches
                made of weights.
        """
        if t in self.sources or isinstance(t, nn.Parameter):
            # A constant requires a gradient once data was written into it.
            return not t.requires_grad or self.sources.get(t) is not None or t.is_leaf
        if not search or torch.compiler.is_compiling():
            return False
        if t.grad_fn is None or not self._is_from_weights(t.grad_fn):
            return False
        found = [s for leaf in leaves_below(t.grad_fn) if (s := self.sources.get(leaf)) is not None]
        if not found:
            return False
        source = max(found, key=lambda s: s.like.numel())
        self.layer._lra.searches_graph |= self.layer._lra.discovering
        self.sources[t] = derived_source(source, t)
        return True

    def _is_from_weights(self, node: Any) -> bool:
        """Return whether all leaves below a node are parameters."""
        if node is None or by_rule(node):
            return False
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            return isinstance(leaf, nn.Parameter)
        if node not in self._from_weights:
            below = nodes_below(node)
            pure = bool(below) and is_pure(node)
            self._from_weights[node] = pure and all(map(self._is_from_weights, below))
        return self._from_weights[node]

    def _derive(self, func: Any, args: Any, kwargs: Any, static: list[Tensor]) -> Any:
        """Run a function of weights alone, and note where its results come from."""
        out = func(*args, **kwargs)
        plain = [t for t in static if t.dim() > 1 and not t.requires_grad]
        constants = [t for t in plain if self.sources.get(t, t) is None]
        if func in BILINEAR_FUNCTIONS and any(t not in self.buffers for t in constants):
            return out  # the first state of a sequence, or positions, are data
        known = [(t, self.sources[t]) for t in static if self.sources.get(t) is not None]
        made = tensors_in(out) or static[:1]  # x[0] = y returns nothing, and changes x
        if not known:
            self.sources.update((t, None) for t in made if t not in self.sources)
            return out
        root, source = max(known, key=lambda entry: entry[0].numel())
        assert source is not None
        for i, t in enumerate(made):
            if self.sources.get(t) is not None:
                continue
            if (func in VIEWS or func is F.embedding) and len(static) == 1:

                def view(E: Tensor, i: int = i) -> Tensor:
                    leaves, spec = pytree.tree_flatten((args, kwargs))
                    moved = [E if leaf is root else leaf for leaf in leaves]
                    own, named = pytree.tree_unflatten(moved, spec)
                    return tensors_in(func(*own, **named))[i]

                self.sources[t] = Source(source.key, source.like, (*source.views, view))
            else:
                self.sources[t] = derived_source(source, t)
        return out

    def _multiply(self, func: Any, args: Any, kwargs: Any, static: list[Tensor]) -> Any:
        """Run a product of data with one weight as an op."""
        state = self.layer._lra
        bias = bias_of(func, args, kwargs)
        operands = [t for t in tensors_in((args, kwargs)) if t is not bias]
        weights = [t for t in static if t is not bias and self.sources.get(t) is not None]
        crossed = [t for t in operands if needs_error(t) and all(t is not W for W in weights)]
        if len(weights) != 1 or isinstance(state.rule.feedback, Transpose):
            return func(*args, **kwargs)
        W = weights[0]
        source = self.sources[W]
        assert source is not None
        own = state.slots.get(source.key)
        if not crossed and (own is None or own.route is not None):
            return func(*args, **kwargs)  # it reads the raw input; elsewhere E learns as W does
        others = [t for t in operands if t is not W]
        if func in MULTIPLICATIONS and not (others and multiplies_units(others, weights)):
            return func(*args, **kwargs)
        slot = self.layer.slot_of(source.key, source.like)
        stored = slot.current(self.layer, source.like)
        if observer.current is not None:
            observer.current.name_next(self.layer, source.key)
        router, site = state.conversion.router, f"{state.path}:{source.key}"
        detached = z = crossed[0] if crossed else None
        if router is not None and len(crossed) == 1:
            units_last = func not in CONVOLUTIONS
            detached = router.detach_input(site, slot.route, z, stored, units_last)
        if detached is z:
            feedback, E = slot.feedback, self._effective(func, W, slot, stored, source)
        else:  # no error crosses the product itself
            feedback, E = Transpose(), W.detach()
            args, kwargs = pytree.tree_map(lambda t: detached if t is z else t, (args, kwargs))
        op, given = _as_op(feedback, func, args, kwargs, W, bias)
        h = apply_weights(op, *given, E) if router is None else router.run(site, op, *given, E)
        if not h.is_complex():
            check_first_errors(state, h)
        check_backward(state, h)
        return h

    def _effective(
        self, func: Any, W: Tensor, slot: FeedbackSlot, stored: Tensor | None, source: Source
    ) -> Tensor | None:
        """Return the E of one product."""
        for view in source.views:
            stored = None if stored is None else view(stored)
        if not slot.computed:
            return stored
        plain = W.detach()
        draw = FeedbackSampler(plain, fan_in_of(func, W))
        E: Tensor = slot.effective(plain, stored, draw)
        return E

    def _activate(self, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
        """Run an activation as an op."""
        state = self.layer._lra
        crossed = [t for t in given if needs_error(t)]
        if len(crossed) != 1 or isinstance(state.rule.crossing, Derivative):
            return func(*args, **kwargs)  # a choice between activations, or nothing to cross
        (h,) = crossed
        if h.is_complex():
            return func(*args, **kwargs)
        if h.dim() < 2 and physical(h) is not h and state.counts_terms and not autograd.run_batched:
            raise RuleError(
                f"{state.path or 'the model'!r} calls {func.__name__} on one sample inside "
                "torch.vmap, where the number N of terms of the loss cannot be counted. Convert "
                "with loss_terms= the number of samples, or a relative target"
            )
        if any(t.numel() > 1 and t.shape != h.shape[-t.dim() :] for t in given if t is not h):
            return func(*args, **kwargs)
        call = as_function_of(h, func, args, kwargs)
        if observer.current is not None:
            observer.current.name_next(self.layer, func.__name__)
        in_place = call if func in state.in_place or overwrites(func, args, kwargs) else None

        def copied(v: Tensor) -> Any:
            return call(v.clone())

        phi = phi_of_call(func, args, kwargs, h, call if in_place is None else copied)
        if state.discovering and phi(h.detach()).is_complex():
            return func(*args, **kwargs)
        terms = sequence.terms.get(state.terms, state.terms)
        return apply_activation(phi, self._crossing(func, h, phi), terms, h, in_place)

    def _crossing(self, func: Any, h: Tensor, phi: Any) -> Any:
        """Return the rule's crossing, as it applies to a function."""
        state = self.layer._lra
        if state.discovering and is_flat(phi, h):
            state.steps |= {func}
        return crossing_at(state.rule.crossing, SURROGATES.get(func), func in state.steps)


def _as_op(
    feedback: Feedback, func: Any, args: Any, kwargs: Any, W: Tensor, bias: Tensor | None
) -> tuple[WeightOp | BilinearOp, list[Any]]:
    """Return a product of data and a weight W as an op, with the tensors that it takes before E."""
    if (
        func is F.linear
        and W.dim() == 2
        and W.is_floating_point()
        and not {"input", "weight"} & kwargs.keys()
    ):
        return WeightOp(LinearMap(), feedback), [args[0], W, bias]
    if is_matmul(func, args, kwargs, W, bias):
        return WeightOp(MatmulMap(func), feedback), [args[-2], W, bias]
    call, given = split_tensors(func, args, kwargs)
    at = next(i for i, t in enumerate(given) if t is W)
    return BilinearOp(call, feedback, at, len(given)), [*given]
