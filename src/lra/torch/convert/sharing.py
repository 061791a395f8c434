"""Modules that other models may hold as well: which a conversion copies, keeps, or refuses."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lra.crossing import Derivative
from lra.errors import ConversionError
from lra.loss_terms import LossTerms
from lra.rules import Rule
from lra.torch.convert.plan import listing
from lra.torch.layers import Local, LocalActivation
from lra.torch.layers.slots import Conversion
from lra.torch.registry import ACTIVATIONS, INTERCEPTED
from lra.wiring import Chain

_CONTAINERS = nn.Sequential, nn.ModuleList, nn.ModuleDict

Replaced = list[tuple[nn.Module, str, nn.Module]]
"""Parents, the names of their children, and the children that were replaced."""


def copy_activations(
    model: nn.Module, rule: Rule, terms: LossTerms | float, skipped: dict[str, nn.Module]
) -> Replaced:
    """Replace modules that may be activations by copies, which no other model holds.

    A default argument, for instance, is one module in every model that is built with it. The copies
    share their parameters, buffers and hooks with the originals.

    Args:
        model: the model.
        rule: the rule that it is converted to.
        terms: what its loss is a mean over.
        skipped: the modules to leave as they are.

    Returns:
        What was replaced, for `put_back`.
    """
    named = _named_elsewhere(model)
    copies: dict[nn.Module, nn.Module] = {module: module for module in skipped.values()}
    replaced: Replaced = []

    def visit(parent: nn.Module) -> None:
        for name, child in list(parent._modules.items()):
            if child is None or isinstance(child, torch.jit.ScriptModule):
                continue
            if child in copies:
                new = copies[child]
            else:
                is_copied = id(child) not in named and _may_be_activation(child, rule, terms)
                new = copies[child] = _copy(child) if is_copied else child
                visit(new)
            if new is not child:
                parent._modules[name] = new
                replaced.append((parent, name, child))

    visit(model)
    return replaced


def put_back(replaced: Replaced) -> None:
    """Put the originals of copies back."""
    for parent, name, child in replaced:
        parent._modules[name] = child


def _named_elsewhere(model: nn.Module) -> set[int]:
    """Return the ids of modules that code may reach in another way than as submodules."""
    found: set[int] = set()
    for module in model.modules():
        own = vars(module)
        for name, value in own.items():
            if name != "_modules":
                found |= {id(m) for m in _modules_in(value)}
        if "forward" in own:  # a closure, such as that of torch.compile
            found |= {id(child) for child in module.children()}
    return found


def _modules_in(value: Any) -> Iterator[nn.Module]:
    """Yield a module, or the modules in containers within containers."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, (dict, list, tuple, set)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _modules_in(each)


def _may_be_activation(module: nn.Module, rule: Rule, terms: LossTerms | float) -> bool:
    """Return whether a module may be an activation, or a container of some, of several models."""
    if isinstance(module, Local):
        # It stays where another conversion to the same rule has left it.
        return isinstance(module, LocalActivation) and not _agrees(module, rule, terms)
    crosses = not isinstance(rule.crossing, Derivative)
    if type(module) in ACTIVATIONS:
        return crosses
    if next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
        return False
    if next(module.children(), None) is not None:
        return type(module) in _CONTAINERS
    is_users = not type(module).__module__.startswith("torch.nn.")
    return isinstance(module, INTERCEPTED) or (crosses and is_users)


def _copy(module: nn.Module) -> nn.Module:
    """Copy a module, and its tables of tensors and submodules, but not what these hold."""
    copied = object.__new__(type(module))
    vars(copied).update(vars(module))
    for table in ("_parameters", "_buffers", "_modules"):
        vars(copied)[table] = vars(module)[table].copy()
    if isinstance(copied, Local):
        copied.restore()
    return copied


def _agrees(module: Local, rule: Rule, terms: LossTerms | float) -> bool:
    return module.rule == rule and module._lra.terms == terms


def converted_before(
    model: nn.Module, rule: Rule, terms: LossTerms | float
) -> tuple[Conversion, ...]:
    """Return the conversions that modules of the model have been through, with another model.

    Raises:
        ConversionError: for layers of another rule, or of a wiring that joins all layers.
    """
    met = {path: m for path, m in model.named_modules() if isinstance(m, Local)}
    kept = [m for m in met.values() if not _may_be_activation(m, rule, terms)]
    if kept and not (isinstance(rule.wiring, Chain) and all(_agrees(m, rule, terms) for m in kept)):
        raise ConversionError(
            f"convert: already converted: {listing(list(met))}. If no other model has these "
            "modules, call lra.restore(model); if one has, give this model a copy.deepcopy of "
            "them, or convert both models to one rule with one loss_terms= and lra.wiring.Chain()"
        )
    return tuple({id(m._lra.conversion): m._lra.conversion for m in kept}.values())
