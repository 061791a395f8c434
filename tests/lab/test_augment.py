"""Augmentation: compared with plain loops for the same draws, and by the frequency of changes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Generator, Tensor

from lra.errors import DataError, OptionError
from lra.lab.data.images import channel_axis, channels_first
from lra.lab.training.augment import AUGMENTATIONS, augment

LAYOUTS = [(6, 9), (1, 6, 9), (3, 6, 9), (6, 9, 1), (6, 9, 3)]


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images(n: int, shape: tuple[int, ...]) -> Tensor:
    """Return images whose values are all different and not 0."""
    return torch.arange(1.0, n * torch.Size(shape).numel() + 1).reshape(n, *shape)


def at(image: Tensor, row: int, column: int) -> Tensor:
    """Return the value or values of a pixel; 0 outside the image."""
    axis = channel_axis(image.shape)
    pixels = image if axis is None else image.movedim(axis, -1)
    height, width = pixels.shape[:2]
    inside = 0 <= row < height and 0 <= column < width
    return pixels[row, column] if inside else torch.zeros_like(pixels[0, 0])


@pytest.mark.parametrize("shape", LAYOUTS)
def test_flip(shape: tuple[int, ...]) -> None:
    x = images(20, shape)
    out = augment(x, ("flip",), generator())
    mirrored = torch.rand(20, generator=generator()) < 0.5
    assert 0 < mirrored.sum() < 20
    assert out.shape == x.shape
    for image, changed, mirror in zip(x, out, mirrored, strict=True):
        for row, column in itertools.product(range(6), range(9)):
            expected = at(image, row, 8 - column if mirror else column)
            assert torch.equal(at(changed, row, column), expected)


@pytest.mark.parametrize("shape", LAYOUTS)
def test_crop(shape: tuple[int, ...]) -> None:
    x = images(20, shape)
    out = augment(x, ("crop",), generator())
    draws = generator()
    down, right = (torch.randint(3, (20, 1), generator=draws) - 1 for _ in range(2))
    assert out.shape == x.shape
    for image, changed, i, j in zip(x, out, down, right, strict=True):
        for row, column in itertools.product(range(6), range(9)):
            expected = at(image, row + int(i), column + int(j))
            assert torch.equal(at(changed, row, column), expected)


@pytest.mark.parametrize(("side", "reach"), [(2, 1), (7, 1), (15, 1), (16, 2), (28, 3), (32, 4)])
def test_crop_moves_by_up_to_an_eighth(side: int, reach: int) -> None:
    x = torch.zeros(4000, side, side)
    x[:, 0, 0] = 1  # marks the corner, which may be cut off
    out = augment(x, ("crop",), generator())
    corners = out.flatten(1).argmax(1)[out.flatten(1).any(1)]
    rows, columns = corners // side, corners % side
    assert rows.unique().tolist() == columns.unique().tolist() == list(range(reach + 1))


def test_augmentations_are_uniform() -> None:
    x = images(1, (32, 32)).expand(20_000, 32, 32)
    flipped = augment(x, ("flip",), generator())[:, 0, 0] != 1
    assert abs(flipped.double().mean() - 0.5) < 0.02  # six standard deviations
    corners = augment(x, ("crop",), generator())[:, 4, 4]  # identifies one of 9 x 9 shifts
    counts = torch.unique(corners, return_counts=True)[1]
    assert len(counts) == 81
    assert counts.min() > 150  # 247 expected, standard deviation 16
    assert counts.max() < 350


def test_augmentations_are_applied_in_order() -> None:
    x = images(30, (3, 8, 8))
    draws = generator()
    by_hand = augment(augment(x, ("flip",), draws), ("crop",), draws)
    assert torch.equal(augment(x, ("flip", "crop"), generator()), by_hand)
    assert not torch.equal(augment(x, ("crop", "flip"), generator()), by_hand)
    assert torch.equal(augment(x, (), generator()), x)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.uint8])
def test_augmentation_preserves_dtype_and_input(kind: str, dtype: torch.dtype) -> None:
    x = images(5, (3, 4, 4)).to(dtype)
    before = x.clone()
    assert augment(x, (kind,), generator()).dtype == dtype
    assert torch.equal(x, before)


def test_refusals() -> None:
    x = torch.zeros(2, 4, 4)
    with pytest.raises(OptionError, match=r"augmentation 'flop'; known: crop, flip.*'flip'"):
        augment(x, ("crop", "flop"), generator())
    for shape in ((2, 5), (2, 4, 5, 6), (2, 3, 4, 5, 6), (2,)):
        with pytest.raises(DataError, match=r"allowed are \(H, W\), \(C, H, W\) or .*Remedy"):
            augment(torch.zeros(shape), ("flip",), generator())


# layouts


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        *(((4, 5), None), ((1, 4, 5), 0), ((3, 4, 5), 0), ((4, 5, 1), 2), ((4, 5, 3), 2)),
        *(((3, 5, 3), 2), ((1, 1), None), ((3, 3, 5), 0)),
    ],
)
def test_channel_axis(shape: tuple[int, ...], axis: int | None) -> None:
    assert channel_axis(shape) == axis


@pytest.mark.parametrize("shape", LAYOUTS)
def test_channels_first(shape: tuple[int, ...]) -> None:
    x = images(2, shape)
    view = channels_first(x)
    assert view.shape == (2, 1 if len(shape) == 2 or 1 in shape else 3, 6, 9)
    for n, row, column in itertools.product(range(2), range(6), range(9)):
        assert torch.equal(view[n, :, row, column], at(x[n], row, column).reshape(-1))
