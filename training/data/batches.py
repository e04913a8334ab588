"""Which images make up each training batch: a pure function of seed and epoch, so a resumed run repeats it."""

from __future__ import annotations

import torch
from torch import Tensor


def epoch_batches(groups: Tensor, batch_size: int, *, seed: int, epoch: int) -> list[Tensor]:
    """Index batches of one epoch, shuffled.

    Every group (data set of a union) gives the same number of images, so a small set is not drowned by a large one:
    a large group is sampled without repetition, a small one is repeated whole before any image comes again. With one
    group, every image comes exactly once.

    Args:
        groups: (M) int64 group of each image, from 0 without gaps.
        batch_size: Images in a batch; a last batch of a single image is dropped, since BatchNorm needs two.
        seed: Of the run.
        epoch: Counted from 0.

    Returns:
        Batches of int64 indices, about M images together.
    """
    rng = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    count = int(groups.max()) + 1
    share = len(groups) // count
    drawn = [_draw(torch.nonzero(groups == group).flatten(), share, rng) for group in range(count)]
    order = torch.cat(drawn)
    batches = order[torch.randperm(len(order), generator=rng)].split(batch_size)
    return [batch for batch in batches if len(batch) > 1]


def _draw(members: Tensor, count: int, rng: torch.Generator) -> Tensor:
    rounds = -(-count // len(members))
    return torch.cat([members[torch.randperm(len(members), generator=rng)] for _ in range(rounds)])[:count]
