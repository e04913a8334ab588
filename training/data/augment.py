"""Random changes of uint8 images. Each image has its own source of chance, named by seed, epoch and draw.

So what happens to an image depends neither on the batch it is in nor on the process that computes it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch import Tensor

_JITTER, _HUE = 0.4, 0.4  # the paper's colour jitter: factors in 1 ± 0.4, hue turned by up to ± 0.4 of the circle
_JITTER_SHARE, _GREY_SHARE, _SOLARISE_SHARE, _SOLARISE_FROM = 0.8, 0.2, 0.2, 128


def sample_rngs(draws: Tensor, *, seed: int, epoch: int) -> list[torch.Generator]:
    """B sources of chance for the (B, 2) draws of `epoch_batches`; equal draws of an epoch have equal ones."""
    return [
        torch.Generator().manual_seed(_hash(struct.pack("<4Q", seed, epoch, image, before)))
        for image, before in draws.tolist()
    ]


def _hash(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1  # 63 bits, as seeds may have


def augment(
    kind: Literal["small", "paper", "none"],
    frames: Sequence[np.ndarray],
    rngs: Sequence[torch.Generator],
    *,
    shift: float,
    flip: bool,
    upside_down: bool = False,
) -> Tensor:
    """Images as a training step sees them.

    Args:
        kind: `small` shifts and mirrors; `paper` changes colours and mirrors; `none` leaves images alone.
        frames: B images, (S, S, 3) uint8 each. For `paper` one side may be longer; a random square of it is taken.
        rngs: B sources of chance.
        shift: Largest offset for `small`, as a share of the side.
        flip: Whether mirrored images keep their meaning.
        upside_down: Whether images upside down do, too; of interest to `paper` alone, which turns CLEVR's.

    Returns:
        (B, S, S, 3) uint8.
    """
    if kind == "paper":
        frames = [
            _paper(frame, rng, flip=flip, upside_down=upside_down) for frame, rng in zip(frames, rngs, strict=True)
        ]
    pixels = torch.from_numpy(np.stack(frames))
    return shift_and_flip(pixels, rngs, shift=shift, flip=flip) if kind == "small" else pixels


def shift_and_flip(pixels: Tensor, rngs: Sequence[torch.Generator], *, shift: float, flip: bool) -> Tensor:
    """Each image moved by its own random offset, and mirrored half of the time if `flip`.

    Shapes as in `augment`. What comes in at an edge repeats it.
    """
    count, side = pixels.shape[:2]
    reach = round(side * shift)
    offsets = torch.stack([torch.randint(-reach, reach + 1, (2, 1), generator=rng) for rng in rngs], dim=1)
    rows, columns = (torch.arange(side) + offsets).clamp(0, side - 1)  # (B, S) each
    if flip:
        mirrored = torch.cat([torch.rand(1, generator=rng) < 0.5 for rng in rngs])
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return pixels[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _paper(frame: np.ndarray, rng: torch.Generator, *, flip: bool, upside_down: bool) -> np.ndarray:
    """The paper's changes of one frame, in its order: crop, colour jitter, grey, solarise, mirror.

    The crop moves along the longer side, which only CLEVR's frames have. Source: Loedeman et al., BMVC 2024, released
    code; probabilities and ranges are torchvision's terms.
    """
    image = Image.fromarray(_random_square(frame, rng))
    if _chance(rng) < _JITTER_SHARE:
        image = _jitter(image, rng)
    if _chance(rng) < _GREY_SHARE:
        image = TF.rgb_to_grayscale(image, num_output_channels=3)
    if _chance(rng) < _SOLARISE_SHARE:
        image = TF.solarize(image, _SOLARISE_FROM)
    if flip and _chance(rng) < 0.5:
        image = TF.hflip(image)
    if upside_down and _chance(rng) < 0.5:
        image = TF.vflip(image)
    return np.asarray(image)


def _random_square(frame: np.ndarray, rng: torch.Generator) -> np.ndarray:
    """As large as the shorter side, anywhere along the longer one; a square costs no chance."""
    rows, columns = frame.shape[:2]
    if rows == columns:
        return frame
    start = int(torch.randint(abs(rows - columns) + 1, (), generator=rng))
    return frame[start : start + columns] if rows > columns else frame[:, start : start + rows]


def _jitter(image: Image.Image, rng: torch.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue, in random order."""
    changes: list[tuple[Callable[[Image.Image, float], Image.Image], float]] = [
        (change, 1 + _JITTER * (2 * _chance(rng) - 1))
        for change in (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)
    ]
    changes.append((TF.adjust_hue, _HUE * (2 * _chance(rng) - 1)))
    for number in torch.randperm(len(changes), generator=rng).tolist():
        change, factor = changes[number]
        image = change(image, factor)
    return image


def _chance(rng: torch.Generator) -> float:
    return torch.rand((), generator=rng).item()
