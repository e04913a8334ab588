"""CoOp's split files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from pgn.errors import DataInvalid
from training.data.named.catalogue import CATALOGUE
from training.data.registry import open_dataset

SPLIT = {
    "train": [["Sea_Lake/a.jpg", 7, "Sea_Lake"], ["Forest/b.jpg", 2, "Forest"]],
    "val": [["Sea_Lake/c.jpg", 7, "Sea_Lake"]],
    "test": [["Forest/d.jpg", 2, "Forest"]],
}


@pytest.fixture
def write_split(data_dir: Path) -> Callable[..., None]:
    """Writes EuroSAT's split file."""

    def write(**changes: Any) -> None:
        (data_dir / "eurosat").mkdir(parents=True, exist_ok=True)
        (data_dir / "eurosat" / "split_zhou_EuroSAT.json").write_text(json.dumps(SPLIT | changes))

    return write


@pytest.fixture
def eurosat(write_split: Callable[..., None], write_images: Callable[[Iterable[str]], None]) -> Callable[..., None]:
    """EuroSAT of four images; a call writes the split file anew."""
    write_images(f"eurosat/2750/{row[0]}" for rows in SPLIT.values() for row in rows)
    write_split()
    return write_split


def test_the_three_splits_are_those_of_the_file(eurosat: Callable[..., None], data_dir: Path) -> None:
    """The paper's authors trained on train and val together; here val only chooses."""
    found = open_dataset("eurosat", data_dir)
    assert [[e.name for e in found.split(split)] for split in ("train", "val", "test")] == [
        ["Sea_Lake/a.jpg", "Forest/b.jpg"],
        ["Sea_Lake/c.jpg"],
        ["Forest/d.jpg"],
    ]
    assert found.train[0].read().size == (8, 8)


def test_classes_follow_the_numbers_and_read_as_in_the_paper(eurosat: Callable[..., None], data_dir: Path) -> None:
    """Order by numeric label; lower case, `_` as a space."""
    found = open_dataset("eurosat", data_dir)
    assert found.classes == ("forest", "sea lake")
    assert [e.label for e in found.train] == [1, 0]
    assert found.template.format(found.classes[1]) == "This is a photo of a sea lake"


def test_the_folder_may_bear_coops_name(write_images: Callable[[Iterable[str]], None], data_dir: Path) -> None:
    """A data folder that was laid out for CoOp is read as it is."""
    write_images(f"oxford_pets/images/{row[0]}" for rows in SPLIT.values() for row in rows)
    (data_dir / "oxford_pets" / "split_zhou_OxfordPets.json").write_text(json.dumps(SPLIT))
    assert open_dataset("oxford-pets", data_dir).train[0].read().size == (8, 8)


@pytest.mark.parametrize(
    ("name", "file", "images"),
    [
        ("flowers102", "oxford_flowers/split_zhou_OxfordFlowers.json", "oxford_flowers/jpg"),
        ("flowers102", "flowers102/split_zhou_OxfordFlowers.json", "flowers102/flowers-102/jpg"),
        ("food101", "food-101/split_zhou_Food101.json", "food-101/images"),
        ("food101", "food101/split_zhou_Food101.json", "food101/food-101/images"),
        ("eurosat", "eurosat/split_zhou_EuroSAT.json", "eurosat/eurosat/2750"),
        ("sun397", "sun397/split_zhou_SUN397.json", "sun397/SUN397"),
        ("ucf101", "ucf101/split_zhou_UCF101.json", "ucf101/UCF-101-midframes"),
        ("oxford-pets", "oxford-pets/split_zhou_OxfordPets.json", "oxford-pets/oxford-iiit-pet/images"),
        ("dtd", "dtd/split_zhou_DescribableTextures.json", "dtd/dtd/dtd/images"),
        ("resisc45", "resisc45/resisc45_json.json", "resisc45/NWPU-RESISC45"),
    ],
)
def test_each_set_is_read_as_coop_or_its_publisher_lays_it_out(
    name: str, file: str, images: str, write_images: Callable[[Iterable[str]], None], data_dir: Path
) -> None:
    """CoOp's folders, what torchvision's download leaves, and what the hint tells to unpack."""
    write_images(f"{images}/{row[0]}" for rows in SPLIT.values() for row in rows)
    (data_dir / file).write_text(json.dumps(SPLIT))
    found = open_dataset(name, data_dir)
    assert found.train[0].read().size == (8, 8)
    assert CATALOGUE[name].at_hand(data_dir) == data_dir / file.split("/")[0]


def test_a_missing_split_file_says_where_to_get_it_and_where_to_put_it(data_dir: Path, no_network: None) -> None:
    """It is on Google Drive, where no program fetches it reliably; nothing large is downloaded before it is there."""
    with pytest.raises(DataInvalid, match=r"no file .*split_zhou_EuroSAT\.json") as caught:
        open_dataset("eurosat", data_dir)
    assert "https://drive.google.com/file/d/1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o/view" in caught.value.hint
    assert f"into {data_dir / 'eurosat'}" in caught.value.hint


def test_missing_images_that_cannot_be_downloaded_are_one_line(
    write_split: Callable[..., None], data_dir: Path, no_network: None
) -> None:
    """The split file is there, torchvision was asked, and the machine is offline."""
    write_split()
    with pytest.raises(DataInvalid, match=r"EuroSAT is not at hand: the download into .* failed: no network"):
        open_dataset("eurosat", data_dir)


def test_a_class_with_two_names_is_refused(eurosat: Callable[..., None], data_dir: Path) -> None:
    """Labels that do not match the split: half of the answers would be counted wrong."""
    eurosat(test=[["Forest/d.jpg", 7, "Forest"]])
    with pytest.raises(DataInvalid, match="calls class 7 both 'Sea_Lake' and 'Forest'"):
        open_dataset("eurosat", data_dir)


def test_an_image_in_two_splits_is_refused(eurosat: Callable[..., None], data_dir: Path) -> None:
    """Train, validation and test never mix, not even if a file says so."""
    eurosat(test=SPLIT["train"])
    with pytest.raises(DataInvalid, match=r"Forest/b\.jpg is in train and in test"):
        open_dataset("eurosat", data_dir)


def test_a_file_that_is_no_split_is_one_line(eurosat: Callable[..., None], data_dir: Path) -> None:
    """A saved error page in its place, or a JSON of another kind."""
    path = data_dir / "eurosat" / "split_zhou_EuroSAT.json"
    for content in ("<html>", '{"train": []}', "[]"):
        path.write_text(content)
        with pytest.raises(DataInvalid, match=r"the files in .*eurosat are not as published"):
            open_dataset("eurosat", data_dir)
