"""The forward scan: what a module's code calls that only an example can convert.

The scan reads the source of a module's forward and of all that this calls in Python: methods,
functions, lambdas, partials, containers of them, and `super().forward`. Names are looked up where
the code would find them. What a function of torch does is tested by calling it.
"""

import ast
import builtins
import functools
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import get_overridable_functions

from lra.torch.audit.classify import Kind
from lra.torch.audit.judge import Nature, judge
from lra.torch.convert.source import conditions_in, in_order, is_super, source_of
from lra.torch.registry import ACTIVATION_FUNCTIONS, BILINEAR_FUNCTIONS, is_operator

_WEIGHTED = {f for f, bias in BILINEAR_FUNCTIONS.items() if bias in (2, 3)}
"""Bilinear functions that nobody calls without a weight."""

_LIBRARIES = frozenset(("torch", "numpy", "einops")) | sys.stdlib_module_names
"""Packages whose functions are not scanned."""

_UNKNOWN: Any = object()
"""What the scan cannot look up: an argument, or the result of a call."""

_NUMBER: Any = object()
"""A number that is computed in the forward, such as a size."""


@dataclass(frozen=True)
class Escape:
    """Something in a forward that only an example can convert.

    Attributes:
        name: what is called.
        kind: an activation, a product that may be one with weights, or unknown code.
        certain: False for a product of two tensors, which may be attention's.
        known: whether an intercepted module converts it without an example.
    """

    name: str
    kind: Kind
    certain: bool = True
    known: bool = False


def escapes(module: nn.Module, skipped: Any = ()) -> list[Escape]:
    """List what a module's own code calls that only an example can convert.

    A product of two tensors counts only if the module has weights of its own or its code names
    some; otherwise it may be attention's.

    Args:
        module: the module.
        skipped: autograd Functions and custom operators that keep their own backward pass.
    """
    scan = _Scan(module, skipped)
    scan.run(vars(module).get("forward", type(module).forward), module)
    lists = [m for m in module.children() if isinstance(m, (nn.ParameterList, nn.ParameterDict))]
    own = [p for m in (module, *lists) for p in m.parameters(recurse=False)]
    has_weights = any(p.dim() > 1 for p in own)
    named = has_weights or scan.names_weights
    return [each for each in dict.fromkeys(scan.found) if each.certain or named]


class _Scan:
    """One scan of a module."""

    def __init__(self, module: nn.Module, skipped: Any) -> None:
        self.modules = set(module.modules())
        self.skipped = skipped
        self.found: list[Escape] = []
        self.names_weights = False
        self.seen: set[Any] = set()

    def run(self, function: Any, owner: Any = None) -> None:
        """Scan a function.

        Args:
            function: a function, a bound method, a partial, or anything else that is called.
            owner: what it is bound to, for a plain function that is a method.
        """
        while isinstance(function, (functools.partial, functools.partialmethod)):
            function = function.func
        if isinstance(function, types.MethodType):
            function, owner = function.__func__, function.__self__
        function = inspect.unwrap(function) if callable(function) else function
        if not isinstance(function, types.FunctionType):
            return
        if (function.__module__ or "").partition(".")[0] in _LIBRARIES:
            return
        if (function.__code__, id(owner)) in self.seen:
            return
        self.seen.add((function.__code__, id(owner)))
        node = source_of(function)
        if node is None:
            self.found.append(Escape(f"{function.__qualname__} (no source)", Kind.UNKNOWN))
            return
        _Body(self, function, owner, node).scan()


