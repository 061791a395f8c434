"""Convert a model to a rule and back: plan the whole, check the whole, then swap classes."""

import copy
import fnmatch
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from lra.axis import unknown
from lra.crossing import Derivative
from lra.errors import ConversionError, OptionError, Refusal
from lra.feedback import Transpose
from lra.loss_terms import LossTerms, check_terms
from lra.rules import Rule
from lra.torch.layers import (
    FOLLOWED,
    KNOWN,
    NONLINEARITIES,
    WEIGHTS,
    Local,
    LocalForward,
    LocalLeft,
    LocalNonlinearity,
    LocalSequential,
    LocalWeights,
    Record,
    Table,
    is_unit,
    local_class,
)
from lra.torch.layers.base import Conversion, draw_feedback
from lra.torch.layers.product import PRODUCTS
from lra.torch.scan import escapes
from lra.wiring import Chain

M = TypeVar("M", bound=nn.Module)
Skip = str | type[nn.Module]


@dataclass
class _Plan:
    """What a conversion will do with which module, by qualified name."""

    weights: dict[str, nn.Module] = field(default_factory=dict)
    units: dict[str, nn.Module] = field(default_factory=dict)
    followed: dict[str, nn.Module] = field(default_factory=dict)
    sequentials: list[nn.Module] = field(default_factory=list)
    left: dict[str, nn.Module] = field(default_factory=dict)
    input_layers: frozenset[str] = frozenset()
    shared: Conversion = field(default_factory=Conversion)


def convert(
    model: M,
    rule: Rule,
    *,
    example: Any = None,
    skip: Skip | Sequence[Skip] = (),
    input_layers: Sequence[str] | None = None,
    loss_terms: LossTerms | str | float = LossTerms.BATCH,
) -> M:
    """Swap a learning rule into a model, in place: `loss.backward()` then gives its updates.

    Across weights d = e E instead of e W; across a nonlinearity e = gain (z - phi(h - beta d))
    instead of phi'(h) d; what lies between keeps autograd's derivative. The forward pass stays
    as it is to the bit, except where a kernel must be taken apart (nn.MultiheadAttention, the
    recurrent layers, GLU): there it may differ by rounding. Parameters keep their names and
    identity; feedback weights are added as `feedback` beside `weight`. Give an optimizer built
    earlier the learned ones with
    `optimizer.add_param_group({"params": lra.feedback_parameters(model)})`.

    Modules of known classes are converted by class. What a module's own code does with weights and
    nonlinear functions (`F.relu(x)`, `x @ self.w`) is found by running it once on an example.

    Args:
        model: any module.
        rule: how errors travel, such as `lra.LRAE(beta=0.1)`.
        example: arguments of one forward pass: a tensor, a tuple as for `model(*example)`, or a
            mapping as for `model(**example)`. With it the conversion is proved: what escapes the
            rule in that pass is refused. Buffers, random states and the model's mode are kept.
        skip: submodules to leave, with all they hold, on backprop: qualified names, patterns of
            names such as "*.attention", or classes.
        input_layers: qualified names of the weight layers that see only the raw input, which no
            error has to cross and which get no feedback weights. By default those the example
            shows; without one, the first weight layer in order of registration, unless something
            trainable comes before it.
        loss_terms: the number N of terms that the loss is a mean over. "batch": dimension 0
            of each nonlinearity's input; "tokens": all but its last dimension; or a number: 1 for
            a summed loss, k times the batch for a mean over k accumulated batches, N / S for a
            loss scaled by S.

    Returns:
        The same model.

    Raises:
        ConversionError: naming everything that cannot be converted, with the remedy, and as data
            in `refused`; or for a model that is converted already or has nothing to convert.
            Nothing is changed then.
        OptionError: for a name in `skip` or `input_layers` that the model does not have.

    Source: Ororbia and Mali, AAAI 2019.
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(
            f"convert: expected a torch.nn.Module, got {type(model).__name__}; for a Keras model "
            "there is lra.keras.convert"
        )
    if not isinstance(rule, Rule):
        raise ConversionError(f"convert: expected a rule such as lra.LRAE(), got {rule!r}")
    if not isinstance(rule.wiring, Chain):
        raise ConversionError(f"convert: {rule.wiring} has no form in torch yet; use lra.Chain()")
    terms = check_terms(loss_terms)
    skipped = _skipped(model, (skip,) if isinstance(skip, (str, type)) else tuple(skip))
    named = (input_layers,) if isinstance(input_layers, str) else input_layers
    plan = _plan(model, rule, skipped, named, proved=example is not None)
    plan.shared = Conversion(tuple(skipped))
    if example is None:
        if not (plan.weights or plan.followed):
            raise _nothing(model)
        _swap(model, plan, rule, terms)
        return model
    try:
        _swap(model, plan, rule, terms, discovering=True)
        _prove(model, rule, terms, example, plan, exact_inputs=named is None)
        if not any(isinstance(m, (LocalWeights, LocalForward)) for m in model.modules()):
            raise _nothing(model)
    except BaseException:
        _undo(model)
        raise
    return model


def _nothing(model: nn.Module) -> ConversionError:
    return ConversionError(
        f"convert: this {type(model).__name__} has no layer to convert; a rule needs at least "
        f"one of {', '.join(sorted(cls.__name__ for cls in WEIGHTS))}, or another product with "
        "weights, which example= lets it find"
    )


@torch.inference_mode(False)
def _swap(
    model: nn.Module,
    plan: _Plan,
    rule: Rule,
    terms: LossTerms | float,
    discovering: bool = False,
) -> None:
    """Carry a plan out; what may fail comes first."""
    plan.shared.bends |= bool(plan.units or plan.followed)
    drawn = {
        path: None if path in plan.input_layers else draw_feedback(rule.feedback, module.weight)
        for path, module in plan.weights.items()
    }
    try:
        for path, module in plan.weights.items():
            module.__class__ = WEIGHTS[type(module)]
            assert isinstance(module, LocalWeights)
            module.adopt(
                Record(rule, path, terms, path in plan.input_layers, plan.shared), drawn[path]
            )
        for path, module in plan.units.items():
            _become(module, NONLINEARITIES.get(type(module)), LocalNonlinearity)
            module._lra = Record(rule, path, terms, conversion=plan.shared)  # type: ignore[assignment]
        for path, module in plan.followed.items():
            _become(module, None, LocalForward)
            table = Table(discovering=discovering)
            module._lra = Record(rule, path, terms, conversion=plan.shared, table=table)  # type: ignore[assignment]
            assert isinstance(module, LocalForward)
            if not discovering:
                module.prepare()
        for path, module in plan.left.items():
            if any(f"{path}.".startswith(f"{above}.") or not above for above in plan.followed):
                _leave(module, rule, path)
    except BaseException:
        _undo(model)
        raise
    for module in plan.sequentials:
        module.__class__ = LocalSequential


def _become(module: nn.Module, known: type[Local] | None, mixin: type[Local]) -> None:
    cls = known or local_class(mixin, type(module))
    module.__class__ = cls


def _leave(module: nn.Module, rule: Rule, path: str) -> None:
    if not isinstance(module, (Local, nn.ModuleList, nn.ModuleDict)):
        _become(module, None, LocalLeft)
        module._lra = Record(rule, path)  # type: ignore[assignment]


def _prove(
    model: nn.Module,
    rule: Rule,
    terms: LossTerms | float,
    example: Any,
    done: _Plan,
    exact_inputs: bool,
) -> None:
    """Run an example: convert what the modules' own code does, and refuse what escapes."""
    from lra.torch.audit import examine

    args, kwargs = _arguments(example)
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
        if isinstance(module, LocalForward):
            module.table.discovering = False
    _refuse(
        Refusal(c.module, type(paths[c.module]).__name__, str(f).replace("\n    ", "; "))
        for c, f in dict.fromkeys(found)
    )


