"""Several sets as one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pgn.errors import UsageError
from training.data.digits import digits
from training.data.folder import folder
from training.data.union import union, with_distinct_names


def test_labels_are_shifted_behind_the_sets_before(class_folders: Path) -> None:
    """The second set's classes come after the first's, and its labels point at them."""
    joined = union([digits(), folder(class_folders)])
    assert joined.name == "digits-my-pets"
    assert joined.classes[9:] == ("9", "cat", "dog")
    assert {joined.classes[e.label] for e in joined.test if e.name.startswith("cat/")} == {"cat"}
    assert joined.class_sources == ("digits",) * 10 + ("my-pets",) * 2


def test_a_class_name_of_two_sets_gets_the_sets_name(class_folders: Path) -> None:
    """A bundle's class names are distinct."""
    (class_folders / "dog").rename(class_folders / "7")
    joined = union([digits(), folder(class_folders)])
    assert "digits/7" in joined.classes
    assert "my-pets/7" in joined.classes
    assert "cat" in joined.classes


def test_each_class_keeps_the_sentence_of_its_set(class_folders: Path) -> None:
    """CLIP knows photos of digits and photos of dogs; it has never read of a "digits/7"."""
    (class_folders / "dog").rename(class_folders / "7")
    joined = union([digits(), folder(class_folders)])
    sentences = dict(zip(joined.classes, (text.sentence() for text in joined.class_texts), strict=True))
    assert sentences["0"] == "a photo of the digit 0"
    assert sentences["digits/7"] == "a photo of the digit 7"
    assert sentences["my-pets/7"] == "a photo of a 7"
    assert sentences["cat"] == "a photo of a cat"


def test_mirroring_needs_every_sets_leave(class_folders: Path) -> None:
    """Photographs may be mirrored, digits may not."""
    assert not union([folder(class_folders), digits()]).flip


def test_the_same_set_twice_is_refused() -> None:
    """Its classes could not be told apart."""
    with pytest.raises(UsageError, match="given twice: digits, digits"):
        union([digits(), digits()])


def test_sets_of_one_name_are_numbered() -> None:
    """Everyone calls a folder `images`; a number that is taken already is left out."""
    sets = [replace(digits(), name=name) for name in ("ok", "ok", "ok-2", "ok", "other")]
    assert [found.name for found in with_distinct_names(sets)] == ["ok", "ok-3", "ok-2", "ok-4", "other"]


def test_what_one_set_may_lack_another_may_not(class_folders: Path) -> None:
    """A published list that leaves classes out excuses its own classes alone."""
    sparse = replace(digits(), may_lack=frozenset(range(10)))
    assert union([sparse, folder(class_folders)]).may_lack == frozenset(range(10))
    assert union([folder(class_folders), sparse]).may_lack == frozenset(range(2, 12))
