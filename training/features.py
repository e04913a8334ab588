"""Features of the frozen backbone without prompts, made once and kept on disk: probes of many runs share them."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from pgn.method.backbone import FrozenBackbone
from training.cache import kept
from training.data.images import BAR_AFTER_SECONDS, Images

EVAL_BATCH = 64


def plain_features(backbone: FrozenBackbone, images: Images, cache: Path) -> Tensor:
    """(M, features) float32 of the unprompted ViT; kept in `cache` under the digests of backbone and pixels."""

    @torch.no_grad()
    def make() -> dict[str, Tensor]:
        parts, count = images.in_parts(EVAL_BATCH), math.ceil(len(images) / EVAL_BATCH)
        what = f"{images.name}: frozen features"
        bar = tqdm(parts, what, count, unit="batch", delay=BAR_AFTER_SECONDS, disable=None, leave=False)
        return {"features": torch.cat([backbone(backbone.normalise(pixels)).cpu() for pixels in bar])}

    return kept(cache, f"{backbone.digest} {images.digest}".encode(), make)["features"]
