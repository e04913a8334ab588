"""Random shift and mirroring."""

from __future__ import annotations

import torch

from training.data.augment import shift_and_flip

PIXELS = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_without_shift_and_flip_nothing_changes() -> None:
    """Both can be turned off."""
    assert torch.equal(shift_and_flip(PIXELS, shift=0.0, flip=False, rng=_rng()), PIXELS)


def test_a_mirrored_image_is_mirrored_from_left_to_right() -> None:
    """About half of the images, never upside down."""
    result = shift_and_flip(PIXELS, shift=0.0, flip=True, rng=_rng())
    mirrored = [torch.equal(after, before.flip(1)) for after, before in zip(result, PIXELS, strict=True)]
    kept = [torch.equal(after, before) for after, before in zip(result, PIXELS, strict=True)]
    assert 0 < sum(mirrored) < 8
    assert sum(mirrored) + sum(kept) == 8


def test_a_shifted_image_repeats_its_edge() -> None:
    """No black border that only training images have; every offset is at most 1/8 of the side."""
    ramp = torch.arange(16, dtype=torch.uint8).view(1, 1, 16, 1).expand(8, 16, 16, 3)
    result = shift_and_flip(ramp, shift=0.125, flip=False, rng=_rng())
    first, last = result[:, 0, 0, 0], result[:, 0, -1, 0]
    assert first.max() <= 2
    assert last.min() >= 13
    assert len({(int(a), int(b)) for a, b in zip(first, last, strict=True)}) > 1
