"""Layers by function: what a module's own forward does with weights and nonlinear functions.

Such a module runs as it is written, while every torch function that it calls is watched. A product
of data with a weight, or with what is computed from weights alone, becomes a place of the rule; so
does a nonlinear function of data. Feedback weights belong to the parameter where the product takes
it as it is, or a view of it; else (standardised, normed, masked weights) to what is computed.
"""

import functools
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional
from torch import Tensor, nn
from torch._decomp import decompositions
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from lra.crossing import Derivative
from lra.errors import ConversionError, RuleError
from lra.feedback import Feedback, Stored, Transpose
from lra.torch.backward import Product, Weights, bend, multiply, send
from lra.torch.layers.base import DrawLike, Local, as_weights, draw_feedback
from lra.torch.layers.linear import LinearOperation
from lra.torch.watch import look_at_errors, pair

T: Any = torch.Tensor
F: Any = torch.nn.functional  # not all of it is in its stubs

_MATMUL = (torch.matmul, T.matmul, T.__matmul__, T.__rmatmul__, torch.mm, T.mm, torch.bmm, T.bmm)
_OTHERS = (torch.mv, T.mv, torch.tensordot, torch.einsum, torch.inner, T.inner)
_GROUPED = tuple(
    f
    for f in (getattr(torch, "_grouped_mm", None), getattr(F, "grouped_mm", None))
    if f is not None
)
PRODUCTS: dict[Any, int | None] = {
    **dict.fromkeys((*_MATMUL, *_OTHERS, *_GROUPED)),
    **dict.fromkeys((torch.addmm, T.addmm, torch.baddbmm, T.baddbmm, torch.addmv, T.addmv), 0),
    **dict.fromkeys((F.linear, F.conv1d, F.conv2d, F.conv3d), 2),
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), 2),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), 2),
    F.bilinear: 3,
}
"""Functions that multiply data with weights, and where among their arguments the bias stands."""

_BIAS_NAMES = ("bias", "input")  # of the first kind with a bias, and of addmm's

UNITS = frozenset(
    {
        *(F.celu, F.elu, F.gelu, F.hardshrink, F.hardsigmoid, F.hardswish, F.hardtanh),
        *(F.leaky_relu, F.logsigmoid, F.mish, F.relu, F.relu6, F.selu, F.sigmoid, F.silu),
        *(F.softplus, F.softshrink, F.softsign, F.tanh, F.tanhshrink, F.threshold),
        *(F.relu_, F.elu_, F.celu_, F.selu_, F.leaky_relu_, F.hardtanh_, F.threshold_),
        *(torch.relu, torch.relu_, torch.tanh, torch.tanh_, torch.sigmoid, torch.sigmoid_),
        *(torch.celu, torch.selu, torch.hardshrink, torch.special.expit),
        *(T.relu, T.relu_, T.tanh, T.tanh_, T.sigmoid, T.sigmoid_, T.hardshrink),
    }
)
"""Nonlinear functions of one tensor; what else a module uses as such is found by an example."""

CHANGING = frozenset(f for f in UNITS if f.__name__.endswith("_"))
"""Those that overwrite their argument."""

_VIEWS = frozenset(
    {
        *(T.t, torch.t, T.T.__get__, T.mT.__get__, T.transpose, torch.transpose, T.swapaxes),
        *(T.permute, torch.permute, T.view, T.reshape, torch.reshape, T.flatten, torch.flatten),
        *(T.unflatten, T.squeeze, torch.squeeze, T.unsqueeze, torch.unsqueeze, T.__getitem__),
        *(T.select, torch.select, T.narrow, torch.narrow, T.chunk, torch.chunk, T.split),
        *(torch.split, T.unbind, torch.unbind, T.expand, T.contiguous, T.to, T.type_as, T.float),
        *(T.half, T.double, T.bfloat16, T.movedim, torch.movedim, T.detach, T.clone),
        *(T.index_select, torch.index_select, torch.split_with_sizes, T.split_with_sizes),
        *(torch.swapaxes, torch.clone, T.view_as, T.expand_as, T.reshape_as, T.requires_grad_),
    }
)
"""Functions that rearrange weights: E goes through the same."""

