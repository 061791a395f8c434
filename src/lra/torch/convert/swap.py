"""Carry a plan out, and undo it: classes are swapped in place."""

import torch
from torch import nn

from lra.errors import ConversionError
from lra.loss_terms import LossTerms
from lra.rules import Rule
from lra.torch.convert.plan import Plan
from lra.torch.layers import (
    ACTIVATIONS,
    WEIGHT_LAYERS,
    InterceptedModule,
    Local,
    LocalActivation,
    LocalSequential,
    LocalWeights,
    RuleState,
    SkippedModule,
    Table,
    is_step_function,
    local_class,
)
from lra.torch.layers.state import draw_feedback
from lra.torch.ops.routing import unwire
from lra.wiring import Chain


@torch.inference_mode(False)
def swap(
    model: nn.Module,
    plan: Plan,
    rule: Rule,
    terms: LossTerms | float,
    discovering: bool = False,
) -> None:
    """Carry a plan out; what may fail comes first."""
    plan.shared.has_activations |= bool(plan.units or plan.followed)
    drawn = {
        path: draw_feedback(
            rule.feedback, module.weight, WEIGHT_LAYERS[type(module)].product_of(module)
        )
        for path, module in plan.weights.items()
        if path not in plan.input_layers
    }
    try:
        for path, module in plan.weights.items():
            _check_names(module, WEIGHT_LAYERS[type(module)].__mro__[1])
            module.__class__ = WEIGHT_LAYERS[type(module)]
            assert isinstance(module, LocalWeights)
            module.adopt(
                RuleState(rule, path, terms, path in plan.input_layers, plan.shared),
                drawn.get(path),
            )
        for path, module in plan.units.items():
            flat = is_step_function(module)
            _become(module, ACTIVATIONS.get(type(module)), LocalActivation)
            module._lra = RuleState(rule, path, terms, conversion=plan.shared, flat=flat)  # type: ignore[assignment]
        for path, module in plan.followed.items():
            _become(module, None, InterceptedModule)
            table = Table(discovering=discovering)
            module._lra = RuleState(rule, path, terms, conversion=plan.shared, table=table)  # type: ignore[assignment]
            assert isinstance(module, InterceptedModule)
            if not discovering:
                module.prepare()
        for path, module in plan.left.items():
            if any(f"{path}.".startswith(f"{above}.") or not above for above in plan.followed):
                _leave(module, rule, path)
    except BaseException:
        undo(model)
        raise
    for module in plan.sequentials if isinstance(rule.wiring, Chain) else ():
        module.__class__ = LocalSequential


def _become(module: nn.Module, known: type[Local] | None, mixin: type[Local]) -> None:
    cls = known or local_class(mixin, type(module))
    _check_names(module, mixin)
    module.__class__ = cls


def _check_names(module: nn.Module, mixin: type[Local]) -> None:
    """Refuse a module of somebody's own with names that a converted one has another use for."""
    if type(module).__module__.startswith("torch."):
        return
    taken = {name for name in (*dir(mixin), "_lra", "plain") if not hasattr(nn.Module, name)}
    tables = module._parameters, module._buffers, module._modules, vars(module)
    own = {name for table in tables for name in table} | set(dir(type(module)))
    if both := sorted(taken & own):
        raise ConversionError(
            f"convert: {type(module).__name__} has {', '.join(map(repr, both))} of its own, which "
            "a converted module uses otherwise; rename that, or leave the module on backprop "
            "with skip="
        )


def _leave(module: nn.Module, rule: Rule, path: str) -> None:
    if not isinstance(module, (Local, nn.ModuleList, nn.ModuleDict)):
        _become(module, None, SkippedModule)
        module._lra = RuleState(rule, path)  # type: ignore[assignment]


def undo(model: nn.Module) -> None:
    """Make every module the plain one again."""
    for module in list(model.modules()):
        unwire(module)
        if isinstance(module, (Local, LocalSequential)):
            module.restore()
