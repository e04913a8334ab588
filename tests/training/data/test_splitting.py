"""Splits share nothing and look alike."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from training.data.splitting import draw_share, draw_stratified

LABELS = [0] * 60 + [1] * 30 + [2] * 10
CLASSES = ("a", "b", "c")
SHARES = {"val": 0.1, "test": 0.2}


def test_every_image_is_in_exactly_one_part() -> None:
    """An image in two splits would make the test accuracy a lie."""
    parts = draw_stratified(LABELS, SHARES, CLASSES)
    assert sorted(index for part in parts for index in part) == list(range(100))


def test_every_part_has_the_same_mix_of_classes() -> None:
    """Stratified: 10 % and 20 % of each class, not only of the whole."""
    counts = [Counter(LABELS[i] for i in part) for part in draw_stratified(LABELS, SHARES, CLASSES)]
    assert counts == [{0: 42, 1: 21, 2: 7}, {0: 6, 1: 3, 2: 1}, {0: 12, 1: 6, 2: 2}]


def test_the_draw_is_always_the_same() -> None:
    """Runs of different seeds are compared on the same test images."""
    assert draw_stratified(LABELS, SHARES, CLASSES) == draw_stratified(LABELS, SHARES, CLASSES)


def test_a_class_with_too_few_images_is_named() -> None:
    """With what its images are needed for: one cannot be in three splits."""
    with pytest.raises(ValueError, match=r"^class 'b' has 2 images, but needs 3: one each for train, val and test$"):
        draw_stratified([0, 0, 0, 1, 1], SHARES, ("a", "b"))
    with pytest.raises(ValueError, match=r"^class 'b' has 1 image, but needs 2: one each for train and test$"):
        draw_stratified([0, 0, 0, 1], {"test": 0.2}, ("a", "b"))


def test_copies_of_a_picture_go_into_one_part() -> None:
    """What is asked about was never learned from, also under another name, and by another class's name."""
    copy_of = list(range(100))
    copy_of[3] = copy_of[47] = copy_of[95] = 0
    copy_of[70] = 61
    parts = draw_stratified(LABELS, SHARES, CLASSES, copy_of)
    assert sorted(index for part in parts for index in part) == list(range(100))
    of_image = {index: number for number, part in enumerate(parts) for index in part}
    assert len({of_image[index] for index in (0, 3, 47, 95)}) == 1
    assert of_image[70] == of_image[61]
    assert all({LABELS[index] for index in part} == {0, 1, 2} for part in parts)


def test_a_copy_of_an_image_that_is_elsewhere_stays_in_the_first_part() -> None:
    """A split that was given holds it, so no other that is drawn may."""
    copy_of = [-1 if index % 2 else index for index in range(100)]
    train, val, test = draw_stratified(LABELS, SHARES, CLASSES, copy_of)
    assert set(range(1, 100, 2)) < set(train)
    assert val
    assert test


def test_without_copies_the_draw_is_that_of_different_images() -> None:
    """A look for copies that finds none moves no image, so older results stay comparable."""
    assert draw_stratified(LABELS, SHARES, CLASSES, list(range(100))) == draw_stratified(LABELS, SHARES, CLASSES)


def test_copies_do_not_fill_a_part_of_their_own() -> None:
    """Three names of one picture are one image to draw."""
    with pytest.raises(
        ValueError, match=r"^class 'b' has 4 images, 2 of them copies of others, but needs 3: one each for"
    ):
        draw_stratified([0, 0, 0, 1, 1, 1, 1], SHARES, ("a", "b"), [0, 1, 2, 3, 3, 5, 3])


def test_a_share_has_the_same_mix_of_classes() -> None:
    """And at least one image of each, however small it is."""
    assert Counter(LABELS[i] for i in draw_share(LABELS, 0.2)) == {0: 12, 1: 6, 2: 2}
    assert Counter(LABELS[i] for i in draw_share(LABELS, 0.01)) == {0: 1, 1: 1, 2: 1}


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    """A curve over shares adds images and never trades them."""
    shares = [set(draw_share(LABELS, share)) for share in (0.05, 0.25, 0.5, 1.0)]
    assert all(small < large for small, large in pairwise(shares))
    assert shares[-1] == set(range(100))
