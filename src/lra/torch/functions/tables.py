"""torch's functions, as a rule sees them: products, units, and kernels to take apart."""

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional
from torch import Tensor
from torch._decomp import decompositions

T: Any = torch.Tensor
F: Any = torch.nn.functional  # not all of it is in its stubs

_MATMUL = (torch.matmul, T.matmul, T.__matmul__, T.__rmatmul__, torch.mm, T.mm, torch.bmm, T.bmm)

_OTHERS = (torch.mv, T.mv, torch.tensordot, torch.einsum, torch.inner, T.inner)

_GROUPED = tuple(
    f
    for f in (getattr(torch, "_grouped_mm", None), getattr(F, "grouped_mm", None))
    if f is not None
)

CONVOLUTIONS = (
    *(F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d),
    *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
)
"""Products whose units are in dimension 1."""

BILINEAR_FUNCTIONS: dict[Any, int | None] = {
    **dict.fromkeys((*_MATMUL, *_OTHERS, *_GROUPED)),
    **dict.fromkeys((torch.addmm, T.addmm, torch.baddbmm, T.baddbmm, torch.addmv, T.addmv), 0),
    **dict.fromkeys((F.linear, *CONVOLUTIONS), 2),
    F.bilinear: 3,
}
"""Functions that multiply data with weights, and where among their arguments the bias stands."""

_BIAS_NAMES = ("bias", "input")  # of the first kind with a bias, and of addmm's

ACTIVATION_FUNCTIONS = frozenset(
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

CHANGING = frozenset(f for f in ACTIVATION_FUNCTIONS if f.__name__.endswith("_"))
"""Those that overwrite their argument."""

VIEWS = frozenset(
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

ASKS = frozenset({T.requires_grad.__get__, T.data.__get__, T.shape.__get__})


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

_IN_PLACE_AT = {
    F.relu: 1, F.relu6: 1, F.silu: 1, F.mish: 1, F.hardswish: 1, F.hardsigmoid: 1, F.selu: 1,
    F.elu: 2, F.celu: 2, F.leaky_relu: 2, F.hardtanh: 3, F.threshold: 3,
}  # fmt: skip


def overwrites(func: Any, args: Any, kwargs: Any) -> bool:
    """Tell whether a call of a nonlinear function overwrites its argument."""
    at = _IN_PLACE_AT.get(func, len(args))
    return func in CHANGING or bool(kwargs.get("inplace")) or (at < len(args) and bool(args[at]))


def bias_of(func: Any, args: Any, kwargs: Any) -> Any:
    """Give the bias of a call of a product, if it has one."""
    at = BILINEAR_FUNCTIONS[func]
    if at is None:
        return None
    return args[at] if len(args) > at else kwargs.get(_BIAS_NAMES[at == 0])


_BY_COLUMNS = {
    **dict.fromkeys((torch.matmul, T.matmul, T.__matmul__, torch.mm, T.mm), 2),
    **dict.fromkeys((torch.addmm, T.addmm), 3),
}
"""Functions that give z W, and z W + b, and how many arguments they have."""


def is_matmul(func: Any, args: Any, kwargs: Any, W: Tensor, bias: Any) -> bool:
    """Tell whether a call of a product is z W, or z W + b with a bias of each column's."""
    return (
        _BY_COLUMNS.get(func) == len(args)
        and not kwargs
        and args[-1] is W
        and W.dim() == 2
        and W.is_floating_point()
        and (bias is None or bias.shape == W.shape[1:])
    )


def fan_in_of(func: Any, W: Tensor) -> int:
    """Give how many inputs each unit reads, for either layout of W."""
    by_rows = BILINEAR_FUNCTIONS[func] == 2 or func is F.bilinear
    return W[0].numel() if by_rows else max(1, W.numel() // W.shape[-1])
