"""Swap the classes of a plan's modules in place, and swap them back."""

import torch
from torch import nn

from lra.errors import ConversionError, Refusal, one_line
from lra.loss_terms import LossTerms
from lra.rules import Rule
from lra.torch.convert.plan import REPLACED_FORWARD, Plan, refuse
from lra.torch.functions.module import InterceptedModule, SkippedModule
from lra.torch.layers import (
    Local,
    LocalActivation,
    LocalSequential,
    LocalUnchanged,
    LocalWeights,
    class_name,
    is_random,
    is_step_function,
    local_activation,
    local_class,
    local_weights,
)
from lra.torch.layers.sampler import draw_feedback
from lra.torch.layers.slots import RuleState
from lra.torch.ops.routing import remove_router
from lra.wiring import Chain


@torch.inference_mode(False)
def swap(
    model: nn.Module,
    plan: Plan,
    rule: Rule,
    terms: LossTerms | float,
    discovering: bool = False,
) -> None:
    """Carry a plan out. What may fail comes first.

    Args:
        model: the model.
        plan: what to do with its modules.
        rule: the rule.
        terms: what the loss is a mean over.
        discovering: whether an example will show which weights intercepted modules use.
    """
    plan.shared.has_activations |= bool(plan.activations or plan.intercepted)
    drawn = {
        path: draw_feedback(
            rule.feedback, module.weight, local_weights(type(module)).product_of(module)
        )
        for path, module in plan.weights.items()
        if path not in plan.input_layers
    }
    try:
        for path, module in plan.weights.items():
            _become(module, local_weights(type(module)))
            assert isinstance(module, LocalWeights)
            state = RuleState(rule, path, terms, path in plan.input_layers, plan.shared)
            module.adopt(state, drawn.get(path))
        for path, module in plan.activations.items():
            flat, noisy = is_step_function(module), is_random(module)
            _become(module, local_activation(type(module)))
            assert isinstance(module, LocalActivation)
            module._lra = RuleState(
                rule, path, terms, conversion=plan.shared, flat=flat, noisy=noisy
            )
        for path, module in plan.intercepted.items():
            if "forward" in vars(module):
                refuse([Refusal(path, class_name(module), REPLACED_FORWARD)])
            methods = plan.methods.get(path, ())
            _become(module, local_class(InterceptedModule, type(module), *methods))
            assert isinstance(module, InterceptedModule)
            module._lra = RuleState(
                rule, path, terms, conversion=plan.shared, discovering=discovering
            )
            if not discovering:
                module.prepare()
        for path, module in plan.skipped.items():
            if any(f"{path}.".startswith(f"{above}.") or not above for above in plan.intercepted):
                _skip(module, RuleState(rule, path, terms, conversion=plan.shared))
        for path, module in plan.unchanged.items():
            _become(module, local_class(LocalUnchanged, type(module)))
            assert isinstance(module, LocalUnchanged)
            module._lra = RuleState(rule, path, terms, conversion=plan.shared)
    except BaseException:
        undo(model, plan)
        raise
    for module in plan.sequentials if isinstance(rule.wiring, Chain) else ():
        module.__class__ = LocalSequential


def _become(module: nn.Module, cls: type[Local]) -> None:
    _check_names(module, cls.__mro__[1])
    name = class_name(module)
    try:
        module.__class__ = cls
    except TypeError as error:
        raise ConversionError(
            f"convert: Python cannot change the class of a {name} ({one_line(error)}); exclude it "
            "with skip="
        ) from error


def _check_names(module: nn.Module, mixin: type) -> None:
    """Refuse a user's module that has attributes with names that conversion needs."""
    if type(module).__module__.startswith("torch."):
        return
    taken = {name for name in (*dir(mixin), "_lra", "plain") if not hasattr(nn.Module, name)}
    tables = module._parameters, module._buffers, module._modules, vars(module)
    own = {name for table in tables for name in table} | set(dir(type(module)))
    if both := sorted(taken & own):
        raise ConversionError(
            f"convert: {class_name(module)} has attributes named {', '.join(map(repr, both))}, "
            "names that a converted module needs; rename them, or exclude the module with skip="
        )


def _skip(module: nn.Module, state: RuleState) -> None:
    """Keep a skipped module inside an intercepted one from being intercepted."""
    if not isinstance(module, (Local, nn.ModuleList, nn.ModuleDict)):
        _become(module, local_class(SkippedModule, type(module)))
        assert isinstance(module, SkippedModule)
        module._lra = state


def undo(model: nn.Module, plan: Plan | None = None) -> None:
    """Make every module the plain one again, or only those of one plan."""
    for module in list(model.modules()):
        remove_router(module)
        if isinstance(module, Local):
            if plan is None or module._lra.conversion is plan.shared:
                module.restore()
        elif isinstance(module, LocalSequential) and (plan is None or module in plan.sequentials):
            module.restore()
