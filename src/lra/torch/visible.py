"""Make functions visible that torch hides from function modes.

A function mode sees neither an autograd Function nor what `torch.utils.checkpoint` recomputes in
the backward pass. Replacing such a function by one that looks for modes changes nothing else.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch.utils.checkpoint
from torch import Tensor
from torch.autograd import Function
from torch.overrides import wrap_torch_function
from torch.utils.checkpoint import CheckpointFunction


def _tensors(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    return tuple(t for t in (*args, *kwargs.values()) if isinstance(t, Tensor))


def visible(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a function that shows its calls to function modes under a name."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    shown: Callable[..., Any] = wrap_torch_function(_tensors)(run)
    shown.__name__ = shown.__qualname__ = name
    return shown


def is_visible(cls: Any) -> bool:
    """Return whether an autograd Function's `apply` was made visible."""
    return "_lra_visible" in getattr(cls, "__dict__", ())


def visible_apply(cls: type[Function]) -> Callable[..., Any]:
    """Return an autograd Function's `apply`, made visible the first time."""
    if not is_visible(cls):
        shown = visible(cls.apply, cls.__name__)
        shown._lra_function = cls  # type: ignore[attr-defined]
        cls.apply = staticmethod(shown)  # type: ignore[method-assign]
        cls._lra_visible = True  # type: ignore[attr-defined]
    return cls.apply


def visible_function(function: Any) -> Any:
    """Return the autograd Function whose visible `apply` a function is, or None."""
    return getattr(function, "_lra_function", None)


checkpoints = torch.utils.checkpoint

CHECKPOINTS = (
    visible_apply(CheckpointFunction),
    visible(checkpoints._checkpoint_without_reentrant_generator, "checkpoint"),
)
"""The functions through which both kinds of checkpoint run. Their first argument is the code."""

checkpoints._checkpoint_without_reentrant_generator = CHECKPOINTS[1]
