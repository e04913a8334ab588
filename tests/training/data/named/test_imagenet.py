"""ImageNet and what tests its classifiers elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from pgn.errors import DataInvalid
from training.data.named.imagenet import _class_names
from training.data.registry import open_dataset

Write = Callable[[Iterable[str]], None]

TENCH, GOLDFISH, SHARK = "n01440764", "n01443537", "n01484850"


@pytest.fixture
def imagenet(write_images: Write) -> None:
    """Three classes of ImageNet, ten training images and one validation image each."""
    write_images(f"imagenet/train/{synset}/{n}.JPEG" for synset in (TENCH, GOLDFISH, SHARK) for n in range(10))
    write_images(f"imagenet/val/{synset}/ILSVRC2012_val_1.JPEG" for synset in (TENCH, GOLDFISH, SHARK))


def test_the_validation_images_are_the_test_and_a_tenth_of_train_validates(imagenet: None, data_dir: Path) -> None:
    """The real test images have no published answers; choosing on what is reported would flatter."""
    found = open_dataset("imagenet", data_dir)
    assert found.classes == ("tench", "goldfish", "great white shark")
    assert (len(found.train), len(found.val)) == (27, 3)
    assert [(e.name, e.label) for e in found.test] == [
        (f"{synset}/ILSVRC2012_val_1.JPEG", label) for label, synset in enumerate((TENCH, GOLDFISH, SHARK))
    ]
    assert found.test[0].read().size == (8, 8)


def test_coops_deeper_folder_is_found(write_images: Write, data_dir: Path) -> None:
    """imagenet/images/train instead of imagenet/train."""
    for split in ("train", "val"):
        write_images(f"imagenet/images/{split}/{synset}/{split}{n}.JPEG" for synset in (TENCH, SHARK) for n in range(2))
    assert len(open_dataset("imagenet", data_dir).test) == 4


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_a_subset_restricts_training_to_its_classes(
    name: str, imagenet: None, write_images: Write, data_dir: Path
) -> None:
    """-A and -R have 200 classes; a classifier over 1,000 would be asked for answers that cannot be right."""
    write_images([f"{name}/{name}/{SHARK}/x.jpg", f"{name}/{name}/{TENCH}/y.jpg"])
    found = open_dataset(name, data_dir)
    assert found.classes == ("tench", "great white shark")
    assert len(found.train) == 18
    assert {e.name.split("/")[0]: e.label for e in found.train} == {TENCH: 0, SHARK: 1}
    assert [(e.name, e.label) for e in found.test] == [(f"{TENCH}/y.jpg", 0), (f"{SHARK}/x.jpg", 1)]


def test_sketch_keeps_all_classes(imagenet: None, write_images: Write, data_dir: Path) -> None:
    """Its training and validation images are ImageNet's own."""
    write_images(f"imagenet-sketch/sketch/{synset}/s.JPEG" for synset in (TENCH, GOLDFISH, SHARK))
    found, source = open_dataset("imagenet-sketch", data_dir), open_dataset("imagenet", data_dir)
    assert found.classes == source.classes
    assert [e.name for e in found.val] == [e.name for e in source.val]
    assert [e.name for e in found.test] == [f"{synset}/s.JPEG" for synset in (TENCH, GOLDFISH, SHARK)]


def test_the_folders_of_v2_are_numbers_of_classes(write_images: Write, data_dir: Path) -> None:
    """As words, 10 would come before 2, and nearly every label would be wrong."""
    synsets = sorted(_class_names())[:11]
    write_images(f"imagenet/train/{synset}/{n}.JPEG" for synset in synsets for n in range(2))
    write_images(f"imagenet/val/{synset}/v.JPEG" for synset in synsets)
    write_images(f"imagenet-v2/imagenetv2-matched-frequency-format-val/{number}/a.jpeg" for number in range(11))
    assert [(e.name, e.label) for e in open_dataset("imagenet-v2", data_dir).test] == [
        (f"{number}/a.jpeg", number) for number in range(11)
    ]


def test_the_thousand_names_are_distinct() -> None:
    """A bundle refuses two classes of one name, and CLIP's list has two such pairs."""
    names = _class_names()
    assert len(names) == len(set(names.values())) == 1000
    assert names["n04356056"] == "sunglasses"
    assert names["n04355933"] == "sunglass"


def test_a_variant_without_imagenet_says_what_is_missing(write_images: Write, data_dir: Path) -> None:
    """The variant alone cannot train anything."""
    write_images([f"imagenet-a/imagenet-a/{TENCH}/y.jpg"])
    with pytest.raises(DataInvalid, match=r"ImageNet-A is not at hand: no folder .*imagenet/train"):
        open_dataset("imagenet-a", data_dir)
