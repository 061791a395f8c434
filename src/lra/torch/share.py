"""Shared feedback: learned E stored as W + D, so that it costs the optimizer nothing."""

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
from lra.torch.layers.slots import FeedbackSlot, feedback_slots
from lra.torch.user_warnings import link_feedback, offsets_of

MOMENTUM = "offset_momentum"
"""The key in an optimizer's state of W for the momentum of D's decay, as a fraction of D."""

_ELEMENTWISE = (
    *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam),
    *(torch.optim.Adamax, torch.optim.RMSprop, torch.optim.Rprop, torch.optim.Adagrad),
    torch.optim.Adadelta,
)
"""Optimizers whose step, apart from decay, depends only on a number's own gradients."""


def share_feedback(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Store learned feedback weights E as W + D, where D = E - W changes by weight decay alone.

    With dE = dW and one optimizer for both, each step moves E exactly as it moves W. D then needs
    no gradient, no optimizer state and no communication between processes: with Adam, feedback
    takes one number per weight instead of four. A hook on the optimizer shrinks D in each step as
    decay shrinks E - W.

    The result equals learned feedback up to rounding, with three exceptions. Clipping by the norm
    of all gradients no longer counts dE. Where something besides the layer moves W (a penalty in
    the loss), E follows. And the D of a frozen layer does not shrink.

    Call this after building the optimizer, before the first step, and before
    DistributedDataParallel. Layers that cannot share keep their learned E: those with a gamma other
    than 1, with tied weights, or with weights that are derived in each forward. Call it again for a
    new optimizer of a model that shares, or for a copy.

    Args:
        model: a converted model.
        optimizer: the optimizer of its weights, and of E with the same settings.

    Returns:
        The qualified names of the layers that share.

    Raises:
        ConversionError: for a model that is not converted, is sharded or in
            DistributedDataParallel, or has no layer that can share; and for an optimizer that moves
            E and W differently: of an unknown class, with decay that goes through an adaptive
            denominator (Adam with weight_decay; AdamW is fine), or with other settings or another
            state for E than for W. Nothing is changed then.

    Source: Kolen and Pollack, Backpropagation without weight transport, 1994, for E - W.
    """
    _check(model, optimizer)
    layers = _candidates(model)
    new = [layer for layer in layers.values() if not _shares(layer)]
    _check_moves([pair for layer in new for pair in _pairs(layer)], optimizer)
    for layer in new:
        for _, E in _pairs(layer):
            _drop(optimizer, E)
    for layer in new:
        _store_offsets(layer)
    shared = [pair for layer in layers.values() for pair in _pairs(layer)]
    if optimizer not in offsets_of:
        optimizer.register_step_post_hook(_shrink)
    own = {id(W) for W, _ in shared}
    others = [pair for pair in offsets_of.get(optimizer, ()) if id(pair[0]()) not in own]
    offsets_of[optimizer] = others + [(weakref.ref(W), weakref.ref(D)) for W, D in shared]
    return list(layers)


def _check(model: nn.Module, optimizer: Optimizer) -> None:
    """Refuse models and optimizers that cannot share at all."""
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
            f"share_feedback: {what} is distributed over processes already; share first, then wrap "
            "it. Feedback weights of a sharded model stay learned"
        )
    if type(optimizer) not in _ELEMENTWISE:
        raise ConversionError(
            f"share_feedback: a {type(optimizer).__name__} is not known to move E as it moves W; "
            f"use one of {', '.join(cls.__name__ for cls in _ELEMENTWISE)}"
        )
    for group in optimizer.param_groups:
        _kind_of_decay(optimizer, group)


def _kind_of_decay(optimizer: Optimizer, group: dict[str, Any]) -> str:
    """Return how decay shrinks E - W: "" for not at all, "decoupled", or "sgd"."""
    if not group.get("weight_decay"):
        return ""
    if group.get("decoupled_weight_decay") or isinstance(optimizer, torch.optim.AdamW):
        return "decoupled"
    if isinstance(optimizer, torch.optim.SGD):
        return "sgd"
    raise ConversionError(
        f"share_feedback: this {type(optimizer).__name__} divides its weight_decay="
        f"{group['weight_decay']:g} by past gradients, so E and W decay differently; use AdamW, or "
        "weight_decay=0, or leave feedback weights learned"
    )


def _slots(layer: Any) -> list[FeedbackSlot]:
    """Return the slots of a layer that store something."""
    return [slot for slot in layer._lra.slots.values() if slot.name]


def _shares(layer: Any) -> bool:
    return any(slot.offset for slot in _slots(layer))


def _candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that can share, or do, by name."""
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    reasons: list[str] = []
    found: dict[str, nn.Module] = {}
    linked: list[tuple[str, str]] = []  # layers that use a submodule's E must share as it does
    for path, layer in {path: layer for path, layer, slot in feedback_slots(model)}.items():
        slots = _slots(layer)
        if not slots:
            continue
        holders = [slot.name.rpartition(".")[0] for slot in slots if not slot.own]
        linked += [(path, f"{path}.{holder}".strip(".")) for holder in holders]
        reason = _reason_against(layer, slots, uses)
        if reason:
            reasons.append(f"{path!r}: {reason}")
        else:
            found[path] = layer
    while torn := {
        name for pair in linked for name in pair if (pair[0] in found) != (pair[1] in found)
    }:
        found = {path: layer for path, layer in found.items() if path not in torn}
    if not any(slot.own for layer in found.values() for slot in _slots(layer)):
        why = "".join(f"\n  - {reason}" for reason in reasons[:8])
        raise ConversionError(
            "share_feedback: no layer has feedback weights that it could share with its weights"
            + (f":{why}" if why else "; the rule learns none")
        )
    return found


def _reason_against(layer: Any, slots: list[FeedbackSlot], uses: Counter[int]) -> str:
    """Return why a layer cannot share, or ""."""
    feedback = layer.rule.feedback
    if _shares(layer):
        return ""
    if type(feedback) is not Learned or feedback.gamma != 1:
        return f"its feedback is {feedback}; E moves as W does only with Learned() and gamma 1"
    if layer._lra.conversion.router is not None:
        return "its E belongs to another layer's error"
    for slot in slots:
        if not slot.own:
            continue
        if not slot.drawn:
            return "its E is still on a meta device"
        W = slot.weight(layer)
        if not isinstance(W, nn.Parameter):
            return f"{slot.parameter} is derived in each forward"
        if uses[id(W)] > 1:
            return f"{slot.key} is tied, so other layers move it too"
    return ""


def _pairs(layer: Any) -> list[tuple[Any, Any]]:
    """Return a layer's weights with what is stored for each."""
    return [(slot.weight(layer), slot.stored(layer)) for slot in _slots(layer) if slot.own]


def _check_moves(pairs: list[tuple[Any, Any]], optimizer: Optimizer) -> None:
    """Refuse an optimizer that moves some E differently from its W."""
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for W, E in pairs:
        of_W, of_E = (groups.get(id(p)) for p in (W, E))
        if of_W is None and of_E is None:
            continue  # nothing moves either
        if of_W is None or of_E is None:
            raise ConversionError(
                "share_feedback: the optimizer has some weights without their feedback weights, or "
                "the reverse; build it after lra.convert, with model.parameters()"
            )
        other = [k for k in of_W if k != "params" and not _equal(of_W[k], of_E[k])]
        if other:
            raise ConversionError(
                "share_feedback: feedback weights have other optimizer settings than their weights "
                f"({', '.join(other)}); use the same for both, or leave feedback weights learned"
            )
        if not _equal(optimizer.state.get(W, {}), optimizer.state.get(E, {})):
            raise ConversionError(
                "share_feedback: the optimizer has already moved weights and feedback weights "
                "differently; share before the first step, or with a new optimizer"
            )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    return bool(one == other)


def _drop(optimizer: Optimizer, E: Tensor) -> None:
    """Remove a parameter from an optimizer."""
    optimizer.state.pop(E, None)
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if p is not E]


