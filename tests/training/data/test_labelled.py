"""Images whose class is known by name."""

from __future__ import annotations

import pytest

from pgn.errors import DataInvalid
from tests.toys import picture
from training.data.labelled import Labelled, dataset_from_splits


def _images(*classes: str, each: int = 10, split: str = "train") -> list[Labelled]:
    return [
        Labelled(f"{split}/{name}/{number}", name, picture(256 * ord(name) + number))
        for name in classes
        for number in range(each)
    ]


def test_missing_splits_are_drawn_from_train_stratified_and_share_nothing() -> None:
    """A tenth for validation and a fifth for the test, of every class, always the same."""
    made, again = (dataset_from_splits("pets", "pets", {"train": _images("b", "a")}, expected="") for _ in range(2))
    assert made.classes == ("a", "b")
    names = {split: [example.name for example in made.split(split)] for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in names.items()} == {"train": 14, "val": 2, "test": 4}
    assert len({name for found in names.values() for name in found}) == 20
    assert {example.label for example in made.val} == {0, 1}
    assert [example.name for example in again.test] == names["test"]


def test_a_split_that_is_given_is_taken_as_it_is() -> None:
    """Only the missing one is drawn."""
    given = {"train": _images("a", "b"), "test": _images("a", "b", each=3, split="test")}
    made = dataset_from_splits("pets", "pets", given, expected="")
    assert [example.name for example in made.test] == [image.name for image in given["test"]]
    assert (len(made.train), len(made.val)) == (18, 2)


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({}, r"^pets holds no images \(class folders\)"),
        ({"test": _images("a", "b")}, r"^pets has test but no train \(class folders\)"),
        ({"train": _images("a")}, "^pets holds one class only, 'a'"),
        (
            {"train": _images("a", "b"), "val": _images("c", each=1, split="val")},
            "^pets: val/c/0 is of class 'c', which has no training images",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(splits: dict, said: str) -> None:
    """With what was expected of a folder, tar or list."""
    with pytest.raises(DataInvalid, match=said):
        dataset_from_splits("pets", "pets", splits, expected="class folders")
