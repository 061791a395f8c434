"""What goes wrong without an error: optimizers without feedback, losses of another scale."""

import functools
import warnings
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

from lra.errors import LraWarning
from lra.inits import Mirror
from lra.loss_terms import count_terms
from lra.torch.ops.ops import transforming

_PASSES = 3
"""In how many backward passes after a conversion a layer looks at the scale of its error."""

_ROWS = 64
"""How many of an error's rows are looked at."""

_FAR = 1e3
"""An error N d beyond which a loss cannot be a mean of usual losses."""

_optimizers: "weakref.WeakSet[torch.optim.Optimizer]" = weakref.WeakSet()
_pairs: Any = WeakIdKeyDictionary()  # E, weakly, for each W
_hooked: list[Any] = []

offsets_of: "weakref.WeakKeyDictionary[torch.optim.Optimizer, Any]" = weakref.WeakKeyDictionary()
"""For each optimizer, what it shrinks by decay: shared weights W and their E - W, weakly."""


def link_feedback(W: Any, E: Any) -> None:
    """Note that an optimizer which moves W should move its feedback weights E, or shrink E - W."""
    if isinstance(W, nn.Parameter) and isinstance(E, nn.Parameter):
        if not _hooked:
            _hooked.append(register_optimizer_step_pre_hook(_check_optimizer))
        _pairs[W] = weakref.ref(E)


def _check_optimizer(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if optimizer in _optimizers:
        return
    _optimizers.add(optimizer)
    held = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    missing = shared = 0
    for W in [p for group in optimizer.param_groups for p in group["params"]]:
        E = _pairs[W]() if W in _pairs else None
        missing += E is not None and E.grad is not None and id(E) not in held
        shared += E is not None and not E.requires_grad and bool(held[id(W)].get("weight_decay"))
    if shared and optimizer not in offsets_of:
        warnings.warn(
            f"this {type(optimizer).__name__} decays the weights of {shared} layers whose feedback "
            "weights are shared with them, and does not know of these: call "
            "lra.share_feedback(model, optimizer)",
            LraWarning,
            stacklevel=3,
        )
    if missing:
        warnings.warn(
            f"this {type(optimizer).__name__} moves the weights of {missing} layers, but not their "
            "learned feedback weights, which then stay as they were drawn. Build it after "
            "lra.convert, or optimizer.add_param_group({'params': lra.feedback_parameters(model)})",
            LraWarning,
            stacklevel=3,
        )


def check_first_errors(record: Any, h: Tensor) -> None:
    """Look at the error that comes back to a layer's output h, in the first passes only."""
    if torch.compiler.is_compiling() or record.errors_checked >= _PASSES or transforming():
        return  # in this order, or a graph would be compiled anew for each number of looks
    if h.requires_grad and record.rule.crossing.needs_terms and h.dim() > 1 and h.numel():
        h.register_hook(functools.partial(_check_scale, record, h.detach()))  # type: ignore[no-untyped-call]


def _check_scale(record: Any, h: Tensor, error: Tensor) -> None:
    shared, terms, error = record.conversion, record.terms, error.detach()
    record.errors_checked += 1
    if shared.warned or h.shape != error.shape:
        return
    N = count_terms(terms, h.shape)
    divisor = _terms_of_cross_entropy(h, error)
    if divisor is not None and not 1 / 1.5 < divisor / N < 1.5:
        shared.warned = True
        _warn(
            f"the loss divides by {divisor:.4g}, or is scaled as if it did, where {N:g} terms are "
            f"counted (loss_terms={str(terms) if isinstance(terms, str) else terms!r})",
            f"{divisor:.4g}",
        )
    elif float(error.abs().max()) * N > _FAR:
        shared.warned = True
        _warn(
            f"errors of {float(error.abs().max()) * N:.2g} arrive at {record.path!r}, taken "
            f"times N = {N:g}, as if the loss were no mean, or scaled",
            "N / S for a mean over N terms that is scaled by S",
        )


def _warn(what: str, value: str) -> None:
    warnings.warn(
        f"{what}. A target moves by beta N d, so N must be right: lra.set_loss_terms(model, "
        f"{value}), or convert with loss_terms=; 1 is for a sum",
        LraWarning,
        stacklevel=2,
    )


def _terms_of_cross_entropy(h: Tensor, error: Tensor) -> float | None:
    """Give what a softmax cross-entropy of h divides by, if the error is that of one."""
    for dim in dict.fromkeys((h.dim() - 1, 1)):
        if h.shape[dim] < 2:
            continue
        g, p = (t.movedim(dim, -1).reshape(-1, t.shape[dim]) for t in (error, h))
        used = (g != 0).any(-1).nonzero()[:, 0]  # terms that the loss ignores have none
        used = used[:: max(1, len(used) // _ROWS)]
        g, p = g[used].double(), p[used].double().softmax(-1)
        if not len(g) or not bool(((g < 0).sum(-1) == 1).all()):
            continue
        positive = g > 0
        c = (g * positive).sum(-1) / (p * positive).sum(-1)
        expected = c[:, None] * (p - (g < 0).double())
        if bool(((g - expected).abs().amax(-1) <= 1e-3 * c).all()):
            return 1 / float(c.median())
    return None


def warn_of_mirrored(rule: Any, loses: bool) -> None:
    """Tell that weights were loaded for which mirrored feedback was not."""
    if loses and isinstance(getattr(rule.feedback, "init", None), Mirror):
        warnings.warn(
            "weights are loaded without feedback weights: those of now mirror the weights before, "
            "so that errors would go astray; call lra.mirror(model) after loading",
            LraWarning,
            stacklevel=2,
        )
