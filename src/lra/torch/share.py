"""Shared feedback: learned E stored as W + D, so that it costs the optimizer nothing."""

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
from lra.torch.optimizer_hooks import ELEMENTWISE, check_decay


def share_feedback(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Store learned feedback weights E as W + D, where D = E - W changes by weight decay alone.

    With dE = dW and one optimizer for both, each step moves E exactly as it moves W. D then needs
    no gradient, no optimizer state and no communication between processes: with Adam, feedback
    takes one number per weight instead of four. After each step of any optimizer, a hook shrinks
    the D of its weights as decay shrinks E - W. SGD with both momentum and decay stores the
    momentum of D with its state of W, as one more number per weight.

    The result equals learned feedback up to rounding, with three exceptions. Clipping by the norm
    of all gradients no longer counts dE. Where something besides the layer moves W (a penalty in
    the loss), E follows. And the D of a frozen layer does not shrink.

    Call this after building the optimizer, before the first step, and before
    DistributedDataParallel. Layers that cannot share keep their learned E: those with a gamma other
    than 1, with tied weights, with weights that are derived in each forward, or whose weights the
    optimizer does not hold. With several optimizers, call it for each. Copies of a model share too,
    with any optimizer of their weights.

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

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> net = lra.convert(net, lra.LRAE())
    >>> optimizer = torch.optim.AdamW(net.parameters())
    >>> lra.share_feedback(net, optimizer)
    ['2']
    """
    _check(model, optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    layers = _candidates(model, held)
    new = [layer for layer in layers.values() if not _shares(layer)]
    _check_moves([pair for layer in new for pair in _pairs(layer)], optimizer)
    for layer in new:
        for _, E in _pairs(layer):
            _drop(optimizer, E)
    for layer in new:
        _store_offsets(layer)
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
    if type(optimizer) not in ELEMENTWISE:
        raise ConversionError(
            f"share_feedback: a {type(optimizer).__name__} is not known to move E as it moves W; "
            f"use one of {', '.join(cls.__name__ for cls in ELEMENTWISE)}"
        )
    for group in optimizer.param_groups:
        check_decay(optimizer, group)


def _slots(layer: Any) -> list[FeedbackSlot]:
    """Return the slots of a layer that store something."""
    return [slot for slot in layer._lra.slots.values() if slot.name]


def _shares(layer: Any) -> bool:
    return any(slot.offset for slot in _slots(layer))


def _candidates(model: nn.Module, held: set[int]) -> dict[str, nn.Module]:
    """Return the layers that can share, or do, by name; `held` has the ids of what is optimized."""
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
        reason = _reason_against(layer, slots, uses, held)
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


def _reason_against(
    layer: Any, slots: list[FeedbackSlot], uses: Counter[int], held: set[int]
) -> str:
    """Return why a layer cannot share, or ""."""
    feedback = layer.rule.feedback
    apart = "the optimizer does not hold its weights"
    if _shares(layer):
        pairs = _pairs(layer)
        return apart if pairs and all(id(W) not in held for W, _ in pairs) else ""
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
        if id(W) not in held and id(slot.stored(layer)) not in held:
            return apart
    return ""


def _pairs(layer: Any) -> list[tuple[Any, Any]]:
    """Return a layer's weights with what is stored for each."""
    return [(slot.weight(layer), slot.stored(layer)) for slot in _slots(layer) if slot.own]


def _check_moves(pairs: list[tuple[Any, Any]], optimizer: Optimizer) -> None:
    """Refuse an optimizer that moves some E differently from its W."""
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for W, E in pairs:
        of_W, of_E = (groups.get(id(p)) for p in (W, E))
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
        slot.feedback, slot.mirrored = Offset(init), None
        if not slot.own:
            slot.name = f"{slot.name}_offset"
            continue
        D = nn.Parameter(slot.stored(layer) - slot.weight(layer), requires_grad=False)
        slot.replace(layer, f"{slot.name}_offset", D)
