"""Pixels as the networks see them: the second half of a backbone's preprocessing, after `pgn.images`."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pgn.backbone_spec import Preprocess


class Normalise(nn.Module):
    """(B, S, S, 3) uint8 squares to (B, 3, S, S) float32 input, on this module's device."""

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(x / 255 - mean) / std by channel."""
        mean, std = cast("Tensor", self.mean), cast("Tensor", self.std)
        return (pixels.to(mean.device).permute(0, 3, 1, 2).float() / 255 - mean) / std