_ASKS = frozenset({T.requires_grad.__get__, T.data.__get__, T.shape.__get__})


def _with(function: Any, **names: Any) -> Any:
    """Give a function of torch's own code with other meanings for some names in it."""
    names = function.__globals__ | names
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    a, b = input.chunk(2, dim)
    return a * torch.sigmoid(b)


def _rnn(padded: Any, packed: Any) -> Any:
    """Choose as the kernel does, whose batch sizes are a tensor."""

    def run(*args: Any) -> Any:
        is_packed = isinstance(args[1], Tensor) and isinstance(args[3], (list, tuple))
        return (packed if is_packed else padded)(*args)

    return run


def _lstm_cell(x: Tensor, hidden: Any, W: Tensor, R: Tensor, b: Any = None, c: Any = None) -> Any:
    h, state = hidden
    i, f, g, o = (F.linear(x, W, b) + F.linear(h, R, c)).chunk(4, 1)
    state = torch.sigmoid(f) * state + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(state), state


def _gru_cell(x: Tensor, h: Tensor, W: Tensor, R: Tensor, b: Any = None, c: Any = None) -> Any:
    (r, z, n), (s, y, m) = F.linear(x, W, b).chunk(3, 1), F.linear(h, R, c).chunk(3, 1)
    update = torch.sigmoid(z + y)
    new = torch.tanh(n + torch.sigmoid(r + s) * m)
    return new + update * (h - new)


def _rnn_cell(phi: Callable[[Tensor], Tensor]) -> Any:
    def run(x: Tensor, h: Tensor, W: Tensor, R: Tensor, b: Any = None, c: Any = None) -> Tensor:
        return phi(F.linear(x, W, b) + F.linear(h, R, c))

    return run


_D = decompositions
_V = torch._VF
_STEPS = {"select_one_layer_lstm_function": lambda *_: _D.one_layer_lstm}  # not a kernel of MKL's
COMPOSITES: dict[Any, Any] = {
    # Those of torch.nn.functional hand themselves over whole to whoever watches; one that does not
    # look for watchers runs step by step.
    F.multi_head_attention_forward: _with(
        F.multi_head_attention_forward, has_torch_function=lambda *_: False
    ),
    F.glu: _glu,
    _V.lstm: _rnn(_with(_D.lstm_impl, **_STEPS), _with(_D.lstm_data_impl, **_STEPS)),
    _V.gru: _rnn(_D.gru_impl, _D.gru_impl_data),
    _V.rnn_tanh: _rnn(_D.rnn_tanh_input, _D.rnn_tanh_data),
    _V.rnn_relu: _rnn(_D.rnn_relu_input, _D.rnn_relu_data),
    _V.lstm_cell: _lstm_cell,
    _V.gru_cell: _gru_cell,
    _V.rnn_tanh_cell: _rnn_cell(torch.tanh),
    _V.rnn_relu_cell: _rnn_cell(torch.relu),
}
"""Kernels that multiply and bend in one, and the same step by step; equal but for rounding."""


