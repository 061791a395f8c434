"""Image layouts: find the channel axis, and move it first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lra.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

LAYOUTS = "(H, W), (C, H, W) or (H, W, C) with 1 or 3 channels C"


def channel_axis(shape: Sequence[int]) -> int | None:
    """Return the channel axis of one image: 0, 2, or None if it has none.

    Args:
        shape: the shape of one image: (H, W), (C, H, W) or (H, W, C), with C 1 or 3. If both the
            first and the last axis qualify, it is the last.

    Raises:
        DataError: the shape is none of these.
    """
    if len(shape) == 2:
        return None
    if len(shape) == 3 and shape[2] in (1, 3):
        return 2
    if len(shape) == 3 and shape[0] in (1, 3):
        return 0
    raise DataError(
        f"samples have shape {tuple(shape)}, which is not an image: allowed are {LAYOUTS}. "
        "Remedy: reshape x"
    )


def channels_first(x: Tensor) -> Tensor:
    """View a batch of images, (n, H, W), (n, C, H, W) or (n, H, W, C), as (n, C, H, W).

    Raises:
        DataError: the samples are not images.
    """
    axis = channel_axis(x.shape[1:])
    return x.unsqueeze(1) if axis is None else x.movedim(axis + 1, 1)
