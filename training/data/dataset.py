"""A labelled image set: class names and three splits that share no image. Nothing is decoded here."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, TypeAlias

from PIL import Image

from training.data.splitting import draw_share

SplitName: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


class Source(Protocol):
    """Where one image is kept, encoded or as plain pixels; kinds in `reading.py`."""

    def read(self) -> Image.Image:
        """The upright 8-bit RGB image; raises RequestError if it cannot be read."""

    def size(self) -> int:
        """Bytes that are kept; raises OSError."""

    def part(self, start: int, count: int) -> bytes:
        """Up to `count` of them from `start` on; raises OSError."""


@dataclass(frozen=True, slots=True)  # ImageNet has 1.3 million of them
class Example:
    """One labelled image, not yet decoded.

    Attributes:
        name: What a warning calls it: a path, or a split and a number.
        label: Index into the set's class names.
        source: Where it is kept.
    """

    name: str
    label: int
    source: Source

    def read(self) -> Image.Image:
        """The upright 8-bit RGB image; raises RequestError if it cannot be read."""
        return self.source.read()


class ClassText(NamedTuple):
    """How a text encoder is told of a class.

    Attributes:
        template: Sentence with one {}.
        name: What stands in its place: the class name without the prefix that a union may give it.
    """

    template: str
    name: str

    def sentence(self) -> str:
        """The template filled with the name."""
        return self.template.replace("{}", self.name)


@dataclass(frozen=True)
class Dataset:
    """A set of labelled images.

    Attributes:
        name: Fit for a bundle: a-z, 0-9, _ and -.
        classes: Class names; a label is an index into them.
        train: Images that are learned from.
        val: Images that choose: the epoch, the probe's regularisation, the temperature.
        test: Images looked at once, at the end.
        flip: Whether a mirrored image keeps its meaning (clothes do, digits do not).
        template: Sentence with one {} that names a class to a text encoder; in a union each class has its own set's.
        licence: What the images' licence is, as far as known.
        class_sources: For a union, the set that each class comes from.
        set_texts: For a union, the texts of each class in its own set.
        may_lack: Labels that need no training image; a published list may leave some classes out.
        upside_down: Whether an image keeps its meaning upside down as well, as CLEVR's scenes do, which the paper's
            augmentation turns and crops.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: tuple[Example, ...]
    flip: bool
    template: str = "a photo of a {}"
    licence: str = "unstated"
    class_sources: tuple[str, ...] | None = None
    set_texts: tuple[ClassText, ...] | None = None
    may_lack: frozenset[int] = frozenset()
    upside_down: bool = False

    @property
    def class_texts(self) -> tuple[ClassText, ...]:
        """How each class is told to a text encoder."""
        return self.set_texts or tuple(ClassText(self.template, name) for name in self.classes)

    def split(self, name: SplitName) -> tuple[Example, ...]:
        """The examples of one split."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def limited(self, train: int | None, val: int | None, fraction: float | None = None) -> Dataset:
        """The set with at most so many training and validation images of each class; the test split stays whole.

        Of the training images that are left, `fraction` of each class is drawn, always the same.
        """
        learned = _first_of_each(self.train, train)
        if fraction is not None:
            learned = tuple(learned[i] for i in draw_share([example.label for example in learned], fraction))
        return replace(self, train=learned, val=_first_of_each(self.val, val))


def _first_of_each(examples: tuple[Example, ...], limit: int | None) -> tuple[Example, ...]:
    if limit is None:
        return examples
    seen: dict[int, int] = {}
    kept = []
    for example in examples:
        seen[example.label] = seen.get(example.label, 0) + 1
        if seen[example.label] <= limit:
            kept.append(example)
    return tuple(kept)


def safe_name(text: str) -> str:
    """`text` as a data set name: lower case, everything else a hyphen, at most 63 characters."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_")[:63] or "images"