@dataclass(frozen=True)
class _Source:
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
    """List the tensors in arguments or results."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


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
    leaves, spec = pytree.tree_flatten((args, kwargs))
    at = next(i for i, leaf in enumerate(leaves) if leaf is h)
    leaves[at] = None  # else the graph would hold itself

    def call(v: Tensor) -> Any:
        own, named = pytree.tree_unflatten([*leaves[:at], v, *leaves[at + 1 :]], spec)
        return function(*own, **named)

    return call


class Follow(TorchFunctionMode):
    """Watches the functions that a layer's forward calls, and makes places of them."""

    def __init__(self, layer: "LocalForward") -> None:
        super().__init__()
        self.layer = layer
        computing = getattr(layer, "parametrizations", None)
        buffers = (*layer.buffers(recurse=False), *(computing.buffers() if computing else ()))
        self.sources: dict[Tensor, _Source | None] = dict.fromkeys(buffers)
        self.sources |= layer.sources()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, as a place of the rule where it is one."""
        kwargs = kwargs or {}
        if not torch.is_grad_enabled() or func in _ASKS or _left.depth:
            return func(*args, **kwargs)
        if func in COMPOSITES:
            with self:
                return COMPOSITES[func](*args, **kwargs)
        given = tensors_in((args, kwargs))
        static = [t for t in given if t in self.sources or isinstance(t, nn.Parameter)]
        if func in _VIEWS:  # by whatever index
            given = [t for t in given if t.is_floating_point() or t.is_complex()]
        if static and len(static) == len(given):
            return self._derive(func, args, kwargs, static)
        if func in PRODUCTS and static:
            return self._multiply(func, args, kwargs, static)
        if func in UNITS or func in self.layer.units:
            return self._bend(func, args, kwargs, given)
        return func(*args, **kwargs)

    def _derive(self, func: Any, args: Any, kwargs: Any, static: list[Tensor]) -> Any:
        """Follow what is computed from weights alone."""
        out = func(*args, **kwargs)
        known = [(t, self.sources[t]) for t in static if self.sources.get(t) is not None]
        made = tensors_in(out)
        if not known:
            self.sources.update((t, None) for t in made if t not in self.sources)
            return out
        root, source = max(known, key=lambda pair: pair[0].numel())
        assert source is not None
        for i, t in enumerate(made):
            if t in self.sources:
                continue
            if func in _VIEWS and len(static) == 1:

                def view(E: Tensor, i: int = i) -> Tensor:
                    leaves, spec = pytree.tree_flatten((args, kwargs))
                    moved = [E if leaf is root else leaf for leaf in leaves]
                    own, named = pytree.tree_unflatten(moved, spec)
                    return tensors_in(func(*own, **named))[i]

                self.sources[t] = _Source(source.key, source.like, (*source.views, view))
            else:
                name = source.key.partition(":")[0]
                self.sources[t] = _Source(f"{name}:{'x'.join(map(str, t.shape))}", t)
        return out

    def _multiply(self, func: Any, args: Any, kwargs: Any, static: list[Tensor]) -> Any:
        """Send the error of a product with one weight down by the rule."""
        layer = self.layer
        bias = _bias(func, args, kwargs)
        operands = [t for t in tensors_in((args, kwargs)) if t is not bias]
        weights = [t for t in static if t is not bias and self.sources.get(t) is not None]
        crossed = any(t.requires_grad for t in operands if all(t is not W for W in weights))
        if len(weights) != 1 or not crossed or isinstance(layer.rule.feedback, Transpose):
            return func(*args, **kwargs)
        W = weights[0]
        source = self.sources[W]
        assert source is not None
        kept = layer.feedback_of(source.key, source.like)
        for view in source.views:
            kept = None if kept is None else view(kept)
        E = kept
        if layer.computes:
            with torch.no_grad():
                plain = W.detach()
                E = layer.rule.feedback.effective(
                    plain, kept, DrawLike(plain, _fan_in(func, W)), torch
                )
        if func is F.linear and W.dim() == 2 and not {"input", "weight"} & kwargs.keys():
            h = multiply(Weights(LinearOperation(), layer.rule.feedback), args[0], W, bias, E)
            look_at_errors(layer._lra, h)
            return h
        call, given = _apart(func, args, kwargs)
        at = next(i for i, t in enumerate(given) if t is W)
        place = Product(call, layer.rule.feedback, at, len(given))
        h = send((place,), *given, E)
        look_at_errors(layer._lra, h)
        return h

    def _bend(self, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
        """Send the error of a nonlinear function across by the rule."""
        layer = self.layer
        moving = [t for t in given if t.requires_grad]
        if len(moving) != 1 or isinstance(layer.rule.crossing, Derivative):
            return func(*args, **kwargs)  # a choice between activities, or nothing to cross
        (h,) = moving
        if any(t.numel() > 1 and t.shape != h.shape[-t.dim() :] for t in given if t is not h):
            return func(*args, **kwargs)
        call = _of(h, func, args, kwargs)
        changes = func in CHANGING or func in layer.table.changing or bool(kwargs.get("inplace"))
        changes = changes or (len(args) > 1 and func in _IN_PLACE_AT and _inplace(func, args))
        return bend(call, layer.rule.crossing, layer._lra.terms, h, changes)


_IN_PLACE_AT = {
    F.relu: 1, F.relu6: 1, F.silu: 1, F.mish: 1, F.hardswish: 1, F.hardsigmoid: 1, F.selu: 1,
    F.elu: 2, F.celu: 2, F.leaky_relu: 2, F.hardtanh: 3, F.threshold: 3,
}  # fmt: skip


def _inplace(func: Any, args: Any) -> bool:
    at = _IN_PLACE_AT[func]
    return len(args) > at and bool(args[at])


def _bias(func: Any, args: Any, kwargs: Any) -> Any:
    at = PRODUCTS[func]
    if at is None:
        return None
    return args[at] if len(args) > at else kwargs.get(_BIAS_NAMES[at == 0])


def _fan_in(func: Any, W: Tensor) -> int:
    """Give how many inputs each unit reads, for either layout of W."""
    by_rows = PRODUCTS[func] == 2 or func is F.bilinear
    return W[0].numel() if by_rows else max(1, W.numel() // W.shape[-1])


class _Left(threading.local):
    """Counts how deep in modules that are left to autograd a thread's forward is."""

    depth = 0


