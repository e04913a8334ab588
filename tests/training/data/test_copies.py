"""Copies of an image under several names."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pgn.errors import DataInvalid
from training.data.copies import first_copies
from training.data.csv_file import csv_file
from training.data.dataset import SPLITS, Dataset, Example
from training.data.folder import folder
from training.data.reading import ImageArray, ImageFile
from training.data.tar import tar


def _files(place: Path, contents: list[bytes]) -> list[Example]:
    examples = []
    for number, content in enumerate(contents):
        (place / f"{number}.png").write_bytes(content)
        examples.append(Example(f"{number}.png", 0, ImageFile(str(place / f"{number}.png"))))
    return examples


def _splits_of(dataset: Dataset, contents: dict[str, bytes]) -> dict[bytes, set[str]]:
    """The splits that each content is in."""
    found: dict[bytes, set[str]] = {}
    for split in SPLITS:
        for example in dataset.split(split):
            found.setdefault(contents[example.name], set()).add(split)
    return found


@pytest.fixture
def repeated(class_folders: Path) -> Path:
    """Class folders in which every picture lies under three names."""
    for file in [*class_folders.rglob("*.png")]:
        for number in range(2):
            file.with_name(f"{file.stem}-copy-{number}.png").write_bytes(file.read_bytes())
    return class_folders


def test_a_copy_points_at_the_first_of_its_kind(tmp_path: Path) -> None:
    """Whatever lies between them; a file that is nobody's copy points at itself."""
    assert first_copies(_files(tmp_path, [b"one", b"two", b"one", b"three", b"two", b"one"])) == [0, 1, 0, 3, 1, 0]


@pytest.mark.parametrize("place", [0, 2_000, 3_999])
def test_files_of_one_length_that_differ_anywhere_are_no_copies(tmp_path: Path, place: int) -> None:
    """At the start, in the middle or at the end; the whole file decides."""
    other = bytearray(4_000)
    other[place] = 1
    assert first_copies(_files(tmp_path, [bytes(4_000), bytes(other)])) == [0, 1]


def test_pictures_in_memory_are_compared_too() -> None:
    """Public sets often come as arrays."""
    pictures = [np.full((4, 4), value, np.uint8) for value in (1, 2, 1)]
    assert first_copies([Example(str(n), 0, ImageArray(picture)) for n, picture in enumerate(pictures)]) == [0, 1, 0]


def test_what_is_gone_or_empty_is_nobodys_copy(tmp_path: Path) -> None:
    """It is skipped, counted and named where images are decoded, and stops nothing here."""
    examples = _files(tmp_path, [b"one", b"one", b"one", b"", b""])
    (tmp_path / "0.png").unlink()
    assert first_copies(examples) == [0, 1, 1, 3, 4]


def test_drawn_splits_of_a_folder_share_no_picture(repeated: Path) -> None:
    """Of 20 pictures under 60 names each is in one split, with all its names."""
    dataset = folder(repeated)
    contents = {str(file.relative_to(repeated)): file.read_bytes() for file in repeated.rglob("*.png")}
    splits = _splits_of(dataset, contents)
    assert sum(len(dataset.split(split)) for split in SPLITS) == len(contents)
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == set(SPLITS)


def test_drawn_splits_of_a_tar_and_of_a_list_share_no_picture(repeated: Path, tmp_path: Path) -> None:
    """The same pictures, however they are given."""
    files = {str(file.relative_to(repeated)): file for file in sorted(repeated.rglob("*.png"))}
    contents = {name: file.read_bytes() for name, file in files.items()}
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        for name, file in files.items():
            archive.add(file, name)
    lines = [f"{file},{Path(name).parent.name}" for name, file in files.items()]
    (tmp_path / "pets.csv").write_text("\n".join(["path,label", *lines]))
    listed = {str(file): file.read_bytes() for file in files.values()}
    for dataset, known in ((tar(tmp_path / "pets.tar"), contents), (csv_file(tmp_path / "pets.csv"), listed)):
        assert all(len(found) == 1 for found in _splits_of(dataset, known).values())


def test_a_drawn_split_shares_no_picture_with_a_given_one(class_folders: Path, tmp_path: Path) -> None:
    """Images that the given validation split holds, too, are learned from at most."""
    root = tmp_path / "split"
    shutil.copytree(class_folders, root / "train")
    for name in ("cat", "dog"):
        (root / "val" / name).mkdir(parents=True)
        for file in sorted((root / "train" / name).iterdir())[:6]:
            shutil.copy(file, root / "val" / name / f"again-{file.name}")
    dataset = folder(root)
    contents = {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*.png")}
    splits = _splits_of(dataset, contents)
    assert dataset.test
    assert all("test" not in found for found in splits.values() if "val" in found)


def test_a_class_of_copies_alone_is_told_as_such(class_folders: Path) -> None:
    """One picture under ten names cannot be learned from and asked about."""
    dogs = sorted((class_folders / "dog").iterdir())
    for dog in dogs[1:]:
        dog.write_bytes(dogs[0].read_bytes())
    told = (
        r"class 'dog' has 10 images, 9 of them copies of others, but needs 3: .*; dog/1.png is the same as dog/0.png \("
    )
    with pytest.raises(DataInvalid, match=told):
        folder(class_folders)


def test_a_class_that_a_given_split_holds_already_is_told_as_such(class_folders: Path, tmp_path: Path) -> None:
    """Validation that is given with the training images again leaves no picture to test on."""
    for split in ("train", "val"):
        shutil.copytree(class_folders, tmp_path / "twice" / split)
    told = r"class 'cat' has 10 images, 10 of them copies.*; train/cat/0.png is the same as val/cat/0.png \("
    with pytest.raises(DataInvalid, match=told):
        folder(tmp_path / "twice")
