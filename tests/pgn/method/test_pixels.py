"""Pixels as the networks see them."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import functional

from pgn.backbone_spec import Preprocess
from pgn.method.pixels import Normalise

CLIP = Preprocess(
    size=4,
    interpolation="bicubic",
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)


def test_pixels_become_what_torchvision_makes_of_them() -> None:
    """The same arithmetic as `to_tensor` and `normalize`, so published weights see what they were trained on."""
    pixels = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = [functional.normalize(functional.to_tensor(image.numpy()), CLIP.mean, CLIP.std) for image in pixels]
    torch.testing.assert_close(Normalise(CLIP)(pixels), torch.stack(wanted), rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [0, 255])
def test_the_ends_of_the_range(value: int) -> None:
    """Black and white are -mean / std and (1 - mean) / std in each channel."""
    given = Normalise(CLIP)(torch.full((1, 4, 4, 3), value, dtype=torch.uint8))[0, :, 0, 0]
    wanted = [(value / 255 - mean) / std for mean, std in zip(CLIP.mean, CLIP.std, strict=True)]
    assert given.tolist() == pytest.approx(wanted, abs=1e-6)
