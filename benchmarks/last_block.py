"""What leaving out the last block's unread tokens saves in the frozen ViT: CPU time, before over after, in one run.

python benchmarks/last_block.py model_store/backbones/pgn-vit-128
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pgn.method.backbone import load_backbone

ROUNDS = 15


def cpu_seconds(encode: Callable[[Tensor], Tensor], tokens: Tensor, *, train: bool) -> float:
    """CPU time of one pass, with the gradient to the tokens if `train`."""
    tokens = tokens.clone().requires_grad_(train)
    started = time.process_time()
    with torch.set_grad_enabled(train):
        features = encode(tokens)
    if train:
        features.sum().backward()
    return time.process_time() - started


if __name__ == "__main__":
    torch.set_num_threads(1)
    backbone = load_backbone(Path(sys.argv[1]))
    vit, size = backbone.vit, backbone.spec.preprocess.size
    prompts = torch.randn(16, backbone.grid, backbone.embed_dim)
    tokens = torch.cat([backbone.embed(torch.randn(16, 3, size, size)), prompts], dim=1)

    def whole(tokens: Tensor) -> Tensor:
        """All tokens through all blocks, as open_clip does it."""
        features: Tensor = vit.ln_post(vit.transformer(vit.ln_pre(tokens))[:, 0]) @ vit.proj
        return features

    print(f"largest difference {(whole(tokens) - backbone.encode(tokens)).abs().max():.1e}")
    for train in (False, True):
        ratios = sorted(
            cpu_seconds(whole, tokens, train=train) / cpu_seconds(backbone.encode, tokens, train=train)
            for _ in range(ROUNDS)
        )
        print(f"{'training' if train else 'serving'}: before / after {ratios[ROUNDS // 2]:.2f} (median of {ROUNDS})")
