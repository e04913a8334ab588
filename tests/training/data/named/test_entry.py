"""From what lies on disk to a data set, or one clear line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pgn.errors import DataInvalid
from tests.toys import picture
from training.data.dataset import Example
from training.data.named import entry
from training.data.named.catalogue import CATALOGUE
from training.data.named.entry import open_entry
from training.data.named.parts import Parts


def _examples(split: str, labels: Sequence[int]) -> list[Example]:
    return [Example(f"{split}/{n}", label, picture(n)) for n, label in enumerate(labels)]


PARTS = Parts(("a", "b"), _examples("train", [0, 1] * 10), _examples("val", [0, 1]), _examples("test", [0, 1]))


def _open(parts: Parts | Exception) -> object:
    def read(_: Path) -> Parts:
        if isinstance(parts, Exception):
            raise parts
        return parts

    return open_entry(replace(CATALOGUE["dtd"], read=read), Path("data"))


def test_published_splits_are_kept() -> None:
    """Image by image, in the publisher's order."""
    found = open_entry(replace(CATALOGUE["dtd"], read=lambda _: PARTS), Path("data"))
    assert (found.train, found.val, found.test) == tuple(map(tuple, (PARTS.train, PARTS.val or (), PARTS.test)))
    assert (found.name, found.template) == ("dtd", CATALOGUE["dtd"].template)


def test_a_tenth_of_train_validates_where_nothing_else_does() -> None:
    """The same images every time, and the same share of each class."""
    first, second = (
        open_entry(replace(CATALOGUE["dtd"], read=lambda _: replace(PARTS, val=None)), Path("data")) for _ in range(2)
    )
    assert [e.name for e in first.val] == [e.name for e in second.val]
    assert sorted(e.label for e in first.val) == [0, 1]
    assert sorted(e.name for e in (*first.train, *first.val)) == sorted(e.name for e in PARTS.train)


def test_a_copy_of_a_picture_validates_nothing_that_learned_from_it() -> None:
    """Published training lists hold some pictures twice; here each of ten twice."""
    twice = [
        replace(example, source=picture(n // 2)) for n, example in enumerate(_examples("train", [0, 0, 1, 1] * 10))
    ]
    dataset = open_entry(replace(CATALOGUE["dtd"], read=lambda _: replace(PARTS, train=twice, val=None)), Path("data"))
    learned, asked = ({bytes(e.source.part(0, 2)) for e in split} for split in (dataset.train, dataset.val))
    assert asked
    assert learned.isdisjoint(asked)


def test_of_very_many_images_none_is_looked_at_for_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening ImageNet would take minutes each time."""
    monkeypatch.setattr(entry, "LOOKED_AT", len(PARTS.train) - 1)
    monkeypatch.setattr(entry, "first_copies", lambda _: pytest.fail("images were looked at"))
    dataset = open_entry(replace(CATALOGUE["dtd"], read=lambda _: replace(PARTS, val=None)), Path("data"))
    assert len(dataset.val) == 2


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (replace(PARTS, classes=("a",)), "there are 1 classes"),
        (replace(PARTS, classes=("a", "a")), "two classes have the same name"),
        (replace(PARTS, test=_examples("test", [0, 2])), "test: test/1 has label 2 of 2 classes"),
        (replace(PARTS, val=PARTS.train[:1]), "train/0 is in train and in val"),
        (KeyError("train"), "KeyError 'train'"),
        (EOFError("Ran out of input"), "EOFError Ran out of input"),
    ],
)
def test_files_that_contradict_each_other_are_one_line(parts: Parts | Exception, message: str) -> None:
    """With the place, what is wrong, and how to get them anew."""
    with pytest.raises(DataInvalid, match="DTD: the files in data/dtd are not as published: ") as caught:
        _open(parts)
    assert caught.value.message.endswith(message)
    assert "split_zhou_DescribableTextures.json" in caught.value.hint


def test_a_folder_that_may_not_be_read_is_one_line() -> None:
    """Another user's, for one; telling how to download it would not help."""
    with pytest.raises(DataInvalid, match=r"DTD cannot be read: .*Permission denied .look at data/dtd"):
        _open(PermissionError(13, "Permission denied"))


def test_a_class_too_small_to_give_a_validation_image_is_named() -> None:
    """One image cannot be in two splits; as published, no class is so small, so files are missing."""
    message = r"files in data/dtd are not as published: class 'b' has 1 image, but needs 2: .* \(put split_zhou"
    with pytest.raises(DataInvalid, match=message):
        _open(replace(PARTS, train=_examples("train", [0, 0, 0, 1]), val=None))
