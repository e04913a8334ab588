"""Images whose class is known by name, as a data set: what folder, tar and CSV have in common.

A split that is missing is drawn from the training images, stratified, always the same; copies of a picture stay
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pgn.errors import DataInvalid
from training.data.copies import first_copies
from training.data.dataset import SPLITS, Dataset, Example, Source, SplitName, safe_name
from training.data.splitting import TooFewImages, draw_stratified

DRAWN_SHARES: Final[Mapping[SplitName, float]] = {"val": 0.1, "test": 0.2}


@dataclass(frozen=True)
class Labelled:
    """An image with the name of its class.

    Attributes:
        name: What a warning calls it.
        class_name: As the user wrote it.
        source: As of an Example.
    """

    name: str
    class_name: str
    source: Source


def dataset_from_splits(
    name: str, where: str, splits: Mapping[SplitName, Sequence[Labelled]], *, expected: str
) -> Dataset:
    """The data set of these images; its classes are those of the training images, in alphabetical order.

    Args:
        name: Becomes the data set's name.
        where: What messages call the source.
        splits: The images of each split that is given; none is empty.
        expected: What the source should look like, for the hints.

    Raises:
        DataInvalid: No images, no training images, one class only, a class with too few images or without training
            images.
    """
    if not splits:
        raise DataInvalid(f"{where} holds no images", hint=expected)
    if "train" not in splits:
        raise DataInvalid(f"{where} has {' and '.join(splits)} but no train", hint=expected)
    classes = tuple(sorted({image.class_name for image in splits["train"]}))
    if len(classes) < 2:
        raise DataInvalid(f"{where} holds one class only, {classes[0]!r}", hint="a classifier needs two or more")
    number = {class_name: label for label, class_name in enumerate(classes)}
    parts = {split: [_example(image, number, where) for image in images] for split, images in splits.items()}
    train, val, test = _with_drawn_splits(parts, classes, where)
    return Dataset(name=safe_name(name), classes=classes, train=train, val=val, test=test, flip=True)


def _example(image: Labelled, number: Mapping[str, int], where: str) -> Example:
    if image.class_name not in number:
        raise DataInvalid(
            f"{where}: {image.name} is of class {image.class_name!r}, which has no training images",
            hint="add training images of that class, or take it out",
        )
    return Example(image.name, number[image.class_name], image.source)


def _with_drawn_splits(
    parts: dict[SplitName, list[Example]], classes: tuple[str, ...], where: str
) -> list[tuple[Example, ...]]:
    """Train, val and test, with what is missing drawn from train; DataInvalid if a class is too small for that."""
    missing: dict[str, float] = {split: share for split, share in DRAWN_SHARES.items() if split not in parts}
    pool = parts["train"]
    given = [example for split, examples in parts.items() if split != "train" for example in examples]
    copy_of = [first - len(given) for first in first_copies([*given, *pool])[len(given) :]] if missing else None
    try:
        drawn = draw_stratified([example.label for example in pool], missing, classes, copy_of)
    except TooFewImages as error:
        same = ""
        if error.copy:
            index, first = error.copy
            same = f"; {pool[index].name} is the same as {(pool if first >= 0 else given)[first].name}"
        raise DataInvalid(f"{where}: {error}{same}", hint="add images to it, or take the class out") from error
    found = {name: [pool[i] for i in part] for name, part in zip(("train", *missing), drawn, strict=True)}
    return [tuple(found[split] if split in found else parts[split]) for split in SPLITS]
