"""Warnings of silent mistakes: optimizers without feedback, losses of an unexpected scale."""

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
"""The number of backward passes after a conversion in which layers check the scale of errors."""

_ROWS = 64
"""The number of rows of an error that are compared with the errors of a loss."""

_LEAST = 8
"""The smallest number of errors that are compared with the errors of a loss."""

_LARGEST = 1e3
"""The largest error N d that the mean of a usual loss has."""

_optimizers: "weakref.WeakSet[torch.optim.Optimizer]" = weakref.WeakSet()
_feedback: Any = WeakIdKeyDictionary()  # a weak reference to E for each W
_hooks: list[Any] = []

offsets_of: "weakref.WeakKeyDictionary[torch.optim.Optimizer, Any]" = weakref.WeakKeyDictionary()
"""For each optimizer, the shared weights W whose E - W it decays, with weak references."""


def link_feedback(W: Any, E: Any) -> None:
    """Register E as the feedback of W: an optimizer of W must also update E, or decay E - W."""
    if isinstance(W, nn.Parameter) and isinstance(E, nn.Parameter):
        if not _hooks:
            _hooks.append(register_optimizer_step_pre_hook(_check_optimizer))
        _feedback[W] = weakref.ref(E)


def _check_optimizer(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if optimizer in _optimizers:
        return
    _optimizers.add(optimizer)
    held = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    missing = shared = 0
    for W in [p for group in optimizer.param_groups for p in group["params"]]:
        E = _feedback[W]() if W in _feedback else None
        missing += E is not None and E.grad is not None and id(E) not in held
        shared += E is not None and not E.requires_grad and bool(held[id(W)].get("weight_decay"))
    if shared and optimizer not in offsets_of:
        warnings.warn(
            f"this {type(optimizer).__name__} decays the weights of {shared} layers, but not the "
            "feedback that is shared with them; call lra.share_feedback(model, optimizer)",
            LraWarning,
            stacklevel=3,
        )
    if missing:
        warnings.warn(
            f"this {type(optimizer).__name__} updates the weights of {missing} layers, but not "
            "their learned feedback weights, which then stay as drawn. Build it after lra.convert, "
            "or call optimizer.add_param_group({'params': lra.feedback_parameters(model)})",
            LraWarning,
            stacklevel=3,
        )


def check_first_errors(state: Any, h: Tensor) -> None:
    """Check the scale of the error at a layer's output h, in the first passes only."""
    if torch.compiler.is_compiling() or state.errors_checked >= _PASSES or transforming():
        return  # in this order: a graph would be compiled for each value of errors_checked
    if h.requires_grad and state.rule.crossing.needs_terms and h.dim() > 1 and h.numel():
        h.register_hook(functools.partial(_check_error_scale, state, h.detach()))  # type: ignore[no-untyped-call]


def _check_error_scale(state: Any, h: Tensor, error: Tensor) -> None:
    conversion, terms, error = state.conversion, state.terms, error.detach()
    state.errors_checked += 1
    if conversion.warned or h.shape != error.shape:
        return
    N = count_terms(terms, h.shape)
    divisor, usual = _divisor(h, error)
    largest = float(error.abs().max()) * N
    if divisor is not None and not any(1 / 1.5 < divisor / N / each < 1.5 for each in usual):
        conversion.warned = True
        _warn_of_scale(
            f"the loss divides by {divisor:.4g}, or is scaled as if it did, but {N:g} terms are "
            f"counted (loss_terms={str(terms) if isinstance(terms, str) else terms!r})",
            f"{divisor:.4g}",
        )
    elif largest > _LARGEST:
        conversion.warned = True
        _warn_of_scale(
            f"errors of {largest:.2g} arrive at {state.path!r} (N d, with N = {N:g}), as if the "
            "loss were not a mean, or scaled",
            "N / S for a mean over N terms that is scaled by S",
        )


def _warn_of_scale(problem: str, value: str) -> None:
    warnings.warn(
        f"{problem}. A target moves by beta N d, so N must be right: call "
        f"lra.set_loss_terms(model, {value}), or convert with loss_terms=; use 1 for a sum",
        LraWarning,
        stacklevel=2,
    )


def _divisor(h: Tensor, error: Tensor) -> tuple[float | None, set[float]]:
    """Return what the loss of logits or outputs h divides by, if the error shows it.

    Returns:
        The divisor or None, and the usual values of divisor / N.
    """
    for dim in dict.fromkeys((h.dim() - 1, 1)):
        g, v = (t.movedim(dim, -1).reshape(-1, t.shape[dim]) for t in (error, h))
        used = (g != 0).any(-1).nonzero()[:, 0]  # without ignored terms
        used = used[:: max(1, len(used) // _ROWS)]
        divisor = _softmax_divisor(g[used].double(), v[used].double().softmax(-1))
        if divisor is not None:
            return divisor, {1.0}
    # The mean of an elementwise loss may be over the outputs of each term too.
    outputs = {1.0, float(h[0].numel()), float(h.shape[-1])}
    g, v = (t.flatten()[:: max(1, t.numel() // _ROWS**2)].double() for t in (error, h))
    divisor = _binary_divisor(g, v.sigmoid())
    if divisor is not None:
        return divisor, outputs
    divisor = _binary_divisor(g, v)
    if divisor is not None:  # of (h - t)^2, or of half of it
        return 2 * divisor, outputs | {2 * each for each in outputs}
    return None, outputs


def _softmax_divisor(g: Tensor, p: Tensor) -> float | None:
    """Return 1 / c if g = c (p - q), with the targets q = (1 - K a) onehot + a of a cross-entropy.

    Args:
        g: the errors, (terms, classes).
        p: the probabilities.
    """
    terms, classes = g.shape
    if not terms or classes < 2 or bool((g.sum(-1).abs() > 1e-3 * g.abs().amax(-1)).any()):
        return None
    target = g.argmin(-1)
    G, P = _others(g, target), _others(p, target)
    c = G.sum(-1) / P.sum(-1)  # the same in all terms of a class, which may have a weight
    of_class = c.new_zeros(classes).index_copy(0, target, c)[target]
    fits = (G - c[:, None] * P).abs() <= 1e-3 * c[:, None]
    if bool((G > 0).all() and fits.all() and ((c - of_class).abs() <= 1e-3 * c).all()):
        return 1 / float(c.median())
    if G.numel() < _LEAST:
        return None
    for _ in range(3):  # a smoothed target's error may be positive
        G, P = _others(g, target), _others(p, target)
        x, y = P - P.mean(), G - G.mean()
        slope = (x * y).sum() / x.square().sum()
        a = P.mean() - G.mean() / slope
        fits = (y - slope * x).abs() <= 1e-3 * y.std()
        if bool((slope > 0) & (a > 0) & (a < 1 / classes) & fits.all()):
            return 1 / float(slope)
        target = (g - slope.abs() * p).argmin(-1)
    return None


def _others(x: Tensor, target: Tensor) -> Tensor:
    """Return (terms, classes) without the target of each term."""
    keep = torch.ones_like(x, dtype=torch.bool).scatter(-1, target[:, None], False)
    return x[keep].view(len(x), -1)


def _binary_divisor(g: Tensor, m: Tensor) -> float | None:
    """Return 1 / c if g = c (m - t) with targets t of 0 and 1."""
    g, m = g[g != 0], m[g != 0]
    if g.numel() < _LEAST:
        return None
    for target in (0, 1):
        scales = g / (m - target)
        c = scales[scales > 0].median()  # nan if there are none
        t = m - g / c
        fits = (t - t.round()).abs() <= 1e-3 * m.std()
        both = (t.amin().round() == 0) & (t.amax().round() == 1)
        if bool(c.isfinite() & fits.all() & both):
            return 1 / float(c)
    return None


def warn_if_mirror_is_stale(rule: Any, loses: bool) -> None:
    """Warn if weights were loaded without the feedback weights that mirror them."""
    if loses and isinstance(getattr(rule.feedback, "init", None), Mirror):
        warnings.warn(
            "weights are loaded without feedback weights, and the mirrored feedback no longer "
            "matches the loaded weights; call lra.mirror(model) after loading",
            LraWarning,
            stacklevel=2,
        )
