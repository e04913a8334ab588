"""Sets in their publishers' own splits and layouts."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from torchvision.datasets import CIFAR10, SVHN, Flowers102

from pgn.errors import DataInvalid
from training.data.named import official
from training.data.registry import open_dataset

Write = Callable[[Iterable[str]], None]


@pytest.fixture
def cifar10(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """CIFAR-10 of one training batch of 20 images and 2 test images; gives the training pixels, (20, 32, 32, 3)."""
    folder = data_dir / "cifar10" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    for name, part, labels in (("data_batch_1", pixels, [0, 1] * 10), ("test_batch", pixels[:2], [0, 1])):
        rows = part.transpose(0, 3, 1, 2).reshape(len(part), -1)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["airplane", "Pick_up"]}))
    monkeypatch.setattr(CIFAR10, "train_list", CIFAR10.train_list[:1])
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, _: Path(path).exists())
    return pixels


def test_cifar_keeps_the_official_test_images_and_draws_a_tenth_of_train(cifar10: np.ndarray, data_dir: Path) -> None:
    """There are no validation images, so they come from train, the same share of each class."""
    found = open_dataset("cifar10", data_dir)
    assert found.classes == ("airplane", "pick up")
    assert (len(found.train), len(found.val), len(found.test)) == (18, 2, 2)
    assert Counter(e.label for e in found.val) == {0: 1, 1: 1}
    assert [e.name for e in found.test] == ["test/0", "test/1"]


def test_cifar_has_the_pixels_of_the_file(cifar10: np.ndarray, data_dir: Path) -> None:
    """Channels, rows and columns are not confused."""
    example = open_dataset("cifar10", data_dir).train[0]
    assert np.array_equal(np.asarray(example.read()), cifar10[int(example.name.removeprefix("train/"))])


def test_a_set_that_cannot_be_downloaded_says_what_to_do(data_dir: Path, no_network: None) -> None:
    """Named, fetched, failed: one line with the address and the folder."""
    with pytest.raises(DataInvalid, match=r"CIFAR-10 is not at hand: the download into .* failed") as caught:
        open_dataset("cifar10", data_dir)
    assert f"cifar-10-python.tar.gz in {data_dir / 'cifar10'}" in caught.value.hint


def test_svhn_calls_its_label_ten_zero(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files count 1 to 10; and digits are not mirrored."""
    (data_dir / "svhn").mkdir(parents=True)
    labels = np.array([[1, 10] * 10]).T
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
    labels_all = np.concatenate([np.arange(1, 11), np.arange(1, 11)])[:, None]
    for split, answers in (("train", labels_all), ("test", labels)):
        scipy.io.savemat(data_dir / "svhn" / SVHN.split_list[split][1], {"X": pixels, "y": answers})
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, _: Path(path).exists())
    found = open_dataset("svhn", data_dir)
    assert [found.classes[e.label] for e in found.test[:2]] == ["1", "0"]
    assert np.array_equal(np.asarray(found.test[1].read()), pixels[..., 1])
    assert not found.flip


