"""A look at a data set before anything is trained on it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pgn.cli import main
from tests.toys import make_images, write_images
from training.data.check import check, compare
from training.data.registry import open_dataset


@pytest.fixture
def split_folders(tmp_path: Path) -> Path:
    """Two classes; four, one and two images of each in train, val and test, all different."""
    root = tmp_path / "pets"
    images = iter(make_images(14))
    for split, count in (("train", 4), ("val", 1), ("test", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                (root / split / name / f"{number}.png").write_bytes(next(images))
    return root


def _run(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pgn", "data", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            main()
    return int(exit_info.value.code or 0)


def test_every_split_and_class_is_counted(split_folders: Path) -> None:
    """What the trainer will see, before it sees it."""
    report = check(f"folder:{split_folders}", Path()).report
    assert report.counts == {name: {"train": 4, "val": 1, "test": 2} for name in ("cat", "dog")}
    assert report.total == {"train": 8, "val": 2, "test": 4}
    assert not report.shared
    assert not report.repeated


def test_a_picture_in_two_splits_is_named_with_both_places(split_folders: Path) -> None:
    """A test image that was learned from is no test."""
    shutil.copy(split_folders / "train/cat/3.png", split_folders / "test/cat/renamed.png")
    (group,) = check(f"folder:{split_folders}", Path()).report.shared
    assert [str(place) for place in group] == ["train/cat/3.png (train)", "test/cat/renamed.png (test)"]


def test_the_same_pixels_in_another_file_format_are_the_same_picture(split_folders: Path) -> None:
    """A digest of the file would miss a copy that was only saved anew."""
    from PIL import Image

    Image.open(split_folders / "train/dog/0.png").save(split_folders / "val/dog/copy.bmp")
    assert len(check(f"folder:{split_folders}", Path()).report.shared) == 1


def test_a_picture_twice_in_one_split_is_reported_apart(split_folders: Path) -> None:
    """It wastes a little and spoils nothing; two classes for one picture are said."""
    shutil.copy(split_folders / "train/cat/3.png", split_folders / "train/dog/copy.png")
    report = check(f"folder:{split_folders}", Path()).report
    assert not report.shared
    assert "train/cat/3.png (train) = train/dog/copy.png (train); classes differ: cat, dog" in report.table()


def test_an_unreadable_image_is_named_with_its_reason(split_folders: Path) -> None:
    """Training would skip it with the same words."""
    (split_folders / "train/cat/0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (((place, reason),)) = check(f"folder:{split_folders}", Path()).report.unreadable
    assert (str(place), "cannot be decoded" in reason) == ("train/cat/0.png (train)", True)


def test_unreadable_images_have_a_line_below_the_counts(split_folders: Path) -> None:
    """The counts are of what is listed; training has so many fewer."""
    for path in ("train/cat/0.png", "test/dog/0.png", "test/dog/1.png"):
        (split_folders / path).write_bytes(b"no image")
    report = check(f"folder:{split_folders}", Path()).report
    assert report.total == {"train": 8, "val": 2, "test": 4}
    assert "of these unreadable: train 1, val 0, test 2" in report.table().splitlines()
    assert report.obstacles == ()


@pytest.mark.parametrize(("damaged", "obstacles"), [
    ("train/dog", ["class 'dog' has no readable training image"]),
    ("train", ["no image of train can be read"]),
    ("val", ["no image of val can be read"]),
    ("test/dog", []),
])  # fmt: skip
def test_what_training_would_refuse_is_said_last(damaged: str, obstacles: list[str], split_folders: Path) -> None:
    """Before an hour is spent on the way to the same refusal; a class that is not asked about is only warned of."""
    for path in (split_folders / damaged).rglob("*.png"):
        path.write_bytes(b"no image")
    report = check(f"folder:{split_folders}", Path()).report
    assert report.to_dict()["obstacles"] == obstacles
    told = [line for line in report.table().splitlines() if line.startswith("cannot be trained on: ")]
    assert told == [f"cannot be trained on: {reason}" for reason in obstacles]


def test_a_class_that_a_published_list_leaves_out_is_no_obstacle(
    split_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As VTAB's list of SUN397 does."""
    opened = replace(open_dataset(f"folder:{split_folders}", Path()), may_lack=frozenset({1}))
    only_cats = tuple(example for example in opened.train if example.label == 0)
    monkeypatch.setattr("training.data.check.open_dataset", lambda *_: replace(opened, train=only_cats))
    assert check("vtab-sun397", Path()).report.obstacles == ()


def test_a_long_list_of_reasons_is_cut_in_the_table_only(tmp_path: Path) -> None:
    """Folders of files that only bear the suffix of images have one reason a class."""
    for number in range(60):
        write_images(tmp_path / "many" / f"class{number:02d}", 3, seed=number)
    for number, file in enumerate(sorted((tmp_path / "many").glob("class*/*.png"))[3:]):
        file.write_bytes(f"no image {number}".encode())
    report = check(f"folder:{tmp_path / 'many'}", Path()).report
    assert len(report.obstacles) == 59
    *_, last, more = report.table().splitlines()
    assert (last, more) == (f"cannot be trained on: {report.obstacles[49]}", "... and 9 more reasons")


def test_a_small_validation_split_is_remarked_on(split_folders: Path) -> None:
    """The epoch that it chooses is chosen by chance."""
    told = "validation: 2 images, so one image is 50 points; epoch and temperature are chosen on little"
    assert told in check(f"folder:{split_folders}", Path()).report.table().splitlines()
    for number, data in enumerate(make_images(48, seed=9)):
        (split_folders / f"val/dog/more{number}.png").write_bytes(data)
    assert "validation: " not in check(f"folder:{split_folders}", Path()).report.table()


