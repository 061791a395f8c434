"""What a conversion will do with which module, and what it has to refuse."""

import copy
import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from lra.axis import unknown
from lra.crossing import Derivative
from lra.errors import ConversionError, OptionError, Refusal
from lra.feedback import Transpose
from lra.rules import Rule
from lra.torch.convert.forward_scan import escapes
from lra.torch.distributed import is_sharded
from lra.torch.layers import (
    ACTIVATIONS,
    FOLLOWED,
    KNOWN,
    WEIGHT_LAYERS,
    Local,
    LocalActivation,
    is_activation,
)
from lra.torch.layers.custom import PRODUCTS
from lra.torch.layers.state import Conversion

Skip = str | type[nn.Module]


@dataclass
class Plan:
    """What a conversion will do with which module, by qualified name."""

    weights: dict[str, nn.Module] = field(default_factory=dict)
    units: dict[str, nn.Module] = field(default_factory=dict)
    followed: dict[str, nn.Module] = field(default_factory=dict)
    sequentials: list[nn.Module] = field(default_factory=list)
    left: dict[str, nn.Module] = field(default_factory=dict)
    input_layers: frozenset[str] = frozenset()
    shared: Conversion = field(default_factory=Conversion)


def refuse(refusals: Any) -> None:
    """Raise one error for all that stands in the way, if anything does."""
    refused = tuple(dict.fromkeys(refusals))
    if refused:
        raise ConversionError(
            "convert: these layers cannot follow the rule, and would silently stay on backprop:\n"
            + "\n".join(f"  - {refusal}" for refusal in refused)
            + "\nMend them as said, or leave them on backprop on purpose with skip=(their names)",
            refused,
        )


def find_skipped(model: nn.Module, skip: tuple[Skip, ...]) -> dict[str, nn.Module]:
    """Give the modules that names, patterns and classes mean.

    Raises:
        OptionError: for what means none.
    """
    paths = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, nn.Module] = {}
    for each in skip:
        if isinstance(each, str):
            chosen = [path for path in paths if path and fnmatch.fnmatchcase(path, each)]
            if not chosen:
                raise unknown("submodule in skip", each, filter(None, paths))
        elif isinstance(each, type) and issubclass(each, nn.Module):
            chosen = [path for path, m in paths.items() if path and isinstance(m, each)]
            if not chosen:
                classes = {type(m).__name__ for m in paths.values()}
                raise unknown("class in skip", each.__name__, classes)
        else:
            raise OptionError(
                f"convert: skip takes names, patterns and classes of submodules, got {each!r}"
            )
        found |= {path: paths[path] for path in chosen}
    return found


def make_plan(
    model: nn.Module,
    rule: Rule,
    skipped: dict[str, nn.Module],
    input_layers: Sequence[str] | None,
    proved: bool,
) -> Plan:
    """Decide for every module, and refuse once for all that stands in the way."""
    paths = dict(model.named_modules(remove_duplicate=False))
    converted = [path for path, m in paths.items() if isinstance(m, Local)]
    if converted and all(_lent(paths[path]) for path in converted):
        _copy(model, converted)
        paths = dict(model.named_modules(remove_duplicate=False))
    elif converted:
        raise ConversionError(
            f"convert: already converted: {listing(converted)}. Call lra.restore(model) first"
        )
    plan = Plan(left=skipped)
    refused: list[Refusal] = []
    inside: list[str] = []
    for path, module in _walk(model, skipped):
        if any(f"{path}.".startswith(prefix) for prefix in inside):
            continue
        trouble = _trouble(module, rule)
        follow = not trouble and _followed(module, rule)
        if not trouble and not follow and not proved:
            trouble = _unproved(module, rule)
        if trouble:
            refused.append(Refusal(path, type(module).__name__, trouble))
            inside.append(f"{path}." if path else "")
        elif follow:
            plan.followed[path] = module
        elif type(module) in WEIGHT_LAYERS:
            plan.weights[path] = module
        elif not isinstance(rule.crossing, Derivative) and (
            type(module) in ACTIVATIONS or is_activation(module)
        ):
            plan.units[path] = module
        elif type(module) is nn.Sequential:
            plan.sequentials.append(module)
    refuse(refused)
    if input_layers is not None or not proved:
        plan.input_layers = _sees_input(model, rule, plan.weights, input_layers)
    return plan


