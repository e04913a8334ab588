"""Which images make up a step."""

from __future__ import annotations

import torch

from training.data.batches import epoch_batches


def test_an_epoch_of_one_set_holds_every_image_once() -> None:
    """Nothing is lost at the end of an epoch, and nothing has been drawn before."""
    batches = epoch_batches(torch.zeros(10, dtype=torch.int64), 4, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    images, before = torch.cat(batches).T
    assert sorted(images.tolist()) == list(range(10))
    assert not before.any()


def test_the_sets_of_a_union_give_equal_shares() -> None:
    """10 images of one set and 90 of the other: 50 draws each, every small-set image five times."""
    groups = torch.tensor([0] * 10 + [1] * 90)
    images, before = torch.cat(epoch_batches(groups, 16, seed=0, epoch=0)).T
    counts = torch.bincount(images, minlength=100)
    assert set(counts[:10].tolist()) == {5}
    assert sorted(set(counts[10:].tolist())) == [0, 1]
    assert sorted(before[images == 3].tolist()) == [0, 1, 2, 3, 4]


def test_order_depends_on_seed_and_epoch_alone() -> None:
    """What a resumed run relies on."""
    groups = torch.zeros(20, dtype=torch.int64)
    first = torch.cat(epoch_batches(groups, 5, seed=1, epoch=3))
    assert torch.equal(first, torch.cat(epoch_batches(groups, 5, seed=1, epoch=3)))
    assert torch.equal(first, torch.cat(epoch_batches(groups, 10, seed=1, epoch=3)))
    assert not torch.equal(first, torch.cat(epoch_batches(groups, 5, seed=1, epoch=4)))
    assert not torch.equal(first, torch.cat(epoch_batches(groups, 5, seed=2, epoch=3)))


def test_a_last_batch_with_less_than_two_images_a_part_is_dropped() -> None:
    """BatchNorm cannot train on a single image of one pixel."""
    groups = torch.zeros(9, dtype=torch.int64)
    assert [len(batch) for batch in epoch_batches(groups, 4, seed=0, epoch=0)] == [4, 4]
    assert [len(batch) for batch in epoch_batches(groups, 6, seed=0, epoch=0, parts=2)] == [6]
    assert epoch_batches(groups, 100, seed=0, epoch=0, parts=5) == []
