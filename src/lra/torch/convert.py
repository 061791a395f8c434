"""Convert a model to a rule and back: plan the whole, check the whole, then swap classes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from lra.axis import unknown
from lra.crossing import Derivative, LossTerms, check_terms
from lra.errors import ConversionError
from lra.feedback import Transpose
from lra.rules import Rule
from lra.torch.layers import (
    NONLINEARITIES,
    REFUSED,
    WEIGHTS,
    Local,
    LocalNonlinearity,
    LocalSequential,
    LocalWeights,
)
from lra.torch.layers.base import draw_feedback
from lra.wiring import Chain

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class _Plan:
    """What a conversion will do."""

    weights: dict[str, nn.Module]
    nonlinearities: dict[str, nn.Module]
    sequentials: list[nn.Module]
    input_layers: frozenset[str]


def convert(
    model: M,
    rule: Rule,
    *,
    skip: Sequence[str] = (),
    input_layers: Sequence[str] | None = None,
    loss_terms: LossTerms | str | float = LossTerms.BATCH,
) -> M:
    """Swap a learning rule into a model, in place: `loss.backward()` then gives its updates.

    Across weights d = e E instead of e W; across a nonlinearity e = gain (z - phi(h - beta d))
    instead of phi'(h) d; what lies between keeps autograd's derivative. The forward pass stays
    as it is to the bit. Parameters keep their names and identity; feedback weights are added as
    `feedback` beside `weight`. Give an optimizer built earlier the learned ones with
    `optimizer.add_param_group({"params": lra.feedback_parameters(model)})`.

    Args:
        model: any module with linear or convolutional layers in it.
        rule: how errors travel, such as `lra.LRAE(beta=0.1)`.
        skip: qualified names of submodules to leave, with all they hold, on backprop.
        input_layers: qualified names of the weight layers that see only the raw input, which no
            error has to cross and which get no feedback weights. By default the first weight
            layer in order of registration, unless something trainable comes before it.
        loss_terms: the number N of terms that the loss is a mean over. "batch": dimension 0
            of each nonlinearity's input; "tokens": all but its last dimension; or a number: 1 for
            a summed loss, k times the batch for a mean over k accumulated batches, N / S for a
            loss scaled by S.

    Returns:
        The same model.

    Raises:
        ConversionError: naming every layer that cannot be converted, with the remedy; or for a
            model that is converted already or has nothing to convert. Nothing is changed then.
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
    plan = _plan(model, rule, _names(skip), None if input_layers is None else _names(input_layers))
    drawn = {  # before any class is swapped: a user's feedback may raise
        path: None if path in plan.input_layers else draw_feedback(rule.feedback, module.weight)
        for path, module in plan.weights.items()
    }
    for path, module in plan.weights.items():
        module.__class__ = WEIGHTS[type(module)]
        assert isinstance(module, LocalWeights)
        module.adopt(rule, path, path in plan.input_layers, drawn[path])
    for path, module in plan.nonlinearities.items():
        module.__class__ = NONLINEARITIES[type(module)]
        assert isinstance(module, LocalNonlinearity)
        module.adopt(rule, path, terms)
    for module in plan.sequentials:
        module.__class__ = LocalSequential
    return model


def restore(model: M) -> M:
    """Undo `convert` in place: the plain classes again, without feedback weights.

    Returns:
        The same model, with its weights as trained.

    Raises:
        ConversionError: for a model in which nothing is converted.
    """
    _require_converted(model, "restore")
    for module in list(model.modules()):
        if isinstance(module, (Local, LocalSequential)):
            module.restore()
    return model


def is_converted(model: nn.Module) -> bool:
    """Tell whether any layer of the model follows a rule that `convert` swapped in."""
    return any(isinstance(module, Local) for module in model.modules())


def feedback_parameters(model: nn.Module) -> list[nn.Parameter]:
    """List the feedback weights that the rule learns, to give them an optimizer group of their own.

    Raises:
        ConversionError: for a model in which nothing is converted.
    """
    _require_converted(model, "feedback_parameters")
    found = [m.feedback for m in model.modules() if isinstance(m, LocalWeights)]
    return [E for E in found if isinstance(E, nn.Parameter)]


def set_loss_terms(model: nn.Module, loss_terms: LossTerms | str | float) -> None:
    """Say anew what the loss is a mean over, as `convert`'s argument of this name.

    Raises:
        ConversionError: for a model in which nothing is converted.
        OptionError: for anything but "batch", "tokens" or a positive number.
    """
    _require_converted(model, "set_loss_terms")
    terms = check_terms(loss_terms)
    for module in model.modules():
        if isinstance(module, LocalNonlinearity):
            module.loss_terms = terms


