"""VTAB-1k: of each of 19 tasks 800 images to train on, 200 to validate, and the whole test split.

VTAB takes the first images in the order of TensorFlow Datasets. Where that order was written down as lists
(train800.txt, val200.txt, test.txt, by `get_vtab1k.py` of github.com/ZhangYuanhan-AI/NOAH), the lists are read. Else
the images are drawn from the original set with a fixed seed: the same sizes, and the same test split where the
publisher has one, but other training images, so accuracies compare with published ones up to the noise of a draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from training.data.dataset import Example
from training.data.named.parts import Parts, file_examples, required
from training.data.splitting import SPLIT_SEED

TRAIN, VAL = 800, 200


def read_task(
    folder: Path,
    *,
    lists: str,
    classes: int,
    names: tuple[str, ...] | None = None,
    source: Callable[[Path], Parts] | None = None,
    source_folder: str = "",
) -> Parts:
    """The task from its lists in `folder`/`lists`, else drawn from its original set in `folder`/../`source_folder`.

    Args:
        folder: With a folder of lists and images for each task.
        lists: Name of the task's folder.
        classes: C.
        names: Class names in the order of the lists' labels; by default those in `classes.txt` beside the lists, or
            numbers.
        source: Reads the original set; None for tasks that can be had as lists only.
        source_folder: Where that lies.
    """
    first_list = folder / lists / "train800.txt"
    if source is None or first_list.is_file():
        return _from_lists(required(first_list).parent, classes, names)
    found = source(folder.parent / source_folder)
    train, val = draw(found.train, found.val, train_count=TRAIN, val_count=VAL)
    return Parts(names or found.classes, train, val, found.test)


def draw(
    train: Sequence[Example], val: Sequence[Example] | None, *, train_count: int, val_count: int
) -> tuple[list[Example], list[Example]]:
    """So many training and validation images, always the same; every class is among the training images.

    Args:
        train: Published training images.
        val: Published validation images; None takes both from `train`.
        train_count: Wanted number, at least that of the classes.
        val_count: Wanted number.

    Raises:
        ValueError: There are too few images.
    """
    shuffled = _shuffled(train)
    first_of_class = {example.label: example for example in reversed(shuffled)}
    chosen = {example.name for example in first_of_class.values()}
    order = [e for e in shuffled if e.name in chosen] + [e for e in shuffled if e.name not in chosen]
    pool = order[train_count:] if val is None else _shuffled(val)
    if len(order) < train_count or len(pool) < val_count:
        raise ValueError(f"there are fewer than {train_count} + {val_count} images to draw from")
    return order[:train_count], pool[:val_count]


def _shuffled(examples: Sequence[Example]) -> list[Example]:
    return [examples[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(examples))]


def _from_lists(folder: Path, classes: int, names: tuple[str, ...] | None) -> Parts:
    if names is None:
        written = folder / "classes.txt"
        names = tuple(written.read_text().splitlines() if written.is_file() else map(str, range(classes)))
    train, val, test = (
        file_examples(folder, map(_row, (folder / f"{stem}.txt").read_text().splitlines()))
        for stem in ("train800", "val200", "test")
    )
    return Parts(names, train, val, test)


def _row(line: str) -> tuple[str, int]:
    path, _, label = line.rpartition(" ")
    return path, int(label)
