"""Measure an exported backbone on held-out sets and write its card, a README.md in its folder.

Every number in the card is measured here or read from the files it is given; nothing is typed in by hand. This is
the only place where test splits are read.

    python -m training.backbones.card --backbone model_store/backbones/pgn-vit-128 --checkpoint run/checkpoint.pt \
        --pool pool --teacher vit_tiny_patch16_224 --sets cifar10.tar dtd10.tar
"""

import argparse
import logging
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from timm.models.vision_transformer import VisionTransformer as TeacherTransformer
from torch import Tensor
from torch.nn.functional import interpolate

from training.backbones.distil import load_checkpoint
from training.backbones.export import WEIGHTS, load_export
from training.backbones.files import write_text_whole
from training.backbones.heldout import features_of, knn_accuracy, probe_accuracy, read_splits
from training.backbones.student import condition_number, encode_all
from training.backbones.teacher import SIDE_PX as TEACHER_SIDE_PX
from training.backbones.teacher import load_teacher, read_facts, teacher_tokens

SPLITS = ("train", "val", "test")
TEXT = Path(__file__).with_name("card.md")
RAW_SIDE_PX = 32

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """Test accuracies of one feature on one set, in percent, and the probe's strength."""

    knn: float
    probe: float
    strength: float


Features = dict[str, dict[str, Tensor]]
"""Rows (N, F) by feature and split."""

Table = dict[str, dict[str, Scores]]
"""Scores by set and feature."""


def features(tar: Path, student: VisionTransformer, teacher: TeacherTransformer) -> tuple[Features, dict[str, Tensor]]:
    """Return every feature of every split of a set, and the labels of the splits."""

    def raw(images: Tensor) -> Tensor:
        small = interpolate(images, size=(RAW_SIDE_PX, RAW_SIDE_PX), mode="bilinear", antialias=True)
        return ((small - 0.5) / 0.5).flatten(1)

    def taught(images: Tensor) -> Tensor:
        return teacher_tokens(teacher, images)[:, 0]

    splits = read_splits(tar, SPLITS, student.image_size[0])
    larger = read_splits(tar, SPLITS, TEACHER_SIDE_PX)
    tokens = {name: features_of(partial(encode_all, student), split.images) for name, split in splits.items()}
    found = {
        "student": tokens,
        "raw pixels": {name: features_of(raw, split.images) for name, split in splits.items()},
        "teacher": {name: features_of(taught, split.images) for name, split in larger.items()},
    }
    return found, {name: split.labels for name, split in splits.items()}


def score(rows: dict[str, Tensor], labels: dict[str, Tensor], is_probed: bool) -> Scores:
    """Score one feature on the test split; the train split is gallery and fit, the val split chooses C."""
    knn = knn_accuracy(rows["train"], labels["train"], rows["test"], labels["test"])
    probe, strength = probe_accuracy(rows, labels) if is_probed else (math.nan, math.nan)
    return Scores(100 * knn, 100 * probe, strength)


def measure(tars: Sequence[Path], student: VisionTransformer, teacher: TeacherTransformer) -> Table:
    """Return the scores by set and feature; raw pixels are scored by nearest neighbours alone."""
    table: Table = {}
    for tar in tars:
        found, labels = features(tar, student, teacher)
        table[tar.stem] = {name: score(rows, labels, name != "raw pixels") for name, rows in found.items()}
        log.info("%s %s", tar.stem, table[tar.stem])
    return table


def render_table(table: Table) -> str:
    """Return the scores as a Markdown table with a last row of means."""
    head = "| set | k-NN | probe | C | k-NN, raw pixels | k-NN, teacher | probe, teacher |"
    columns: tuple[Callable[[dict[str, Scores]], float], ...] = (
        lambda row: row["student"].knn,
        lambda row: row["student"].probe,
        lambda row: row["student"].strength,
        lambda row: row["raw pixels"].knn,
        lambda row: row["teacher"].knn,
        lambda row: row["teacher"].probe,
    )
    lines = [head, "| --- " + "| ---: " * len(columns) + "|"]
    for name, row in table.items():
        cells = [f"{column(row):g}" if i == 2 else f"{column(row):.1f}" for i, column in enumerate(columns)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    means = [sum(map(column, table.values())) / len(table) for column in columns]
    lines.append("| mean | " + " | ".join("" if i == 2 else f"{mean:.1f}" for i, mean in enumerate(means)) + " |")
    return "\n".join(lines)


def hardware() -> str:
    """Return processor and core count of this machine."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor() or platform.machine()}, {os.cpu_count()} cores, no GPU"


def render(backbone: Path, state: dict[str, Any], pool: dict[str, Any], table: Table) -> str:
    """Fill the card's text with what was measured and what the files say."""
    student = load_export(backbone)
    settings = state["settings"]
    return Template(TEXT.read_text()).substitute(
        name=backbone.name,
        parameters=f"{sum(p.numel() for p in student.parameters()) / 1e6:.1f}",
        megabytes=f"{(backbone / WEIGHTS).stat().st_size / 1e6:.1f}",
        condition=f"{condition_number(student):.2f}",
        shape=" x ".join(map(str, student.conv1.weight.flatten(1).shape)),
        pool_images=f"{pool['count']:,}",
        pool_minutes=f"{pool['seconds'] / 60:.0f}",
        steps=f"{state['step_number']:,}",
        images_seen=f"{state['images_seen']:,}",
        epochs=f"{state['images_seen'] / pool['count']:.1f}",
        minutes=f"{state['spent_s'] / 60:.0f}",
        budget=f"{settings['minutes']:g}",
        batch=settings["batch"],
        seed=settings["seed"],
        precision=" --bfloat16" if settings["bfloat16"] else "",
        pool_precision=" --bfloat16" if pool["bfloat16"] else "",
        torch=torch.__version__.partition("+")[0],
        hardware=hardware(),
        raw_px=RAW_SIDE_PX,
        teacher_px=TEACHER_SIDE_PX,
        sets=" ".join(f"{name}.tar" for name in table),
        table=render_table(table),
    )


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description="Measure a backbone folder and write its card.")
    parser.add_argument("--backbone", type=Path, required=True, help="folder written by training.backbones.export")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the checkpoint it was exported from")
    parser.add_argument("--pool", type=Path, required=True, help="folder written by training.backbones.teacher")
    parser.add_argument("--teacher", type=Path, required=True, help="folder with the teacher's model.safetensors")
    parser.add_argument("--sets", type=Path, nargs="+", required=True, help="tars of <split>/<class>/<file>")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = measure(arguments.sets, load_export(arguments.backbone), load_teacher(arguments.teacher))
    pool = read_facts(arguments.pool)
    text = render(arguments.backbone, load_checkpoint(arguments.checkpoint), pool, table)
    write_text_whole(arguments.backbone / "README.md", text)


if __name__ == "__main__":
    main()
