"""The token library: learned vectors, shared by all images, of which every prompt is a convex mixture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

INITIAL_STD = 0.02  # the paper's start; trained libraries grow to a standard deviation of 0.1 to 0.3


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
