"""Convert by an example: run it, follow what escapes, and refuse what still does."""

from typing import Any

import torch
from torch import nn

from lra.errors import Refusal
from lra.feedback import Transpose
from lra.loss_terms import LossTerms
from lra.rules import Rule
from lra.torch.audit import Kind, examine
from lra.torch.convert.plan import Plan, refuse
from lra.torch.convert.swap import swap
from lra.torch.layers import InterceptedModule, Local, LocalSequential, LocalWeights
from lra.torch.model_state import arguments


def prove(
    model: nn.Module,
    rule: Rule,
    terms: LossTerms | float,
    example: Any,
    done: Plan,
    exact_inputs: bool,
) -> None:
    """Run an example: convert what the modules' own code does, and refuse what escapes."""
    args, kwargs = arguments(example)
    paths = dict(model.named_modules())
    left = {id(m) for top in done.left.values() for m in top.modules()}

    def run() -> list[Any]:
        done.shared.proof, found = examine(model, args, kwargs, [rule])
        return [(c, f) for c, f in found if id(paths[c.module]) not in left]

    seen: dict[nn.Module, bool] = {}

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        crossed = any(isinstance(x, torch.Tensor) and x.requires_grad for x in inputs)
        seen[module] = seen.get(module, False) or crossed

    layers = [m for m in model.modules() if isinstance(m, LocalWeights)]
    handles = [m.register_forward_pre_hook(look) for m in layers]
    try:
        found = run()
    finally:
        for handle in handles:
            handle.remove()
    if exact_inputs:
        for layer in layers:
            if layer in seen and not seen[layer] and not isinstance(rule.feedback, Transpose):
                layer.see_input()
    while found and _follow_more(model, rule, terms, done, paths, found):
        found = run()
    for module in model.modules():
        if isinstance(module, InterceptedModule):
            module.table.discovering = False
    refuse(
        Refusal(c.module, type(paths[c.module]).__name__, str(f).replace("\n    ", "; "))
        for c, f in dict.fromkeys(found)
    )


def _follow_more(
    model: nn.Module,
    rule: Rule,
    terms: LossTerms | float,
    done: Plan,
    paths: dict[str, nn.Module],
    found: list[Any],
) -> bool:
    """Follow the modules in whose code something escaped; tell whether any was new."""
    plan = Plan(left=done.left, shared=done.shared)
    new = False
    functions: dict[str, set[Any]] = {}
    for call, finding in found:
        owner: str | None = call.module
        if finding.kind is Kind.WEIGHTS:
            names = finding.parameter.split(", ")
            # Weights of other modules, or that a module above hands on: follow that one.
            while owner is not None and (
                isinstance(paths[owner], Local)
                or not all(f"{name}.".startswith(f"{owner}." if owner else "") for name in names)
            ):
                owner = (owner.rpartition(".")[0] or "") if owner else None
        else:
            functions.setdefault(call.module, set()).add(call.torch_function)
        if owner is None:
            continue
        module = paths[owner]
        if isinstance(module, LocalSequential):
            module.restore()
        if not isinstance(module, Local):
            plan.followed[owner] = module
            new = True
    swap(model, plan, rule, terms, discovering=True)
    for path, used in functions.items():
        module = paths[path]
        if isinstance(module, InterceptedModule) and not used - {None} <= module.units:
            new = True
            module.table.units |= frozenset(used - {None})
            named = {f: getattr(f, "__name__", "") for f in module.table.units}
            module.table.changing = frozenset(
                f for f, name in named.items() if name.endswith("_") and not name.endswith("__")
            )
    return new
