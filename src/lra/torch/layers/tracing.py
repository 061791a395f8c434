"""Converted modules under torch.fx: each is a leaf of the traced graph."""

import functools
from typing import Any

from torch import nn
from torch.fx import Proxy

from lra.errors import ConversionError

__all__ = ["Proxy", "as_leaf", "is_traced", "leaf_if_traced"]


def is_traced(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether `torch.fx.symbolic_trace` is calling a module with these arguments."""
    return any(isinstance(x, Proxy) for x in (*args, *kwargs.values()))


def as_leaf(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return a converted module's call as a node of the traced graph.

    Raises:
        ConversionError: where the module is the root, whose code would be traced without its rule,
            or where the trace prepares a quantization, which replaces plain layers.
    """
    tracer: Any = next(x for x in (*args, *kwargs.values()) if isinstance(x, Proxy)).tracer
    name = module.plain.__name__
    if type(tracer).__module__.startswith("torch.ao."):
        raise ConversionError(
            f"torch.ao.quantization: {module._lra.path!r} ({name}) is converted, and only plain "
            "layers can be quantized; call lra.restore(model) first"
        )
    root: nn.Module = tracer.root
    if module is root:
        raise ConversionError(
            f"torch.fx: tracing the code of this {name} would lose its rule; call "
            "lra.restore(model) first, trace, and convert the result with example="
        )
    return tracer.create_proxy("call_module", tracer.path_of_module(module), args, kwargs)


def leaf_if_traced(forward: Any) -> Any:
    """Return a forward that is a leaf of a traced graph."""

    @functools.wraps(forward)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_traced(args, kwargs):
            return as_leaf(self, args, kwargs)
        return forward(self, *args, **kwargs)

    return method
