"""The table of public sets is complete and consistent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgn.bundle import NAME_PATTERN
from pgn.errors import DataInvalid
from training.data.named.catalogue import CATALOGUE
from training.data.named.entry import Entry
from training.data.registry import open_dataset

ENTRIES = pytest.mark.parametrize("entry", CATALOGUE.values(), ids=list(CATALOGUE))

PGN_PAPER = {  # classes and the sum of train and validation, as the released checkpoints' step counters confirm it
    "cifar100": (100, 50_000), "cifar10": (10, 50_000), "flowers102": (102, 5_726), "food101": (101, 70_700),
    "eurosat": (10, 18_900), "sun397": (397, 19_850), "ucf101": (101, 9_537), "svhn": (10, 73_257),
    "oxford-pets": (37, 3_680), "dtd": (47, 3_948), "resisc45": (45, 25_200), "clevr-count": (8, 70_000),
}  # fmt: skip


def test_the_papers_twelve_sets_have_the_papers_sizes() -> None:
    """Classes and training images; a slip in the table would mislead every comparison."""
    found = {
        entry.name: (entry.classes, (entry.train or 0) + (entry.val or 0))
        for entry in CATALOGUE.values()
        if entry.group == "PGN"
    }
    assert found == PGN_PAPER


@ENTRIES
def test_a_name_fits_a_bundle(entry: Entry) -> None:
    """The set's name becomes the bundle's."""
    assert re.fullmatch(NAME_PATTERN, entry.name)


@ENTRIES
def test_a_class_text_has_one_place_for_the_name(entry: Entry) -> None:
    """A sentence without it would call all classes the same."""
    assert entry.template.count("{}") == 1


@ENTRIES
def test_a_missing_set_names_its_folder_and_what_to_do(entry: Entry, tmp_path: Path, no_network: None) -> None:
    """One clear line for each of them, never a traceback: which folder was looked into, and what is to be fetched."""
    with pytest.raises(DataInvalid, match="is not at hand: ") as caught:
        open_dataset(entry.name, tmp_path)
    looked_into = {str(tmp_path / place.format(folder=entry.folders[0]).split("/")[0]) for place in entry.first_files}
    assert any(folder in caught.value.message for folder in looked_into)
    assert any(folder in caught.value.hint for folder in looked_into)
    assert re.search(r"https?://|Stanford offers it no more", caught.value.hint)
    assert "{" not in caught.value.hint
    assert "\n" not in str(caught.value)


@ENTRIES
def test_the_first_file_makes_a_set_be_at_hand_and_an_empty_folder_does_not(entry: Entry, tmp_path: Path) -> None:
    """What a failed download leaves is no data set."""
    for place in entry.first_files:
        data_dir = tmp_path / place.replace("/", "-")
        file = data_dir / place.format(folder=entry.folders[-1]).replace("*", "n1")
        file.parent.mkdir(parents=True)
        assert entry.at_hand(data_dir) is None
        file.touch()
        assert entry.at_hand(data_dir) == data_dir / file.relative_to(data_dir).parts[0]


@ENTRIES
def test_the_file_that_a_reader_misses_first_is_one_of_the_first_files(
    entry: Entry, tmp_path: Path, no_network: None
) -> None:
    """Else `pgn data list` would look for another file than training does; downloads name no file."""
    with pytest.raises(DataInvalid) as caught:
        open_dataset(entry.name, tmp_path)
    missed = re.search(r"no file (\S+)", caught.value.message)
    if missed:
        first = {str(tmp_path / place.format(folder=entry.folders[0])) for place in entry.first_files}
        assert any(file.startswith(missed[1]) for file in first)