class _Body:
    """The code of one function."""

    def __init__(self, scan: _Scan, function: types.FunctionType, owner: Any, node: Any) -> None:
        self.scan_all, self.function, self.owner, self.node = scan, function, owner, node
        names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
        self.local: dict[str, Any] = {
            arg.arg: _UNKNOWN for arg in ast.walk(node.args) if isinstance(arg, ast.arg)
        }
        if owner is not None and names:
            self.local[names[0]] = owner
        self.outer = inspect.getclosurevars(function).nonlocals
        self.tests = {id(part) for test in conditions_in(node) for part in ast.walk(test)}

    def scan(self) -> None:
        """Report what the code calls."""
        body = self.node.body if isinstance(self.node.body, list) else [self.node.body]
        for statement in body:
            for part in in_order(statement):
                if isinstance(part, ast.Assign):
                    self._bind(part.targets[0], self._resolve(part.value))
                elif isinstance(part, (ast.For, ast.comprehension)):
                    self._loop(part.target, part.iter)
                elif isinstance(part, ast.Call):
                    self._call(part)
                elif isinstance(part, ast.BinOp):
                    self._operate(part)
                elif isinstance(part, ast.Compare):
                    self._compare(part)
                elif isinstance(part, ast.Attribute) and "weight" in part.attr:
                    self.scan_all.names_weights = True

    def _bind(self, target: ast.AST, value: Any) -> None:
        """Note what a name stands for from here on."""
        for name in ast.walk(target):
            if isinstance(name, ast.Name):
                self.local[name.id] = value if target is name or value is _NUMBER else _UNKNOWN

    def _loop(self, target: ast.AST, over: ast.AST) -> None:
        """Note what the variables of a loop stand for."""
        called = ast.unparse(over.func) if isinstance(over, ast.Call) else ""
        targets = target.elts if isinstance(target, ast.Tuple) else [target]
        if called in ("zip", "enumerate") and isinstance(over, ast.Call):
            values = [_NUMBER] * (called == "enumerate") + [self._each(a) for a in over.args]
        elif called.endswith((".items", ".values")) and isinstance(over, ast.Call):
            assert isinstance(over.func, ast.Attribute)
            values = [_UNKNOWN] * (len(targets) - 1) + [self._each(over.func.value)]
        else:
            values = [self._each(over)]
        for name, value in zip(targets, values, strict=False):
            self._bind(name, value if len(targets) == len(values) else _UNKNOWN)

    def _each(self, over: ast.AST) -> Any:
        """Return the members of a container in the code."""
        of = self._resolve(over)
        return _Any(_members(of)) if _is_container(of) else of if of is _NUMBER else _UNKNOWN

    def _report(self, name: str, kind: Kind, certain: bool = True, known: bool = False) -> None:
        self.scan_all.found.append(Escape(name, kind, certain, known))

    def _call(self, part: ast.Call) -> None:
        text = ast.unparse(part.func)
        if isinstance(part.func, ast.Attribute) and not is_super(part.func.value):
            of = self._resolve(part.func.value)
            if of is _UNKNOWN:
                method = getattr(Tensor, part.func.attr, None)
                self._known(method, f"Tensor.{part.func.attr}")
                return
        elif isinstance(part.func, ast.Call) and self._makes_module(part.func):
            self._report(f"{text}(...)", Kind.UNKNOWN)
        for called in _members(self._resolve(part.func)):
            self._called(called, text)

    def _makes_module(self, part: ast.Call) -> bool:
        made = self._resolve(part.func)
        return isinstance(made, type) and issubclass(made, nn.Module)

    def _called(self, called: Any, text: str) -> None:
        scan = self.scan_all
        if called in (_UNKNOWN, _NUMBER) or isinstance(called, type):
            if called is _UNKNOWN and text in self.local:
                self._report(text, Kind.UNKNOWN)  # a function that is an argument
            return
        if isinstance(called, functools.partial):
            self._called(called.func, text)
            return
        function = getattr(called, "__self__", None)
        if isinstance(function, type) and issubclass(function, torch.autograd.Function):
            if function not in scan.skipped:
                self._report(text, Kind.UNKNOWN)
        elif isinstance(called, (torch.jit.ScriptFunction, torch.jit.ScriptModule)):
            self._report(f"{text} (TorchScript)", Kind.UNKNOWN)
        elif is_operator(called):
            if called not in scan.skipped:
                self._report(text, Kind.UNKNOWN)
        elif isinstance(called, nn.Module):
            if called not in scan.modules:
                self._report(f"{text} (no submodule)", Kind.UNKNOWN)
        elif not self._known(called, getattr(called, "__name__", text)):
            if isinstance(called, (types.FunctionType, types.MethodType)):
                scan.run(called)
            elif callable(called) and not isinstance(called, _BUILT_IN):
                scan.run(type(called).__call__, called)

    def _known(self, called: Any, name: str) -> bool:
        """Report a function of torch, and return whether it is one."""
        try:
            if called in ACTIVATION_FUNCTIONS:
                self._report(name, Kind.ACTIVATION, known=True)
            elif called in BILINEAR_FUNCTIONS:
                self._report(name, Kind.WEIGHTS, called in _WEIGHTED, known=True)
            elif called in _overridable():
                if _is_elementwise(called):
                    self._report(name, Kind.ACTIVATION)
            elif called is abs:
                self._report(name, Kind.ACTIVATION)
            else:
                return False
        except TypeError:  # it has no hash
            return False
        return True

    def _operate(self, part: ast.BinOp) -> None:
        if isinstance(part.op, ast.MatMult):
            self._report("@", Kind.WEIGHTS, False, known=True)
        elif isinstance(part.op, ast.Pow) and not _is_number(self._resolve(part.left)):
            self._report("**", Kind.ACTIVATION)

    def _compare(self, part: ast.Compare) -> None:
        order = (ast.Gt, ast.Lt, ast.GtE, ast.LtE)
        if id(part) in self.tests or not all(isinstance(op, order) for op in part.ops):
            return
        if not all(_is_number(self._resolve(each)) for each in (part.left, *part.comparators)):
            self._report("a comparison", Kind.ACTIVATION)

    def _resolve(self, node: ast.AST) -> Any:
        """Look up what an expression stands for, as far as that is known without running it."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            for names in (self.local, self.outer, self.function.__globals__):
                if node.id in names:
                    return names[node.id]
            return getattr(builtins, node.id, _UNKNOWN)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Subscript):
            of = self._resolve(node.value)
            return (
                _Any(list(_members(of))) if _is_container(of) else of if of is _NUMBER else _UNKNOWN
            )
        if isinstance(node, ast.Lambda):
            return _UNKNOWN  # its body is part of this code
        if isinstance(node, ast.BinOp):
            sides = self._resolve(node.left), self._resolve(node.right)
            return _NUMBER if all(map(_is_number, sides)) else _UNKNOWN
        if isinstance(node, ast.IfExp):
            return _Any([self._resolve(node.body), self._resolve(node.orelse)])
        if isinstance(node, ast.Call):
            return self._result(node)
        return _UNKNOWN

    def _attribute(self, node: ast.Attribute) -> Any:
        if node.attr == "shape":
            return _NUMBER
        if is_super(node.value):
            cls = self.outer.get("__class__") or type(self.owner)
            try:
                return getattr(super(cls, self.owner), node.attr)
            except (AttributeError, TypeError):
                return _UNKNOWN
        of = self._resolve(node.value)
        if of in (_UNKNOWN, _NUMBER):
            return of
        try:
            return _attribute_of(of, node.attr)
        except Exception:
            return _UNKNOWN

    def _result(self, node: ast.Call) -> Any:
        """Return what is known of a call's result: sizes, lengths and mathematics are numbers."""
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("size", "dim", "numel"):
            return _NUMBER
        called = self._resolve(node.func)
        numeric = called in (len, int, float, round, min, max, range)
        return _NUMBER if numeric or getattr(called, "__module__", "") == "math" else _UNKNOWN


