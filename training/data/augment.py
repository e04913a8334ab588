"""Random shift and mirroring of uint8 squares."""

from __future__ import annotations

import torch
from torch import Tensor


def shift_and_flip(pixels: Tensor, *, shift: float, flip: bool, rng: torch.Generator) -> Tensor:
    """Each image moved by its own random offset, and mirrored half of the time if `flip`.

    Args:
        pixels: (B, S, S, 3) uint8.
        shift: Largest offset as a share of the side; what comes in repeats the image's edge.
        flip: Whether mirrored images keep their meaning.
        rng: The only source of chance.

    Returns:
        (B, S, S, 3) uint8.
    """
    count, side = pixels.shape[:2]
    reach = round(side * shift)
    offsets = torch.randint(-reach, reach + 1, (2, count, 1), generator=rng)
    rows, columns = (torch.arange(side) + offsets).clamp(0, side - 1)  # (B, S) each
    if flip:
        columns = torch.where(torch.rand(count, 1, generator=rng) < 0.5, columns.flip(1), columns)
    return pixels[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
