"""Tables for intercepted modules: views of weights, kernels to take apart, and biases."""

import types
from typing import Any

import torch
from torch import Tensor

from lra.torch.functions.recurrent import RECURRENT
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

CONSTANTS = frozenset(
    (
        *(torch.eye, torch.ones, torch.zeros, torch.full, torch.arange, torch.linspace),
        *(torch.tensor, torch.empty, torch.rand, torch.randn),
    )
)
"""Functions that make constants and noise. What they make of weights are weights."""

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


COMPOSITES: dict[Any, Any] = {
    # Functions of torch.nn.functional pass themselves whole to a function mode. A copy that does
    # not look for modes calls its parts one by one.
    F.multi_head_attention_forward: _with_globals(
        F.multi_head_attention_forward, has_torch_function=lambda *_: False
    ),
    F.glu: _glu,
    **RECURRENT,
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
