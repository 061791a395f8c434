"""Which networks can be one ensemble: what must be equal, and which numbers may differ."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.parametrize import is_parametrized

from lra.axis import Axis
from lra.errors import EnsembleError, Refusal
from lra.feedback import Feedback, Magnitude, SignSymmetric, Stored
from lra.inits import LikeWeights, LowRank
from lra.rules import Rule
from lra.torch.activations import Bernoulli, BlackBox
from lra.torch.ensemble.across import Numbers
from lra.torch.functions.module import InterceptedModule, SkippedModule
from lra.torch.layers import Local, LocalActivation
from lra.torch.layers.custom import LocalCustom
from lra.wiring import Chain

_SETTINGS = (bool, int, float, complex, str, bytes, tuple, list, dict, set, torch.dtype, type(None))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_compatible(models: list[nn.Module]) -> None:
    """Check that networks can be one ensemble.

    Raises:
        EnsembleError: with what differs and where, or the modules that cannot run across networks.
    """
    if len(models) < 2 or not all(isinstance(model, nn.Module) for model in models):
        kinds = [type(model).__name__ for model in models]
        raise EnsembleError(f"Ensemble: expected two or more torch.nn.Modules, got {kinds}")
    tensors = [t for model in models for t in (*model.parameters(), *model.buffers())]
    if len({id(t) for t in tensors}) < len(tensors):
        raise EnsembleError(
            "Ensemble: two networks are the same or share a parameter or a buffer; each needs its "
            "own: copy.deepcopy(model)"
        )
    for k, model in enumerate(models):
        _check_rules(k, _rules(model))
        _check_modules(model)
    differing_numbers(models)
    first = dict(_structure(models[0]))
    for k, model in enumerate(models[1:], 1):
        other = dict(_structure(model))
        for name in first | other:
            one, two = first.get(name, "nothing"), other.get(name, "nothing")
            if one != two:
                raise EnsembleError(
                    f"Ensemble: networks 0 and {k} differ at {name or '(the model itself)'}: {one} "
                    f"and {two}. They may differ in weights and in the numbers of one rule"
                )


def check_modes(models: list[nn.Module]) -> None:
    """Check that all networks have the same training modes, loss terms, and no hooks.

    Raises:
        EnsembleError: for those that differ, or have hooks.
    """
    first = [*_modes(models[0])]
    for k, model in enumerate(models):
        if any(vars(m)[name] for m in model.modules() for name in _HOOKS):
            _check_modules(model)
        if [*_modes(model)] != first:
            raise EnsembleError(
                f"Ensemble: networks 0 and {k} are in different modes; call train(), eval() and "
                "lra.set_loss_terms on all of them, or on the ensemble"
            )


def classes_and_states(models: list[nn.Module]) -> list[Any]:
    """List the classes and rule states of all modules: other objects after a new conversion."""
    modules = [module for model in models for module in model.modules()]
    return [*map(type, modules), *(m._lra for m in modules if isinstance(m, Local))]


def differing_numbers(models: list[nn.Module]) -> Numbers:
    """Return the numbers that differ among the networks' rules, (K,) each, by their paths.

    Raises:
        EnsembleError: for rules that differ in anything else.
    """
    rules = [rule for model in models for rule in _rules(model)]
    tables = [dict(_fields(rule)) for rule in rules]
    found = {}
    for path in dict.fromkeys(path for table in tables for path in table):
        values = [table.get(path) for table in tables]
        if all(value == values[0] for value in values):
            continue
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(numbers) < len(values) or not _may_differ(rules[0], path):
            raise EnsembleError(
                f"Ensemble: the networks' rules differ at {path}: "
                f"{', '.join(dict.fromkeys(map(str, values)))}. They may differ in gamma and in "
                "the numbers of the crossing"
            )
        found[path] = torch.tensor(numbers, dtype=torch.float64)
    return found


def _check_modules(model: nn.Module) -> None:
    """Raise one error for all modules that cannot run across networks."""
    refused = []
    for name, module in model.named_modules():
        reason = _reason(module)
        if reason:
            refused.append(Refusal(name, type(module).__name__, reason))
    if refused:
        listed = "; ".join(map(str, refused))
        raise EnsembleError(
            f"Ensemble: these modules cannot run across networks: {listed}. Remove them, or train "
            "these networks one after the other",
            tuple(refused),
        )


def _reason(module: nn.Module) -> str:
    """Return why a module cannot run across networks, or "" if it can."""
    if "forward" in vars(module) or any(vars(module).get(name) for name in _HOOKS):
        return "it has hooks or its own forward, which would not be called for each network"
    if isinstance(module, _DropoutNd) and module.p == 0:
        return ""
    if isinstance(module, (_DropoutNd, nn.RReLU, Bernoulli)):
        return "it draws random numbers, in another order for all networks than for one"
    if isinstance(module, BlackBox):
        return "it is a black box, which evaluates one network at a time"
    if isinstance(module, (InterceptedModule, LocalCustom)) and not isinstance(
        module, SkippedModule
    ):
        return "the functions of its forward are intercepted, for one network's weights"
    own = (module._parameters, module._buffers, module._modules)
    if isinstance(module, LocalActivation) and any(own):
        return "targets would pass through it with the weights of one network"
    return ""


def _structure(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """List by name what must be equal in all networks: classes, settings, sizes of tensors."""
    for name, module in model.named_modules():
        plain: Any = module.plain if isinstance(module, Local) else type(module)
        kind = type(module).__bases__ if is_parametrized(module) else type(module)
        raw = module._lra.sees_input if isinstance(module, Local) else None
        yield name, (kind, plain.extra_repr(module), raw)
        for key, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{name}.{key}", value.tolist()
            elif not key.startswith("_") and key != "training" and isinstance(value, _SETTINGS):
                yield f"{name}.{key}", repr(value)
    for name, t in (*model.named_parameters(), *model.named_buffers()):
        yield name, f"{type(t).__name__} of {tuple(t.shape)}, {t.dtype}, {t.device}"


def _modes(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        yield module.training
        if isinstance(module, Local):
            yield module._lra.terms


def _rules(model: nn.Module) -> list[Rule]:
    """List the rules of a network's modules, each once."""
    rules: list[Rule] = []
    for module in model.modules():
        if isinstance(module, Local) and module.rule not in rules:
            rules.append(module.rule)
    return rules


