"""The forward scan: which torch functions a forward calls that only an example can convert."""

import dis
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from lra.torch.registry import ACTIVATION_FUNCTIONS, BILINEAR_FUNCTIONS

_NAMES = {
    f.__name__ for f in (*BILINEAR_FUNCTIONS, *ACTIVATION_FUNCTIONS) if hasattr(f, "__name__")
}
_METHODS = {name for name in _NAMES if hasattr(Tensor, name)}
_WEIGHTED = {f for f, bias in BILINEAR_FUNCTIONS.items() if bias in (2, 3)}
"""Bilinear functions that nobody calls without a weight."""

_MAYBE_ATTENTION = ("matmul", "mm", "bmm", "addmm")


def escapes(module: nn.Module) -> list[str]:
    """List the activations, and the products with weights, that a module's own code calls.

    The scan reads the module's forward, and what it calls of its own class and of functions in the
    same file. A product of two tensors counts only if the module has weights of its own or its code
    names some; otherwise it may be attention's.
    """
    has_weights = any(p.dim() > 1 for p in module._parameters.values() if p is not None)
    found: dict[str, bool] = {}
    names_weights = False
    for code, names in _codes(module):
        for name, certain in _calls(code, names):
            found[name] = found.get(name, False) or certain
        names_weights = names_weights or "weight" in code.co_names
    return [name for name, certain in found.items() if certain or has_weights or names_weights]


def _codes(module: nn.Module) -> Iterator[tuple[types.CodeType, dict[str, Any]]]:
    """Yield the code of a module's forward and of what it calls, with their global names."""
    todo: list[Any] = [type(module).forward]
    seen: set[types.CodeType] = set()
    while todo:
        function = todo.pop()
        function = getattr(function, "__wrapped__", function)
        if not isinstance(function, types.FunctionType) or function.__code__ in seen:
            continue
        if function.__module__.partition(".")[0] in ("torch", "einops", "math"):
            continue
        code = function.__code__
        seen.add(code)
        yield code, function.__globals__
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                yield inner, function.__globals__
        own = type(module)
        todo += [getattr(own, n, None) or function.__globals__.get(n) for n in code.co_names]


def _calls(code: types.CodeType, names: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the torch functions that code names, and whether each alone is certain to escape."""
    value: Any = None  # what the last instruction put on the stack, where it is known
    own = False  # whether that is an attribute of the module
    for step in dis.get_instructions(code):
        if step.opname == "LOAD_GLOBAL":
            value, own = names.get(step.argval), False
            yield from _known(value)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            if isinstance(value, types.ModuleType):
                value = getattr(value, step.argval, None)
                yield from _known(value)
            else:
                if not own and step.argval in _METHODS:
                    yield f"Tensor.{step.argval}", step.argval not in _MAYBE_ATTENTION
                value = None
        elif step.opname == "BINARY_OP" and step.argrepr == "@":
            yield "@", False
        else:
            value = None
            own = step.opname == "LOAD_FAST" and step.argval == "self"


def _known(value: Any) -> Iterator[tuple[str, bool]]:
    is_function = isinstance(value, Callable) and getattr(value, "__hash__", None)  # type: ignore[arg-type]
    try:
        if is_function and (value in ACTIVATION_FUNCTIONS or value in BILINEAR_FUNCTIONS):
            name = getattr(value, "__name__", str(value))
            yield name, value in ACTIVATION_FUNCTIONS or value in _WEIGHTED
    except TypeError:
        return
