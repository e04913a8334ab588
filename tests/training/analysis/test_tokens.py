"""The library in use."""

from __future__ import annotations

import pytest
import torch

from training.analysis.tokens import library_usage, token_gallery


def test_one_token_for_everything_counts_as_one() -> None:
    """And no image changes anything."""
    mixture = torch.zeros(5, 2, 4)
    mixture[..., 1] = 1
    usage = library_usage(mixture)
    assert usage.shares.tolist() == [0, 1, 0, 0]
    assert (usage.effective, usage.mixed, usage.varied) == pytest.approx((1, 1, 0))


def test_a_flat_mixture_uses_every_token_alike() -> None:
    """Each prompt is made of all four."""
    usage = library_usage(torch.full((5, 2, 4), 0.25))
    assert (usage.effective, usage.mixed, usage.varied) == pytest.approx((4, 4, 0))


def test_prompts_that_follow_the_image_vary() -> None:
    """Two images, each with a token of its own: two tokens in use, one in a prompt, half of each share is moved."""
    usage = library_usage(torch.eye(2)[:, None, :])
    assert (usage.effective, usage.mixed, usage.varied) == pytest.approx((2, 1, 0.5))


def test_the_gallery_begins_with_the_token_that_differs_most() -> None:
    """Token 2 is high on image 1; token 0 is the same everywhere."""
    mixture = torch.tensor([[[0.5, 0.4, 0.1]], [[0.5, 0.0, 0.5]], [[0.5, 0.3, 0.2]]])
    (token, images), (second, _) = token_gallery(mixture, 2, 2)
    assert {token, second} == {1, 2}
    best = dict(token_gallery(mixture, 3, 1))
    assert best[2] == [(1, pytest.approx(0.5))]
    assert best[1] == [(0, pytest.approx(0.4))]
    assert len(images) == 2
