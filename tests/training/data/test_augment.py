"""Random changes of training images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.data.augment import augment, sample_rngs, shift_and_flip

PIXELS = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
FRAMES = [*PIXELS.numpy()]
DRAWS = torch.stack([torch.arange(8), torch.zeros(8, dtype=torch.int64)], dim=1)


def _rngs(draws: torch.Tensor = DRAWS, *, seed: int = 1, epoch: int = 0) -> list[torch.Generator]:
    return sample_rngs(draws, seed=seed, epoch=epoch)


@pytest.mark.parametrize("kind", ["small", "paper"])
def test_what_happens_to_an_image_does_not_depend_on_its_batch(kind: str) -> None:
    """So micro-batches and processes can be cut in any way."""
    whole = augment(kind, FRAMES, _rngs(), shift=0.2, flip=True)
    part = augment(kind, [FRAMES[6], FRAMES[2]], _rngs(DRAWS[[6, 2]]), shift=0.2, flip=True)
    assert torch.equal(part, whole[[6, 2]])


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 1}, {"draws": DRAWS + torch.tensor([0, 1])}])
def test_another_seed_epoch_or_draw_is_another_change(other: dict) -> None:
    """A small set of a union is drawn several times an epoch, and never twice the same."""
    first = augment("paper", FRAMES, _rngs(), shift=0.0, flip=True)
    assert not torch.equal(first, augment("paper", FRAMES, _rngs(**other), shift=0.0, flip=True))


def test_none_leaves_images_alone() -> None:
    """To the last bit."""
    assert torch.equal(augment("none", FRAMES, _rngs(), shift=0.5, flip=True), PIXELS)


def test_the_papers_changes_leave_some_images_alone_and_solarise_others() -> None:
    """Jitter with probability 0.8, grey 0.2, solarise 0.2: 0.13 of the images keep their colours, 0.2 and more are
    grey, and images that may not be mirrored are not."""
    draws = torch.stack([torch.arange(400), torch.zeros(400, dtype=torch.int64)], dim=1)
    image = PIXELS[:1].expand(400, -1, -1, -1)
    changed = augment("paper", [*image.numpy()], _rngs(draws), shift=0.0, flip=False)
    same = (changed == image).flatten(1).all(1).float().mean().item()
    grey = (changed == changed[..., :1]).flatten(1).all(1).float().mean().item()
    assert 0.08 < same < 0.18
    assert 0.14 < grey < 0.26


def test_of_a_square_the_papers_mirror_is_the_only_change_of_place() -> None:
    """The crop covers all of it."""
    marked = torch.zeros(200, 8, 8, 3, dtype=torch.uint8)
    marked[:, :, 0] = 255
    draws = torch.stack([torch.arange(200), torch.zeros(200, dtype=torch.int64)], dim=1)
    changed = augment("paper", [*marked.numpy()], _rngs(draws), shift=0.0, flip=True).float().mean(3)  # (200, 8, 8)
    edges = torch.stack([changed[:, :, 0].mean(1), changed[:, :, -1].mean(1)], dim=1)
    inner = changed[:, :, 1:-1]
    assert (inner.flatten(1).std(1) == 0).all()
    assert 60 < (edges[:, 0] < edges[:, 1]).sum() < 140


@pytest.mark.parametrize("along", ["rows", "columns"])
def test_of_a_longer_frame_the_paper_takes_a_square_anywhere_along_its_longer_side(along: str) -> None:
    """As the authors do with CLEVR's scenes; from the first to the last place, and another one for each draw."""
    ramp = np.broadcast_to(np.arange(24, dtype=np.uint8)[None, :, None], (16, 24, 3))
    frame = ramp if along == "columns" else ramp.transpose(1, 0, 2)
    draws = torch.stack([torch.arange(200), torch.zeros(200, dtype=torch.int64)], dim=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.data.augment._chance", lambda _: 1.0)  # neither colours nor mirrors
        squares = augment("paper", [frame] * 200, _rngs(draws), shift=0.0, flip=True, upside_down=True)
    assert squares.shape == (200, 16, 16, 3)
    lines = squares[:, 0, :, 0] if along == "columns" else squares[:, :, 0, 0]
    starts = lines[:, 0]
    assert torch.equal(lines, starts[:, None] + torch.arange(16, dtype=torch.uint8))
    assert set(starts.tolist()) == set(range(9))


def test_what_may_be_is_turned_upside_down_half_of_the_time() -> None:
    """As the authors do with CLEVR, whose counts stay what they are; a few are solarised, so light and dark change."""
    marked = torch.zeros(200, 8, 8, 3, dtype=torch.uint8)
    marked[:, 0] = 255
    draws = torch.stack([torch.arange(200), torch.zeros(200, dtype=torch.int64)], dim=1)

    def turned(*, upside_down: bool) -> int:
        changed = augment(
            "paper", [*marked.numpy()], _rngs(draws), shift=0.0, flip=True, upside_down=upside_down
        ).float()
        return int((changed[:, 0].mean((1, 2)) < changed[:, -1].mean((1, 2))).sum())

    assert 60 < turned(upside_down=True) < 140
    assert turned(upside_down=False) < 20


def test_without_shift_and_flip_nothing_changes() -> None:
    """Both can be turned off."""
    assert torch.equal(shift_and_flip(PIXELS, _rngs(), shift=0.0, flip=False), PIXELS)


def test_a_mirrored_image_is_mirrored_from_left_to_right() -> None:
    """About half of the images, never upside down."""
    result = shift_and_flip(PIXELS, _rngs(), shift=0.0, flip=True)
    mirrored = [torch.equal(after, before.flip(1)) for after, before in zip(result, PIXELS, strict=True)]
    kept = [torch.equal(after, before) for after, before in zip(result, PIXELS, strict=True)]
    assert 0 < sum(mirrored) < 8
    assert sum(mirrored) + sum(kept) == 8


def test_a_shifted_image_repeats_its_edge() -> None:
    """No black border that only training images have; every offset is at most 1/8 of the side."""
    ramp = torch.arange(16, dtype=torch.uint8).view(1, 1, 16, 1).expand(8, 16, 16, 3)
    result = shift_and_flip(ramp, _rngs(), shift=0.125, flip=False)
    first, last = result[:, 0, 0, 0], result[:, 0, -1, 0]
    assert first.max() <= 2
    assert last.min() >= 13
    assert len({(int(a), int(b)) for a, b in zip(first, last, strict=True)}) > 1
