"""FGVC: birds, dogs, cars."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from pgn.errors import DataInvalid
from training.data.named.fgvc import birds, stanford_cars, stanford_dogs
from training.data.registry import open_dataset

Write = Callable[[Iterable[str]], None]

BIRDS = [f"001.Black_footed_Albatross/a{n}.jpg" for n in range(5)] + [f"002.Brown_Booby/b{n}.jpg" for n in range(5)]


@pytest.fixture
def cub(data_dir: Path, write_images: Write) -> Path:
    """CUB with two species of five images; the last image of each is test."""
    folder = data_dir / "cub"
    write_images(f"cub/images/{path}" for path in BIRDS)
    (folder / "classes.txt").write_text("1 001.Black_footed_Albatross\n2 002.Brown_Booby\n")
    (folder / "images.txt").write_text("".join(f"{n} {path}\n" for n, path in enumerate(BIRDS, 1)))
    (folder / "image_class_labels.txt").write_text("".join(f"{n} {1 + (n > 5)}\n" for n in range(1, 11)))
    (folder / "train_test_split.txt").write_text("".join(f"{n} {int(n % 5 > 0)}\n" for n in range(1, 11)))
    return folder


def test_birds_are_named_without_number_and_underscore(cub: Path, data_dir: Path) -> None:
    """The species as a person writes it."""
    found = open_dataset("fgvc-cub", data_dir)
    assert found.classes == ("black footed albatross", "brown booby")
    assert [(e.name, e.label) for e in found.test] == [(BIRDS[4], 0), (BIRDS[9], 1)]
    assert found.test[0].read().size == (8, 8)
    assert (len(found.train), len(found.val)) == (6, 2)


def test_vpts_own_validation_images_are_taken_where_they_are_listed(cub: Path, data_dir: Path) -> None:
    """Its numbers can then be compared image by image; the list's keys need not be relative to the same folder."""
    (cub / "val.json").write_text(json.dumps({f"images/{BIRDS[0]}": 1, BIRDS[5]: 2}))
    found = open_dataset("fgvc-cub", data_dir)
    assert {e.name for e in found.val} == {BIRDS[0], BIRDS[5]}
    assert len(found.train) == 6


def test_a_validation_list_of_another_set_is_refused(cub: Path, data_dir: Path) -> None:
    """It would silently validate on nothing."""
    (cub / "val.json").write_text(json.dumps({"pug.jpg": 1}))
    with pytest.raises(DataInvalid, match=r"val\.json names pug\.jpg, which is no training image"):
        open_dataset("fgvc-cub", data_dir)


def test_nabirds_keeps_only_the_classes_that_have_images(cub: Path) -> None:
    """Its list also numbers orders and families, and images have long keys."""
    (cub / "classes.txt").write_text("0 Birds\n1 Snow Goose (White morph)\n2 Brant\n")
    assert birds(cub).classes == ("snow goose (white morph)", "brant")


def test_dogs_take_their_names_from_their_folders(data_dir: Path, write_images: Write) -> None:
    """n02085620-Chihuahua is a Chihuahua."""
    files = ["n1-Chihuahua/a.jpg", "n2-toy_terrier/b.jpg"]
    write_images(f"stanford_dogs/Images/{file}" for file in files)
    for split in ("train", "test"):
        lists = {"file_list": np.array([[file] for file in files], dtype=object), "labels": [[1], [2]]}
        scipy.io.savemat(data_dir / "stanford_dogs" / f"{split}_list.mat", lists)
    found = stanford_dogs(data_dir / "stanford_dogs")
    assert found.classes == ("chihuahua", "toy terrier")
    assert [(e.name, e.label, e.read().size) for e in found.test] == [(files[0], 0, (8, 8)), (files[1], 1, (8, 8))]


def test_cars_are_read_from_the_development_kit(data_dir: Path, write_images: Write) -> None:
    """As torchvision reads it."""
    folder = data_dir / "stanford_cars"
    write_images(["stanford_cars/cars_train/00001.jpg", "stanford_cars/cars_test/00001.jpg"])
    (folder / "devkit").mkdir()
    kind = [("fname", object), ("class", object)]
    for path in ("devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"):
        rows = np.array([("00001.jpg", 2), ("00001.jpg", 2)], dtype=kind)
        scipy.io.savemat(folder / path, {"annotations": rows})
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(["AM Hummer", "BMW M3"], object)})
    found = stanford_cars(folder)
    assert found.classes == ("am hummer", "bmw m3")
    assert (found.test[0].name, found.test[0].label, found.test[0].read().size) == ("cars_test/00001.jpg", 1, (8, 8))


@pytest.mark.parametrize("name", ["fgvc-cub", "fgvc-nabirds", "fgvc-dogs", "fgvc-cars"])
def test_a_missing_set_says_how_to_get_it(name: str, data_dir: Path) -> None:
    """None of them can be downloaded without a form or a hand."""
    with pytest.raises(DataInvalid, match="is not at hand: no file") as caught:
        open_dataset(name, data_dir)
    assert f"{data_dir}/" in caught.value.hint
