"""The plan of a conversion: what happens to each module, and what must be refused."""

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from lra.axis import unknown
from lra.crossing import Derivative
from lra.errors import ConversionError, OptionError, Refusal
from lra.feedback import Transpose
from lra.rules import Rule
from lra.torch.audit.classify import Kind
from lra.torch.convert.forward_scan import escapes
from lra.torch.distributed import is_sharded
from lra.torch.layers import Local, LocalSequential, class_name, is_activation
from lra.torch.layers.slots import Conversion
from lra.torch.registry import (
    ACTIVATIONS,
    INTERCEPTED,
    TORCH_ACTIVATIONS,
    WEIGHT_LAYERS,
    recognise_simulators,
)

Selector = str | type[nn.Module]
"""A qualified name, a pattern of names, or a class of submodules."""


@dataclass
class Plan:
    """What a conversion does with which module, by qualified name."""

    weights: dict[str, nn.Module] = field(default_factory=dict)
    activations: dict[str, nn.Module] = field(default_factory=dict)
    intercepted: dict[str, nn.Module] = field(default_factory=dict)
    unchanged: dict[str, nn.Module] = field(default_factory=dict)
    sequentials: list[nn.Module] = field(default_factory=list)
    skipped: dict[str, nn.Module] = field(default_factory=dict)
    methods: dict[str, tuple[str, ...]] = field(default_factory=dict)
    input_layers: frozenset[str] = frozenset()
    shared: Conversion = field(default_factory=Conversion)


def refuse(refusals: Any) -> None:
    """Raise one error that lists everything that stands in the way, if anything does."""
    refused = tuple(dict.fromkeys(refusals))
    if refused:
        raise ConversionError(
            "convert: these layers cannot follow the rule, and would silently stay on backprop:\n"
            + "\n".join(f"  - {refusal}" for refusal in refused)
            + "\nFix them as described"
            + (", or exclude them with skip=(their names)" if any(r.name for r in refused) else ""),
            refused,
        )


def find_skipped(model: nn.Module, skip: tuple[Selector, ...]) -> dict[str, nn.Module]:
    """Find the modules that names, patterns and classes select.

    Raises:
        OptionError: for a selector that matches nothing.
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
                classes = {class_name(m) for m in paths.values()}
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
    has_example: bool,
    functions: Sequence[Any] = (),
    methods: Sequence[str] = (),
) -> Plan:
    """Decide for every module, and refuse once for everything that stands in the way."""
    recognise_simulators(model)
    paths = dict(model.named_modules(remove_duplicate=False))
    plan = Plan(skipped=skipped, methods=_find_methods(paths, methods))
    refused: list[Refusal] = []
    inside: list[str] = []
    for path, module in _walk(model, skipped):
        if isinstance(module, (Local, LocalSequential)) or any(
            f"{path}.".startswith(prefix) for prefix in inside
        ):
            continue
        reason = _reason_to_refuse(module, rule, has_example)
        intercept = not reason and (path in plan.methods or _is_intercepted(module, rule))
        if intercept and not has_example and is_parametrized(module):
            reason = "its weights are computed in each forward; pass example=, for their shapes"
        if not reason and not has_example:
            reason = _needs_example(module, rule, functions, intercept)
        if reason:
            refused.append(Refusal(path, class_name(module), reason))
            inside.append(f"{path}." if path else "")
        elif intercept:
            plan.intercepted[path] = module
        elif type(module) in WEIGHT_LAYERS and not _has_own_backward(module, rule):
            plan.weights[path] = module
        elif not isinstance(rule.crossing, Derivative) and (
            type(module) in ACTIVATIONS or is_activation(module)
        ):
            plan.activations[path] = module
        elif rule == Rule() and _would_be_intercepted(module):
            plan.unchanged[path] = module
        elif type(module) is nn.Sequential:
            plan.sequentials.append(module)
    refuse(refused)
    if plan.weights:
        plan.unchanged.clear()
    if input_layers is not None or not has_example:
        plan.input_layers = _find_input_layers(model, rule, plan.weights, input_layers)
    return plan


def _find_methods(paths: dict[str, nn.Module], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the named methods by the qualified names of their modules.

    Raises:
        OptionError: for what is no method of a module written in Python.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        path, _, method = name.rpartition(".")
        if path not in paths:
            raise unknown("submodule in methods", path, paths)
        cls = type(paths[path])
        if not callable(getattr(cls, method, None)) or hasattr(nn.Module, method):
            own = [n for n in dir(cls) if not n.startswith("_") and not hasattr(nn.Module, n)]
            raise unknown(f"method of a {cls.__name__} in methods", method, own)
        found[path] = (*found.get(path, ()), method)
    return found


def _walk(model: nn.Module, skipped: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules with their qualified names, without skipped ones and what they hold."""
    left = {module for top in skipped.values() for module in top.modules()}
    for path, module in model.named_modules():
        if module not in left:
            yield path, module