def _follow_more(
    model: nn.Module,
    rule: Rule,
    terms: LossTerms | float,
    done: _Plan,
    paths: dict[str, nn.Module],
    found: list[Any],
) -> bool:
    """Follow the modules in whose code something escaped; tell whether any was new."""
    from lra.torch.audit import Kind

    plan = _Plan(left=done.left, shared=done.shared)
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
    _swap(model, plan, rule, terms, discovering=True)
    for path, used in functions.items():
        module = paths[path]
        if isinstance(module, LocalForward) and not used - {None} <= module.units:
            new = True
            module.table.units |= frozenset(used - {None})
            named = {f: getattr(f, "__name__", "") for f in module.table.units}
            module.table.changing = frozenset(
                f for f, name in named.items() if name.endswith("_") and not name.endswith("__")
            )
    return new


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, (tuple, list)) else ((example,), {})


def _refuse(refusals: Any) -> None:
    refused = tuple(dict.fromkeys(refusals))
    if refused:
        raise ConversionError(
            "convert: these layers cannot follow the rule, and would silently stay on backprop:\n"
            + "\n".join(f"  - {refusal}" for refusal in refused)
            + "\nMend them as said, or leave them on backprop on purpose with skip=(their names)",
            refused,
        )


def _undo(model: nn.Module) -> None:
    for module in list(model.modules()):
        if isinstance(module, (Local, LocalSequential)):
            module.restore()


def restore(model: M) -> M:
    """Undo `convert` in place: the plain classes again, without feedback weights.

    Returns:
        The same model, with its weights as trained.

    Raises:
        ConversionError: for a model in which nothing is converted.
    """
    _require_converted(model, "restore")
    covered = [
        name
        for name, m in model.named_modules()
        if _sharded(m) or (isinstance(m, (Local, LocalSequential)) and "plain" not in vars(type(m)))
    ]
    if covered:
        raise ConversionError(
            f"restore: something was put on {_listing(covered)} after convert (a parametrization, "
            "a sharding); take that off first"
        )
    _undo(model)
    return model


