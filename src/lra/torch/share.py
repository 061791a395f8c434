"""Shared feedback: learned E kept as W + D, so that it costs an optimizer nothing."""

import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from lra.errors import ConversionError
from lra.feedback import Learned, Offset
from lra.torch.convert import is_converted
from lra.torch.distributed import is_sharded
from lra.torch.functions.module import InterceptedModule
from lra.torch.layers import Local, LocalWeights
from lra.torch.user_warnings import link_feedback, offsets_of

MOMENTUM = "offset_momentum"
"""The key, in an optimizer's state of W, of the momentum that decay gives D, as a share of D."""

_ALIKE = (
    *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam),
    *(torch.optim.Adamax, torch.optim.RMSprop, torch.optim.Rprop, torch.optim.Adagrad),
    torch.optim.Adadelta,
)
"""Optimizers whose step, but for decay, depends on a number's own gradients alone."""


def share_feedback(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Keep learned feedback weights E as W + D, where D = E - W changes by weight decay alone.

    With dE = dW and one optimizer for both, a step moves E as it moves W. So D needs no gradient,
    no state of the optimizer, and nothing to be sent between processes: with Adam, feedback keeps
    one number a weight in the place of four. The optimizer gets a hook by which each step shrinks D
    as decay shrinks E - W. The numbers are those of learned feedback, to rounding, but where all
    parameters are looked at together (clipping by the norm of all gradients no longer counts dE
    beside dW), where more than the layer itself moves W (a penalty in the loss), which E then
    follows, and where a layer is frozen, whose D does not shrink.

    Call it after building the optimizer and before the first step, and before
    DistributedDataParallel. Layers that cannot share keep their learned E: those of another gamma
    than 1, of weights that are tied, or computed in each forward. Call it again for a new optimizer
    of a model that shares, also of a copy.

    Args:
        model: a converted model.
        optimizer: what moves its weights, and E with the same settings.

    Returns:
        The qualified names of the layers that share.

    Raises:
        ConversionError: for a model that is not converted, that is sharded or in
            DistributedDataParallel, or of which no layer can share; and for an optimizer by which
            E and W do not move alike: of a class that is not known, with decay that goes through an
            adaptive denominator (Adam with weight_decay, AdamW is fine), with other settings or
            another past for E than for W. Nothing is changed then.

    Source: Kolen and Pollack, Backpropagation without weight transport, 1994, for E - W.
    """
    _check(model, optimizer)
    layers = _layers(model)
    pairs = [
        (layer, *link_feedback) for layer in layers.values() for link_feedback in _pairs(layer)
    ]
    _check_moves([(W, E) for layer, W, E in pairs if not _shares(layer)], optimizer)
    for layer, _, E in pairs:
        if not _shares(layer):
            _drop(optimizer, E)
    for layer in layers.values():
        if not _shares(layer):
            _turn(layer)
    shared = [link_feedback for layer in layers.values() for link_feedback in _pairs(layer)]
    if optimizer not in offsets_of:
        optimizer.register_step_post_hook(_shrink)
    own = {id(W) for W, _ in shared}
    others = [
        link_feedback
        for link_feedback in offsets_of.get(optimizer, ())
        if id(link_feedback[0]()) not in own
    ]
    offsets_of[optimizer] = others + [(weakref.ref(W), weakref.ref(D)) for W, D in shared]
    return list(layers)


def _check(model: nn.Module, optimizer: Optimizer) -> None:
    """Refuse what cannot share at all."""
    what = f"this {type(model).__name__}"
    if not isinstance(optimizer, Optimizer):
        raise ConversionError(
            f"share_feedback: expected a torch.optim.Optimizer, got {type(optimizer).__name__}"
        )
    if not is_converted(model):
        raise ConversionError(
            f"share_feedback: no layer of {what} is converted; call lra.convert(model, rule) first"
        )
    if any(isinstance(m, DistributedDataParallel) or is_sharded(m) for m in model.modules()):
        raise ConversionError(
            f"share_feedback: {what} is spread over processes already; share first, then wrap it. "
            "Feedback weights of a sharded model stay learned ones"
        )
    if type(optimizer) not in _ALIKE:
        raise ConversionError(
            f"share_feedback: whether a {type(optimizer).__name__} moves E as it moves W is not "
            f"known; it is of {', '.join(cls.__name__ for cls in _ALIKE)}"
        )
    for group in optimizer.param_groups:
        _kind_of_decay(optimizer, group)


def _kind_of_decay(optimizer: Optimizer, group: dict[str, Any]) -> str:
    """Tell how decay shrinks E - W: "" for not at all, "decoupled", or by "sgd"."""
    if not group.get("weight_decay"):
        return ""
    if group.get("decoupled_weight_decay") or isinstance(optimizer, torch.optim.AdamW):
        return "decoupled"
    if isinstance(optimizer, torch.optim.SGD):
        return "sgd"
    raise ConversionError(
        f"share_feedback: the weight_decay={group['weight_decay']:g} of this "
        f"{type(optimizer).__name__} is divided by what the gradients were, so that E and W decay "
        "differently; use AdamW, or weight_decay=0, or leave feedback weights learned"
    )


def _shares(layer: Local) -> bool:
    return isinstance(layer._lra.feedback, Offset)


def _layers(model: nn.Module) -> dict[str, LocalWeights | InterceptedModule]:
    """Give the layers that can share, or do, by name."""
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    reasons: list[str] = []
    found: dict[str, LocalWeights | InterceptedModule] = {}
    lent: list[tuple[str, str]] = []  # E of layers that a followed one multiplies with
    for path, module in model.named_modules():
        if not isinstance(module, (LocalWeights, InterceptedModule)):
            continue
        own = _names(module)
        trouble = _trouble(module, own, uses)
        if isinstance(module, InterceptedModule):
            others = [n for n in module.table.feedback.values() if n and n not in own.values()]
            lent += [(path, f"{path}.{n.rpartition('.')[0]}".strip(".")) for n in others]
        if not own and not (isinstance(module, InterceptedModule) and module.table.feedback):
            continue
        if trouble:
            reasons.append(f"{path!r}: {trouble}")
        else:
            found[path] = module
    while torn := {
        name
        for link_feedback in lent
        for name in link_feedback
        if (link_feedback[0] in found) != (link_feedback[1] in found)
    }:
        found = {path: layer for path, layer in found.items() if path not in torn}
    if not any(_names(layer) for layer in found.values()):
        why = "".join(f"\n  - {reason}" for reason in reasons[:8])
        raise ConversionError(
            "share_feedback: no layer has feedback weights that it could share with its weights"
            + (f":{why}" if why else "; the rule learns none")
        )
    return found


def _names(layer: LocalWeights | InterceptedModule) -> dict[str, str]:
    """Give the names of a layer's weights, with what it keeps beside each."""
    if isinstance(layer, LocalWeights):
        kept = getattr(layer, layer.kept_as)
        return {} if kept is None else {"weight": layer.kept_as}
    return {key: name for key, name in layer.table.feedback.items() if name in layer.table.added}


def _trouble(
    layer: LocalWeights | InterceptedModule, names: dict[str, str], uses: Counter[int]
) -> str:
    """Say why a layer cannot share; "" if it can."""
    feedback = layer._lra.feedback
    if _shares(layer):
        return ""
    if type(feedback) is not Learned or feedback.gamma != 1:
        return f"E is that of {feedback}, and moves as W by gamma = 1 alone"
    if layer._lra.conversion.router is not None:
        return "E leads from another layer"
    if not layer._lra.drawn:
        return "E is on a meta device still"
    for key in names:
        W = layer.weight if isinstance(layer, LocalWeights) else layer.weight_of(key)
        if not isinstance(W, nn.Parameter):
            return f"{key.partition(':')[0]} is computed in each forward"
        if uses[id(W)] > 1:
            return f"{key} is tied, and other layers move it too"
    return ""


def _pairs(layer: LocalWeights | InterceptedModule) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """Give a layer's weights, with what it keeps for each."""
    names = _names(layer)
    if isinstance(layer, LocalWeights):
        return [(layer.weight, getattr(layer, name)) for name in names.values()]  # type: ignore[misc]
    return [(layer.weight_of(key), getattr(layer, name)) for key, name in names.items()]  # type: ignore[misc]


def _check_moves(pairs: list[tuple[nn.Parameter, nn.Parameter]], optimizer: Optimizer) -> None:
    """Refuse an optimizer by which some E does not move as its W does."""
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for W, E in pairs:
        of_W, of_E = (groups.get(id(p)) for p in (W, E))
        if of_W is None and of_E is None:
            continue  # nothing moves either
        if of_W is None or of_E is None:
            raise ConversionError(
                "share_feedback: the optimizer moves some weights and not their feedback weights, "
                "or the other way round; build it after lra.convert, with model.parameters()"
            )
        other = [k for k in of_W if k != "params" and not _same(of_W[k], of_E[k])]
        if other:
            raise ConversionError(
                "share_feedback: feedback weights have other settings than their weights, of "
                f"{', '.join(other)}; give both the same, or leave feedback weights learned"
            )
        if not _same(optimizer.state.get(W, {}), optimizer.state.get(E, {})):
            raise ConversionError(
                "share_feedback: the optimizer has moved weights and feedback weights differently; "
                "share before the first step, or with a new optimizer"
            )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    return bool(one == other)


def _drop(optimizer: Optimizer, E: Tensor) -> None:
    """Take a parameter from an optimizer."""
    optimizer.state.pop(E, None)
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if p is not E]


