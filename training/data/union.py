"""Several data sets as one, for a union PGN: one generator and one head over all their classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from pgn.errors import UsageError
from training.data.dataset import Dataset, Example, SplitName, safe_name


def with_distinct_names(datasets: Sequence[Dataset]) -> list[Dataset]:
    """The sets, those whose name an earlier one has with a number behind it: pets, pets-2."""
    taken = {dataset.name for dataset in datasets}
    seen: set[str] = set()
    named = []
    for dataset in datasets:
        name = dataset.name
        if name in seen:
            name = next(free for n in count(2) if (free := f"{dataset.name}-{n}") not in taken)
        taken.add(name)
        seen.add(name)
        named.append(replace(dataset, name=name))
    return named


def union(datasets: Sequence[Dataset]) -> Dataset:
    """All images of all sets; the class list is the sets' lists, one after the other.

    A class name that two sets have becomes "<set>/<name>"; to a text encoder each class is told as in its own set.
    Mirroring, left to right or upside down, is allowed only if every set allows it.

    Raises:
        UsageError: Two sets have the same name; `with_distinct_names` mends that.
    """
    names = [dataset.name for dataset in datasets]
    if len(set(names)) != len(names):
        raise UsageError(f"the same data set is given twice: {', '.join(names)}", hint="name each set once")
    counts = Counter(name for dataset in datasets for name in dataset.classes)
    return Dataset(
        name=safe_name("-".join(names)),
        classes=tuple(
            f"{dataset.name}/{name}" if counts[name] > 1 else name for dataset in datasets for name in dataset.classes
        ),
        train=_joined(datasets, "train"),
        val=_joined(datasets, "val"),
        test=_joined(datasets, "test"),
        flip=all(dataset.flip for dataset in datasets),
        upside_down=all(dataset.upside_down for dataset in datasets),
        licence="; ".join(f"{dataset.name}: {dataset.licence}" for dataset in datasets),
        class_sources=tuple(dataset.name for dataset in datasets for _ in dataset.classes),
        set_texts=tuple(text for dataset in datasets for text in dataset.class_texts),
        may_lack=_may_lack(datasets),
    )


def _may_lack(datasets: Sequence[Dataset]) -> frozenset[int]:
    labels: set[int] = set()
    offset = 0
    for dataset in datasets:
        labels |= {label + offset for label in dataset.may_lack}
        offset += len(dataset.classes)
    return frozenset(labels)


def _joined(datasets: Sequence[Dataset], split: SplitName) -> tuple[Example, ...]:
    joined: list[Example] = []
    offset = 0
    for dataset in datasets:
        joined += [replace(example, label=example.label + offset) for example in dataset.split(split)]
        offset += len(dataset.classes)
    return tuple(joined)
