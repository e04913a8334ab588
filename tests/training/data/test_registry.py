"""From a spec to a data set."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from pgn.errors import DataInvalid, UsageError
from training.data.registry import NAMES, open_dataset, open_datasets


@pytest.mark.parametrize("spec", ["nothing", "zip:x.zip", ""])
def test_an_unknown_spec_says_where_the_names_are(spec: str) -> None:
    """A slip costs one look at the message."""
    with pytest.raises(UsageError, match=r"`pgn data list` has all names; also folder:PATH, tar:PATH, csv:PATH"):
        open_dataset(spec, Path("data"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("My Pets", r"^My Pets is a folder \(write folder:My Pets\)$"),
        ("pets.tar", r"^pets\.tar is a file \(write tar:pets\.tar\)$"),
        ("pets.csv", r"^pets\.csv is a file \(write csv:pets\.csv\)$"),
        ("folder:pets.tar", r"^pets\.tar is a file \(write tar:pets\.tar\)$"),
        ("tar:My Pets", r"^My Pets is a folder \(write folder:My Pets\)$"),
        ("csv:My Pets", r"^My Pets is a folder \(write folder:My Pets\)$"),
        ("folder:", r"^folder: has no path \(write folder:PATH\)$"),
        ("flder:My Pets", r"^there is no data set 'flder:My Pets' \(did you mean folder:My Pets\? "),
        ("x" * 5000, "there is no data set"),
    ],
)  # fmt: skip
def test_images_of_ones_own_that_are_named_wrongly_say_how_to_name_them(
    spec: str, message: str, class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is right, and what is missing in front of it can be seen from what lies there."""
    monkeypatch.chdir(class_folders.parent)
    for name in ("pets.tar", "pets.csv"):
        Path(name).touch()
    with pytest.raises(UsageError, match=message):
        open_dataset(spec, Path("data"))


@pytest.mark.parametrize(
    ("spec", "meant"), [("digit", "digits"), ("CIFAR-100", "cifar100"), ("oxford_pets", "oxford-pets")]
)
def test_a_name_that_is_nearly_right_is_suggested(spec: str, meant: str) -> None:
    """Everyone writes these names a little differently."""
    with pytest.raises(UsageError, match=rf"did you mean {meant}\b"):
        open_dataset(spec, Path("data"))


def test_a_path_may_begin_at_home(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell writes out the ~ behind `folder:`."""
    monkeypatch.setenv("HOME", str(class_folders.parent))
    assert open_dataset("folder:~/My Pets", Path()).name == "my-pets"
    with pytest.raises(DataInvalid, match=r"~nobody-of-this-name/x\.csv cannot be read"):
        open_dataset("csv:~nobody-of-this-name/x.csv", Path())


def test_no_two_sets_share_a_name() -> None:
    """The names of the sets at hand and of the public ones are one list."""
    assert len(NAMES) == len(set(NAMES)) == 2 + 12 + 5 + 5 + 19


def test_two_folders_of_one_name_make_a_union(class_folders: Path, tmp_path: Path) -> None:
    """They are two sets; equal classes of both are told apart by the set's name."""
    shutil.copytree(class_folders, tmp_path / "other" / "My Pets")
    joined = open_datasets([f"folder:{class_folders}", f"folder:{tmp_path / 'other' / 'My Pets'}"], Path())
    assert joined.classes == ("my-pets/cat", "my-pets/dog", "my-pets-2/cat", "my-pets-2/dog")


def test_one_set_twice_is_refused_in_any_spelling(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its images would be of two classes."""
    monkeypatch.chdir(class_folders.parent)
    with pytest.raises(UsageError, match=f"given twice: folder:{class_folders}"):
        open_datasets([f"folder:{class_folders}", "folder:./My Pets/"], Path())
    with pytest.raises(UsageError, match="given twice: digits"):
        open_datasets(["digits", "digits"], Path())


def test_a_limit_counts_each_class() -> None:
    """--limit keeps the classes balanced and leaves the test split whole."""
    dataset = open_datasets(["digits"], Path("data"), limit=7, limit_val=2)
    assert set(Counter(example.label for example in dataset.train).values()) == {7}
    assert set(Counter(example.label for example in dataset.val).values()) == {2}
    assert len(dataset.test) == 359


def test_no_spec_at_all_is_refused() -> None:
    """As a library call; the command line asks for one anyway."""
    with pytest.raises(UsageError, match="give at least one --dataset"):
        open_datasets([], Path("data"))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["cifar10", "flowers102", "pets3"])
def test_a_tar_of_the_reference_data_keeps_its_splits(name: str, shared: Path) -> None:
    """What lies in the tar is what its card says."""
    import json

    card = json.loads((shared / "data" / f"{name}.json").read_text())
    found = open_dataset(f"tar:{shared / 'data' / name}.tar", Path("data"))
    assert found.classes == tuple(card["classes"])
    assert {split: len(found.split(split)) for split in ("train", "val", "test")} == card["counts"]