def test_the_table_names_the_smallest_and_the_largest_class(split_folders: Path) -> None:
    """Class balance, split by split; a class without an image stands out as 0."""
    for number, data in enumerate(make_images(3, seed=9)):
        (split_folders / f"train/dog/more{number}.png").write_bytes(data)
    shutil.rmtree(split_folders / "test/cat")
    table = check(f"folder:{split_folders}", Path()).report.table()
    assert "train: from 4 (cat) to 7 (dog) images a class" in table
    assert "val: every class has 1" in table
    assert "test: from 0 (cat) to 2 (dog) images a class" in table


def test_a_long_list_of_classes_is_cut_in_the_table_only(tmp_path: Path) -> None:
    """A thousand lines hide the findings below them."""
    for number in range(60):
        write_images(tmp_path / "many" / f"class{number:02d}", 3, seed=number)
    report = check(f"folder:{tmp_path / 'many'}", Path()).report
    assert "... and 10 more classes" in report.table()
    assert len(report.to_dict()["counts"]) == 60


def test_a_partial_copy_of_a_public_set_is_seen(tmp_path: Path) -> None:
    """Its numbers could not be compared with anyone's."""
    folder = tmp_path / "eurosat"
    rows = [[f"{name}/{n}.png", label, name] for label, name in enumerate(("River", "Forest")) for n in range(3)]
    for (path, _, _), data in zip(rows, make_images(6), strict=True):
        (folder / "2750" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "2750" / path).write_bytes(data)
    split = {"train": rows[::3], "val": rows[1::3], "test": rows[2::3]}
    (folder / "split_zhou_EuroSAT.json").write_text(json.dumps(split))
    report = check("eurosat", tmp_path).report
    assert report.published == {"classes": (10, 2), "train": (13500, 2), "val": (5400, 2), "test": (8100, 2)}
    assert "published train: 13,500, found 2" in report.table()


def test_the_command_fails_only_if_splits_share_a_picture(
    split_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script stops before it trains on its test images; a picture twice in train is no reason to."""
    shutil.copy(split_folders / "train/cat/3.png", split_folders / "train/cat/again.png")
    assert _run("check", f"folder:{split_folders}") == 0
    assert "pictures repeated within a split: 1" in capsys.readouterr().out
    shutil.copy(split_folders / "train/cat/0.png", split_folders / "val/cat/again.png")
    assert _run("check", "digits", f"folder:{split_folders}", "--json") == 1
    first, second, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["dataset"], first["shared"]) == ("digits", [])
    assert [place["split"] for place in second["shared"][0]] == ["train", "val"]


@pytest.fixture
def other_folders(tmp_path: Path) -> Path:
    """A second set, of other pictures."""
    root = tmp_path / "more pets"
    images = iter(make_images(40, seed=5))
    for name in ("cat", "mouse"):
        (root / name).mkdir(parents=True)
        for number in range(20):
            (root / name / f"{number:02d}.png").write_bytes(next(images))
    return root


def test_the_command_fails_if_a_set_cannot_be_trained_on(split_folders: Path) -> None:
    """As training would, hours later or not."""
    for file in (split_folders / "train" / "cat").iterdir():
        file.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert _run("check", f"folder:{split_folders}") == 1


def test_a_picture_in_two_sets_is_named_with_both_sets(split_folders: Path, other_folders: Path) -> None:
    """In their union a test image of one may be a training image of the other."""
    specs = (f"folder:{split_folders}", f"folder:{other_folders}")
    assert compare([check(spec, Path()) for spec in specs]).groups == ()
    for name in ("00", "01"):
        shutil.copy(split_folders / "test/cat/0.png", other_folders / f"mouse/{name}.png")
    found = compare([check(spec, Path()) for spec in specs])
    (group,) = found.groups
    assert sorted((number, place.name) for number, place in group) == [
        (1, "test/cat/0.png"),
        (2, "mouse/00.png"),
        (2, "mouse/01.png"),
    ]
    assert found.table().startswith(
        "pictures shared by sets (1 of them by different splits): 1\n  pets: test/cat/0.png"
    )


def test_sets_of_one_name_are_told_apart_by_number(split_folders: Path, tmp_path: Path) -> None:
    """Two folders of one name make a union as any others."""
    twin = tmp_path / "elsewhere" / "pets"
    shutil.copytree(split_folders, twin)
    found = compare([check(f"folder:{path}", Path()) for path in (split_folders, twin)])
    assert len(found.groups) == 14
    assert "pets (set 1): train/cat/0.png (train) = pets (set 2): train/cat/0.png (train)" in found.table()


def test_the_command_fails_if_a_set_trains_on_what_another_tests(
    split_folders: Path, other_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As within one set; pictures that several sets only train on are told, and are no reason to stop."""
    asked = ("check", f"folder:{split_folders}", f"folder:{other_folders}")
    assert _run(*asked) == 0
    assert "pictures shared by sets: none" in capsys.readouterr().out
    shutil.copy(split_folders / "test/dog/0.png", other_folders / "cat/copy.png")
    shutil.copy(split_folders / "test/dog/0.png", other_folders / "mouse/copy.png")
    assert _run(*asked, "--json") == 1
    *_, across = map(json.loads, capsys.readouterr().out.splitlines())
    assert across["datasets"] == ["pets", "more-pets"]
    assert {place["set"] for place in across["shared_by_sets"][0]} == {1, 2}


def test_the_list_names_every_set(capsys: pytest.CaptureFixture[str]) -> None:
    """What --dataset takes."""
    assert _run("list") == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{out}" for name in ("digits", "fashion-mnist", "cifar100", "vtab-norb-azimuth"))