@torch.no_grad()
def _turn(layer: LocalWeights | InterceptedModule) -> None:
    """Have a layer keep D = E - W in the place of each E."""
    for name, (W, E) in zip(_names(layer).values(), _pairs(layer), strict=True):
        D = nn.Parameter(E - W, requires_grad=False)
        if isinstance(layer, InterceptedModule):
            delattr(layer, name)
            layer.table.added[layer.table.added.index(name)] = f"{name}_offset"
        else:
            layer.register_parameter(name, None)
        layer.register_parameter(f"{name}_offset", D)
        link_feedback(W, D)
    if isinstance(layer, InterceptedModule):  # of its own, and of layers that it multiplies with
        table = layer.table.feedback
        table.update({key: f"{name}_offset" for key, name in table.items() if name})
    learned = layer.rule.feedback
    assert isinstance(learned, Learned)
    layer._lra.instead = Offset(learned.init)


@torch.no_grad()
def _shrink(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Shrink every D as the step's decay has shrunk E - W; a hook after the step."""
    found = getattr(optimizer, "found_inf", None)  # of a GradScaler; the step was none then
    if found is not None and bool(found):
        return
    offset_of = {W(): D() for W, D in offsets_of[optimizer]}
    for group in optimizer.param_groups:
        kind = _kind_of_decay(optimizer, group)
        if not kind:
            continue
        moved = [W for W in group["params"] if W.grad is not None and W in offset_of]
        pairs = [(W, offset_of[W]) for W in moved if offset_of[W] is not None]
        if kind == "sgd":
            for W, D in pairs:
                D.mul_(_by_sgd(group, optimizer.state[W]))
        elif pairs:
            torch._foreach_mul_([D for _, D in pairs], 1 - group["lr"] * group["weight_decay"])


def _by_sgd(group: dict[str, Any], state: dict[str, Any]) -> Any:
    """Give what SGD's decay multiplies D by: a step along decay D, with momentum v D."""
    decay, momentum = group["weight_decay"], group["momentum"]
    if not momentum:
        return 1 - group["lr"] * decay
    v = state.get(MOMENTUM)
    v = decay if v is None else momentum * v + (1 - group["dampening"]) * decay
    by = 1 - group["lr"] * (decay + momentum * v if group["nesterov"] else v)
    state[MOMENTUM] = v / by  # of what D is now
    return by
