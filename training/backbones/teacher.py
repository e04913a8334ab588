"""Cache what the teacher sees: its class token and patch tokens for every clean training image.

The teacher is timm's ViT-Tiny/16 run at 160 px: measured on CIFAR-10 it is as good there as at 224 px, and faster.
Targets are computed once, on clean images; only the student's input is augmented.

    python -m training.backbones.teacher --images pool/images.npy --weights vit_tiny_patch16_224 --out pool
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import timm
import torch
from numpy.lib.format import open_memmap
from safetensors.torch import load_file
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import interpolate

from training.backbones.files import write_text_whole, write_whole

ARCHITECTURE = "vit_tiny_patch16_224"
SIDE_PX = 160
TOKENS = 65  # one class token, then the student's grid of 8 x 8
DIM = 192
GRID = 8
BATCH = 32
REPORT = 100 * BATCH
FACTS = "tokens.json"

log = logging.getLogger(__name__)


def load_teacher(weights: Path) -> VisionTransformer:
    """Return the frozen teacher for images of 160 px, its positions interpolated to a grid of 10 x 10.

    Args:
        weights: folder with `model.safetensors`, a timm state dict of any float dtype.
    """
    model = cast("VisionTransformer", timm.create_model(ARCHITECTURE, num_classes=0, img_size=SIDE_PX))
    state = {key: value.float() for key, value in load_file(weights / "model.safetensors").items()}
    state = {key: value for key, value in state.items() if not key.startswith("head.")}
    grid = SIDE_PX // 16
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new_size=[grid, grid], num_prefix_tokens=1)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def teacher_tokens(teacher: VisionTransformer, images: Tensor, bfloat16: bool = False) -> Tensor:
    """Return (B, 65, 192) float32 tokens after the last norm; the patch grid is brought to 8 x 8 bilinearly.

    Args:
        teacher: as `load_teacher` returns it.
        images: (B, 3, H, W) float32 in 0..1, of any size; they are resized to 160 px.
        bfloat16: multiply in bfloat16; the tokens keep a cosine of about 0.9997 with the float32 ones.
    """
    sized = interpolate(images, size=(SIDE_PX, SIDE_PX), mode="bicubic").clamp(0, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        tokens = teacher.forward_features((sized - 0.5) / 0.5).float()  # (B, 101, 192)
    side = SIDE_PX // 16
    patches = tokens[:, 1:].transpose(1, 2).reshape(-1, DIM, side, side)
    patches = interpolate(patches, size=(GRID, GRID), mode="bilinear").flatten(2).transpose(1, 2)
    return torch.cat([tokens[:, :1], patches], dim=1)


def cache_tokens(
    teacher: VisionTransformer, images: np.ndarray, out: Path, minutes: float, bfloat16: bool = False
) -> int:
    """Write `out/tokens.npy`, (N, 65, 192) float16, and `out/tokens.json`; return how many images are cached.

    The cache is a prefix of `images`, `count` long by its JSON. A later call goes on from there.

    Args:
        teacher: as `load_teacher` returns it.
        images: (N, 64, 64, 3) uint8.
        out: folder, made if it is missing.
        minutes: wall-clock limit of this call.
        bfloat16: see `teacher_tokens`.
    """
    out.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = read_facts(out) if (out / FACTS).exists() else {"count": 0, "seconds": 0.0}
    mode: Literal["r+", "w+"] = "r+" if facts["count"] else "w+"
    tokens = open_memmap(out / "tokens.npy", mode=mode, dtype=np.float16, shape=(len(images), TOKENS, DIM))
    start_s, earlier_s, done = time.monotonic(), facts["seconds"], int(facts["count"])
    is_over = done == len(images)
    while not is_over:
        for begin in range(done, min(done + REPORT, len(images)), BATCH):
            rows = torch.from_numpy(images[begin : begin + BATCH].copy()).permute(0, 3, 1, 2) / 255
            tokens[begin : begin + len(rows)] = teacher_tokens(teacher, rows, bfloat16).half().numpy()
            done = begin + len(rows)
        tokens.flush()  # rows first, their count after them
        spent_s = time.monotonic() - start_s
        facts = {"count": done, "seconds": round(earlier_s + spent_s), "side_px": SIDE_PX, "bfloat16": bfloat16}
        write_text_whole(out / FACTS, json.dumps(facts, indent=2) + "\n")
        log.info("%s", json.dumps(facts))
        is_over = done == len(images) or spent_s > 60 * minutes
    return done


def read_facts(out: Path) -> dict[str, Any]:
    """Return what `tokens.json` says: count, seconds, side_px, bfloat16."""
    facts: dict[str, Any] = json.loads((out / FACTS).read_text())
    return facts


def write_scale(out: Path) -> None:
    """Write `out/scale.npz`: mean and deviation of every dimension, for the class token and for the patches.

    Distillation standardises by them, so that no large dimension of the teacher rules the cosine.
    """
    count = read_facts(out)["count"]
    tokens = np.load(out / "tokens.npy", mmap_mode="r")[:count]
    # Every seventh image is plenty for 192 means, and keeps the read short.
    patches = np.asarray(tokens[::7, 1:], dtype=np.float32).reshape(-1, DIM)
    cls = np.asarray(tokens[:, 0], dtype=np.float32)
    scale = {
        "cls_mean": cls.mean(0),
        "cls_std": cls.std(0) + 1e-6,
        "patch_mean": patches.mean(0),
        "patch_std": patches.std(0) + 1e-6,
    }

    def write(draft: Path) -> None:
        with draft.open("wb") as file:
            np.savez(file, **scale)

    write_whole(out / "scale.npz", write)


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description="Cache the teacher's tokens for a packed pool of images.")
    parser.add_argument("--images", type=Path, required=True, help=".npy written by training.backbones.tiny_imagenet")
    parser.add_argument("--weights", type=Path, required=True, help="folder with the teacher's model.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokens.npy, tokens.json, scale.npz")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this time; a later call goes on")
    parser.add_argument("--bfloat16", action="store_true", help="faster on processors with bfloat16 dot products")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = np.load(arguments.images, mmap_mode="r")
    teacher = load_teacher(arguments.weights)
    cache_tokens(teacher, images, arguments.out, arguments.minutes, arguments.bfloat16)
    write_scale(arguments.out)


if __name__ == "__main__":
    main()
