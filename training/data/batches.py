"""Which images make up each training step: a pure function of seed and epoch, so a resumed run repeats it."""

from __future__ import annotations

import torch
from torch import Tensor


def epoch_batches(groups: Tensor, batch_size: int, *, seed: int, epoch: int, parts: int = 1) -> list[Tensor]:
    """The draws of one epoch, shuffled, a batch for each step.

    Every group (data set of a union) gives the same number of images, so a small set is not drowned by a large one:
    a large group is sampled without repetition, a small one is repeated whole before any image comes again. With one
    group, every image comes exactly once, but for those of a last step that is dropped (`parts`).

    Args:
        groups: (M) int64 group of each image, from 0 without gaps.
        batch_size: Images of a step.
        seed: Of the run.
        epoch: Counted from 0.
        parts: Micro-batches that a step is split into. A last step without two images for each of them is dropped,
            since BatchNorm needs two.

    Returns:
        Batches of draws, about M together: (B, 2) int64, the image's index and how often this epoch drew it before.
    """
    rng = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    count = int(groups.max()) + 1
    share = len(groups) // count
    drawn = [_draw(torch.nonzero(groups == group).flatten(), share, rng) for group in range(count)]
    order = torch.cat(drawn)
    batches = order[torch.randperm(len(order), generator=rng)].split(batch_size)
    return [batch for batch in batches if len(batch) >= 2 * parts]


def _draw(members: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """(count, 2) draws from (M) members, in rounds."""
    size = len(members)
    rounds = -(-count // size)
    images = torch.cat([members[torch.randperm(size, generator=rng)] for _ in range(rounds)])
    return torch.stack([images, torch.arange(rounds).repeat_interleave(size)], dim=1)[:count]
