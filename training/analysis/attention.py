"""What the class token looks at in the frozen ViT's last block: patches, and the prompts behind them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pgn.method.backbone import FrozenBackbone, OpenClipBackbone


def class_attention(backbone: FrozenBackbone, images: Tensor, prompts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Features of (prompted) images, and the attention that led to them.

    Args:
        backbone: The frozen ViT.
        images: (B, 3, S, S) normalised.
        prompts: (B, K, D), or None.

    Returns:
        (B, num_features), equal to `backbone(images, prompts)`; and (B, patches + K), the mean over the last block's
        heads of the class token's attention to every patch, row by row, and to every prompt. Both are shares of 1, the
        rest of which goes to the class token itself and to register tokens. In a ViT without class token it is the
        mean over its patches' attention.
    """
    tokens = backbone.embed(images)
    own = tokens.shape[1]
    if prompts is not None:
        tokens = torch.cat([tokens, prompts.to(tokens.dtype)], dim=1)
    tokens = backbone.enter(tokens)
    *blocks, last = backbone.blocks
    for block in blocks:
        tokens = block(tokens)
    first = own - backbone.grid**2
    if isinstance(backbone, OpenClipBackbone):
        attention = _open_clip(last, tokens)
    else:
        attention = _timm(last, tokens, slice(0, 1) if backbone.vit.has_class_token else slice(first, own))
    return backbone.read_out(last(tokens)), attention[:, first:]


def _open_clip(block: Any, tokens: Tensor) -> Tensor:
    """(B, tokens, D) into the block -> (B, tokens), from torch's own attention, which gives its weights on request."""
    keys = block.ln_1(tokens)
    return block.attn(keys[:, :1], keys, keys, need_weights=True)[1][:, 0]


def _timm(block: Any, tokens: Tensor, asking: slice) -> Tensor:
    """(B, tokens, D) into the block -> (B, tokens), as timm's attention weighs when it is not fused.

    `asking` are the tokens whose attention is meant; the mean is taken over them.
    """
    attn = block.attn
    heads = attn.qkv(block.norm1(tokens)).unflatten(-1, (3, attn.num_heads, attn.head_dim))
    queries, keys, _ = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, tokens, D / heads)
    queries, keys = attn.q_norm(queries[:, :, asking]), attn.k_norm(keys)
    return ((queries * attn.scale) @ keys.transpose(-2, -1)).softmax(-1).mean((1, 2))
