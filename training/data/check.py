"""A look at a data set before anything is trained on it: counts, unreadable files, repeated images, class balance.

Images are compared by their decoded pixels, so the same picture is found in two files, also under two formats that lose
nothing; a shrunk or newly compressed copy is not. Several sets are compared with each other as well.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pgn.errors import RequestError
from training.data.dataset import SPLITS, Dataset, Example, SplitName
from training.data.named.catalogue import CATALOGUE
from training.data.parallel import in_waves
from training.data.registry import open_dataset

SHOWN_CLASSES, SHOWN_IMAGES = 50, 20  # lines of a table for people; `to_dict` has all
COARSE_POINTS = 2  # of validation accuracy; where one image is more, it is said


@dataclass(frozen=True)
class Place:
    """Where an image is in a set.

    Attributes:
        split: train, val or test.
        name: As in a warning: its path, or its number.
        label: Its class.
    """

    split: SplitName
    name: str
    label: str

    def __str__(self) -> str:
        return f"{self.name} ({self.split})"


@dataclass(frozen=True)
class CheckReport:
    """What a look at a data set found.

    Attributes:
        dataset: Its name.
        counts: Images of each class that are listed, by split, in the order of the classes; unreadable ones too.
        unreadable: Images that cannot be decoded, each with the reason.
        repeated: Groups of the same picture within one split.
        shared: Groups of the same picture that lie in more than one split: test results would be too good.
        published: Counts by split that the publisher states and that are not met, as (published, found).
        obstacles: Why the set cannot be trained on, one reason each; none if it can.
    """

    dataset: str
    counts: dict[str, dict[SplitName, int]]
    unreadable: tuple[tuple[Place, str], ...]
    repeated: tuple[tuple[Place, ...], ...]
    shared: tuple[tuple[Place, ...], ...]
    published: dict[str, tuple[int, int]]
    obstacles: tuple[str, ...]

    @property
    def total(self) -> dict[SplitName, int]:
        """Images by split."""
        return {split: sum(count[split] for count in self.counts.values()) for split in SPLITS}

    @property
    def damaged(self) -> dict[SplitName, int]:
        """Unreadable images by split: training has so many fewer than `total` says."""
        found = Counter(place.split for place, _ in self.unreadable)
        return {split: found[split] for split in SPLITS}

    def table(self) -> str:
        """The findings as text for a terminal."""
        images = sum(self.total.values())
        lines = [f"{self.dataset}: {len(self.counts)} classes, {images:,} images", *self._class_lines()]
        if self.unreadable:
            counts = ", ".join(f"{split} {count:,}" for split, count in self.damaged.items())
            lines.append(f"of these unreadable: {counts}")
        lines += [f"{split}: {self._balance(split)}" for split in SPLITS]
        lines += [f"published {part}: {want:,}, found {found:,}" for part, (want, found) in self.published.items()]
        lines += _listed("unreadable images", (f"{place}: {reason}" for place, reason in self.unreadable))
        lines += _listed("pictures repeated within a split", map(_group, self.repeated))
        lines += _listed("pictures shared by splits", map(_group, self.shared))
        lines += self._remarks()
        lines += [f"cannot be trained on: {reason}" for reason in self.obstacles[:SHOWN_CLASSES]]
        left_out = len(self.obstacles) - SHOWN_CLASSES
        lines += [f"... and {left_out} more reasons"] if left_out > 0 else []
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""

        def groups(found: tuple[tuple[Place, ...], ...]) -> list[list[dict[str, str]]]:
            return [[vars(place) for place in group] for group in found]

        return {
            "dataset": self.dataset,
            "total": self.total,
            "counts": self.counts,
            "unreadable": [{**vars(place), "reason": reason} for place, reason in self.unreadable],
            "repeated": groups(self.repeated),
            "shared": groups(self.shared),
            "published": {part: {"published": want, "found": found} for part, (want, found) in self.published.items()},
            "obstacles": list(self.obstacles),
        }

    def _class_lines(self) -> list[str]:
        rows = [("class", *SPLITS), *((name, *map(str, count.values())) for name, count in self.counts.items())]
        total = ("all", *map(str, self.total.values()))
        left_out = len(self.counts) - SHOWN_CLASSES
        rows = [*rows[: SHOWN_CLASSES + 1], total]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        return [*lines[:-1], *([f"... and {left_out} more classes"] if left_out > 0 else []), lines[-1]]

    def _remarks(self) -> list[str]:
        """What is no fault, but makes results rough."""
        usable = self.total["val"] - self.damaged["val"]
        if not usable or 100 / usable <= COARSE_POINTS:
            return []
        images = "1 image" if usable == 1 else f"{usable} images"
        points = round(100 / usable)
        return [f"validation: {images}, so one image is {points} points; epoch and temperature are chosen on little"]

    def _balance(self, split: SplitName) -> str:
        sizes = {name: count[split] for name, count in self.counts.items()}
        smallest, largest = (pick(sizes, key=lambda name: sizes[name]) for pick in (min, max))
        if sizes[smallest] == sizes[largest]:
            return f"every class has {sizes[largest]:,}"
        return f"from {sizes[smallest]:,} ({smallest}) to {sizes[largest]:,} ({largest}) images a class"


@dataclass(frozen=True)
class Checked:
    """A set that was looked at.

    Attributes:
        report: What was found in it.
        places: Where each of its pictures is, by a digest of the pixels.
    """

    report: CheckReport
    places: dict[bytes, list[Place]]


def check(spec: str, data_dir: Path) -> Checked:
    """Decode every image of the data set that `spec` names and report; raises as `open_dataset` does."""
    dataset = open_dataset(spec, data_dir)
    numbered = [(split, example) for split in SPLITS for example in dataset.split(split)]
    groups: dict[bytes, list[Place]] = {}
    unreadable: list[tuple[Place, str]] = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        tqdm(total=len(numbered), unit="image", disable=not sys.stderr.isatty()) as bar,
    ):
        digests = in_waves(threads, _digest, (example for _, example in numbered))
        for (split, example), digest in zip(numbered, digests, strict=True):
            place = Place(split, example.name, dataset.classes[example.label])
            if isinstance(digest, str):
                unreadable.append((place, digest))
            else:
                groups.setdefault(digest, []).append(place)
            bar.update()
    several = [tuple(sorted(group, key=_order)) for group in groups.values() if len(group) > 1]
    crossing = [len({place.split for place in group}) > 1 for group in several]
    report = CheckReport(
        dataset=dataset.name,
        counts=_counts(dataset),
        unreadable=tuple(unreadable),
        repeated=tuple(group for group, crosses in zip(several, crossing, strict=True) if not crosses),
        shared=tuple(group for group, crosses in zip(several, crossing, strict=True) if crosses),
        published=_unmet(spec, dataset),
        obstacles=_obstacles(dataset, {place for places in groups.values() for place in places}),
    )
    return Checked(report, groups)


@dataclass(frozen=True)
class SharedBySets:
    """Pictures that several sets hold: a union of these would learn from images that it is asked about.

    Attributes:
        groups: For each such picture, its places by the number of the set, counted from 1 as they were named.
        names: Of the sets.
    """

    groups: tuple[tuple[tuple[int, Place], ...], ...]
    names: tuple[str, ...]

    @property
    def crossing(self) -> int:
        """How many of them are in different splits."""
        return sum(len({place.split for _, place in group}) > 1 for group in self.groups)

    def table(self) -> str:
        """The findings as text for a terminal."""
        lines = (" = ".join(f"{self._of(number)}: {place}" for number, place in group) for group in self.groups)
        what = f" ({self.crossing} of them by different splits)" if self.groups else ""
        return "\n".join(_listed(f"pictures shared by sets{what}", lines))

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "datasets": list(self.names),
            "shared_by_sets": [
                [{"set": number, "dataset": self.names[number - 1], **vars(place)} for number, place in group]
                for group in self.groups
            ],
        }

    def _of(self, number: int) -> str:
        name = self.names[number - 1]
        return name if self.names.count(name) == 1 else f"{name} (set {number})"


def compare(checked: Sequence[Checked]) -> SharedBySets:
    """The pictures that are in more than one of these sets."""
    holders: dict[bytes, list[tuple[int, Place]]] = {}
    for number, each in enumerate(checked, start=1):
        for digest, places in each.places.items():
            holders.setdefault(digest, []).extend((number, place) for place in sorted(places, key=_order))
    groups = [tuple(group) for group in holders.values() if len({number for number, _ in group}) > 1]
    return SharedBySets(tuple(groups), tuple(each.report.dataset for each in checked))


def _digest(example: Example) -> bytes | str:
    """The digest of the example's pixels, or why it cannot be read."""
    try:
        image = example.read()
    except RequestError as error:
        return error.message
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()


