"""The notes of a diagnosis on updates that are too small for the optimizer or their type."""

from collections.abc import Iterable, Mapping

from lra.display import printable
from lra.torch.diagnose.update_report import UpdateReport


def notes_on_small_updates(
    updates: Mapping[str, UpdateReport], optimizer: str, shrinks: bool
) -> list[str]:
    """List updates below eps or below their type's smallest normal number, then the remedies.

    Args:
        updates: those of the weight layers, by layer.
        optimizer: the name of the optimizer; "" if it is not known.
        shrinks: whether the rule scales errors by beta at every activation.
    """
    notes = []
    for eps in sorted({u.eps for u in updates.values() if u.below_eps and u.eps is not None}):
        cut = [
            f"{name or '(the model)'} ({update.step_scale:.1g})"
            for name, update in updates.items()
            if update.below_eps and update.eps == eps
        ]
        whose = f"{optimizer}'s eps ({eps:g}), which cuts"
        if not optimizer:
            whose = f"{eps:g}, Adam's default eps (or pass optimizer=), which would cut"
        notes.append(f"updates below {whose} steps to this share: {abbreviate(cut)}")
    remedies = ["normalized=True", "lra.MirroredLRA()"] if shrinks else []
    remedies += ["a smaller eps"] if notes else []
    for smallest in sorted({u.smallest_normal for u in updates.values() if u.subnormal}):
        names = [
            name
            for name, update in updates.items()
            if update.subnormal and update.smallest_normal == smallest
        ]
        notes.append(
            f"updates below their type's smallest normal number ({smallest:.2g}), which is slow "
            f"on many CPUs, or flushed to zero: {abbreviate(names)}"
        )
    if notes and remedies:
        *others, last = remedies
        notes.append("remedy: " + (f"{', '.join(others)} or {last}" if others else last))
    return notes


def abbreviate(names: Iterable[str], most: int = 8) -> str:
    """List at most `most` names, and count the others."""
    names = [printable(name) or "(the model)" for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
