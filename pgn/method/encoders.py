"""Image encoders of the prompt generator: a picture becomes one feature vector.

ResNet10 is the paper's: ResNet18 with one block a stage and a first layer of 16 channels. Its quirks (a stride-2 stem
of 3 x 3, skips with bias and without norm) are those of the authors' code, so that their checkpoints load. ResNet18 and
the MLP on pixels are the paper's ablations. Every encoder has `features`, the width of what it gives.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.bundle import GeneratorSpec


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


class ResNet18(nn.Module):
    """torchvision's ResNet18 without its classifier: 11,176,512 parameters, 512 features.

    It begins with random weights; `net` takes the state of torchvision's ImageNet file, but for `fc`.
    """

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet18  # slow to import, and rarely the encoder

        self.net = resnet18()
        self.features = self.net.fc.in_features
        self.net.fc = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, 512)."""
        features: Tensor = self.net(images)
        return features


class CentrePixels(nn.Module):
    """One layer on the pixels of a centre crop: with the linear projection behind it, the paper's MLP of two layers.

    Args:
        crop: Side of the crop in pixels.
        hidden: Width of the layer, and so of the features. The paper gives neither number.
    """

    def __init__(self, crop: int, hidden: int) -> None:
        super().__init__()
        self.crop = crop
        self.features = hidden
        self.layer = nn.Linear(3 * crop * crop, hidden)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images, at least as large as the crop -> (B, hidden)."""
        top, left = ((side - self.crop) // 2 for side in images.shape[2:])
        centre = images[:, :, top : top + self.crop, left : left + self.crop]
        return torch.relu(self.layer(centre.flatten(1)))


Encoder: TypeAlias = ResNet10 | ResNet18 | CentrePixels
"""(B, 3, H, W) normalised images -> (B, features)."""


def build_encoder(spec: GeneratorSpec) -> Encoder:
    """The encoder of a generator that looks at images, drawn from torch's global random state."""
    if spec.encoder == "resnet18":
        return ResNet18()
    if spec.crop is not None and spec.hidden is not None:
        return CentrePixels(spec.crop, spec.hidden)
    return ResNet10(spec.encoder_width)


def resize_for(spec: GeneratorSpec, images: Tensor) -> Tensor:
    """(B, 3, S, S) the backbone's input -> (B, 3, input_size, input_size) what the encoder sees."""
    size = spec.input_size
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=spec.antialias)