def _require_converted(model: nn.Module, verb: str) -> None:
    if not is_converted(model):
        raise ConversionError(
            f"{verb}: no layer of this {type(model).__name__} is converted; "
            "call lra.convert(model, rule) first"
        )


def _names(names: Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _walk(model: nn.Module, skip: Iterable[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules with their qualified names, without the skipped ones and their inside."""
    left = {module for name in skip for module in model.get_submodule(name).modules()}
    for path, module in model.named_modules():
        if module not in left:
            yield path, module


def _plan(
    model: nn.Module, rule: Rule, skip: tuple[str, ...], input_layers: tuple[str, ...] | None
) -> _Plan:
    """Decide for every module, and refuse once for all that stands in the way."""
    paths = dict(model.named_modules(remove_duplicate=False))
    for name in skip:
        if name not in paths or name == "":
            raise unknown("submodule in skip", name, filter(None, paths))
    converted = [path for path, m in paths.items() if isinstance(m, Local)]
    if converted:
        raise ConversionError(
            f"convert: already converted: {_listing(converted)}. Call lra.restore(model) first"
        )
    weights: dict[str, nn.Module] = {}
    nonlinearities: dict[str, nn.Module] = {}
    sequentials: list[nn.Module] = []
    troubles: list[str] = []
    refused_inside: list[str] = []
    for path, module in _walk(model, skip):
        if any(f"{path}.".startswith(prefix) for prefix in refused_inside):
            continue
        trouble = _trouble(module, rule)
        if trouble:
            troubles.append(f"{path or '(the model itself)'} ({type(module).__name__}): {trouble}")
            refused_inside.append(f"{path}." if path else "")
        elif type(module) in WEIGHTS:
            weights[path] = module
        elif type(module) in NONLINEARITIES and not isinstance(rule.crossing, Derivative):
            nonlinearities[path] = module
        elif type(module) is nn.Sequential:
            sequentials.append(module)
    if troubles:
        raise ConversionError(
            "convert: these layers cannot follow the rule, and would silently stay on backprop:\n"
            + "\n".join(f"  - {trouble}" for trouble in troubles)
            + "\nMend them as said, or leave them on backprop on purpose with skip=(their names)"
        )
    if not weights:
        raise ConversionError(
            f"convert: this {type(model).__name__} has no layer to convert; a rule needs at least "
            f"one of {', '.join(sorted(cls.__name__ for cls in WEIGHTS))}"
        )
    return _Plan(
        weights, nonlinearities, sequentials, _sees_input(model, rule, weights, input_layers)
    )


def _trouble(module: nn.Module, rule: Rule) -> str:
    """Say why a module cannot follow the rule, or nothing."""
    if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return "it would not know the feedback weights; convert first, then wrap"
    if rule == Rule():
        return ""  # all that stays on backprop is as asked
    if any(cls.__module__.startswith("keras.") for cls in type(module).__mro__):
        return "of Keras; lra.keras.convert converts Keras models"
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return "a lazy module without weights yet; run one forward pass first"
    if parametrize.is_parametrized(module):
        return "its weight is parametrized; torch.nn.utils.parametrize.remove_parametrizations it"
    for base, why in REFUSED.items():
        if isinstance(module, base):
            return why
    known = type(module) in WEIGHTS or type(module) in NONLINEARITIES
    concerned = (
        *(() if isinstance(rule.feedback, Transpose) else WEIGHTS),
        *(() if isinstance(rule.crossing, Derivative) else NONLINEARITIES),
    )
    for base in concerned:
        if isinstance(module, base) and not known:
            return f"a subclass of torch.nn.{base.__name__}, whose forward may differ from it"
    if type(module) in WEIGHTS:
        weight = module._parameters.get("weight")
        if weight is None:
            return "its weight is no parameter of its own; remove its weight norm or pruning"
        if not weight.is_floating_point():
            return f"its weight is {weight.dtype}; rules work on real floating-point weights"
    return ""


def _sees_input(
    model: nn.Module,
    rule: Rule,
    weights: dict[str, nn.Module],
    named: tuple[str, ...] | None,
) -> frozenset[str]:
    """Name the weight layers that see only the raw input."""
    if named is not None:
        for name in named:
            if name not in weights:
                raise unknown("weight layer in input_layers", name, weights)
        return frozenset(named)
    if isinstance(rule.feedback, Transpose):
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
