"""Sets in the splits of CoOp: one JSON that gives each split as rows of path, label and class name.

The PGN paper uses these files (`split_zhou_*.json`, from github.com/KaiyangZhou/CoOp) for seven of its sets, and one of
the same form for RESISC45.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from training.data.dataset import SPLITS
from training.data.named.parts import Parts, class_text, file_examples, first_folder, or_download


def read_split_file(
    folder: Path, *, file: str, images: tuple[str, ...], dataset: Callable[..., object] | None = None
) -> Parts:
    """The images below `folder` that its split file lists.

    Args:
        folder: Of the set.
        file: Name of the split file in it.
        images: Folders below `folder` where the images may lie; the first that exists is taken.
        dataset: torchvision's data set that can download the images; it is asked only once the split file is there,
            which no program can fetch.
    """
    splits = json.loads((folder / file).read_text(encoding="utf-8"))
    try:
        root = first_folder(folder, images)
    except FileNotFoundError:
        if dataset is None:
            raise
        or_download(dataset, folder)
        root = first_folder(folder, images)
    names: dict[int, str] = {}
    for path, label, name in (row for split in SPLITS for row in splits[split]):
        if names.setdefault(label, name) != name:
            raise ValueError(f"{file} calls class {label} both {names[label]!r} and {name!r} ({path})")
    number = {label: index for index, label in enumerate(sorted(names))}
    train, val, test = (
        file_examples(root, ((path, number[label]) for path, label, _ in splits[split])) for split in SPLITS
    )
    return Parts(tuple(class_text(names[label]) for label in sorted(names)), train, val, test)
