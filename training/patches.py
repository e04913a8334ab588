"""Training on some of an image's patches: steps cost half as much, and the prompts cannot lean on any one patch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pgn.method.backbone import FrozenBackbone


def draw_kept(backbone: FrozenBackbone, keep: float, rngs: Sequence[torch.Generator]) -> Tensor | None:
    """Which of the ViT's own tokens a training step sees.

    Args:
        backbone: Its class and register tokens always stay. One that pools its patches gets all of them.
        keep: Share of the patches that stay.
        rngs: B generators, one for each image: the only source of chance.

    Returns:
        (B, prefix + kept patches) int64 on the CPU, ascending in each row; None for all of them.
    """
    if keep == 1 or backbone.pools_patches:
        return None
    patches, prefix = backbone.grid**2, backbone.num_prefix
    chosen = max(1, round(keep * patches))
    noise = torch.stack([torch.rand(patches, generator=rng) for rng in rngs])
    drawn = noise.argsort(1)[:, :chosen].sort(1).values + prefix
    return torch.cat([torch.arange(prefix).expand(len(drawn), -1), drawn], dim=1)


def embed_kept(backbone: FrozenBackbone, inputs: Tensor, kept: Tensor | None) -> Tensor:
    """(B, 3, S, S) normalised images -> (B, n, D): the tokens that `kept`, (B, n), names, or all of them."""
    tokens = backbone.embed(inputs)
    if kept is None:
        return tokens
    return tokens.gather(1, kept.to(tokens.device)[:, :, None].expand(-1, -1, tokens.shape[2]))
