"""Distil the teacher's cached tokens into the student within a fixed wall-clock budget.

The learning rate and the share of kept patches follow the share of the budget that is spent, so a slower machine
sees fewer images but ends its schedule all the same. A run that was killed goes on from its last checkpoint: every
random draw depends only on the seed and the step's number, so no generator state has to survive.

    python -m training.backbones.distil --images pool/images.npy --pool pool --out run --heldout cifar10.tar
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from training.backbones.augment import Augmentation, mirror_grid, student_view
from training.backbones.files import write_whole
from training.backbones.heldout import Split, features_of, knn_accuracy, read_splits
from training.backbones.muon import build_optimisers
from training.backbones.student import Architecture, build_student, encode_all, encode_kept
from training.backbones.teacher import DIM, GRID, read_facts

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


@dataclass(frozen=True)
class DistilConfig:
    """One run; everything but the paths and the times is part of the recipe."""

    images: Path
    pool: Path
    out: Path
    heldout: tuple[Path, ...] = ()
    minutes: float = 75.0
    architecture: Architecture = field(default_factory=Architecture)
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch: int = 256
    lr: float = 2.5e-3
    lr_floor: float = 0.02  # share of `lr` that is left at the end
    warmup_steps: int = 50
    keep: tuple[tuple[float, float], ...] = ((0.55, 0.25), (0.85, 0.5), (1.0, 1.0))  # until share of time, patches kept
    bfloat16: bool = False
    seed: int = 0
    checkpoint_minutes: float = 3.0
    evaluate_minutes: float = 10.0
    log_steps: int = 20


@dataclass(frozen=True)
class Pool:
    """Training images (N, 64, 64, 3) uint8, teacher tokens (N, 65, 192) float16 and their scale, memory-mapped."""

    images: np.ndarray
    tokens: np.ndarray
    scale: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.tokens)


def open_pool(images: Path, folder: Path) -> Pool:
    """Open the packed images and the teacher's cache, as far as the cache goes."""
    count = read_facts(folder)["count"]
    with np.load(folder / "scale.npz") as scale:
        tensors = {name: torch.from_numpy(scale[name]) for name in scale.files}
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    return Pool(np.load(images, mmap_mode="r")[:count], tokens[:count], tensors)


def kept_share(config: DistilConfig, progress: float) -> float:
    """Return the share of patches the student sees when `progress` (0..1) of the budget is spent."""
    return next((share for until, share in config.keep if progress < until), config.keep[-1][1])


