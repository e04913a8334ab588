"""A tar of class folders is the same data set as the folder."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from pgn.errors import DataInvalid
from training.data.dataset import SPLITS
from training.data.folder import folder
from training.data.tar import tar


@pytest.fixture
def packed(class_folders: Path, tmp_path: Path) -> Path:
    """The class folders in a tar, with a leading ./ as `tar -C DIR .` writes it."""
    path = tmp_path / "pets.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(class_folders, arcname=".")
    return path


def test_a_tar_holds_what_the_folder_held(packed: Path, class_folders: Path) -> None:
    """Same classes, same splits, same pixels, read in place."""
    ours, theirs = tar(packed), folder(class_folders)
    assert (ours.name, ours.classes) == ("pets", theirs.classes)
    for mine, other in zip(ours.train, theirs.train, strict=True):
        assert (mine.name, mine.label) == (other.name, other.label)
        assert np.array_equal(mine.read(), other.read())


def test_another_name_of_the_same_file_is_an_image_too(class_folders: Path, tmp_path: Path) -> None:
    """Tar keeps a hard link in place of a second copy."""
    image = next((class_folders / "cat").iterdir())
    (class_folders / "cat" / "again.png").hardlink_to(image)
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(class_folders, arcname=".")
    ours, theirs = tar(tmp_path / "pets.tar"), folder(class_folders)
    assert [example.name for example in ours.train] == [example.name for example in theirs.train]
    for split in SPLITS:
        for mine, other in zip(ours.split(split), theirs.split(split), strict=True):
            assert np.array_equal(mine.read(), other.read())


def test_a_symbolic_link_in_a_tar_is_not_passed_over(class_folders: Path, tmp_path: Path) -> None:
    """It has no pixels, and its target may be anywhere."""
    (class_folders / "cat" / "linked.png").symlink_to("/data/cat.png")
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(class_folders, arcname=".")
    message = r"pets\.tar: cat/linked\.png is a symbolic link to /data/cat\.png \(tar --dereference packs"
    with pytest.raises(DataInvalid, match=message):
        tar(tmp_path / "pets.tar")


def test_an_empty_class_folder_in_a_tar_is_named(class_folders: Path, tmp_path: Path) -> None:
    """As in a folder."""
    (class_folders / "bird").mkdir()
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(class_folders, arcname=".")
    with pytest.raises(DataInvalid, match=r"pets\.tar: 'bird' holds no files"):
        tar(tmp_path / "pets.tar")


def test_a_tar_packed_one_level_too_high_says_so(class_folders: Path, tmp_path: Path) -> None:
    """`tar -cf pets.tar pets` is what most people write."""
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(class_folders, arcname="pets")
    with pytest.raises(DataInvalid, match=r"holds one class only, 'pets' \(the classes seem to lie in pets/"):
        tar(tmp_path / "pets.tar")


def test_a_compressed_tar_says_what_to_do(class_folders: Path, tmp_path: Path) -> None:
    """Its members cannot be read in place."""
    with tarfile.open(tmp_path / "pets.tar.gz", "w:gz") as archive:
        archive.add(class_folders, arcname=".")
    with pytest.raises(DataInvalid, match=r"is not a plain tar.*gunzip"):
        tar(tmp_path / "pets.tar.gz")


def test_a_missing_tar_is_named(tmp_path: Path) -> None:
    """With the form that was expected."""
    with pytest.raises(DataInvalid, match=r"no\.tar cannot be read: No such file.*tar:FILE"):
        tar(tmp_path / "no.tar")
