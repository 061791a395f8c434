"""What a loss is a mean over: the N that the errors which arrive were divided by."""

import enum

from lra.errors import OptionError


class LossTerms(enum.StrEnum):
    """What the loss is a mean over: its number of terms N scales the errors that arrive."""

    BATCH = "batch"  # dimension 0 of what the nonlinearity sees
    TOKENS = "tokens"  # every dimension but the last, for features-last layouts


def count_terms(terms: LossTerms | float, shape: tuple[int, ...]) -> float:
    """Give N for a nonlinearity's input shape.

    Args:
        terms: a rule for counting, or N itself.
        shape: (batch, ...).
    """
    if not isinstance(terms, LossTerms):
        return terms
    counted = shape[:1] if terms is LossTerms.BATCH else shape[:-1]
    n = 1
    for size in counted:
        n *= size
    if isinstance(n, int) and n == 0:  # a size that a graph learns when it runs is no int
        return 1  # nothing is divided by the size of an empty batch
    return n


def check_terms(terms: LossTerms | str | float) -> LossTerms | float:
    """Give `terms` as a LossTerms or a positive number.

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