def test_flowers_official_split_has_its_own_validation(
    data_dir: Path, write_images: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FGVC and VTAB use the publisher's split, the PGN paper CoOp's."""
    write_images(f"flowers102/flowers-102/jpg/image_{number:05d}.jpg" for number in range(1, 5))
    folder = data_dir / "flowers102" / "flowers-102"
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": [1, 102, 1, 102]})
    scipy.io.savemat(folder / "setid.mat", {"trnid": [1, 2], "valid": [3, 3], "tstid": [4, 4]})
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda path, _: Path(path).exists())
    found = open_dataset("fgvc-flowers", data_dir)
    assert [e.name for e in found.train] == [f"flowers-102/jpg/image_0000{number}.jpg" for number in (1, 2)]
    assert [found.classes[e.label] for e in found.train] == ["pink primrose", Flowers102.classes[-1]]
    assert {e.name[-5] for e in found.val} == {"3"}


def test_dtd_takes_the_first_official_partition(data_dir: Path, write_images: Write) -> None:
    """Of ten."""
    names = {"train": "banded/banded_1.jpg", "val": "dotted/dotted_1.jpg", "test": "banded/banded_2.jpg"}
    write_images(f"dtd/dtd/dtd/images/{name}" for name in (*names.values(), "dotted/dotted_2.jpg"))
    (data_dir / "dtd" / "dtd" / "dtd" / "labels").mkdir()
    for split, name in names.items():
        other = "dotted/dotted_2.jpg" if split == "train" else "banded/banded_3.jpg"
        (data_dir / f"dtd/dtd/dtd/labels/{split}1.txt").write_text(f"{name}\n{other if split != 'test' else name}\n")
    found = official.dtd(data_dir / "dtd")
    assert found.classes == ("banded", "dotted")
    assert [(e.name.rpartition("/")[2], e.label) for e in found.train] == [("banded_1.jpg", 0), ("dotted_2.jpg", 1)]


def test_pets_take_their_names_from_the_lists(data_dir: Path, write_images: Write) -> None:
    """A breed may have several words, and the number of the image comes last."""
    root = data_dir / "oxford-pets" / "oxford-iiit-pet"
    write_images(f"oxford-pets/oxford-iiit-pet/images/{stem}.jpg" for stem in ("Maine_Coon_1", "pug_2", "pug_3"))
    (root / "annotations").mkdir()
    (root / "annotations" / "trainval.txt").write_text("Maine_Coon_1 1 1 1\npug_2 2 2 1\n")
    (root / "annotations" / "test.txt").write_text("pug_3 2 2 1\n")
    found = official.oxford_pets(data_dir / "oxford-pets")
    assert found.classes == ("maine coon", "pug")
    assert [(e.name, e.label, e.read().size) for e in found.test] == [("pug_3.jpg", 1, (8, 8))]


def test_eurosat_and_sun_are_drawn_where_they_have_no_split(data_dir: Path, write_images: Write) -> None:
    """Everything is read once, then dealt out by class."""
    write_images(f"eurosat/eurosat/2750/{name}/{n}.jpg" for name in ("AnnualCrop", "River") for n in range(5))
    write_images(f"sun397/SUN397/a/{name}/sun_{n}.jpg" for name in ("abbey", "alley/narrow") for n in range(5))
    (data_dir / "sun397" / "SUN397" / "ClassName.txt").write_text("/a/abbey\n/a/alley/narrow\n")
    for read, classes in ((official.eurosat, ("annual crop", "river")), (official.sun397, ("abbey", "alley narrow"))):
        found = read(data_dir / read.__name__)
        drawn = official.with_drawn_test(found, val=0.2, test=0.2)
        assert found.classes == classes
        assert [len(part) for part in (drawn.train, drawn.val or (), drawn.test)] == [6, 2, 2]
        assert len({e.name for part in (drawn.train, drawn.val or (), drawn.test) for e in part}) == 10
        assert found.train[0].read().size == (8, 8)


def test_caltech_trains_on_thirty_images_of_each_class(data_dir: Path, write_images: Write) -> None:
    """VTAB's rule; the rest is test."""
    sizes = {"BACKGROUND_Google": 32, "crab": 31}
    for name, size in sizes.items():
        write_images(f"caltech101/101_ObjectCategories/{name}/image_{n:04d}.jpg" for n in range(size))
    found = official.caltech101(data_dir / "caltech101")
    assert found.classes == ("background google", "crab")
    assert Counter(e.label for e in found.train) == {0: 30, 1: 30}
    assert Counter(e.label for e in found.test) == {0: 2, 1: 1}


def _write_clevr(data_dir: Path, scenes: dict[str, list[list[float]]]) -> None:
    """Scene files in which each scene is given by the distances of its objects."""
    folder = data_dir / "clevr" / "CLEVR_v1.0" / "scenes"
    folder.mkdir(parents=True)
    for split, distances in scenes.items():
        described = [
            {
                "image_filename": f"CLEVR_{split}_{number:06d}.png",
                "objects": [{"pixel_coords": [0, 0, distance]} for distance in scene],
            }
            for number, scene in enumerate(distances)
        ]
        (folder / f"CLEVR_{split}_scenes.json").write_text(json.dumps({"scenes": described}))


def test_clevr_counts_objects_and_tests_on_its_validation_scenes(data_dir: Path, write_images: Write) -> None:
    """The scenes of its test split have no published answers."""
    train = [[9.0] * count for count in range(3, 11)] * 2
    _write_clevr(data_dir, {"train": train, "val": [[9.0] * 10]})
    write_images(["clevr/CLEVR_v1.0/images/val/CLEVR_val_000000.png"])
    found = open_dataset("clevr-count", data_dir)
    assert found.classes == ("3", "4", "5", "6", "7", "8", "9", "10")
    assert [(e.label, e.read().size) for e in found.test] == [(7, (8, 8))]
    assert found.template.format(found.classes[0]) == "This is a photo of 3 objects"


def test_clevrs_distance_is_that_of_the_nearest_object(data_dir: Path) -> None:
    """In VTAB's classes, whose borders belong to the class below."""
    nearest = [7.9, 8.0, 8.1, 8.7, 9.2, 9.9, 10.5]
    _write_clevr(data_dir, {"train": [[distance, 11.0] for distance in nearest], "val": []})
    found = official.clevr_distance(data_dir / "clevr")
    assert [e.label for e in found.train] == [0, 0, 1, 2, 3, 4, 5]


def test_a_scene_that_clevr_cannot_have_is_refused(data_dir: Path) -> None:
    """Eleven objects: the file belongs to another set."""
    _write_clevr(data_dir, {"train": [[9.0] * 11], "val": []})
    with pytest.raises(DataInvalid, match=r"the files in .*clevr are not as published: 11 is not in range"):
        open_dataset("clevr-count", data_dir)
