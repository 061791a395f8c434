"""Hooks on every optimizer: they decay shared feedback, and warn of feedback that is left out."""

import warnings
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

from lra.errors import ConversionError, LraWarning
from lra.torch.user_warnings import begin_training

MOMENTUM = "offset_momentum"
"""The key in an optimizer's state of W for D's `momentum_buffer`; 0.0 stands for zeros."""

ELEMENTWISE = (
    *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam),
    *(torch.optim.Adamax, torch.optim.RMSprop, torch.optim.Rprop, torch.optim.Adagrad),
    torch.optim.Adadelta,
)
"""Optimizers whose step, apart from decay, depends only on a number's own gradients."""


@dataclass
class _Link:
    """A weight's feedback.

    Attributes:
        module: a weak reference to the converted module.
        slot: the module's slot for the weight.
        stored: a weak reference to E, or to D = E - W where feedback is shared.
    """

    module: Any
    slot: Any
    stored: Any

    def is_valid(self) -> bool:
        """Return whether the module is there, and still converted."""
        module = self.module()
        return module is not None and "_lra" in vars(module) and self.stored() is not None


@dataclass
class _Held:
    """What an optimizer holds.

    Attributes:
        version: the version of all links when this was found.
        size: the number of its parameters.
        links: its weights with their links.
        conversions: weak references to the conversions that they belong to.
        offsets: weak references to D for each weight that shares, by the weight's id.
    """

    version: int
    size: int
    links: list[tuple[nn.Parameter, _Link]]
    conversions: list[Any]
    offsets: dict[int, Any]


_unlinked: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
_links: Any = WeakIdKeyDictionary()  # a _Link for each W
_held: "weakref.WeakKeyDictionary[Optimizer, _Held]" = weakref.WeakKeyDictionary()
_decaying: "weakref.WeakSet[Optimizer]" = weakref.WeakSet()
_hooks: list[Any] = []
_version = 0


def link_feedback(module: nn.Module) -> None:
    """Link the weights of a new, copied or changed module with its feedback, at the next step."""
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_before_step))
    _unlinked.add(module)


def _link_all() -> None:
    global _version
    for module in list(_unlinked):
        state = vars(module).get("_lra")
        for slot in state.slots.values() if state is not None else ():
            W = slot.leaf(module)
            stored = module._parameters.get(slot.name, module._buffers.get(slot.name))
            if W is not None and stored is not None:
                _links[W] = _Link(weakref.ref(module), slot, weakref.ref(stored))
    _unlinked.clear()
    _version += 1


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Find the feedback of an optimizer's weights; refuse a decay that moves E and W differently.

    Raises:
        ConversionError: for a decay of shared feedback that no D can follow.
    """
    if _unlinked:
        _link_all()
    held, size = _held.get(optimizer), sum(len(group["params"]) for group in optimizer.param_groups)
    if held is None or held.version != _version or held.size != size:
        first, held = held is None, _find_held(optimizer, size)
        _held[optimizer] = held
        if first:
            _check_first_step(optimizer, held)
    for conversion in held.conversions:
        if conversion() is not None and conversion().untrained:  # after a compiled backward pass
            for W, link in held.links:
                if link.module() is not None:
                    link.slot.check_mirror(link.module(), W)
                    link.slot.mirrored = None
            begin_training(conversion())
    for group in optimizer.param_groups if optimizer in _decaying else ():
        check_decay(optimizer, group)
        if group.get("momentum") and group.get("dampening"):  # not in the first step of W
            for W in group["params"]:
                state = optimizer.state.get(W, {})
                if id(W) in held.offsets and state.get("momentum_buffer") is not None:
                    state.setdefault(MOMENTUM, 0.0)


def _find_held(optimizer: Optimizer, size: int) -> _Held:
    """Find the feedback of an optimizer's weights, and decay D from now on if it can."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    links = [(W, _links[W]) for W in weights if W in _links]
    links = [(W, link) for W, link in links if link.is_valid()]
    states = [link.module()._lra for _, link in links]
    conversions = {id(state.conversion): weakref.ref(state.conversion) for state in states}
    offsets = {id(W): link.stored for W, link in links if link.slot.offset}
    if offsets and type(optimizer) in ELEMENTWISE and optimizer not in _decaying:
        _decaying.add(optimizer)
        handle = optimizer.register_step_post_hook(_decay_offsets)
        hooks: Any = handle.hooks_dict_ref()
        hooks.move_to_end(handle.id, last=False)  # others may change settings or remove gradients
    return _Held(_version, size, links, list(conversions.values()), offsets)


