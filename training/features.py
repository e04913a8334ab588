"""Features of the frozen backbone without prompts, made once and kept on disk: probes of many runs share them."""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from tqdm import tqdm

from pgn.bundle import write_atomically
from pgn.method.backbone import FrozenBackbone
from training.data.images import BAR_AFTER_SECONDS, Images
from training.disk import clear_disk_errors

EVAL_BATCH = 64


@torch.no_grad()
def plain_features(backbone: FrozenBackbone, images: Images, cache: Path) -> Tensor:
    """(M, features) float32 of the unprompted ViT.

    The file in `cache` is named by a digest over backbone and pixels, so another backbone or one changed image makes
    another file.
    """
    digest = hashlib.sha256(f"{backbone.digest} {images.digest}".encode())
    path = cache / f"{digest.hexdigest()[:32]}.safetensors"
    with suppress(FileNotFoundError, SafetensorError, KeyError):  # a damaged one is made again
        return load(path.read_bytes())["features"]
    parts, count = images.in_parts(EVAL_BATCH), math.ceil(len(images) / EVAL_BATCH)
    bar = tqdm(parts, "frozen features", count, unit="batch", delay=BAR_AFTER_SECONDS, disable=None)
    features = torch.cat([backbone(backbone.normalise(pixels)).cpu() for pixels in bar])
    with clear_disk_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save({"features": features}))
    return load(path.read_bytes())["features"]