@torch.no_grad()
def _store_offsets(layer: Any) -> None:
    """Store D = E - W instead of each E of a layer."""
    init = layer.rule.feedback.init
    for slot in _slots(layer):
        slot.feedback = Offset(init)
        if not slot.own:
            slot.name = f"{slot.name}_offset"
            continue
        W = slot.weight(layer)
        assert W is not None
        D = nn.Parameter(slot.stored(layer) - W, requires_grad=False)
        slot.replace(layer, f"{slot.name}_offset", D)
        link_feedback(W, D)


@torch.no_grad()
def _shrink(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Shrink every D as the step's decay has shrunk E - W; a hook after the step."""
    found = getattr(optimizer, "found_inf", None)  # of a GradScaler, which skipped the step then
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
                D.mul_(_sgd_factor(group, optimizer.state[W]))
        elif pairs:
            torch._foreach_mul_([D for _, D in pairs], 1 - group["lr"] * group["weight_decay"])


def _sgd_factor(group: dict[str, Any], state: dict[str, Any]) -> Any:
    """Return what SGD's decay multiplies D by: a step along decay D, with momentum v D."""
    decay, momentum = group["weight_decay"], group["momentum"]
    if not momentum:
        return 1 - group["lr"] * decay
    v = state.get(MOMENTUM)
    v = decay if v is None else momentum * v + (1 - group["dampening"]) * decay
    factor = 1 - group["lr"] * (decay + momentum * v if group["nesterov"] else v)
    state[MOMENTUM] = v / factor  # as a fraction of the new D
    return factor
