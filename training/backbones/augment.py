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
    """Return normalised views (B, 3, size, size) float32 in -1..1 and which of them are mirrored, (B,) bool.

    Args:
        images: (B, 3, H, W) uint8.
        size_px: the student's input.
        augmentation: how often and how far.
        generator: source of every draw.
    """
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    grey = torch.rand(len(images), generator=generator) < augmentation.grey
    toned = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    luma = (toned[grey] * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    toned[grey] = luma.round().to(torch.uint8).expand(-1, 3, -1, -1)
    views = []
    for part in torch.split(toned, augmentation.chunk):
        if torch.rand((), generator=generator) < augmentation.coarse:
            low, high = augmentation.coarse_px
            part = _resize(part, int(torch.randint(low, high + 1, (), generator=generator)))
        views.append(_resize(part, size_px))
    return torch.cat(views) / 127.5 - 1, mirrored


def _resize(images: Tensor, side_px: int) -> Tensor:
    """Resize bytes as Pillow does; in bytes this is several times as fast as in floats."""
    return interpolate(images, size=(side_px, side_px), mode="bicubic", antialias=True)


def mirror_grid(indices: Tensor, mirrored: Tensor, grid: int) -> Tensor:
    """Return where the patches `indices` (B, K) of a mirrored view lie in the image that was not mirrored."""
    row, column = indices // grid, indices % grid
    return row * grid + torch.where(mirrored[:, None], grid - 1 - column, column)
