"""Which folder is a class, which a split, and what is too doubtful to train on."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest

from pgn.errors import DataInvalid
from tests.toys import picture
from training.data.dataset import SPLITS, Dataset
from training.data.tree import dataset_from_tree


def _open(*files: str, folders: Iterable[str] = ()) -> Dataset:
    """The data set of these paths; a path that ends in a number and a suffix stands for three images."""
    paths = [f"{stem}{copy}.{suffix}" for stem, _, suffix in (file.rpartition(".") for file in files) for copy in "abc"]
    return dataset_from_tree("pets", "pets", {path: picture(number) for number, path in enumerate(paths)}, folders)


@pytest.mark.parametrize("train", ["train", "Train", "training", "TRAINING"])
@pytest.mark.parametrize("val", ["val", "valid", "Validation", "dev"])
@pytest.mark.parametrize("test", ["test", "Test", "testing"])
def test_splits_are_known_by_their_usual_names(train: str, val: str, test: str) -> None:
    """Keras, Roboflow and YOLO each write them in their own way; taken for classes, they would be trained on."""
    names = {"train": train, "val": val, "test": test}
    found = _open(*(f"{folder}/{pet}/1.png" for folder in names.values() for pet in ("cat", "dog")))
    assert found.classes == ("cat", "dog")
    for split in SPLITS:
        assert {example.name.split("/")[0] for example in found.split(split)} == {names[split]}


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train/1.png", "test/1.png"], "test, train"),
        (["Test/cat/1.png", "validation/cat/1.png"], "Test, validation"),
        (["train/1.png", "test/cat/1.png"], "test, train"),
        (["cat/1.png", "dog/1.png", "test/cat/1.png"], "test"),
    ],
)  # fmt: skip
def test_splits_without_training_classes_are_no_classes(files: list[str], splits: str) -> None:
    """A classifier of train against test would be a fine one, and of no use."""
    with pytest.raises(DataInvalid, match=rf"has splits \({splits}\), but no images in train/<class>/ \(expected"):
        _open(*files)


def test_a_class_may_bear_the_name_of_a_split() -> None:
    """Among others: a train is a vehicle."""
    assert _open("bus/1.png", "train/1.png").classes == ("bus", "train")


def test_images_beside_the_splits_are_not_passed_over() -> None:
    """A split of a name that is not known, or classes that were not dealt out."""
    with pytest.raises(DataInvalid, match=r"has test, train, and beside them images in holdout, lynx \(put these"):
        _open("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "holdout/cat/1.png", "lynx/1.png")


def test_other_folders_without_images_may_lie_beside_the_splits() -> None:
    """Lists and annotations are no split."""
    assert _open("train/cat/1.png", "train/dog/1.png", "annotations/1.xml").classes == ("cat", "dog")


def test_two_folders_of_one_split_are_refused() -> None:
    """One may be a copy of the other, or what is left of an earlier draw."""
    with pytest.raises(DataInvalid, match="val and valid are both val"):
        _open("train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "valid/cat/1.png")


@pytest.mark.parametrize(
    ("files", "folders", "message"),
    [
        ([], ["bird"], "'bird' holds no files"),
        (["bird/1.heic"], [], r"'bird' holds 3 file\(s\), none of a known format: \.heic"),
        (["bird/x/1.heic", "bird/1."], [], r"holds 6 file\(s\), none of a known format: \.heic, without a suffix"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("split", ["", "train/"])
def test_a_class_without_images_is_named_with_what_it_holds(
    split: str, files: list[str], folders: list[str], message: str
) -> None:
    """Else a classifier of two classes comes out, and nobody is told that there were three."""
    with pytest.raises(DataInvalid, match=message.replace("'bird", f"'{split}bird")):
        _open(
            *(f"{split}{file}" for file in ("cat/1.png", "dog/1.png", *files)),
            folders=[f"{split}{folder}" for folder in folders],
        )


def test_a_split_without_class_folders_is_named() -> None:
    """A contest's test images have no answers; they cannot test anything here."""
    with pytest.raises(DataInvalid, match=r"'test' holds 3 file\(s\), none in a class folder"):
        _open("train/cat/1.png", "train/dog/1.png", "test/1.png")