class _Any(list[Any]):
    """Values one of which an expression stands for."""


_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, types.MethodWrapperType)
_builtins = (
    __builtins__
    if isinstance(__builtins__, types.ModuleType)
    else types.SimpleNamespace(**__builtins__)
)


def _is_number(value: Any) -> bool:
    return value is _NUMBER or isinstance(value, (int, float, complex))


def _is_container(value: Any) -> bool:
    return isinstance(value, (list, tuple, Mapping, nn.ModuleList, nn.ModuleDict, nn.Sequential))


def _members(value: Any) -> Iterator[Any]:
    """Yield what a call of a value may call: itself, or the members of a container."""
    if isinstance(value, (Mapping, nn.ModuleDict)):
        value = _Any(value.values())
    if isinstance(value, (list, tuple, nn.ModuleList)):
        for each in value:
            yield from _members(each)
    else:
        yield value


def _attribute_of(value: Any, name: str) -> Any:
    if isinstance(value, nn.Module):
        for table in (vars(value), value._modules, value._parameters, value._buffers):
            if name in table:
                found = table[name]
                return _UNKNOWN if isinstance(found, Tensor) else found
    found = inspect.getattr_static(value, name)
    if isinstance(found, property):
        return _UNKNOWN
    return getattr(value, name)


@functools.cache
def _overridable() -> frozenset[Any]:
    """Return the functions and methods of torch that compute with tensors."""
    return frozenset(f for group in get_overridable_functions().values() for f in group)


@functools.cache
def _is_elementwise(function: Any) -> bool:
    """Return whether a function of torch is nonlinear and elementwise in its first argument."""
    if not hasattr(torch.ops.aten, getattr(function, "__name__", "").strip("_")):
        return False
    h = torch.linspace(-1.9, 2.2, 12, requires_grad=True)
    for more in ((), (torch.full((12,), 1.7),)):
        if judge(function, (h, *more), {}, [h]) is Nature.ELEMENTWISE:
            return True
    return False
