"""What the student sees of a training image: flipped, sometimes coarse, sometimes grey.

Coarse views matter most: downstream images are often smaller than the student's input, and a student that has only
seen sharp ones keeps falling in loss while its nearest neighbours on small images stop improving.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts to grey


@dataclass(frozen=True)
class Augmentation:
    """How often, and how far, a view differs from its image."""

    chunk: int = 64  # images that share one resolution: a batch is resized in few calls
    coarse: float = 0.65
    coarse_px: tuple[int, int] = (22, 63)
    grey: float = 0.15


def student_view(
    images: Tensor, size_px: int, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return normalised views (B, 3, size, size) float32 in about -1..1 and which of them are mirrored, (B,) bool.

    Args:
        images: (B, 3, H, W) uint8.
        size_px: the student's input.
        augmentation: how often and how far.
        generator: source of every draw.
    """
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    grey = torch.rand(len(images), generator=generator) < augmentation.grey
    flipped = torch.where(mirrored[:, None, None, None], images.flip(3), images) / 127.5 - 1
    luma = (flipped * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    toned = torch.where(grey[:, None, None, None], luma, flipped)
    views = []
    for part in torch.split(toned, augmentation.chunk):
        if torch.rand((), generator=generator) < augmentation.coarse:
            low, high = augmentation.coarse_px
            side = int(torch.randint(low, high + 1, (), generator=generator))
            part = interpolate(part, size=(side, side), mode="bicubic", antialias=True)
        views.append(interpolate(part, size=(size_px, size_px), mode="bicubic").clamp(-1, 1))
    return torch.cat(views), mirrored


def mirror_grid(indices: Tensor, mirrored: Tensor, grid: int) -> Tensor:
    """Return where the patches `indices` (B, K) of a mirrored view lie in the image that was not mirrored."""
    row, column = indices // grid, indices % grid
    return row * grid + torch.where(mirrored[:, None], grid - 1 - column, column)
