"""Image encoders of the prompt generator: a picture becomes one feature vector.

ResNet10 is the paper's: ResNet18 with one block a stage and a first layer of 16 channels. Its quirks (a stride-2 stem
of 3 x 3, skips with bias and without norm) are those of the authors' code, so that their checkpoints load.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a skip; the skip is a biased 1 x 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = torch.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return torch.relu(y + self.skip(x))


class ResNet10(nn.Module):
    """Four residual blocks of `width`, 2, 4 and 8 times `width` channels, averaged over space.

    Source: Loedeman et al., BMVC 2024, supplement; github.com/jochemloedeman/PGN at fe5ebc2.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = 8 * width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        channels = [width, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(inputs, outputs, stride=1 if inputs == outputs else 2)
                for inputs, outputs in pairwise(channels)
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, features)."""
        features: Tensor = self.blocks(self.stem(images))  # (B, features, H / 32, W / 32)
        return features.mean(dim=(2, 3))
