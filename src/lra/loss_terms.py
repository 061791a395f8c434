"""The number of terms N that a loss is a mean over. Arriving errors were divided by it."""

import enum

from lra.errors import OptionError


class LossTerms(enum.StrEnum):
    """Name how N, the number of terms that the loss is a mean over, is counted."""

    #: Dimension 0 of the activation's input.
    BATCH = "batch"
    #: Every dimension but the last, for layouts with the features last.
    TOKENS = "tokens"


def count_terms(terms: LossTerms | float, shape: tuple[int, ...]) -> float:
    """Compute N from the shape of an activation's input.

    Args:
        terms: how to count N, or N itself.
        shape: (batch, ...).
    """
    if not isinstance(terms, LossTerms):
        return terms
    counted = shape[:1] if terms is LossTerms.BATCH else shape[:-1]
    n = 1
    for size in counted:
        n *= size
    if isinstance(n, int) and n == 0:  # symbolic sizes of a compiled graph are no int
        return 1  # an empty batch
    return n


def check_terms(terms: LossTerms | str | float) -> LossTerms | float:
    """Convert `terms` to a LossTerms or a positive number.

    Raises:
        OptionError: for an unknown name, or a number that is not positive and finite.
    """
    if isinstance(terms, (int, float)) and not isinstance(terms, bool) and 0 < terms < float("inf"):
        return terms
    if isinstance(terms, str) and terms in tuple(LossTerms):
        return LossTerms(terms)
    raise OptionError(
        f"loss_terms must be one of {', '.join(map(repr, map(str, LossTerms)))}, or a positive "
        f"number: the N that the loss divides by (1 for a summed loss); got {terms!r}"
    )
