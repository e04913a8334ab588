"""Training on some of an image's patches: steps cost half as much, and the prompts cannot lean on any one patch."""

from __future__ import annotations

import torch
from torch import Tensor

from pgn.method.backbone import FrozenBackbone


@torch.no_grad()
def embed_some(backbone: FrozenBackbone, inputs: Tensor, keep: float, rng: torch.Generator) -> Tensor:
    """The tokens of normalised images, without a random part of their patches.

    Args:
        backbone: Its class and register tokens always stay. A timm tower gets all patches, since it may pool over a
            fixed number of them.
        inputs: (B, 3, S, S).
        keep: Share of the patches that stay, each image its own draw.
        rng: The only source of chance.

    Returns:
        (B, prefix + kept patches, D), in their order.
    """
    tokens = backbone.embed(inputs)
    if keep == 1 or backbone.spec.library == "timm":
        return tokens
    patches = backbone.grid**2
    prefix, count = tokens.shape[1] - patches, max(1, round(keep * patches))
    drawn = torch.rand(len(tokens), patches, generator=rng).argsort(1)[:, :count].sort(1).values + prefix
    kept = torch.cat([torch.arange(prefix).expand(len(tokens), -1), drawn], dim=1).to(tokens.device)
    return tokens.gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2]))
