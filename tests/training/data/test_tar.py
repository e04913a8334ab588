"""A tar of class folders is the same data set as the folder."""

from __future__ import annotations

import shutil
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


@pytest.mark.parametrize(("kind", "tool"), [("gztar", "gunzip"), ("bztar", "bunzip2"), ("xztar", "unxz")])
def test_a_compressed_tar_says_which_tool_unpacks_it(kind: str, tool: str, class_folders: Path, tmp_path: Path) -> None:
    """Its members cannot be read in place; its name may say nothing of it."""
    shutil.make_archive(str(tmp_path / "pets"), kind, class_folders)
    path = next(tmp_path.glob("pets.tar.*")).rename(tmp_path / "pets.tar")
    with pytest.raises(DataInvalid, match=rf"not a plain tar \(unpack it first: {tool} {path}\)"):
        tar(path)


def test_a_zip_is_told_from_a_tar(class_folders: Path, tmp_path: Path) -> None:
    """The other thing that data sets come as."""
    path = shutil.make_archive(str(tmp_path / "pets"), "zip", class_folders)
    with pytest.raises(DataInvalid, match=r"pets\.zip is a zip file, .*unzip it and give the folder as folder:DIR"):
        tar(Path(path))


@pytest.mark.parametrize("content", [b"", b"path,label\ncat.png,cat\n" * 100])
def test_another_file_is_no_tar(content: bytes, tmp_path: Path) -> None:
    """Nothing would unpack it."""
    (tmp_path / "pets.tar").write_bytes(content)
    with pytest.raises(DataInvalid, match=r"pets\.tar is no tar: .* \(give an uncompressed tar of class folders"):
        tar(tmp_path / "pets.tar")


@pytest.mark.parametrize("place", ["in an image", "in a header", "between two images"])
def test_a_tar_that_is_cut_short_is_not_read_in_part(place: str, packed: Path) -> None:
    """Wherever a copy broke off: the images and classes behind it would be missing without a word."""
    with tarfile.open(packed) as archive:
        image = [member for member in archive.getmembers() if member.isfile()][-1]
    end = {"in an image": image.offset_data + 9, "in a header": image.offset + 9, "between two images": image.offset}
    packed.write_bytes(packed.read_bytes()[: end[place]])
    with pytest.raises(DataInvalid, match=r"pets\.tar ends early or is damaged: .* \(copy it again\)"):
        tar(packed)


def test_a_tar_with_a_damaged_header_is_not_read_in_part(packed: Path) -> None:
    """Python's reader ends there as if nothing followed."""
    with tarfile.open(packed) as archive:
        start = archive.getmembers()[-1].offset
    content = bytearray(packed.read_bytes())
    content[start : start + 8] = b"damaged!"
    packed.write_bytes(content)
    with pytest.raises(DataInvalid, match="ends early or is damaged"):
        tar(packed)


def test_a_missing_tar_is_named(tmp_path: Path) -> None:
    """With the form that was expected."""
    with pytest.raises(DataInvalid, match=r"no\.tar cannot be read: No such file.*tar:FILE"):
        tar(tmp_path / "no.tar")
