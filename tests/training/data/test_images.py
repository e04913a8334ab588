"""Examples to pixels."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pgn.backbone_spec import Preprocess
from pgn.errors import DataInvalid
from pgn.images import read_square
from tests.toys import picture
from training.data import images as module
from training.data.dataset import Dataset, Example
from training.data.folder import folder
from training.data.images import Images, load_split, require_a_readable_image, warn_of_absent_classes, warn_of_shared
from training.data.union import union

PREPROCESS = Preprocess(size=32, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def _kept_and_late(folders: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Images, Images]:
    """The same images twice: kept in memory, and decoded as they are used, as a split too large for it is."""
    kept = load_split(folder(folders), "train", PREPROCESS)
    monkeypatch.setattr(module, "CACHE_LIMIT_BYTES", 0)
    return kept, load_split(folder(folders), "train", PREPROCESS)


def test_training_sees_the_pixels_that_serving_sees(class_folders: Path) -> None:
    """One way from bytes to pixels."""
    dataset = folder(class_folders)
    images = load_split(dataset, "train", PREPROCESS)
    data = (class_folders / dataset.train[3].name).read_bytes()
    served = torch.from_numpy(read_square(data, 32, interpolation="bicubic").copy())
    assert torch.equal(images.pixels(torch.tensor([3]))[0], served)


def test_a_split_too_large_for_memory_gives_the_same_pixels(
    class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding late changes the speed only."""
    kept, late = _kept_and_late(class_folders, monkeypatch)
    order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))
    assert torch.equal(late.pixels(order), kept.pixels(order))
    assert torch.equal(late.labels, kept.labels)


