"""Draw stratified splits: the same share of every class, always the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SPLIT_SEED = 0  # belongs to the data sets, not to a run: every run of every seed sees the same splits


class TooFewImages(ValueError):
    """A class cannot be dealt out.

    Attributes:
        copy: One of its images that is a copy, and the first one that it is the same as; None if it has no such image.
    """

    def __init__(self, message: str, *, copy: tuple[int, int] | None) -> None:
        super().__init__(message)
        self.copy = copy


def draw_stratified(
    labels: Sequence[int],
    shares: Mapping[str, float],
    classes: Sequence[str],
    copy_of: Sequence[int] | None = None,
) -> list[list[int]]:
    """Indices into `labels`, dealt out by class.

    Args:
        labels: Class index of each image, in a fixed order.
        shares: Wanted share of each part after the first, by its name; the first part, train, takes the rest.
        classes: Class names, for the message.
        copy_of: For each image the first one that is the same, as of `first_copies`: it goes where that goes, so that
            no picture is in two parts. Below 0, it stays in the first part. By default all are different.

    Returns:
        One list for the first part and one for each share, together every index once. Every part holds at least one
        image of every class.

    Raises:
        TooFewImages: A class has fewer different images than there are parts.
    """
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    numbers = np.asarray(labels, np.int64)
    indices = np.arange(len(numbers))
    firsts = indices if copy_of is None else np.asarray(copy_of, np.int64)
    different = indices[firsts == indices]
    counts = np.bincount(numbers, minlength=len(classes))
    ends_of_classes = np.cumsum(np.bincount(numbers[different], minlength=len(classes)))[:-1]
    by_class = np.split(different[np.argsort(numbers[different], kind="stable")], ends_of_classes)
    for label, (name, members) in enumerate(zip(classes, by_class, strict=True)):
        if len(members) < len(parts):
            count = "1 image" if counts[label] == 1 else f"{counts[label]} images"
            copies = np.flatnonzero((numbers == label) & (firsts != indices))
            told = f", {len(copies)} of them copies of others," if len(copies) else ","
            *first, last = ("train", *shares)
            raise TooFewImages(
                f"class {name!r} has {count}{told} but needs {len(parts)}: one each for {', '.join(first)} and {last}",
                copy=(int(copies[0]), int(firsts[copies[0]])) if len(copies) else None,
            )
        members = np.random.default_rng((SPLIT_SEED, label)).permutation(members)
        ends = np.cumsum([max(1, round(share * len(members))) for share in shares.values()])
        *drawn, rest = np.split(members, ends)
        for part, chosen in zip(parts, [rest, *drawn], strict=True):
            part += chosen.tolist()
    part_of = {index: part for part in parts for index in part}
    for index in indices[firsts != indices].tolist():
        part_of.get(int(firsts[index]), parts[0]).append(index)
    # Dealt by class, then shuffled: a limit or a glance at the first images meets every class.
    return [[part[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(part))] for part in parts]


def draw_share(labels: Sequence[int], share: float) -> list[int]:
    """Ascending indices into `labels`: this share of every class, and at least one image of each.

    A smaller share is part of every larger one, so a curve over shares adds images and never trades them.
    """
    numbers = np.asarray(labels, np.int64)
    chosen: list[int] = []
    for label in np.unique(numbers):
        members = np.flatnonzero(numbers == label)
        order = np.random.default_rng((SPLIT_SEED, label, 1)).permutation(len(members))
        chosen += members[order[: max(1, round(share * len(members)))]].tolist()
    return sorted(chosen)
