"""Images in class folders, on disk or in a tar: which file belongs to which class and split.

Two layouts are read: `<class>/<file>`, and `<split>/<class>/<file>` with the splits train, val and test. A split that
is missing is drawn from the training images, stratified, always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from PIL import Image

from pgn.errors import DataInvalid
from training.data.dataset import SPLITS, Dataset, Example, safe_name
from training.data.splitting import draw_stratified

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
VAL_SHARE, TEST_SHARE = 0.1, 0.2
_LAYOUT_HINT = "expected <class>/<image> or train/<class>/<image>, with at least two classes"

Reader = Callable[[], Image.Image]


@dataclass(frozen=True)
class _File:
    name: str
    class_name: str
    read: Reader


def dataset_from_tree(name: str, where: str, files: Mapping[str, Reader]) -> Dataset:
    """The data set in a tree of image files.

    Args:
        name: Becomes the data set's name.
        where: What messages call the tree.
        files: A reader for each relative path; what is no image by its suffix is passed over.

    Raises:
        DataInvalid: No images, fewer than two classes, a class with too few images, or one without training images.
    """
    splits = _by_split({path: read for path, read in files.items() if PurePosixPath(path).suffix.lower() in SUFFIXES})
    if not splits:
        raise DataInvalid(f"{where} holds no images in class folders", hint=_LAYOUT_HINT)
    if "train" not in splits:
        raise DataInvalid(f"{where} has {' and '.join(splits)} but no train", hint=_LAYOUT_HINT)
    classes = tuple(sorted({file.class_name for file in splits["train"]}))
    if len(classes) < 2:
        raise DataInvalid(f"{where} holds one class only, {classes[0]!r}", hint="a classifier needs two or more")
    parts = {split: [_example(file, classes, where) for file in members] for split, members in splits.items()}
    train, val, test = _with_drawn_splits(parts, classes)
    return Dataset(name=safe_name(name), classes=classes, train=train, val=val, test=test, flip=True)


def _by_split(files: Mapping[str, Reader]) -> dict[str, list[_File]]:
    """Files by split, sorted by path; a tree without a split layout is all train."""
    paths = {path: PurePosixPath(path).parts for path in sorted(files)}
    has_splits = any(len(parts) > 2 and parts[0] == "train" for parts in paths.values())
    found: dict[str, list[_File]] = {}
    for path, parts in paths.items():
        if has_splits and len(parts) > 2 and parts[0] in SPLITS:
            found.setdefault(parts[0], []).append(_File(path, parts[1], files[path]))
        elif not has_splits and len(parts) > 1:
            found.setdefault("train", []).append(_File(path, parts[0], files[path]))
    return found


def _example(file: _File, classes: tuple[str, ...], where: str) -> Example:
    if file.class_name not in classes:
        raise DataInvalid(
            f"{where}: {file.name} is of class {file.class_name!r}, which has no training images",
            hint="add training images of that class, or take it out",
        )
    return Example(file.name, classes.index(file.class_name), file.read)


def _with_drawn_splits(parts: dict[str, list[Example]], classes: tuple[str, ...]) -> list[tuple[Example, ...]]:
    """Train, val and test, with what is missing drawn from train."""
    missing = {split: share for split, share in (("val", VAL_SHARE), ("test", TEST_SHARE)) if split not in parts}
    pool = parts["train"]
    rest, *drawn = draw_stratified([example.label for example in pool], tuple(missing.values()), classes)
    found = {**parts, "train": [pool[i] for i in rest]}
    found |= {split: [pool[i] for i in part] for split, part in zip(missing, drawn, strict=True)}
    return [tuple(found[split]) for split in SPLITS]
