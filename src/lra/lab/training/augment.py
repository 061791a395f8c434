"""Augmentation: random changes of images that preserve their class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lra.axis import unknown
from lra.lab.data.images import channel_axis, channels_first


def flip(x: Tensor, generator: Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2; x has shape (n, C, H, W)."""
    mirrored = (torch.rand(len(x), generator=generator) < 0.5).to(x.device)
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


def crop(x: Tensor, generator: Generator) -> Tensor:
    """Shift each image at random by up to an eighth of its sides; x has shape (n, C, H, W).

    Each side is padded with p = max(1, side // 8) zeros. The H x W crop is drawn uniformly from the
    (2 p + 1)^2 possible ones.
    """
    n, channels, height, width = x.shape
    down, right = max(1, height // 8), max(1, width // 8)
    padded = F.pad(x, (right, right, down, down))
    top = torch.randint(2 * down + 1, (n, 1), generator=generator)
    left = torch.randint(2 * right + 1, (n, 1), generator=generator)
    corner = (top * padded.shape[3] + left).to(x.device)  # an index into the flattened image
    rows = torch.arange(height, device=x.device)[:, None] * padded.shape[3]
    offsets = (rows + torch.arange(width, device=x.device)).flatten()
    indices = (corner + offsets)[:, None].expand(n, channels, height * width)
    return padded.flatten(2).gather(2, indices).reshape(x.shape)


AUGMENTATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {"flip": flip, "crop": crop}
"""The augmentations by name."""


def augment(x: Tensor, kinds: Sequence[str], generator: Generator) -> Tensor:
    """Apply augmentations to a batch of images, one after the other.

    Args:
        x: images of shape (n, H, W), (n, C, H, W) or (n, H, W, C), with 1 or 3 channels C, on any
            device. x is not modified.
        kinds: names from `AUGMENTATIONS`.
        generator: the random generator, on the CPU.

    Returns:
        Images of x's shape, dtype and device.

    Raises:
        OptionError: a name is unknown.
        DataError: the samples are not images.
    """
    for kind in kinds:
        if kind not in AUGMENTATIONS:
            raise unknown("augmentation", kind, AUGMENTATIONS)
    axis = channel_axis(x.shape[1:])
    images = channels_first(x)
    for kind in kinds:
        images = AUGMENTATIONS[kind](images, generator)
    return images[:, 0] if axis is None else images.movedim(1, axis + 1)