def test_images_one_by_one_are_those_of_the_batch(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept or decoded as they are used."""
    order = torch.tensor([3, 1, 3])
    for images in _kept_and_late(class_folders, monkeypatch):
        images.prefetch(order)
        assert np.array_equal(np.stack(images.take(order)), images.pixels(order).numpy())


@pytest.mark.parametrize(("limit", "decoded"), [(13 * 3, 1), (13 * 3 - 1, 2)])
def test_the_same_images_in_another_frame(
    class_folders: Path, monkeypatch: pytest.MonkeyPatch, limit: int, decoded: int
) -> None:
    """Of those that can be read, in the same order; kept, once decoded, if there is room for all of them."""
    dataset = folder(class_folders)
    (class_folders / dataset.train[0].name).write_bytes(b"no image")
    seen: list[Image.Image] = []

    def corner(image: Image.Image) -> np.ndarray:
        seen.append(image)
        return np.asarray(image)[:1, :1]

    monkeypatch.setattr(module, "CACHE_LIMIT_BYTES", limit)
    frames = load_split(dataset, "train", PREPROCESS).framed(corner)
    seen.clear()
    for _ in range(2):
        (frame,) = frames.take(torch.tensor([2]))
        assert np.array_equal(frame, np.asarray(dataset.train[3].read())[:1, :1])
    assert len(seen) == decoded


def test_all_images_come_in_parts_and_in_order(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept or decoded as they are used: what is validated on, part by part."""
    kept, late = _kept_and_late(class_folders, monkeypatch)
    parts = list(late.in_parts(5))
    assert [len(part) for part in parts] == [5, 5, 4]
    assert torch.equal(torch.cat(parts), kept.pixels(torch.arange(14)))
    assert torch.equal(torch.cat(list(kept.in_parts(5))), torch.cat(parts))


def test_an_unreadable_image_is_skipped_named_and_counted(
    class_folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One damaged file among thousands does not stop a run, and is not passed over in silence."""
    name = folder(class_folders).train[0].name
    (class_folders / name).write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with caplog.at_level(logging.WARNING):
        images = load_split(folder(class_folders), "train", PREPROCESS)
    assert len(images) == 13
    assert f"skipped {name}" in caplog.text
    assert "1 of 14 images could not be read" in caplog.text


def test_a_class_without_a_readable_image_is_named(class_folders: Path) -> None:
    """It could not be learned."""
    for file in (class_folders / "dog").iterdir():
        file.write_bytes(f"no image {file.name}".encode())
    with pytest.raises(DataInvalid, match="class 'dog' has no readable training image"):
        load_split(folder(class_folders), "train", PREPROCESS)


def test_a_class_without_any_training_image_is_told_from_damaged_ones(class_folders: Path) -> None:
    """Nothing is decoded first, and no warning is pointed at that was never given."""
    dataset = folder(class_folders)
    without_cats = replace(dataset, train=tuple(e for e in dataset.train if dataset.classes[e.label] != "cat"))
    with pytest.raises(DataInvalid, match=r"class 'cat' has no training image \(add images"):
        load_split(without_cats, "train", PREPROCESS)


def test_classes_without_an_image_in_a_split_are_named_in_one_line_a_split(
    class_folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is never asked is never wrong: the accuracy speaks of the other classes only."""
    dataset = folder(class_folders)
    cats = tuple(example for example in dataset.test if example.label == 0)
    warn_of_absent_classes(dataset)
    assert not caplog.messages
    warn_of_absent_classes(replace(dataset, test=cats))
    assert caplog.messages == ["my-pets, test: no image of dog"]


def test_of_many_absent_classes_the_first_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """200 validation images of 397 classes, as in VTAB, and a training list that may lack some too."""
    names, image = tuple(str(number) for number in range(14)), Example("x.png", 1, picture())
    few = Dataset("few", names, train=(image,), val=(image,), test=(image,), flip=True)
    warn_of_absent_classes(replace(few, may_lack=frozenset(range(len(few.classes)))))
    listed = "no image of 0, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more"
    assert caplog.messages == [f"few, {split}: {listed}" for split in ("train", "val", "test")]
    caplog.clear()
    warn_of_absent_classes(few)
    assert caplog.messages == [f"few, {split}: {listed}" for split in ("val", "test")]


def test_a_picture_of_one_pixel_is_a_picture(class_folders: Path) -> None:
    """It is scaled up like any small one."""
    name = folder(class_folders).train[0].name
    Image.new("RGB", (1, 1), (7, 8, 9)).save(class_folders / name)
    images = load_split(folder(class_folders), "train", PREPROCESS)
    assert images.pixels(torch.tensor([0])).reshape(-1, 3).unique(dim=0).tolist() == [[7, 8, 9]]


def test_a_picture_of_a_hundred_megapixels_is_skipped_unread(
    class_folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its header says enough; decoded it would take 300 MB in each thread."""
    name = folder(class_folders).train[0].name
    Image.new("1", (10_000, 10_000)).save(class_folders / name)
    with caplog.at_level(logging.WARNING):
        assert len(load_split(folder(class_folders), "train", PREPROCESS)) == 13
    assert f"skipped {name}: the image is 10000 x 10000 pixels; the limit is 50,000,000" in caplog.text


def test_a_set_of_a_union_without_a_readable_image_is_named(class_folders: Path) -> None:
    """Also one that may lack classes: an epoch draws from every set."""
    pets = folder(class_folders)
    sparse = replace(pets, name="sparse", train=(), may_lack=frozenset({0, 1}))
    with pytest.raises(DataInvalid, match="sparse has no readable training image"):
        load_split(union([pets, sparse]), "train", PREPROCESS)


def test_a_split_that_cannot_be_asked_is_found_by_reading_up_to_a_good_image(class_folders: Path) -> None:
    """Before a night of training, not after it."""
    dataset = folder(class_folders)
    for number, example in enumerate(dataset.test):
        require_a_readable_image(dataset, "test")
        (class_folders / example.name).write_bytes(b"no image")
        assert number < len(dataset.test)
    with pytest.raises(DataInvalid, match="the test split has no readable image"):
        require_a_readable_image(dataset, "test")


def test_pictures_that_were_learned_from_or_chosen_with_are_told(
    class_folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a union the test split of one set may hold what another trains on; nothing else would say so."""
    pets = folder(class_folders)
    learned, chosen, asked = (load_split(pets, split, PREPROCESS) for split in ("train", "val", "test"))
    warn_of_shared(pets, asked, "test", training=learned)
    assert not caplog.messages
    mixed = load_split(replace(pets, test=(*pets.test, *pets.train[:2], pets.val[0])), "test", PREPROCESS)
    warn_of_shared(pets, mixed, "test", training=learned, validation=chosen)
    names = ", ".join(sorted(example.name for example in pets.train[:2]))
    assert caplog.messages == [
        f"my-pets, test: 2 of 7 pictures are training images too, so its accuracy is too good: {names}",
        f"my-pets, test: 1 of 7 pictures are validation images too, so its accuracy is too good: {pets.val[0].name}",
    ]