def _sharded(module: nn.Module) -> bool:
    """Tell whether FSDP2 holds a module's parameters; without importing it for that."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def is_converted(model: nn.Module) -> bool:
    """Tell whether any layer of the model follows a rule that `convert` swapped in."""
    return any(isinstance(m, Local) and not isinstance(m, LocalLeft) for m in model.modules())


def feedback_parameters(model: nn.Module) -> list[nn.Parameter]:
    """List the feedback weights that the rule learns, to give them an optimizer group of their own.

    Raises:
        ConversionError: for a model in which nothing is converted.
    """
    _require_converted(model, "feedback_parameters")
    found: list[Any] = []
    for module in model.modules():
        if isinstance(module, LocalWeights):
            found.append(module.feedback)
        elif isinstance(module, LocalForward):
            found += [getattr(module, name) for name in module.table.added]
    return list(dict.fromkeys(E for E in found if isinstance(E, nn.Parameter)))


def set_loss_terms(model: nn.Module, loss_terms: LossTerms | str | float) -> None:
    """Say anew what the loss is a mean over, as `convert`'s argument of this name.

    Raises:
        ConversionError: for a model in which nothing is converted.
        OptionError: for anything but "batch", "tokens" or a positive number.
    """
    _require_converted(model, "set_loss_terms")
    terms = check_terms(loss_terms)
    for module in model.modules():
        if isinstance(module, Local):
            module._lra.terms = terms


def _require_converted(model: nn.Module, verb: str) -> None:
    if not is_converted(model):
        raise ConversionError(
            f"{verb}: no layer of this {type(model).__name__} is converted; "
            "call lra.convert(model, rule) first"
        )


def _skipped(model: nn.Module, skip: tuple[Skip, ...]) -> dict[str, nn.Module]:
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


def _plan(
    model: nn.Module,
    rule: Rule,
    skipped: dict[str, nn.Module],
    input_layers: Sequence[str] | None,
    proved: bool,
) -> _Plan:
    """Decide for every module, and refuse once for all that stands in the way."""
    paths = dict(model.named_modules(remove_duplicate=False))
    converted = [path for path, m in paths.items() if isinstance(m, Local)]
    if converted and all(_lent(paths[path]) for path in converted):
        _copy(model, converted)
        paths = dict(model.named_modules(remove_duplicate=False))
    elif converted:
        raise ConversionError(
            f"convert: already converted: {_listing(converted)}. Call lra.restore(model) first"
        )
    plan = _Plan(left=skipped)
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
        elif type(module) in WEIGHTS:
            plan.weights[path] = module
        elif not isinstance(rule.crossing, Derivative) and (
            type(module) in NONLINEARITIES or is_unit(module)
        ):
            plan.units[path] = module
        elif type(module) is nn.Sequential:
            plan.sequentials.append(module)
    _refuse(refused)
    if input_layers is not None or not proved:
        plan.input_layers = _sees_input(model, rule, plan.weights, input_layers)
    return plan


def _lent(module: nn.Module) -> bool:
    """Tell whether a converted module may be another model's: some libraries share activations."""
    return isinstance(module, LocalNonlinearity) and module.fuses


def _copy(model: nn.Module, paths: list[str]) -> None:
    """Give the model its own plain copies of modules that another one converted."""
    copies: dict[nn.Module, nn.Module] = {}
    for path in paths:
        module = model.get_submodule(path)
        if module not in copies:
            copies[module] = copy.copy(module)
            _undo(copies[module])
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
    if _sharded(module):
        return "its sharding would not know the feedback weights; convert first, then shard"
    if rule == Rule():
        return ""  # all that stays on backprop is as asked
    if any(cls.__module__.startswith("keras.") for cls in type(module).__mro__):
        return "of Keras; lra.keras.convert converts Keras models"
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return "a lazy module without weights yet; run one forward pass first"
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted or traced: its code is closed; convert the module it was made of"
    known = type(module) in WEIGHTS or type(module) in NONLINEARITIES
    if not isinstance(rule.crossing, Derivative) and not known:
        kind = type(module).__name__
        if isinstance(module, KNOWN) and not is_unit(module):
            return f"a subclass of an activation, whose forward may differ: say lra.unit({kind})"
    if known and "forward" in vars(module):
        return "its forward was replaced on the instance; make that a class of its own"
    if type(module) in WEIGHTS:
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
    if type(module) in WEIGHTS:  # weight norm and pruning compute the weight from parameters
        return module._parameters.get("weight") is None
    return isinstance(module, FOLLOWED)


def _unproved(module: nn.Module, rule: Rule) -> str:
    """Say what in a module's own code only an example can convert, or nothing."""
    if type(module).__module__.startswith("torch.") or rule == Rule():
        return ""
    if type(module) in WEIGHTS or type(module) in NONLINEARITIES or is_unit(module):
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


def _listing(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
