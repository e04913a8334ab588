"""Several sets as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgn.errors import UsageError
from training.data.digits import digits
from training.data.folder import folder
from training.data.union import union


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


def test_mirroring_needs_every_sets_leave(class_folders: Path) -> None:
    """Photographs may be mirrored, digits may not."""
    assert not union([folder(class_folders), digits()]).flip


def test_the_same_set_twice_is_refused() -> None:
    """Its classes could not be told apart."""
    with pytest.raises(UsageError, match="given twice: digits, digits"):
        union([digits(), digits()])
