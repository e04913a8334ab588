"""The five fine-grained sets of FGVC, as VPT and VAPT use them: birds twice, dogs, cars (and flowers: `official.py`).

Training and test images are the publishers'. Of the training images a stratified tenth validates; where VPT's own lists
are at hand, their `val.json` in the set's folder says instead which ones do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from scipy.io import loadmat
from torchvision.datasets import StanfordCars

from training.data.dataset import Example
from training.data.named.parts import Parts, class_text, file_examples, required

VAL_LIST = "val.json"


def birds(folder: Path) -> Parts:
    """CUB-200-2011 or NABirds: both publish `images.txt`, `image_class_labels.txt` and `train_test_split.txt`."""
    files, labels, is_train = (
        _table(folder / name) for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt")
    )
    names = _table(folder / "classes.txt")
    present = sorted(set(labels.values()), key=int)  # NABirds also numbers families, which have no images themselves
    number = {label: index for index, label in enumerate(present)}
    train, test = (
        file_examples(
            folder / "images", ((path, number[labels[key]]) for key, path in files.items() if is_train[key] == flag)
        )
        for flag in ("1", "0")
    )
    classes = tuple(class_text(re.sub(r"^\d+\.", "", names[label])) for label in present)  # 001.Black_footed_Albatross
    return with_val_list(Parts(classes, train, None, test), folder)


def stanford_dogs(folder: Path) -> Parts:
    """Stanford Dogs: images, and the two lists in MATLAB's format."""
    splits = []
    names: dict[int, str] = {}
    for split in ("train", "test"):
        found = loadmat(required(folder / f"{split}_list.mat"), squeeze_me=True)
        rows = [(str(path), int(label) - 1) for path, label in zip(found["file_list"], found["labels"], strict=True)]
        names |= {label: path.split("/")[0].partition("-")[2] for path, label in rows}  # n02085620-Chihuahua/...
        splits.append(file_examples(folder / "Images", rows))
    classes = tuple(class_text(names[label]) for label in sorted(names))
    return with_val_list(Parts(classes, splits[0], None, splits[1]), folder)


def stanford_cars(folder: Path) -> Parts:
    """Stanford Cars, which no publisher offers any more; torchvision reads its files."""
    for name in ("devkit/cars_train_annos.mat", "devkit/cars_meta.mat", "cars_test_annos_withlabels.mat"):
        required(folder / name)
    train, test = (StanfordCars(folder.parent, split=split, loader=str) for split in ("train", "test"))
    classes = tuple(class_text(name) for name in train.classes)
    return with_val_list(Parts(classes, _relative(folder, train), None, _relative(folder, test)), folder)


def with_val_list(parts: Parts, folder: Path) -> Parts:
    """The set with the validation images that VPT's `val.json` in `folder` names, if there is such a file.

    The list's keys are paths from different folders; file names alone tell the training images of a set apart.
    """
    path = folder / VAL_LIST
    if not path.exists():
        return parts
    chosen = {PurePosixPath(name).name for name in json.loads(path.read_text())}
    unknown = chosen - {PurePosixPath(example.name).name for example in parts.train}
    if unknown:
        raise ValueError(f"{VAL_LIST} names {min(unknown)}, which is no training image")
    val = [example for example in parts.train if PurePosixPath(example.name).name in chosen]
    train = [example for example in parts.train if PurePosixPath(example.name).name not in chosen]
    return Parts(parts.classes, train, val, parts.test)


def _table(path: Path) -> dict[str, str]:
    """Lines of a key, a space and a value."""
    return {key: value for key, _, value in (line.partition(" ") for line in path.read_text().splitlines() if line)}


def _relative(folder: Path, dataset: StanfordCars) -> list[Example]:
    rows: Iterable[tuple[str, int]] = (dataset[i] for i in range(len(dataset)))
    return file_examples(folder, ((Path(path).relative_to(folder).as_posix(), int(label)) for path, label in rows))