def _check_first_step(optimizer: Optimizer, held: _Held) -> None:
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    decays = any(groups[W].get("weight_decay") for W in held.offsets)
    if decays and type(optimizer) not in ELEMENTWISE:
        warnings.warn(
            f"this {type(optimizer).__name__} decays the weights of {len(held.offsets)} layers, "
            "but not the feedback that is shared with them; use one of "
            f"{', '.join(cls.__name__ for cls in ELEMENTWISE)}",
            LraWarning,
            stacklevel=4,
        )
    learned = [link.stored() for _, link in held.links if not link.slot.offset]
    missing = sum(E is not None and E.grad is not None and id(E) not in groups for E in learned)
    if missing:
        warnings.warn(
            f"this {type(optimizer).__name__} updates the weights of {missing} layers, but not "
            "their learned feedback weights, which then stay as drawn. Build it after lra.convert, "
            "or call optimizer.add_param_group({'params': lra.feedback_parameters(model)})",
            LraWarning,
            stacklevel=4,
        )


def check_decay(optimizer: Optimizer, group: dict[str, Any]) -> None:
    """Check that decay shrinks E - W as it shrinks E and W.

    Raises:
        ConversionError: if it does not.
    """
    decoupled = group.get("decoupled_weight_decay") or isinstance(optimizer, torch.optim.AdamW)
    if group.get("weight_decay") and not (decoupled or isinstance(optimizer, torch.optim.SGD)):
        raise ConversionError(
            f"share_feedback: this {type(optimizer).__name__} divides its weight_decay="
            f"{group['weight_decay']:g} by past gradients, so E and W decay differently; use "
            "AdamW, or weight_decay=0, or leave feedback weights learned"
        )


@torch.no_grad()
def _decay_offsets(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Move every D as the step has moved E - W, whose gradient is 0; a hook after the step."""
    found = getattr(optimizer, "found_inf", None)  # of a GradScaler, which skipped the step then
    if found is not None and bool(found):
        return
    offsets = _held[optimizer].offsets
    for group in optimizer.param_groups:
        check_decay(optimizer, group)
        moved = [W for W in group["params"] if id(W) in offsets and W.grad is not None]
        pairs = [(W, D) for W in moved if (D := offsets[id(W)]()) is not None]
        if pairs and isinstance(optimizer, torch.optim.SGD) and group["momentum"]:
            _decay_with_momentum(optimizer, group, pairs)
        elif pairs and group.get("weight_decay"):
            torch._foreach_mul_([D for _, D in pairs], 1 - group["lr"] * group["weight_decay"])


def _decay_with_momentum(
    optimizer: Optimizer, group: dict[str, Any], pairs: list[tuple[nn.Parameter, Tensor]]
) -> None:
    """Take SGD's step for each D, with decay D as its gradient."""
    lr, decay, momentum = float(group["lr"]), group["weight_decay"], group["momentum"]
    states = [(optimizer.state[W], D) for W, D in pairs]
    known = [(state[MOMENTUM], D) for state, D in states if isinstance(state.get(MOMENTUM), Tensor)]
    if known:
        buffers, offsets = map(list, zip(*known, strict=True))
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, offsets, alpha=decay * (1 - group["dampening"]))
    for state, D in states if decay else ():
        if not isinstance(state.get(MOMENTUM), Tensor):
            state[MOMENTUM] = D * decay * (1 - group["dampening"] if MOMENTUM in state else 1)
            known.append((state[MOMENTUM], D))
    if known:
        buffers, offsets = map(list, zip(*known, strict=True))
        if group["nesterov"]:
            torch._foreach_mul_(offsets, 1 - lr * decay)
        torch._foreach_add_(offsets, buffers, alpha=-lr * (momentum if group["nesterov"] else 1))