def _lent(module: nn.Module) -> bool:
    """Tell whether a converted module may be another model's: some libraries share activations."""
    return isinstance(module, LocalActivation) and module.fuses


def _copy(model: nn.Module, paths: list[str]) -> None:
    """Give the model its own plain copies of modules that another one converted."""
    copies: dict[nn.Module, Any] = {}
    for path in paths:
        module = model.get_submodule(path)
        if module not in copies:
            copies[module] = copy.copy(module)
            copies[module].restore()
        model.set_submodule(path, copies[module])


def _walk(model: nn.Module, skipped: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules with their qualified names, without the skipped ones and their inside."""
    left = {module for top in skipped.values() for module in top.modules()}
    for path, module in model.named_modules():
        if module not in left:
            yield path, module


def _trouble(module: nn.Module, rule: Rule) -> str:
    """Say why a module cannot follow the rule, or nothing."""
    if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return "it would not know the feedback weights; convert first, then wrap"
    if is_sharded(module):
        return "its sharding would not know the feedback weights; convert first, then shard"
    if rule == Rule():
        return ""  # all that stays on backprop is as asked
    if any(cls.__module__.startswith("keras.") for cls in type(module).__mro__):
        return "of Keras; lra.keras.convert converts Keras models"
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return "a lazy module without weights yet; run one forward pass first"
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted or traced: its code is closed; convert the module it was made of"
    known = type(module) in WEIGHT_LAYERS or type(module) in ACTIVATIONS
    if not isinstance(rule.crossing, Derivative) and not known:
        kind = type(module).__name__
        if isinstance(module, KNOWN) and not is_activation(module):
            return f"a subclass of an activation, whose forward may differ: say lra.register_activation({kind})"
    if known and "forward" in vars(module):
        return "its forward was replaced on the instance; make that a class of its own"
    if type(module) in WEIGHT_LAYERS:
        if hasattr(module, "feedback"):
            return "it has an attribute 'feedback', where feedback weights would go; rename it"
        others = module._parameters.keys() - {"weight", "bias"}
        if type(module) in PRODUCTS and (others or next(module.children(), None) is not None):
            named = ", ".join(sorted((*others, *dict(module.named_children()))))
            return f"it has {named} beside weight and bias, which its product cannot teach"
        weight = module._parameters.get("weight")
        if weight is not None and not weight.is_floating_point():
            return f"its weight is {weight.dtype}; rules work on real floating-point weights"
    return ""


def _followed(module: nn.Module, rule: Rule) -> bool:
    """Tell whether a module's forward is one to follow function by function."""
    if rule == Rule():
        return False
    if type(module) in WEIGHT_LAYERS:  # weight norm and pruning compute the weight from parameters
        return module._parameters.get("weight") is None
    return isinstance(module, FOLLOWED)


def _unproved(module: nn.Module, rule: Rule) -> str:
    """Say what in a module's own code only an example can convert, or nothing."""
    if type(module).__module__.startswith("torch.") or rule == Rule():
        return ""
    if type(module) in WEIGHT_LAYERS or type(module) in ACTIVATIONS or is_activation(module):
        return ""
    found = escapes(module)
    if isinstance(rule.crossing, Derivative):
        found = [name for name in found if name in _MULTIPLY]
    if not found:
        return ""
    return (
        f"its forward calls {', '.join(found)}; give convert an example=, arguments of one forward "
        "pass, that it may find what is to follow the rule"
    )


_MULTIPLY = ("@", "linear", "matmul", "einsum", "addmm", "bmm", "mm", "conv1d", "conv2d", "conv3d")


def _sees_input(
    model: nn.Module,
    rule: Rule,
    weights: dict[str, nn.Module],
    named: Sequence[str] | None,
) -> frozenset[str]:
    """Name the weight layers that see only the raw input."""
    if named is not None:
        for name in named:
            if name not in weights:
                raise unknown("weight layer in input_layers", name, weights)
        return frozenset(named)
    if isinstance(rule.feedback, Transpose) or not weights:
        return frozenset()
    first = next(iter(weights))
    for path, module in model.named_modules():
        if path == first:
            return frozenset((first,))
        above = path == "" or f"{first}.".startswith(f"{path}.")
        if not above and any(p.requires_grad for p in module.parameters(recurse=False)):
            break
    return frozenset()


def listing(names: Sequence[str], most: int = 8) -> str:
    """Give names for a message, the first few of many."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
