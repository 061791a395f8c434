"""Discovery: run an example, convert what the modules' own code does, and refuse what escapes."""

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
from lra.torch.functions.module import InterceptedModule
from lra.torch.layers import Local, LocalSequential, LocalWeights
from lra.torch.model_state import example_to_args


def discover(
    model: nn.Module,
    rule: Rule,
    terms: LossTerms | float,
    example: Any,
    done: Plan,
    find_inputs: bool,
) -> None:
    """Run an example until nothing new is found in it.

    Args:
        model: the model, with its modules converted by class.
        rule: the rule.
        terms: what the loss is a mean over.
        example: arguments of one forward pass.
        done: the plan that was carried out.
        find_inputs: whether the example decides which layers see only the raw input.

    Raises:
        ConversionError: for what cannot follow the rule.
    """
    args, kwargs = example_to_args(example)
    paths = dict(model.named_modules())
    skipped = {id(m) for top in done.skipped.values() for m in top.modules()}

    def run() -> list[Any]:
        done.shared.audit, found = examine(model, args, kwargs, [rule])
        return [(c, f) for c, f in found if id(paths[c.module]) not in skipped]

    receives: dict[nn.Module, bool] = {}

    def note_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
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
    for module in model.modules():
        if isinstance(module, InterceptedModule):
            module._lra.discovering = False
    refuse(
        Refusal(c.module, type(paths[c.module]).__name__, str(f).replace("\n    ", "; "))
        for c, f in dict.fromkeys(found)
    )


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
        owner: str | None = call.module
        if finding.kind is Kind.WEIGHTS:
            names = finding.parameter.split(", ")
            # Where the weights belong to a module above, or to a sibling, intercept the module
            # that holds both.
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