def _reason_to_refuse(module: nn.Module, rule: Rule, has_example: bool) -> str:
    """Return why a module cannot follow the rule, or ""."""
    if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return "feedback weights would be added after it was wrapped; convert first, then wrap"
    if is_sharded(module):
        return "feedback weights would be added after it was sharded; convert first, then shard"
    if rule == Rule():
        return ""  # backprop was asked for
    if any(cls.__module__.startswith("keras.") for cls in type(module).__mro__):
        return "a Keras layer; use lra.keras.convert for Keras models"
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return "a lazy module without weights yet; run one forward pass first"
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted or traced, so its code is closed; convert the module it was made from"
    cls = type(module)
    known = cls in WEIGHT_LAYERS or cls in ACTIVATIONS
    derivative = isinstance(rule.crossing, Derivative)
    derived = isinstance(module, TORCH_ACTIVATIONS) and not known
    if derived and not derivative and not is_activation(module):
        return (
            "a subclass of an activation, whose forward may differ; call "
            f"lra.register_activation({cls.__name__})"
        )
    replaced = "forward" in vars(module) and not cls.__module__.startswith("torch._dynamo.")
    if replaced and (
        known or not has_example or _is_intercepted(module, rule) or is_activation(module)
    ):
        return REPLACED_FORWARD
    if cls in WEIGHT_LAYERS:
        if hasattr(module, "feedback"):
            return "it has an attribute 'feedback', where feedback weights would go; rename it"
        registered, children = WEIGHT_LAYERS[cls], dict(module.named_children())
        others = {*(module._parameters.keys() - {"weight", "bias"}), *children}
        if registered.product is not None and others:
            named = ", ".join(sorted(others))
            return f"it has {named} beside weight and bias, which its product cannot train"
        if registered.black_box and children:
            named = ", ".join(sorted(children))
            return (
                f"it is a black box with the submodules {named}, which nothing would train; keep "
                "them in a tuple, where torch does not find them"
            )
        weight = module._parameters.get("weight")
        if weight is not None and not weight.is_floating_point():
            return f"its weight is {weight.dtype}; rules need real floating-point weights"
    return ""


REPLACED_FORWARD = (
    "its forward was replaced on the instance, where the rule does not reach; convert before it is "
    "replaced, or define a class with this forward"
)


def _is_intercepted(module: nn.Module, rule: Rule) -> bool:
    """Return whether the functions that a module's forward calls are to be intercepted."""
    if rule == Rule():
        return False
    if type(module) in WEIGHT_LAYERS:  # weight norm and pruning compute the weight from parameters
        return module._parameters.get("weight") is None
    return isinstance(module, INTERCEPTED)


def _has_own_backward(module: nn.Module, rule: Rule) -> bool:
    """Return whether backprop was asked for, in a simulator with a backward pass of its own."""
    return rule == Rule() and WEIGHT_LAYERS[type(module)].simulator


def _would_be_intercepted(module: nn.Module) -> bool:
    """Return whether other rules than backprop intercept a module, or may do so."""
    if type(module).__module__.startswith("torch."):
        return isinstance(module, INTERCEPTED)
    return any(p is not None and p.dim() > 1 for p in module._parameters.values())


def _needs_example(module: nn.Module, rule: Rule, functions: Sequence[Any], intercept: bool) -> str:
    """Return what in a module's own code only an example can convert, or ""."""
    if type(module).__module__.startswith("torch.") or rule == Rule():
        return ""
    if type(module) in WEIGHT_LAYERS or type(module) in ACTIVATIONS or is_activation(module):
        return ""
    found = escapes(module, functions)
    if intercept:
        hidden = [each.name for each in found if each.kind is Kind.UNKNOWN]
        return (
            f"its forward calls {', '.join(hidden)}, where the rule does not reach; run it as a "
            f"black box by lra.register_weight_layer({class_name(module)}, black_box=True), or "
            "pass example=, to see what else it does"
        ) * bool(hidden)
    if isinstance(rule.crossing, Derivative):
        found = [each for each in found if each.kind is not Kind.ACTIVATION]
    if not found:
        return ""
    return (
        f"its forward calls {', '.join(each.name for each in found)}; pass example=, the arguments "
        "of one forward pass, so that convert can find what the rule replaces"
    )


def _find_input_layers(
    model: nn.Module,
    rule: Rule,
    weights: dict[str, nn.Module],
    named: Sequence[str] | None,
) -> frozenset[str]:
    """Return the names of the weight layers that see only the raw input."""
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
    """Join names for a message, with only the first few of many."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
