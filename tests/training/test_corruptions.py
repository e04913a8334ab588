"""Corrupted images: always the same, and worse with strength."""

from __future__ import annotations

import numpy as np
import pytest

from pgn.images import decode_rgb, fit_square
from tests.toys import make_images
from training.corruptions import CORRUPTIONS, STRENGTHS, corrupt


@pytest.fixture
def square() -> np.ndarray:
    """(48, 48, 3) uint8, coloured and smooth."""
    return fit_square(decode_rgb(make_images(1, seed=3)[0]), 48, "bicubic")


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_keeps_shape_and_type_and_changes_the_image(kind: str, square: np.ndarray) -> None:
    """What comes out goes the same way as a clean image."""
    for strength in STRENGTHS:
        changed = corrupt(square, kind, strength, sample=0)
        assert (changed.shape, changed.dtype) == (square.shape, np.uint8)
        assert (changed != square).any()


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_sample_is_always_corrupted_alike(kind: str, square: np.ndarray) -> None:
    """Every method sees the same pixels, in whatever order it asks."""
    first = corrupt(square, kind, 2, sample=7)
    corrupt(square, kind, 2, sample=8)
    assert (corrupt(square, kind, 2, sample=7) == first).all()


@pytest.mark.parametrize("kind", ["gaussian_noise", "impulse_noise", "glass_blur", "snow", "fog", "elastic_transform"])
def test_samples_are_corrupted_each_in_its_own_way(kind: str, square: np.ndarray) -> None:
    """One unlucky draw does not decide."""
    assert (corrupt(square, kind, 2, sample=0) != corrupt(square, kind, 2, sample=1)).any()


@pytest.mark.parametrize(
    "kind", [kind for kind in CORRUPTIONS if kind not in ("elastic_transform", "snow", "fog", "glass_blur")]
)
def test_more_strength_is_further_from_the_image(kind: str, square: np.ndarray) -> None:
    """Strength is meant to hurt. (Weather and warps change in kind as they grow, so pixels do not measure them.)"""
    distances = [np.abs(corrupt(square, kind, s, sample=1).astype(float) - square).mean() for s in STRENGTHS]
    assert distances == sorted(distances)


def test_an_image_of_one_colour_survives_every_blur() -> None:
    """Kernels sum to 1, and the edge is mirrored, not darkened."""
    plain = np.full((40, 40, 3), (200, 100, 30), np.uint8)
    for kind in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate", "contrast"):
        assert np.abs(corrupt(plain, kind, 3, sample=0).astype(int) - plain).max() <= 1, kind


def test_fourteen_of_fifteen_kinds_are_there() -> None:
    """All but frost."""
    assert len(CORRUPTIONS) == 14
