"""Cache what the teacher sees: its class token and patch tokens for every clean training image.

The teacher is timm's ViT-Tiny/16 run at 160 px: measured on CIFAR-10 it is as good there as at 224 px, and faster.
Targets are computed once, on clean images; only the student's input is augmented.

    python -m training.backbones.teacher --images pool/images.npy --weights vit_tiny_patch16_224 --out pool
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.lib.format import open_memmap
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn.functional import interpolate

from training.backbones.files import write_whole

ARCHITECTURE = "vit_tiny_patch16_224"
SIDE_PX = 160
TOKENS = 65  # one class token, then the student's grid of 8 x 8
DIM = 192
GRID = 8


def load_teacher(weights: Path) -> nn.Module:
    """Return the frozen teacher for images of 160 px, its positions interpolated to a grid of 10 x 10.

    Args:
        weights: folder with `model.safetensors`, a timm state dict of any float dtype.
    """
    model = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0, img_size=SIDE_PX)
    state = {key: value.float() for key, value in load_file(weights / "model.safetensors").items()}
    state = {key: value for key, value in state.items() if not key.startswith("head.")}
    grid = SIDE_PX // 16
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new_size=[grid, grid], num_prefix_tokens=1)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def teacher_tokens(teacher: nn.Module, images: Tensor, bfloat16: bool = False) -> Tensor:
    """Return (B, 65, 192) float32 tokens after the last norm; the patch grid is brought to 8 x 8 bilinearly.

    Args:
        images: (B, 3, H, W) float32 in 0..1, of any size; they are resized to 160 px.
        bfloat16: multiply in bfloat16; the tokens keep a cosine of about 0.9997 with the float32 ones.
    """
    sized = interpolate(images, size=(SIDE_PX, SIDE_PX), mode="bicubic").clamp(0, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        tokens = teacher.forward_features((sized - 0.5) / 0.5).float()  # (B, 101, 192)
    patches = tokens[:, 1:].transpose(1, 2).unflatten(2, (SIDE_PX // 16, SIDE_PX // 16))
    patches = interpolate(patches, size=(GRID, GRID), mode="bilinear").flatten(2).transpose(1, 2)
    return torch.cat([tokens[:, :1], patches], dim=1)


def cache_tokens(teacher: nn.Module, images: np.ndarray, out: Path, minutes: float, bfloat16: bool = False) -> int:
    """Write `out/tokens.npy`, (N, 65, 192) float16, and `out/tokens.json`; return how many images are cached.

    The cache is a prefix of `images`: when the time is up the rest is left out and the JSON's `count` says so.

    Args:
        images: (N, 64, 64, 3) uint8.
        minutes: wall-clock limit.
    """
    start, done, batch = time.monotonic(), 0, 32

    def write(draft: Path) -> None:
        nonlocal done
        tokens = open_memmap(draft, mode="w+", dtype=np.float16, shape=(len(images), TOKENS, DIM))
        while done < len(images) and time.monotonic() - start < 60 * minutes:
            rows = torch.from_numpy(images[done : done + batch]).permute(0, 3, 1, 2) / 255
            tokens[done : done + len(rows)] = teacher_tokens(teacher, rows, bfloat16).half().numpy()
            done += len(rows)
            if done % (batch * 100) == 0:
                print(json.dumps({"cached": done, "seconds": round(time.monotonic() - start)}), flush=True)
        tokens.flush()

    write_whole(out / "tokens.npy", write)
    facts = {"count": done, "seconds": round(time.monotonic() - start), "side_px": SIDE_PX, "bfloat16": bfloat16}
    write_whole(out / "tokens.json", lambda draft: draft.write_text(json.dumps(facts, indent=2) + "\n"))
    return done


def write_scale(out: Path) -> None:
    """Write `out/scale.npz`: mean and deviation of every dimension, for the class token and for the patches.

    Distillation standardises by them, so that no large dimension of the teacher rules the cosine.
    """
    count = json.loads((out / "tokens.json").read_text())["count"]
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
    parser = argparse.ArgumentParser(description="Cache the teacher's tokens for a packed pool of images.")
    parser.add_argument("--images", type=Path, required=True, help=".npy written by training.backbones.tiny_imagenet")
    parser.add_argument("--weights", type=Path, required=True, help="folder with the teacher's model.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokens.npy, tokens.json, scale.npz")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after this time with what is cached")
    parser.add_argument("--bfloat16", action="store_true", help="faster on processors with bfloat16 dot products")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = np.load(arguments.images, mmap_mode="r")
    teacher = load_teacher(arguments.weights)
    count = cache_tokens(teacher, images, arguments.out, arguments.minutes, arguments.bfloat16)
    write_scale(arguments.out)
    print(json.dumps({"cached": count}), flush=True)


if __name__ == "__main__":
    main()
