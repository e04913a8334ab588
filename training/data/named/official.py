"""Sets in the splits of their publishers, read by torchvision's classes where those give paths or arrays.

Images are decoded by `pgn.images` all the same: `loader=str` makes torchvision give the path instead of the picture.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10, DTD, SUN397, SVHN, EuroSAT, Flowers102, OxfordIIITPet

from training.data.dataset import Example
from training.data.named.parts import Parts, array_examples, class_text, file_examples, first_folder, or_download
from training.data.splitting import SPLIT_SEED, draw_stratified

COUNTS = range(3, 11)  # objects in a scene of CLEVR
DISTANCES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0)  # lower ends of VTAB's classes, in CLEVR's units
DISTANCE_NAMES = (
    "below 8.0", "8.0 to 8.5", "8.5 to 9.0", "9.0 to 9.5", "9.5 to 10.0", "above 10.0",
)  # fmt: skip


def cifar(folder: Path, dataset: type[CIFAR10]) -> Parts:
    """CIFAR-10 or CIFAR-100: official training and test images."""
    train, test = (or_download(dataset, folder, train=is_train) for is_train in (True, False))
    return Parts(
        classes=tuple(class_text(name) for name in train.classes),
        train=array_examples("train", train.data, train.targets),
        val=None,
        test=array_examples("test", test.data, test.targets),
    )


def svhn(folder: Path) -> Parts:
    """SVHN: official training and test digits, without the extra ones."""
    train, test = (
        array_examples(split, found.data.transpose(0, 2, 3, 1), found.labels)
        for split, found in ((split, or_download(SVHN, folder, split=split)) for split in ("train", "test"))
    )
    return Parts(tuple(str(digit) for digit in range(10)), train, None, test)


def flowers102(folder: Path) -> Parts:
    """Oxford Flowers: the official ten training and ten validation images a class."""
    train, val, test = (or_download(Flowers102, folder, split=split, loader=str) for split in ("train", "val", "test"))
    classes = tuple(class_text(name) for name in Flowers102.classes)
    return Parts(classes, _examples(folder, train), _examples(folder, val), _examples(folder, test))


def dtd(folder: Path) -> Parts:
    """DTD: the first of the official partitions."""
    train, val, test = (or_download(DTD, folder, split=split, loader=str) for split in ("train", "val", "test"))
    classes = tuple(class_text(name) for name in train.classes)
    return Parts(classes, _examples(folder, train), _examples(folder, val), _examples(folder, test))


def oxford_pets(folder: Path) -> Parts:
    """Oxford-IIIT Pets: official trainval and test lists."""
    or_download(OxfordIIITPet, folder)
    root = folder / "oxford-iiit-pet"
    names: dict[int, str] = {}
    splits: dict[str, list[tuple[str, int]]] = {}
    for split in ("trainval", "test"):
        lines = (root / "annotations" / f"{split}.txt").read_text().splitlines()
        rows = [(stem, int(label) - 1) for stem, label, *_ in map(str.split, lines)]
        names |= {label: stem.rpartition("_")[0] for stem, label in rows}
        splits[split] = [(f"{stem}.jpg", label) for stem, label in rows]
    classes = tuple(class_text(names[label]) for label in sorted(names))
    train, test = (file_examples(root / "images", rows) for rows in splits.values())
    return Parts(classes, train, None, test)


def eurosat(folder: Path) -> Parts:
    """EuroSAT, which has no official split: all images as train, none as test."""
    found = or_download(EuroSAT, folder, loader=str)
    classes = tuple(re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower() for name in found.classes)  # AnnualCrop
    return Parts(classes, _examples(folder, found), None, ())


def sun397(folder: Path) -> Parts:
    """SUN397, all 108,754 images as train and none as test; its official partitions cover a part of them only."""
    first_folder(folder, ("SUN397",))
    found = SUN397(folder, loader=str)
    classes = tuple(class_text(name.replace("/", " ")) for name in found.classes)
    return Parts(classes, sorted(_examples(folder, found), key=lambda example: example.name), None, ())


def caltech101(folder: Path) -> Parts:
    """Caltech-101 with its background class: 30 images of each class are train, drawn with a fixed seed; the rest test.

    Source: the rule of TensorFlow Datasets, which VTAB uses, with our own draw.
    """
    root = folder / "101_ObjectCategories"
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    train: list[Example] = []
    test: list[Example] = []
    for label, name in enumerate(names):
        files = sorted(path.name for path in (root / name).glob("*.jpg"))
        shuffled = np.random.default_rng((SPLIT_SEED, label)).permutation(len(files))
        examples = file_examples(root, ((f"{name}/{files[i]}", label) for i in shuffled))
        train += examples[:30]
        test += examples[30:]
    return Parts(tuple(class_text(name) for name in names), train, None, test)


def clevr(folder: Path, classes: tuple[str, ...], label_of: Callable[[list[dict[str, Any]]], int]) -> Parts:
    """CLEVR: official training scenes, and official validation scenes as test, since the test scenes have no answers.

    Args:
        folder: Of the set.
        classes: Class names.
        label_of: The class of a scene, from the list of its objects.
    """
    root = folder / "CLEVR_v1.0"
    parts = []
    for split in ("train", "val"):
        scenes = json.loads((root / "scenes" / f"CLEVR_{split}_scenes.json").read_text())["scenes"]
        rows = ((f"images/{split}/{scene['image_filename']}", label_of(scene["objects"])) for scene in scenes)
        parts.append(file_examples(root, rows))
    return Parts(classes, parts[0], None, parts[1])


def clevr_count(folder: Path) -> Parts:
    """CLEVR, how many objects there are: 3 to 10."""
    return clevr(folder, tuple(str(count) for count in COUNTS), lambda objects: COUNTS.index(len(objects)))


def clevr_distance(folder: Path) -> Parts:
    """CLEVR, how far the nearest object is, in the six classes of VTAB."""

    def label_of(objects: list[dict[str, Any]]) -> int:
        nearest = min(item["pixel_coords"][2] for item in objects)
        return bisect_left(DISTANCES, nearest) - 1  # a distance on a border belongs below it

    return clevr(folder, DISTANCE_NAMES, label_of)


def with_drawn_test(parts: Parts, *, val: float, test: float) -> Parts:
    """The set with validation and test images drawn from its training images, stratified, always the same."""
    labels = [example.label for example in parts.train]
    chosen = draw_stratified(labels, {"val": val, "test": test}, parts.classes)
    return Parts(parts.classes, *([parts.train[i] for i in part] for part in chosen))


def _examples(folder: Path, dataset: Any) -> list[Example]:
    """Examples of a torchvision set that was opened with `loader=str`, named relative to `folder`."""
    found: Iterable[tuple[str, int]] = (dataset[i] for i in range(len(dataset)))
    return file_examples(folder, ((Path(path).relative_to(folder).as_posix(), label) for path, label in found))
