"""Tables for intercepted modules: views of weights, kernels to take apart, and biases."""

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decompositions

from lra.torch.registry import ACTIVATION_FUNCTIONS, BILINEAR_FUNCTIONS, IN_PLACE_AT, F, T

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
        *(torch.view_as_complex, torch.view_as_real, torch.fft.fft, torch.fft.rfft),
        *(torch.fft.fft2, torch.fft.rfft2, torch.fft.fftn, torch.fft.rfftn),
    }
)
"""Functions that rearrange weights, and linear ones. E goes through the same ones."""

ATTRIBUTES = frozenset({T.requires_grad.__get__, T.data.__get__, T.shape.__get__})
"""Attributes of tensors, which compute nothing."""


def _with_globals(function: Any, **names: Any) -> Any:
    """Copy a function of torch's own code, with other values for some of its globals."""
    names = function.__globals__ | names
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    a, b = input.chunk(2, dim)
    return a * torch.sigmoid(b)


def _rnn(padded: Any, packed: Any) -> Any:
    """Choose between the two forms as the kernel does, by whether batch sizes are a tensor."""

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

_STEPS = {"select_one_layer_lstm_function": lambda *_: _D.one_layer_lstm}  # not MKL's kernel

COMPOSITES: dict[Any, Any] = {
    # Functions of torch.nn.functional pass themselves whole to a function mode. A copy that does
    # not look for modes calls its parts one by one.
    F.multi_head_attention_forward: _with_globals(
        F.multi_head_attention_forward, has_torch_function=lambda *_: False
    ),
    F.glu: _glu,
    _V.lstm: _rnn(
        _with_globals(_D.lstm_impl, **_STEPS), _with_globals(_D.lstm_data_impl, **_STEPS)
    ),
    _V.gru: _rnn(_D.gru_impl, _D.gru_impl_data),
    _V.rnn_tanh: _rnn(_D.rnn_tanh_input, _D.rnn_tanh_data),
    _V.rnn_relu: _rnn(_D.rnn_relu_input, _D.rnn_relu_data),
    _V.lstm_cell: _lstm_cell,
    _V.gru_cell: _gru_cell,
    _V.rnn_tanh_cell: _rnn_cell(torch.tanh),
    _V.rnn_relu_cell: _rnn_cell(torch.relu),
}
"""Kernels that multiply and activate in one, and the same step by step; equal but for rounding."""

_IN_PLACE = frozenset(f for f in ACTIVATION_FUNCTIONS if f.__name__.endswith("_"))


def overwrites(func: Any, args: Any, kwargs: Any) -> bool:
    """Return whether a call of an activation overwrites its argument."""
    at = IN_PLACE_AT.get(func, len(args))
    return func in _IN_PLACE or bool(kwargs.get("inplace")) or (at < len(args) and bool(args[at]))


_BIAS_NAMES = ("bias", "input")  # of most functions with a bias, and of addmm and its kin


def bias_of(func: Any, args: Any, kwargs: Any) -> Any:
    """Return the bias of a call of a bilinear function, or None."""
    at = BILINEAR_FUNCTIONS.get(func)
    if at is None:
        return None
    return args[at] if len(args) > at else kwargs.get(_BIAS_NAMES[at == 0])


_BY_COLUMNS = {
    **dict.fromkeys((torch.matmul, T.matmul, T.__matmul__, torch.mm, T.mm), 2),
    **dict.fromkeys((torch.addmm, T.addmm), 3),
}
"""Functions that compute z W or z W + b, and how many arguments they have."""


def is_matmul(func: Any, args: Any, kwargs: Any, W: Tensor, bias: Any) -> bool:
    """Return whether a call of a bilinear function is z W, or z W + b with a bias per column."""
    return (
        _BY_COLUMNS.get(func) == len(args)
        and not kwargs
        and args[-1] is W
        and W.dim() == 2
        and W.is_floating_point()
        and (bias is None or bias.shape == W.shape[1:])
    )


def fan_in_of(func: Any, W: Tensor) -> int:
    """Return how many inputs each unit reads, for either layout of W."""
    by_rows = BILINEAR_FUNCTIONS.get(func) == 2 or func is F.bilinear
    return W[0].numel() if by_rows else max(1, W.numel() // W.shape[-1])