def _order(place: Place) -> tuple[int, str]:
    return SPLITS.index(place.split), place.name


def _counts(dataset: Dataset) -> dict[str, dict[SplitName, int]]:
    labels = {split: Counter(example.label for example in dataset.split(split)) for split in SPLITS}
    return {name: {split: labels[split][label] for split in SPLITS} for label, name in enumerate(dataset.classes)}


def _obstacles(dataset: Dataset, readable: Collection[Place]) -> tuple[str, ...]:
    """What `load_split` would refuse, with the images that can be read."""
    filled = {place.split for place in readable}
    reasons = [f"no image of {split} can be read" for split in SPLITS if split not in filled]
    if "train" in filled:
        taught = {place.label for place in readable if place.split == "train"}
        needed = [name for label, name in enumerate(dataset.classes) if label not in dataset.may_lack]
        reasons += [f"class {name!r} has no readable training image" for name in needed if name not in taught]
    return tuple(reasons)


def _unmet(spec: str, dataset: Dataset) -> dict[str, tuple[int, int]]:
    entry = CATALOGUE.get(spec)
    if entry is None:
        return {}
    train, val, test = (len(dataset.split(split)) for split in SPLITS)
    found: dict[str, tuple[int | None, int]] = {"classes": (entry.classes, len(dataset.classes))}
    if entry.val is None:
        found["train and val"] = (entry.train, train + val)
    else:
        found |= {"train": (entry.train, train), "val": (entry.val, val)}
    found["test"] = (entry.test, test)
    return {part: (want, have) for part, (want, have) in found.items() if want is not None and want != have}


def _group(group: Sequence[Place]) -> str:
    labels = sorted({place.label for place in group})
    return " = ".join(map(str, group)) + (f"; classes differ: {', '.join(labels)}" if len(labels) > 1 else "")


def _listed(what: str, lines: Iterable[str]) -> list[str]:
    found = list(lines)
    shown = [f"  {line}" for line in found[:SHOWN_IMAGES]]
    more = [f"  ... and {len(found) - SHOWN_IMAGES} more"] if len(found) > SHOWN_IMAGES else []
    return [f"{what}: {len(found) or 'none'}", *shown, *more]
