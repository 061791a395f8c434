"""Discovery: run examples, convert what the modules' own code does, and refuse what escapes."""

from typing import Any

import torch
from torch import nn

from lra.crossing import Derivative
from lra.errors import Refusal
from lra.feedback import Transpose
from lra.loss_terms import LossTerms
from lra.rules import Rule
from lra.torch.audit import Examination, Kind, examine, merge
from lra.torch.convert.forward_scan import escapes
from lra.torch.convert.plan import Plan, refuse
from lra.torch.convert.swap import swap
from lra.torch.functions.module import InterceptedModule
from lra.torch.layers import Local, LocalSequential, LocalWeights
from lra.torch.visible import is_visible, visible_apply


def discover(
    model: nn.Module,
    rule: Rule,
    terms: LossTerms | float,
    examples: list[Any],
    done: Plan,
    find_inputs: bool,
) -> None:
    """Run examples until nothing new is found in them.

    Args:
        model: the model, with its modules converted by class.
        rule: the rule.
        terms: what the loss is a mean over.
        examples: args and kwargs of the model, or functions that run it.
        done: the plan that was carried out.
        find_inputs: whether the examples decide which layers see only the raw input.

    Raises:
        ConversionError: for what cannot follow the rule.
    """
    paths = dict(model.named_modules())
    skipped = {id(m) for top in done.skipped.values() for m in top.modules()}
    seen: list[Examination] = []

    def run() -> list[Any]:
        found = examine_all()
        unclear = [cls for each in seen for cls in each.unclear if not is_visible(cls)]
        for cls in unclear:
            visible_apply(cls)
        return examine_all() if unclear else found

    def examine_all() -> list[Any]:
        functions = done.shared.skipped_functions
        seen[:] = [examine(model, example, [rule], functions) for example in examples]
        done.shared.audit = merge([each.audit for each in seen])
        done.shared.accepted = frozenset().union(*(each.accepted for each in seen))
        found = [entry for each in seen for entry in each.located]
        return [(c, f) for c, f in found if id(paths[c.module]) not in skipped]

    receives: dict[nn.Module, bool] = {}

    def note_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not torch.is_grad_enabled():
            return  # it may run again with a graph, as in a reversible network
        needs = any(isinstance(x, torch.Tensor) and x.requires_grad for x in inputs)
        receives[module] = receives.get(module, False) or needs

    layers = [m for m in model.modules() if isinstance(m, LocalWeights)]
    handles = [m.register_forward_pre_hook(note_input) for m in layers]
    try:
        found = run()
    finally:
        for handle in handles:
            handle.remove()
    if find_inputs:
        for layer in layers:
            raw = layer in receives and not receives[layer]
            if raw and not isinstance(rule.feedback, Transpose):
                layer.see_input()
    while found and _intercept_more(model, rule, terms, done, paths, found):
        found = run()
    if _intercept_unseen(model, rule, terms, done, set().union(*(each.used for each in seen))):
        found = run()
    for module in model.modules():
        if isinstance(module, InterceptedModule):
            module._lra.discovering = False
            slots = {slot.parameter for slot in module._lra.slots.values()}
            module._lra.guarded = tuple(n for n in module.weight_names() if n not in slots)
    refuse(
        Refusal(f.module, _plain(paths[f.module]).__name__, str(f).replace("\n    ", "; "))
        for c, f in dict.fromkeys(found)
    )


def _plain(module: nn.Module) -> type[nn.Module]:
    return module.plain if isinstance(module, Local) else type(module)


def _intercept_unseen(
    model: nn.Module, rule: Rule, terms: LossTerms | float, done: Plan, used: set[str]
) -> bool:
    """Intercept modules with code or weights that the examples did not use.

    A product with a weight that has no feedback then raises a RuleError in training.

    Returns:
        Whether there are any.
    """
    derivative = isinstance(rule.crossing, Derivative)
    transpose = isinstance(rule.feedback, Transpose)
    skipped = {id(m) for top in done.skipped.values() for m in top.modules()}
    plan = Plan(skipped=done.skipped, shared=done.shared)
    for path, module in model.named_modules():
        if isinstance(module, Local) or id(module) in skipped:
            continue
        if type(module).__module__.startswith("torch."):
            continue
        unused = [name for name in _own_weights(module) if f"{path}.{name}".strip(".") not in used]
        kinds = {each.kind for each in escapes(module) if each.known}
        kinds -= {Kind.ACTIVATION} if derivative else set()
        kinds -= {Kind.WEIGHTS} if transpose else set()
        if kinds or (unused and not transpose):
            plan.intercepted[path] = module
    swap(model, plan, rule, terms, discovering=True)
    return bool(plan.intercepted)


def _own_weights(module: nn.Module) -> list[str]:
    """List the weights that a module holds itself, or in lists of parameters."""
    lists = (nn.ParameterList, nn.ParameterDict)
    holders = [("", module), *((n, m) for n, m in module.named_children() if isinstance(m, lists))]
    return [
        f"{holder}.{name}".strip(".")
        for holder, m in holders
        for name, W in m.named_parameters(recurse=False)
        if W.dim() > 1
    ]


def _intercept_more(
    model: nn.Module,
    rule: Rule,
    terms: LossTerms | float,
    done: Plan,
    paths: dict[str, nn.Module],
    found: list[Any],
) -> bool:
    """Intercept the modules in whose code something escaped; return whether any was new."""
    plan = Plan(skipped=done.skipped, shared=done.shared)
    new = False
    functions: dict[str, set[Any]] = {}
    for call, finding in found:
        owner: str | None = finding.module
        if finding.kind is Kind.WEIGHTS:
            names = finding.parameter.split(", ")
            # Where the weights belong to a module above, or to a sibling, intercept the module
            # that holds both.
            while owner is not None and (
                isinstance(paths[owner], Local)
                or not all(f"{name}.".startswith(f"{owner}." if owner else "") for name in names)
            ):
                owner = (owner.rpartition(".")[0] or "") if owner else None
        elif finding.kind is Kind.ACTIVATION and not call.selects_by:
            functions.setdefault(call.module, set()).add(call.torch_function)
        if owner is None or finding.kind is Kind.UNKNOWN:
            continue
        module = paths[owner]
        if isinstance(module, LocalSequential):
            module.restore()
        if not isinstance(module, Local):
            plan.intercepted[owner] = module
            new = True
    swap(model, plan, rule, terms, discovering=True)
    for path, used in functions.items():
        module = paths[path]
        known = used - {None}
        if isinstance(module, InterceptedModule) and not known <= module._lra.activations:
            new = True
            module._lra.activations |= frozenset(known)
            named = {f: getattr(f, "__name__", "") for f in module._lra.activations}
            module._lra.in_place = frozenset(
                f for f, name in named.items() if name.endswith("_") and not name.endswith("__")
            )
    return new