_left = _Left()


class LocalLeft(Local):
    """A skipped module inside one that is followed: nothing in it becomes a place."""

    @classmethod
    def wrap(cls, plain: type[nn.Module]) -> dict[str, Any]:
        """Give the forward that runs unwatched."""

        @functools.wraps(plain.forward)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            _left.depth += 1
            try:
                return plain.forward(self, *args, **kwargs)
            finally:
                _left.depth -= 1

        return {"forward": forward}

    @property
    def crosses(self) -> bool:
        """Nothing here follows the rule."""
        return False

    def _describe(self) -> str:
        return "left to autograd"


@dataclass
class Table:
    """What a followed layer knows beside its rule.

    Attributes:
        feedback: for each key, the name of its feedback weights; dotted below the layer.
        added: the names of those that conversion added to the layer itself.
        units: nonlinear functions that this layer uses beside the common ones.
        changing: those of them that overwrite their argument.
        discovering: whether feedback weights may be added where they are missing.
    """

    feedback: dict[str, str] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    units: frozenset[Any] = frozenset()
    changing: frozenset[Any] = frozenset()
    discovering: bool = False


class LocalForward(Local):
    """A module whose own forward runs as written, with the rule in the functions that it calls."""

    @classmethod
    def wrap(cls, plain: type[nn.Module]) -> dict[str, Any]:
        """Give the forward, with the plain one's signature."""

        @functools.wraps(plain.forward)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return plain.forward(self, *args, **kwargs)
            with Follow(self):
                return plain.forward(self, *args, **kwargs)

        return {"forward": forward}

    @property
    def table(self) -> Table:
        """What is known of this layer's weights and units."""
        found: Table = self._lra.table
        return found

    @property
    def units(self) -> frozenset[Any]:
        """The nonlinear functions that an example has shown."""
        return self.table.units

    @property
    def computes(self) -> bool:
        """Whether the E of a pass is computed, and not what is kept."""
        return type(self.rule.feedback).effective is not Feedback.effective

    def sources(self) -> dict[Tensor, _Source | None]:
        """Give the parameters that have feedback weights; all, where they are to be found out."""
        if self.table.discovering:
            own = {E for _, E in self.table.feedback.items()}
            found = (*self.named_parameters(), *self._computed())
            return {
                W: _Source(name, W)
                for name, W in found
                if name not in own and name.rpartition(".")[2] != "feedback"
            }
        names = {key.partition(":")[0] for key in self.table.feedback}
        found_now: dict[Tensor, _Source | None] = {}
        for name in names:
            owner, _, leaf = name.rpartition(".")
            W = getattr(self.get_submodule(owner), leaf)
            found_now[W] = _Source(name, W)
        return found_now

    def _computed(self) -> list[tuple[str, Tensor]]:
        """Give the weights that a hook computes before each forward: weight_norm, pruning."""
        own = vars(self).items()
        return [(name, t) for name, t in own if isinstance(t, Tensor) and t.requires_grad]

    def feedback_of(self, key: str, like: Tensor) -> Tensor | None:
        """Give what is kept as feedback weights for a key, or draw it where that is asked for.

        Raises:
            RuleError: where there is none.
        """
        stored = self.rule.feedback.stored
        if stored is Stored.NOTHING:
            if self.table.discovering:
                self.table.feedback.setdefault(key, "")
            return None
        if key not in self.table.feedback:
            if not self.table.discovering:
                raise RuleError(
                    f"{self._lra.path or 'the model'!r} ({self.plain.__name__}) multiplies with "
                    f"{key!r}, for which it has no feedback weights: it did not when it was "
                    "converted. Convert with example=, arguments with which the forward does all "
                    "that it will do in training"
                )
            self._draw(key, like)
        if not self._lra.drawn:
            self.draw_again()
        owner, _, leaf = self.table.feedback[key].rpartition(".")
        kept: Tensor = getattr(self.get_submodule(owner), leaf)
        if kept.requires_grad != like.requires_grad:
            as_weights(kept, like)
        return kept

    @torch.no_grad()
    def draw_again(self) -> None:
        """Draw the feedback weights anew, at the scale that the layer's weights have now."""
        for key, name in self.table.feedback.items():
            if name in self.table.added and not getattr(self, name).is_meta:
                root, _, shape = key.partition(":")
                E = getattr(self, name)
                like = torch.zeros_like(E) if shape else self.get_parameter(root)
                drawn = draw_feedback(self.rule.feedback, like)
                assert drawn is not None
                E.copy_(drawn)
                self._lra.drawn = True

    def _draw(self, key: str, like: Tensor) -> None:
        name, _, shape = key.partition(":")
        owner, _, leaf = name.rpartition(".")
        beside = f"{owner}.feedback" if owner else "feedback"
        holder = self.get_submodule(owner)
        kept = getattr(holder, "feedback", None) if hasattr(holder, "_lra") else None
        if leaf == "weight" and not shape and isinstance(kept, Tensor) and kept.shape == like.shape:
            self.table.feedback[key] = beside
            return
        flat = name.replace(".", "_")
        new = flat.replace("weight", "feedback") if "weight" in flat else f"{flat}_feedback"
        new = f"{new}_{shape}" if shape else new
        if hasattr(self, new):
            raise ConversionError(
                f"convert: {self._lra.path!r} ({self.plain.__name__}) has an attribute {new!r} of "
                "its own, where its feedback weights would go; rename it"
            )
        with torch.inference_mode(False), torch.no_grad():
            E = draw_feedback(self.rule.feedback, like.detach().clone())
        self.table.feedback[key] = new
        self.table.added.append(new)
        self._lra.drawn = self._lra.drawn and not like.is_meta
        if self.rule.feedback.stored is Stored.LEARNED:
            self.register_parameter(new, nn.Parameter(E, requires_grad=like.requires_grad))  # type: ignore[arg-type]
        else:
            self.register_buffer(new, E)
        if not shape:
            pair(like, getattr(self, new))

    def prepare(self) -> None:
        """Draw feedback weights for the layer's own weights, where no example is given."""
        for name, W in [*self.named_parameters(), *self._computed()]:
            if W.dim() > 1 and name not in self.table.feedback:
                if self.rule.feedback.stored is Stored.NOTHING:
                    self.table.feedback[name] = ""
                else:
                    self._draw(name, W)

    def restore(self) -> None:
        """Become the plain class again, and drop what the conversion added."""
        for name in self.table.added:
            delattr(self, name)
        super().restore()

    def _describe(self) -> str:
        return f"rule={self.rule}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        own = [f"{prefix}{name}" for name in self.table.added]
        self._lra.drawn = self._lra.drawn or (bool(own) and all(key in state_dict for key in own))
        for key, name in zip(own, self.table.added, strict=True):
            state_dict.setdefault(key, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
