"""Pixels as the networks see them: the second half of a backbone's preprocessing, after `pgn.images`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgn.backbone_spec import Preprocess


class Normalise(nn.Module):
    """(B, S, S, 3) uint8 squares to (B, 3, S, S) float32 input, on this module's device."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(x / 255 - mean) / std by channel; the image may be higher than S."""
        return self.rgb(pixels.to(self.mean.device).permute(0, 3, 1, 2).float() / 255)

    def rgb(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) RGB in 0..1 -> the same, normalised: (x - mean) / std by channel."""
        return (images.to(self.mean.device) - self.mean) / self.std
