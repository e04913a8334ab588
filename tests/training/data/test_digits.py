"""The digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from training.data.digits import digits


def test_a_tenth_validates_and_a_fifth_tests() -> None:
    """70/10/20 of 1,797 images."""
    dataset = digits()
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (1259, 179, 359)


def test_values_span_the_bytes() -> None:
    """0..16 of the source become 0..255: as pale originals they would not look like any other image."""
    pixels = np.stack([np.asarray(example.read()) for example in digits().train[:50]])
    assert pixels.shape == (50, 8, 8, 3)
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_digits_are_not_mirrored() -> None:
    """A mirrored 2 is no 2."""
    assert not digits().flip
