"""VTAB-1k: 800 and 200 images, listed or drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from pgn.errors import DataInvalid
from tests.toys import TOY_PREPROCESS, picture
from training.data.dataset import Example
from training.data.images import load_split
from training.data.named import vtab
from training.data.named.catalogue import CATALOGUE
from training.data.named.vtab import draw
from training.data.registry import open_dataset

Write = Callable[[Iterable[str]], None]


def _examples(count: int, classes: int, name: str = "train") -> list[Example]:
    return [Example(f"{name}/{n}", n % classes, picture(n)) for n in range(count)]


@pytest.fixture
def lists(write_images: Write, data_dir: Path) -> Path:
    """The lists of VTAB's Caltech-101: three images."""
    folder = data_dir / "vtab-1k" / "caltech101"
    for stem, label in (("train800", 0), ("val200", 1), ("test", 101)):
        write_images([f"vtab-1k/caltech101/images/{stem}/00 1.jpg"])
        (folder / f"{stem}.txt").write_text(f"images/{stem}/00 1.jpg {label}\n")
    return folder


def test_written_lists_are_followed(lists: Path, data_dir: Path) -> None:
    """Then the images are those that published results were made with."""
    found = open_dataset("vtab-caltech101", data_dir)
    assert [(e.name, e.label) for e in found.train] == [("images/train800/00 1.jpg", 0)]
    assert [(e.name, e.label) for e in found.test] == [("images/test/00 1.jpg", 101)]
    assert found.val[0].read().size == (8, 8)
    assert found.classes[101] == "101"


@pytest.mark.parametrize(
    ("task", "lists"),
    {
        "cifar100": "cifar", "caltech101": "caltech101", "dtd": "dtd", "flowers102": "oxford_flowers102",
        "pets": "oxford_iiit_pet", "svhn": "svhn", "sun397": "sun397", "camelyon": "patch_camelyon",
        "eurosat": "eurosat", "resisc45": "resisc45", "retinopathy": "diabetic_retinopathy",
        "clevr-count": "clevr_count", "clevr-distance": "clevr_dist", "dmlab": "dmlab", "kitti-distance": "kitti",
        "dsprites-location": "dsprites_loc", "dsprites-orientation": "dsprites_ori",
        "norb-azimuth": "smallnorb_azi", "norb-elevation": "smallnorb_ele",
    }.items(),
)  # fmt: skip
def test_the_lists_of_each_task_lie_where_noahs_script_writes_them(
    task: str, lists: str, write_images: Write, data_dir: Path
) -> None:
    """The folders' names are that script's; as many class names as the task has classes, and its last label is read."""
    entry = CATALOGUE[f"vtab-{task}"]
    last = entry.classes - 1
    for stem in ("train800", "val200", "test"):
        write_images([f"vtab-1k/{lists}/images/{stem}/0.jpg"])
        (data_dir / "vtab-1k" / lists / f"{stem}.txt").write_text(f"images/{stem}/0.jpg {last}\n")
    found = open_dataset(entry.name, data_dir)
    assert len(found.classes) == entry.classes
    assert [(e.name, e.label, e.read().size) for e in found.test] == [("images/test/0.jpg", last, (8, 8))]
    assert entry.at_hand(data_dir) == data_dir / "vtab-1k"


def test_class_names_may_lie_beside_the_lists(lists: Path, data_dir: Path) -> None:
    """The lists know numbers only, and a text encoder needs words."""
    (lists / "classes.txt").write_text("".join(f"thing {n}\n" for n in range(102)))
    assert open_dataset("vtab-caltech101", data_dir).classes[101] == "thing 101"


def test_a_label_beyond_the_classes_is_refused(lists: Path, data_dir: Path) -> None:
    """The lists of another task, or names that do not belong to them."""
    (lists / "test.txt").write_text("images/test/00 1.jpg 102\n")
    with pytest.raises(DataInvalid, match=r"test: images/test/00 1\.jpg has label 102 of 102 classes"):
        open_dataset("vtab-caltech101", data_dir)


