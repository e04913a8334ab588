"""A labelled image set."""

from __future__ import annotations

import re

import pytest

from pgn.bundle import NAME_PATTERN
from tests.toys import picture
from training.data.dataset import ClassText, Dataset, Example, safe_name


def _set(per_class: int) -> Dataset:
    def examples(split: str) -> tuple[Example, ...]:
        labels = [label for _ in range(per_class) for label in range(2)]
        return tuple(Example(f"{split}/{i}", label, picture(i)) for i, label in enumerate(labels))

    splits = {split: examples(split) for split in ("train", "val", "test")}
    return Dataset(name="pets", classes=("cat", "dog"), flip=True, template="a photo of a {}", **splits)


def test_a_limit_takes_the_first_of_each_class_and_leaves_the_test_split_whole() -> None:
    """Fewer images to learn from, and the same question in the end."""
    limited = _set(10).limited(3, 2)
    assert [len(limited.split(split)) for split in ("train", "val", "test")] == [6, 4, 20]
    assert [example.name for example in limited.train] == [f"train/{i}" for i in range(6)]


def test_a_share_of_the_training_images_is_part_of_every_larger_share() -> None:
    """So a curve over shares adds images and takes none away; validation stays whole."""
    shares = [{example.name for example in _set(20).limited(None, None, share).train} for share in (0.1, 0.5, 1.0)]
    assert shares[0] < shares[1] < shares[2]
    assert [len(share) for share in shares] == [4, 20, 40]
    assert len(_set(20).limited(None, None, 0.1).val) == 40


def test_a_limit_and_a_share_go_together() -> None:
    """The share is of what the limit leaves."""
    assert len(_set(20).limited(10, None, 0.5).train) == 10


def test_a_class_is_told_in_the_sets_own_sentence() -> None:
    """CLIP's text for it."""
    assert [text.sentence() for text in _set(1).class_texts] == ["a photo of a cat", "a photo of a dog"]
    assert ClassText("a {}, a kind of {}", "cat").sentence() == "a cat, a kind of cat"


@pytest.mark.parametrize("given", ["My Pets!", "Ünïcode", "--", "", "a" * 200, "_x_"])
def test_any_folders_name_becomes_one_that_a_bundle_may_have(given: str) -> None:
    """What serves it is the contract's pattern."""
    assert re.match(NAME_PATTERN, safe_name(given))