def learning_rate(config: DistilConfig, step: int, progress: float) -> float:
    """Return the rate: linear warm-up over steps, then a cosine over the budget."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    decayed = config.lr * (config.lr_floor + (1 - config.lr_floor) * cosine)
    return decayed * min(1.0, (step + 1) / config.warmup_steps)


def batch_rows(count: int, batch: int, seed: int, step: int) -> np.ndarray:
    """Return the sorted pool rows of a step; an epoch is a permutation whose incomplete last batch is dropped."""
    epoch, position = divmod(step, count // batch)
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return np.sort(order[position * batch : (position + 1) * batch])


class Distillation:
    """A run's state: student, loss heads, optimisers, step number and spent seconds."""

    def __init__(self, config: DistilConfig) -> None:
        self.config = config
        self.student = build_student(config.architecture, config.seed)
        torch.manual_seed(config.seed)
        width = config.architecture.width
        self.loss_heads = nn.ModuleDict({"class": nn.Linear(width, DIM), "patch": nn.Linear(width, DIM)})
        precision = torch.bfloat16 if config.bfloat16 else torch.float32
        self.optimisers = build_optimisers(self.student, self.loss_heads, config.lr, precision)
        self.step_number = 0
        self.spent_s = 0.0

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        return self.spent_s / (60 * self.config.minutes)

    def save(self) -> None:
        """Write the checkpoint so that a kill at any moment leaves the old or the new one whole."""
        settings = asdict(self.config)
        state = {
            "architecture": settings["architecture"],
            "settings": {name: value for name, value in settings.items() if isinstance(value, int | float)},
            "student": self.student.state_dict(),
            "loss_heads": self.loss_heads.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step_number": self.step_number,
            "spent_s": self.spent_s,
            "images_seen": self.step_number * self.config.batch,
        }
        write_whole(self.config.out / CHECKPOINT, lambda draft: torch.save(state, draft))

    def resume(self) -> None:
        """Take over the checkpoint, if there is one."""
        path = self.config.out / CHECKPOINT
        if not path.exists():
            return
        state = load_checkpoint(path)
        self.student.load_state_dict(state["student"])
        self.loss_heads.load_state_dict(state["loss_heads"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step_number, self.spent_s = state["step_number"], state["spent_s"]

    def step(self, pool: Pool) -> dict[str, float]:
        """Train on one batch; return what is worth logging."""
        config, count = self.config, self.config.architecture.grid**2
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step_number)
        rows = batch_rows(len(pool), config.batch, config.seed, self.step_number)
        images = torch.from_numpy(pool.images[rows]).permute(0, 3, 1, 2)
        views, mirrored = student_view(images, config.architecture.image_size, config.augmentation, generator)
        keep = round(count * kept_share(config, self.progress))
        kept = torch.rand(len(rows), count, generator=generator).argsort(1)[:, :keep]
        tokens = torch.from_numpy(pool.tokens[rows]).float()
        sources = mirror_grid(kept, mirrored, GRID)
        cls_target = (tokens[:, 0] - pool.scale["cls_mean"]) / pool.scale["cls_std"]
        patches = tokens[torch.arange(len(rows))[:, None], 1 + sources]
        patch_target = (patches - pool.scale["patch_mean"]) / pool.scale["patch_std"]

        rate = learning_rate(config, self.step_number, self.progress)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            cls, seen = encode_kept(self.student, views, kept)
            cls_loss = 1 - cosine_similarity(self.loss_heads["class"](cls).float(), cls_target, dim=-1).mean()
            patch_loss = 1 - cosine_similarity(self.loss_heads["patch"](seen).float(), patch_target, dim=-1).mean()
        torch.autograd.backward(cls_loss + patch_loss)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad()
        self.step_number += 1
        return {
            "cls_loss": round(cls_loss.item(), 4),
            "patch_loss": round(patch_loss.item(), 4),
            "lr": round(rate, 6),
            "kept_patches": keep,
        }


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's tensors and numbers; nothing in the file is executed."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def knn_on_val(run: Distillation, sets: dict[str, dict[str, Split]]) -> dict[str, float]:
    """Return the k-NN accuracy in percent on each set's val split; test splits are for the card alone."""
    scores = {}
    run.student.eval()
    for name, splits in sets.items():
        gallery, queries = (
            features_of(partial(encode_all, run.student), splits[split].images) for split in ("train", "val")
        )
        accuracy = knn_accuracy(gallery, splits["train"].labels, queries, splits["val"].labels)
        scores[f"{name}_val_knn"] = round(100 * accuracy, 1)
    run.student.train()
    return scores


def distil(config: DistilConfig, clock: Callable[[], float] = time.monotonic) -> Path:
    """Train until the budget is spent, resuming if there is a checkpoint; return the final checkpoint's path.

    Args:
        config: the run; `out` may hold an earlier checkpoint of it.
        clock: seconds; asked once before the first step and once after every step.
    """
    pool = open_pool(config.images, config.pool)
    size = config.architecture.image_size
    sets = {tar.stem: read_splits(tar, ("train", "val"), size) for tar in config.heldout}
    run = Distillation(config)
    run.resume()
    config.out.mkdir(parents=True, exist_ok=True)
    with (config.out / LOG).open("a") as log:
        asked_s = clock()
        while run.progress < 1:
            facts = run.step(pool)
            now_s = clock()
            earlier_s, run.spent_s, asked_s = run.spent_s, run.spent_s + now_s - asked_s, now_s
            is_last = run.progress >= 1
            if is_last or _crosses(60 * config.checkpoint_minutes, earlier_s, run.spent_s):
                run.save()
            is_evaluated = is_last or _crosses(60 * config.evaluate_minutes, earlier_s, run.spent_s)
            if is_evaluated:
                facts |= knn_on_val(run, sets)
            if is_evaluated or run.step_number % config.log_steps == 0:
                counts = {"step": run.step_number, "images_seen": run.step_number * config.batch}
                log.write(json.dumps(counts | {"minutes": round(run.spent_s / 60, 2)} | facts) + "\n")
                log.flush()
    return config.out / CHECKPOINT


def _crosses(period_s: float, earlier_s: float, later_s: float) -> bool:
    """Tell whether a multiple of the period lies between two moments."""
    return later_s // period_s > earlier_s // period_s


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Distil cached teacher tokens into the small student.")
    parser.add_argument("--images", type=Path, required=True, help=".npy written by training.backbones.tiny_imagenet")
    parser.add_argument("--pool", type=Path, required=True, help="folder written by training.backbones.teacher")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint.pt and log.jsonl")
    parser.add_argument("--heldout", type=Path, nargs="*", default=[], help="tars whose val split is logged")
    parser.add_argument("--minutes", type=float, default=DistilConfig.minutes, help="wall-clock budget of the schedule")
    parser.add_argument("--bfloat16", action="store_true", help="multiply in bfloat16 (weights stay float32)")
    parser.add_argument("--seed", type=int, default=DistilConfig.seed)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = DistilConfig(
        images=arguments.images,
        pool=arguments.pool,
        out=arguments.out,
        heldout=tuple(arguments.heldout),
        minutes=arguments.minutes,
        bfloat16=arguments.bfloat16,
        seed=arguments.seed,
    )
    distil(config)


if __name__ == "__main__":
    main()