def test_suns_list_may_lack_a_class(write_images: Write, data_dir: Path) -> None:
    """VTAB's 800 images of 397 classes leave some out. The other tasks' lists have every class, so there a gap is a
    damaged list."""
    for lists, path in (("sun397", "abbey/1.jpg"), ("caltech101", "crab/1.jpg")):
        write_images([f"vtab-1k/{lists}/{path}"])
        for stem in ("train800", "val200", "test"):
            row = path if stem == "train800" else f"{stem}.jpg"
            (data_dir / "vtab-1k" / lists / f"{stem}.txt").write_text(f"{row} 3\n")
    assert len(load_split(open_dataset("vtab-sun397", data_dir), "train", TOY_PREPROCESS)) == 1
    with pytest.raises(DataInvalid, match=r"vtab-caltech101: class '0' has no training image"):
        load_split(open_dataset("vtab-caltech101", data_dir), "train", TOY_PREPROCESS)


def test_without_lists_the_original_set_is_drawn_from(
    write_images: Write, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own draw, in VTAB's sizes."""
    monkeypatch.setattr(vtab, "TRAIN", 20)
    monkeypatch.setattr(vtab, "VAL", 5)
    for name in ("ant", "crab"):
        write_images(f"caltech101/101_ObjectCategories/{name}/{n}.jpg" for n in range(33))
    found = open_dataset("vtab-caltech101", data_dir)
    assert (found.classes, len(found.train), len(found.val), len(found.test)) == (("ant", "crab"), 20, 5, 6)


def test_a_draw_is_always_the_same_and_shares_no_image() -> None:
    """Runs of different seeds and machines see the same thousand images."""
    train, val = draw(_examples(100, 7), None, train_count=30, val_count=10)
    again, _ = draw(_examples(100, 7), None, train_count=30, val_count=10)
    assert [e.name for e in train] == [e.name for e in again]
    assert len({e.name for e in (*train, *val)}) == 40


def test_every_class_is_in_a_drawn_training_split() -> None:
    """VTAB's SUN397 has two training images a class; by chance alone one class in eight would have none."""
    train, _ = draw(_examples(1000, 97), None, train_count=100, val_count=10)
    assert {e.label for e in train} == set(range(97))


def test_validation_images_come_from_published_ones_where_there_are_any() -> None:
    """They are the publisher's choice of what is apart from train."""
    train, val = draw(_examples(50, 2), _examples(50, 2, "val"), train_count=50, val_count=10)
    assert len(train) == 50
    assert all(e.name.startswith("val/") for e in val)


def test_a_set_too_small_to_draw_from_is_refused() -> None:
    """A part of the download is missing."""
    with pytest.raises(ValueError, match=r"fewer than 90 \+ 20 images"):
        draw(_examples(100, 2), None, train_count=90, val_count=20)


def test_a_task_that_is_neither_listed_nor_drawable_says_both_ways(data_dir: Path) -> None:
    """Lists for all, the original files for most."""
    with pytest.raises(DataInvalid, match=r"no file .*kitti/train800\.txt .*get_vtab1k\.py"):
        open_dataset("vtab-kitti-distance", data_dir)
    with pytest.raises(DataInvalid, match=r"get_vtab1k\.py .* or: put dsprites_"):
        open_dataset("vtab-dsprites-location", data_dir)


def test_there_are_nineteen_tasks() -> None:
    """Seven natural, four specialised, eight structured (VAPT, section 4)."""
    tasks = [entry for entry in CATALOGUE.values() if entry.group == "VTAB-1k"]
    assert len(tasks) == 19
    assert {(entry.train, entry.val) for entry in tasks} == {(800, 200)}


def test_a_draw_is_not_the_first_images_of_the_file() -> None:
    """Files are often sorted by class, or by the scene they were filmed in."""
    train, _ = draw(_examples(1000, 2), None, train_count=50, val_count=10)
    assert np.mean([int(e.name.removeprefix("train/")) for e in train]) > 300
