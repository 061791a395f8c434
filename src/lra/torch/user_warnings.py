"""Warnings of silent mistakes: losses of an unexpected scale, mirrors of other weights."""

import functools
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from lra.errors import LraWarning
from lra.loss_terms import count_terms
from lra.torch.ops import observer
from lra.torch.ops.ops import transforming

_PASSES = 3
"""The number of backward passes after a conversion in which layers check the scale of errors."""

_ROWS = 64
"""The number of rows of an error that are compared with the errors of a loss."""

_LEAST = 8
"""The smallest number of errors that are compared with the errors of a loss."""

_LARGEST = 1e3
"""The largest error N d that the mean of a usual loss has."""

_SAMPLE = 1024
"""The number of weights of a layer that are compared with those that feedback weights mirrored."""

_CHANGED = 0.25
"""The relative change from which weights are others; a step of an optimizer is a smaller one."""

_ROUNDED = 0.01
"""The largest relative change by another precision."""


def check_first_errors(state: Any, h: Tensor) -> None:
    """Check the scale of the error at a layer's output h, in the first passes only."""
    watch_first_error(state.conversion, h)
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


def sample(W: Tensor) -> Tensor:
    """Copy some numbers of a tensor, spread over all of it."""
    every = W.numel() // _SAMPLE | 1  # odd, and so not a multiple of the usual row lengths
    return W.detach().reshape(-1)[::every].clone()


def note_change(conversion: Any, name: str, mirrored: tuple[Tensor, Tensor], now: Any) -> None:
    """Note whether W has changed since E mirrored it, and E has not.

    Args:
        conversion: the conversion that the layer belongs to.
        name: the weight's qualified name.
        mirrored: samples of W and E from when E mirrored W.
        now: the current W and E.
    """
    if transforming() or any(type(t) not in (Tensor, nn.Parameter) or t.is_meta for t in now):
        return
    W, E = (_change(before, t) for before, t in zip(mirrored, now, strict=True))
    (conversion.stale.add if W > _CHANGED and E <= _ROUNDED else conversion.stale.discard)(name)


def _change(before: Tensor, now: Tensor) -> float:
    """Return the relative change of a tensor since a sample of it was taken."""
    after = sample(now).to(before)
    if after.shape != before.shape:
        return math.inf
    change, size = float((after - before).norm()), float(before.norm())
    return change / size if size else math.inf if change else 0.0


def watch_first_error(conversion: Any, h: Tensor) -> None:
    """Begin training when the first error arrives at h."""
    if torch.compiler.is_compiling() or not conversion.untrained:
        return  # in this order, as above
    if h.requires_grad and not transforming() and observer.current is None:
        h.register_hook(lambda _: begin_training(conversion))  # type: ignore[no-untyped-call]


def begin_training(conversion: Any) -> None:
    """Warn if weights changed since their feedback mirrored them; from now on they may."""
    conversion.untrained = False
    if conversion.stale:
        names = ", ".join(map(repr, sorted(conversion.stale)[:3]))
        more = "" if len(conversion.stale) < 4 else f" and {len(conversion.stale) - 3} more"
        conversion.stale = set()
        warnings.warn(
            f"weights have changed since feedback weights mirrored them ({names}{more}), so the "
            "two no longer match; call lra.mirror(model) before training",
            LraWarning,
            stacklevel=2,
        )
