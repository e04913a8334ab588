"""Which images a run is of."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.toys import picture
from training.data.dataset import Dataset, Example
from training.data.registry import open_dataset
from training.image_list import ImageList


def _example(name: str, label: int) -> Example:
    return Example(name, label, picture())


@pytest.fixture
def dataset() -> Dataset:
    """Two images to learn from, and one each to validate and to test."""
    train = (_example("a", 0), _example("b", 1))
    return Dataset("pets", ("cat", "dog"), train, (_example("c", 0),), (_example("d", 1),), flip=True)


def _changes(before: Dataset, after: Dataset) -> list[str]:
    return ImageList.of(before).changes(ImageList.of(after))


def test_the_same_images_elsewhere_are_the_same(class_folders: Path, tmp_path: Path) -> None:
    """A run's folder goes from machine to machine, and finds the images in another place."""
    moved = shutil.copytree(class_folders, tmp_path / "another machine" / "pets")
    here, there = (open_dataset(f"folder:{path}", Path("data")) for path in (class_folders, moved))
    assert _changes(here, there) == []


def test_another_label_is_another_image(dataset: Dataset) -> None:
    """A picture that was moved to its right class is learned as something else."""
    assert _changes(dataset, replace(dataset, train=(_example("a", 1), _example("b", 1)))) == ["other images in train"]


def test_the_order_counts(dataset: Dataset) -> None:
    """Batches are drawn by number."""
    assert _changes(dataset, replace(dataset, train=dataset.train[::-1])) == ["other images in train"]


def test_names_do_not_run_into_each_other(dataset: Dataset) -> None:
    """Nor into labels."""
    odd = replace(dataset, train=(_example("a1b", 0), _example("", 1)))
    assert _changes(odd, replace(odd, train=(_example("a", 0), _example("1b", 1)))) == ["other images in train"]


def test_a_name_need_not_be_utf_8(dataset: Dataset) -> None:
    """File systems take any bytes."""
    assert ImageList.of(replace(dataset, val=(_example("\udcff.png", 0),))).counts["val"] == 1


def test_classes_that_came_went_or_changed_places_are_named(dataset: Dataset) -> None:
    """Of a thousand only the first."""
    assert _changes(dataset, replace(dataset, classes=("cat", "fox"))) == ["classes +fox -dog"]
    assert _changes(dataset, replace(dataset, classes=("dog", "cat"))) == ["classes in another order"]
    many = tuple(map(str, range(1000)))
    (change,) = _changes(dataset, replace(dataset, classes=many))
    assert change == "classes +0 +1 +2 +3 +4 +5 +6 +7 +8 +9 … (1002)"
