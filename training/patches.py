"""Training on some of an image's patches: steps cost half as much, and the prompts cannot lean on any one patch."""

from __future__ import annotations

import torch
from torch import Tensor

from pgn.method.backbone import FrozenBackbone


def draw_kept(backbone: FrozenBackbone, count: int, keep: float, rng: torch.Generator) -> Tensor | None:
    """Which of the ViT's own tokens a training step sees.

    Args:
        backbone: Its class and register tokens always stay. A timm tower gets all patches, since it may pool over a
            fixed number of them.
        count: Number of images, each with its own draw.
        keep: Share of the patches that stay.
        rng: The only source of chance.

    Returns:
        (count, prefix + kept patches) int64 on the CPU, ascending in each row; None for all of them.
    """
    if keep == 1 or backbone.spec.library == "timm":
        return None
    patches, prefix = backbone.grid**2, 1
    chosen = max(1, round(keep * patches))
    drawn = torch.rand(count, patches, generator=rng).argsort(1)[:, :chosen].sort(1).values + prefix
    return torch.cat([torch.arange(prefix).expand(count, -1), drawn], dim=1)


def embed_kept(backbone: FrozenBackbone, inputs: Tensor, kept: Tensor | None) -> Tensor:
    """(B, 3, S, S) normalised images -> (B, n, D): the tokens that `kept`, (B, n), names, or all of them."""
    tokens = backbone.embed(inputs)
    if kept is None:
        return tokens
    return tokens.gather(1, kept.to(tokens.device)[:, :, None].expand(-1, -1, tokens.shape[2]))