def _check_rules(k: int, rules: list[Rule]) -> None:
    """Check that a network has one rule at most, and one that can run across networks."""
    if len(rules) > 1:
        raise EnsembleError(
            f"Ensemble: parts of network {k} are converted to {len(rules)} different rules; "
            "convert all of it to one"
        )
    for rule in rules:
        if not isinstance(rule.wiring, Chain):
            raise EnsembleError(
                f"Ensemble: network {k} is wired by {rule.wiring}, whose errors skip layers; use "
                "lra.wiring.Chain(), or train such networks one after the other"
            )
        feedback = rule.feedback
        if not isinstance(feedback, SignSymmetric):
            continue
        if feedback.magnitude is Magnitude.BATCH:
            raise EnsembleError(
                f"Ensemble: {feedback} draws feedback weights at every step, in another order for "
                "all networks than for one; use magnitude='fixed' or 'uniform'"
            )
        by_size = isinstance(feedback.init, (LikeWeights, LowRank))
        if feedback.magnitude is Magnitude.UNIFORM and by_size:
            raise EnsembleError(
                f"Ensemble: {feedback} measures each network's weights at every step; use "
                "init=FanIn(), or magnitude='fixed'"
            )


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """List the options of a rule by their paths, except the init of stored feedback."""
    if not isinstance(value, Axis):
        yield path, value
        return
    yield path, type(value).__name__
    for field in dataclasses.fields(value):
        stored = isinstance(value, Feedback) and value.stored is not Stored.NOTHING
        if not (field.name == "init" and stored):
            name = f"{path}.{field.name}" if path else field.name
            yield from _fields(getattr(value, field.name), name)


def _may_differ(rule: Rule, path: str) -> bool:
    """Return whether ops use a number: those of the crossing, and of stored feedback's updates.

    Feedback that computes E in each pass does so outside ops, with the first network's numbers.
    """
    axis = path.partition(".")[0]
    computes = type(rule.feedback).effective is not Feedback.effective
    return axis == "crossing" or (axis == "feedback" and not computes)