@pytest.mark.parametrize("loose", ["root", "train/y", "test/z"])
def test_with_splits_an_image_in_no_class_folder_is_refused(loose: str) -> None:
    """It was put there to be learned from or to be tested on, and would be left out."""
    told = rf"3 images lie in no class folder: {loose}a.png, {loose}b.png, {loose}c.png \(put .* into <split>/<class>/"
    with pytest.raises(DataInvalid, match=told):
        _open("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", f"{loose}.png")


def test_an_image_beside_class_folders_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """An overview, most often; or what nobody has sorted yet."""
    with caplog.at_level(logging.WARNING):
        found = _open("cat/1.png", "dog/1.png", "r1.png", "r2.png")
    assert sum(len(found.split(split)) for split in SPLITS) == 6
    told = "pets: 6 images lie in no class folder: r1a.png, r1b.png, r1c.png and 3 more; left out"
    assert caplog.messages == [told]


def test_files_of_other_formats_among_images_are_passed_over() -> None:
    """Notes, lists, thumbnails' databases."""
    found = _open("cat/1.png", "cat/1.txt", "dog/1.PNG", "readme.md", "overview.png")
    assert {example.name.rpartition(".")[2] for split in SPLITS for example in found.split(split)} == {"png", "PNG"}


def test_one_level_too_high_is_told_from_one_class() -> None:
    """`tar -cf pets.tar pets`, or the folder above."""
    for files in (["pets/cat/1.png", "pets/dog/1.png"], ["pets/train/cat/1.png", "pets/train/dog/1.png"]):
        with pytest.raises(
            DataInvalid, match=r"holds one class only, 'pets' \(the classes seem to lie in pets/; expected"
        ):
            _open(*files)
    with pytest.raises(DataInvalid, match=r"holds one class only, 'cat' \(a classifier needs two"):
        _open("cat/1.png")


@pytest.mark.parametrize("split", ["", "train/"])
@pytest.mark.parametrize("files", [
    ["2020/cat/1.png", "2020/dog/1.png", "2021/cat/1.png", "2021/dog/1.png"],
    ["2020/cat/1.png", "2020/dog/1.png", "2021/dog/1.png", "2021/lynx/1.png"],
    ["2020/cat/1.png", "2020/dog/1.png", "2021/cat/1.png", "2021/dog/1.png", "owl/1.png"],
])  # fmt: skip
def test_class_folders_one_level_deeper_are_refused(split: str, files: list[str]) -> None:
    """A classifier of years would come out; one folder of class folders among classes is no better."""
    told = rf"2020, 2021 hold folders of the same names: .*dog \(the classes seem to lie in {split}2020/; expected"
    with pytest.raises(DataInvalid, match=told):
        _open(*(split + file for file in files))


@pytest.mark.parametrize("files", [
    ["train_images/cat/1.png", "train_images/dog/1.png", "test_images/cat/1.png", "holdout/dog/1.png"],
    ["train_images/1.png", "test_images/1.png"],
    ["train2017/cat/1.png", "val2017/cat/1.png"],
    ["Training-set/cat/1.png", "Validation-set/cat/1.png"],
])  # fmt: skip
def test_splits_of_other_names_are_no_classes(files: list[str]) -> None:
    """Each publisher has names of its own; the message has those that are understood."""
    with pytest.raises(
        DataInvalid, match="name split folders train, training, val, valid, validation, dev, test, testing"
    ):
        _open(*files)


@pytest.mark.parametrize("files", [
    ["cat/siamese/young/1.png", "dog/pug/1.png"],
    ["cat/images/1.png", "dog/images/1.png"],
    ["cat/indoors/1.png", "cat/1.png", "dog/indoors/1.png", "dog/outdoors/1.png"],
    ["train/cat/day/1.png", "train/dog/1.png", "test/cat/day/1.png", "test/cat/night/1.png"],
    ["train_freight/1.png", "train_passenger/1.png"],
    ["trainers/1.png", "valleys/1.png"],
])  # fmt: skip
def test_classes_may_have_folders_of_their_own(files: list[str]) -> None:
    """Below its class folder an image may lie as deep as it likes; names that only sound like splits are classes."""
    assert len(_open(*files).classes) == 2
