"""The token library: what all images share, and of which every prompt is a convex mixture.

A latent library mixes tokens. An RGB library mixes patches of pixels, which the frozen ViT's own patch projection turns
into tokens; its prompts can be written below an image and saved as PNG without any loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgn.method.projection import PatchInverse, PatchProjection

INITIAL_STD = 0.02  # the paper's start; trained libraries grow to a standard deviation of 0.1 to 0.3
INITIAL_PIXEL_STD = 1.5  # of pixel logits; most of the range is then in use, and prompts are as long as patch tokens
MARGIN = 0.1  # pixels start this far from black and white: near the ends of the sigmoid they would hardly move


class TokenLibrary(nn.Module):
    """N tokens as wide as the frozen ViT's own.

    Source: Loedeman et al., BMVC 2024, token library with softmax mixing.
    """

    def __init__(self, library_size: int, embed_dim: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(library_size, embed_dim) * INITIAL_STD)

    def forward(self, mixture: Tensor) -> Tensor:
        """Blend tokens into prompts.

        Args:
            mixture: (B, K, N), rows sum to 1.

        Returns:
            (B, K, D) prompts; each lies between the library's smallest and largest value in every dimension.
        """
        return mixture @ self.tokens


class RGBLibrary(nn.Module):
    """N patches of pixels in place of N tokens.

    The pixels are the sigmoid of what is learned, and a mixture's shares are positive and sum to 1: a mixed patch is in
    range whatever the weights. It is rounded to 8 bits in training as in serving, while its gradient passes as if it
    were not, so that a PNG of it holds exactly what the ViT was trained with. The projection is affine: mixing pixels
    is mixing tokens, but for the rounding.

    Args:
        library_size: N.
        projection: The frozen ViT's first layer; P and D are its.

    Attributes:
        pixel_logits: (N, 3, P, P), before the sigmoid.
    """

    def __init__(self, library_size: int, projection: PatchProjection) -> None:
        super().__init__()
        shape = (library_size, 3, projection.patch_size, projection.patch_size)
        self.pixel_logits = nn.Parameter(torch.randn(shape) * INITIAL_PIXEL_STD)
        self.projection = projection

    @torch.no_grad()
    def start_from(self, patches: Tensor) -> None:
        """Set the library to (M, 3, P, P) patches, RGB in 0..1: the first N of them, over again if there are fewer."""
        chosen = torch.arange(len(self.pixel_logits)) % len(patches)
        self.pixel_logits.copy_(patches[chosen].clamp(MARGIN, 1 - MARGIN).logit())

    def start_from_tokens(self, tokens: Tensor) -> None:
        """Set the library to patches that stand for (M, D) tokens, as `start_from` does.

        Their pixels are those of the pseudo-inverse, cut to the range. A patch of an image lacks the position that its
        token has inside the ViT, and without it disturbs the features far more (docs/inversion.md).
        """
        self.start_from(PatchInverse(self.projection).patches(tokens).float())

    def palette(self) -> Tensor:
        """(N, 3, P, P) the library as RGB in 0..1."""
        return self.pixel_logits.sigmoid()

    def patches(self, mixture: Tensor) -> Tensor:
        """(B, K, N) mixture -> (B, K, 3, P, P) RGB, each value one of 0, 1/255, .. 1."""
        palette = self.palette()
        mixed = (mixture @ palette.flatten(1)).view(*mixture.shape[:-1], *palette.shape[1:])
        rounded = (255 * mixed).round() / 255  # in range: what a sum of shares lacks to 1 is far below half a step
        with_gradient: Tensor = rounded.detach() + (mixed - mixed.detach())  # the sum's second part is 0
        return with_gradient

    def forward(self, mixture: Tensor) -> Tensor:
        """(B, K, N) mixture, rows sum to 1 -> (B, K, D) prompts."""
        prompts: Tensor = self.projection(self.patches(mixture))
        return prompts
