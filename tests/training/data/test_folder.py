"""A folder of class folders, as a user brings it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pgn.errors import DataInvalid, UnreadableImage
from tests.toys import make_images, write_images
from training.data.folder import folder


def test_class_folders_become_three_splits(class_folders: Path) -> None:
    """Classes are sorted, a tenth validates, a fifth tests."""
    dataset = folder(class_folders)
    assert (dataset.name, dataset.classes) == ("my-pets", ("cat", "dog"))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (14, 2, 4)


def test_split_folders_are_kept(class_folders: Path, tmp_path: Path) -> None:
    """train/ and test/ as given; only val/, which is missing, is drawn from train/."""
    root = tmp_path / "split"
    shutil.copytree(class_folders, root / "train")
    for seed, name in enumerate(("cat", "dog"), start=3):
        write_images(root / "test" / name, 5, seed=seed)
    dataset = folder(root)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (18, 2, 10)
    assert all(example.name.startswith("test/") for example in dataset.test)


def test_hidden_files_and_other_files_are_passed_over(class_folders: Path) -> None:
    """Thumbnails, notes and .DS_Store are no images of a class."""
    (class_folders / "cat" / "notes.txt").write_text("mine")
    (class_folders / "cat" / ".hidden.png").write_bytes(b"")
    assert sum(len(folder(class_folders).split(split)) for split in ("train", "val", "test")) == 20


def test_a_link_to_a_folder_is_followed(class_folders: Path, tmp_path: Path) -> None:
    """Whoever is short of space links the class that lies elsewhere."""
    (class_folders / "dog").rename(tmp_path / "elsewhere")
    (class_folders / "dog").symlink_to(tmp_path / "elsewhere")
    dataset = folder(class_folders)
    assert dataset.classes == ("cat", "dog")
    assert all(example.read().size == (40, 40) for example in dataset.train)


def test_links_in_a_circle_are_walked_once(class_folders: Path) -> None:
    """A link to the folder above, and two folders that lead to each other."""
    (class_folders / "cat" / "up").symlink_to(class_folders)
    for name, friend, image in zip(("old", "new"), ("new", "old"), make_images(2, seed=3), strict=True):
        (class_folders / "cat" / name).mkdir()
        (class_folders / "cat" / name / "1.png").write_bytes(image)
        (class_folders / "cat" / name / "friend").symlink_to(class_folders / "cat" / friend)
    names = [example.name for split in ("train", "val", "test") for example in folder(class_folders).split(split)]
    assert len(names) == 20 + 2 + 2  # the friend's image once too
    assert max(name.count("/") for name in names) == 3


def test_a_class_whose_link_leads_nowhere_is_named(class_folders: Path) -> None:
    """The disk with its images is not there today."""
    (class_folders / "horse").symlink_to("/nowhere/horse")
    with pytest.raises(DataInvalid, match="'horse' holds no files"):
        folder(class_folders)


def test_an_empty_class_folder_is_named(class_folders: Path) -> None:
    """A class that nobody has filled yet would be missing from the bundle."""
    (class_folders / "bird").mkdir()
    with pytest.raises(DataInvalid, match=r"My Pets: 'bird' holds no files \(put images into it .*, or take it out"):
        folder(class_folders)


def test_what_macos_adds_to_an_archive_is_no_class(class_folders: Path) -> None:
    """Every zip that was packed there has such a folder."""
    (class_folders / "__MACOSX" / "cat").mkdir(parents=True)
    (class_folders / "__MACOSX" / "cat" / "._1.png").write_bytes(b"")
    assert folder(class_folders).classes == ("cat", "dog")


def test_a_folder_that_may_not_be_read_is_one_line(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's, for one; its images would be missing without a word."""

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("training.data.folder.os.scandir", refuse)
    with pytest.raises(DataInvalid, match="My Pets cannot be read: Permission denied"):
        folder(class_folders)
    monkeypatch.setattr(Path, "is_dir", refuse)  # the folder above is closed already
    with pytest.raises(DataInvalid, match="My Pets cannot be read: Permission denied"):
        folder(class_folders)


def test_an_empty_folder_says_what_was_expected(tmp_path: Path) -> None:
    """The most common slip: one folder too high or too low."""
    with pytest.raises(DataInvalid, match=r"holds no images in class folders \(expected <class>/<image>"):
        folder(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A typing error is told from an empty folder."""
    with pytest.raises(DataInvalid, match="nowhere is not a folder"):
        folder(tmp_path / "nowhere")


def test_one_class_only_is_refused(class_folders: Path) -> None:
    """There is nothing to tell apart."""
    shutil.rmtree(class_folders / "dog")
    with pytest.raises(DataInvalid, match="holds one class only, 'cat'"):
        folder(class_folders)


def test_a_class_with_too_few_images_is_named(class_folders: Path) -> None:
    """Two images cannot fill three splits; of several sets in a command it is this one's."""
    for number in range(2, 10):
        (class_folders / "dog" / f"{number}.png").unlink()
    with pytest.raises(DataInvalid, match="My Pets: class 'dog' has 2 images, but needs 3: one each for train"):
        folder(class_folders)


def test_a_test_class_without_training_images_is_named(class_folders: Path, tmp_path: Path) -> None:
    """It could never be answered right."""
    shutil.copytree(class_folders, tmp_path / "split" / "train")
    shutil.copytree(class_folders / "cat", tmp_path / "split" / "test" / "lynx")
    with pytest.raises(DataInvalid, match="'lynx', which has no training images"):
        folder(tmp_path / "split")


def test_a_file_that_went_away_is_an_unreadable_image(class_folders: Path) -> None:
    """It is skipped like a damaged one, since images are read late."""
    example = folder(class_folders).train[0]
    (class_folders / example.name).unlink()
    with pytest.raises(UnreadableImage, match="cannot be read"):
        example.read()
