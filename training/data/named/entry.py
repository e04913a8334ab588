"""One public set: what the catalogue says of it, and how that and the files on disk become a data set."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeAlias

from scipy.io.matlab import MatReadError

from pgn.errors import DataInvalid, one_line
from training.data.copies import first_copies
from training.data.dataset import Dataset, Example
from training.data.named.parts import Parts
from training.data.splitting import draw_stratified

VAL_SHARE = 0.1
LOOKED_AT = 200_000  # training images among which copies are looked for: ImageNet's 1.28 million would take minutes
Group: TypeAlias = Literal["PGN", "ImageNet", "FGVC", "VTAB-1k"]

# What readers, and the libraries below them, raise on files that are cut short or belong to another set.
_DAMAGED = (ValueError, KeyError, IndexError, TypeError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile,
            pickle.UnpicklingError, MatReadError)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A public set.

    Attributes:
        name: What --dataset takes.
        title: What people call it.
        group: The paper or benchmark that it is here for.
        folders: Names that its folder may have below the data folder; new files go into the first.
        read: Reads what lies in that folder.
        get: How to get the files; {folder} stands for the set's folder, {data} for the data folder.
        split: Where the splits come from, in a few words.
        classes: C.
        train: Published training images; None where it depends on another set.
        val: Published validation images; None if a stratified tenth of train is drawn.
        test: Published test images.
        template: Class text with one {}.
        flip: Whether a mirrored image keeps its meaning.
        has_every_class: Whether each class has a published training image.
        licence: As far as known.
        first_files: Below the data folder, what its reader opens first; one of them tells the set from an empty folder.
            {folder} stands for the set's folder, * for any name.
        upside_down: Whether an image upside down keeps its meaning, too; the paper turns and crops CLEVR's.
    """

    name: str
    title: str
    group: Group
    folders: tuple[str, ...]
    read: Callable[[Path], Parts]
    get: str
    split: str
    classes: int
    train: int | None
    val: int | None
    test: int
    licence: str
    template: str = "This is a photo of a {}"
    flip: bool = True
    has_every_class: bool = True
    first_files: tuple[str, ...] = ()
    upside_down: bool = False

    def folder(self, data_dir: Path) -> Path:
        """Where its files lie, or should be put."""
        places = [data_dir / name for name in self.folders]
        return next((place for place in places if place.is_dir()), places[0])

    def at_hand(self, data_dir: Path) -> Path | None:
        """The folder in `data_dir` that its files lie in; None if they are not there. Looks for the first file only."""
        for pattern in self.first_files:
            found = data_dir.glob(pattern.format(folder=self.folder(data_dir).name))
            first = next((path for path in found if path.is_file()), None)
            if first is not None:
                return data_dir / first.relative_to(data_dir).parts[0]
        return None

    def how_to_get(self, data_dir: Path) -> str:
        """What to do to have its files in `data_dir`."""
        return self.get.format(folder=self.folder(data_dir), data=data_dir)


def open_entry(entry: Entry, data_dir: Path) -> Dataset:
    """The set as it lies below `data_dir`; nothing is decoded yet.

    Without published validation images a stratified tenth of train validates, always the same.

    Raises:
        DataInvalid: Its files are not there, and the hint says how to get them; or they contradict each other.
    """
    folder = entry.folder(data_dir)
    try:
        parts = entry.read(folder)
        _check(parts)
        train, val = _train_and_val(parts)
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = f"no file {error.filename}" if error.filename else str(error)
        raise DataInvalid(f"{entry.title} is not at hand: {missing}", hint=entry.how_to_get(data_dir)) from error
    except OSError as error:
        raise DataInvalid(f"{entry.title} cannot be read: {error}", hint=f"look at {folder}") from error
    except _DAMAGED as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__} "
        raise DataInvalid(
            f"{entry.title}: the files in {folder} are not as published: {kind}{one_line(error)}",
            hint=entry.how_to_get(data_dir),
        ) from error
    return Dataset(
        name=entry.name,
        classes=parts.classes,
        train=tuple(train),
        val=tuple(val),
        test=tuple(parts.test),
        flip=entry.flip,
        upside_down=entry.upside_down,
        template=entry.template,
        licence=entry.licence,
        may_lack=frozenset() if entry.has_every_class else frozenset(range(len(parts.classes))),
    )


def _train_and_val(parts: Parts) -> tuple[Sequence[Example], Sequence[Example]]:
    """The published ones, or both drawn from train; ValueError if a class is too small for that."""
    if parts.val is not None:
        return parts.train, parts.val
    labels = [example.label for example in parts.train]
    copy_of = first_copies(parts.train) if len(labels) <= LOOKED_AT else None
    train, val = draw_stratified(labels, {"val": VAL_SHARE}, parts.classes, copy_of)
    return [parts.train[i] for i in train], [parts.train[i] for i in val]


def _check(parts: Parts) -> None:
    """Class names are distinct, labels point at them, and no image is in two splits; else ValueError."""
    if len(parts.classes) < 2:
        raise ValueError(f"there are {len(parts.classes)} classes")
    if len(set(parts.classes)) < len(parts.classes):
        raise ValueError("two classes have the same name")
    splits = {"train": parts.train, "val": parts.val or (), "test": parts.test}
    for split, examples in splits.items():
        wrong = next((e for e in examples if not 0 <= e.label < len(parts.classes)), None)
        if wrong is not None:
            raise ValueError(f"{split}: {wrong.name} has label {wrong.label} of {len(parts.classes)} classes")
    names = {split: {example.name for example in examples} for split, examples in splits.items()}
    for one, other in combinations(splits, 2):
        if shared := names[one] & names[other]:
            raise ValueError(f"{min(shared)} is in {one} and in {other}")
