"""A CSV that lists images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgn.errors import DataInvalid
from training.data.registry import open_dataset


@pytest.fixture
def write_csv(class_folders: Path) -> Callable[..., str]:
    """Writes a CSV beside the class folders and gives its spec."""

    def write(*lines: str) -> str:
        (class_folders / "list.csv").write_text("\n".join(lines) + "\n")
        return f"csv:{class_folders / 'list.csv'}"

    return write


def test_without_splits_they_are_drawn(write_csv: Callable[..., str]) -> None:
    """As for a folder: a tenth for validation, a fifth for test."""
    found = open_dataset(
        write_csv("path,label", *(f"{c}/{n}.png,a {c}" for c in ("cat", "dog") for n in range(10))), Path()
    )
    assert (found.name, found.classes) == ("list", ("a cat", "a dog"))
    assert (len(found.train), len(found.val), len(found.test)) == (14, 2, 4)


def test_a_space_behind_a_comma_is_no_part_of_a_name(write_csv: Callable[..., str]) -> None:
    """Lists written by hand look like that."""
    spec = write_csv("path, label", *(f"{c}/{n}.png, a {c}" for c in ("cat", "dog") for n in range(3)))
    assert open_dataset(spec, Path()).classes == ("a cat", "a dog")


def test_paths_are_relative_to_the_csv(write_csv: Callable[..., str], class_folders: Path) -> None:
    """A folder with its list can be moved."""
    spec = write_csv("label,path", *(f"{c},{c}/{n}.png" for c in ("cat", "dog") for n in range(3)))
    example = open_dataset(spec, Path()).train[0]
    assert not Path(example.name).is_absolute()
    assert example.read().size == (40, 40)


def test_given_splits_are_kept(write_csv: Callable[..., str]) -> None:
    """Every image stays where its row puts it."""
    rows = [f"{c}/{n}.png,{c},{split}" for c in ("cat", "dog") for n, split in enumerate(("train", "val", "test"))]
    found = open_dataset(write_csv("path,label,split", *rows), Path())
    assert [e.name for e in found.val] == ["cat/1.png", "dog/1.png"]
    assert [e.name for e in found.test] == ["cat/2.png", "dog/2.png"]


def test_a_spreadsheets_byte_order_mark_is_no_part_of_the_first_column(
    write_csv: Callable[..., str], class_folders: Path
) -> None:
    """Excel writes one before `path`."""
    spec = write_csv("path,label", *(f"{c}/{n}.png,{c}" for c in ("cat", "dog") for n in range(3)))
    path = class_folders / "list.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(open_dataset(spec, Path()).classes) == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,class", "cat/0.png,cat"], "has no columns `path` and `label`: its first line is 'file,class'"),
        (["path;label", "cat/0.png;cat"], "its first line is 'path;label' .*; columns are separated by commas"),
        (["x" * 1000], f"its first line is '{'x' * 100}' "),
        ([""], "has no columns `path` and `label`: its first line is ''"),
        (["path,label"], "holds no images"),
        (["path,label", "cat/0.png,"], "line 2: path or label is empty"),
        (["path,label", "cat/0.png"], "line 2: path or label is empty"),
        (["path,label", "cat/0.png,cat", "cat/\0.png,cat"], "line 3: the path holds a zero byte"),
        (["path,label,split", "cat/0.png,cat,validation"], "line 2: the split is 'validation' .write train"),
        (["path,label,split", "cat/0.png,cat,train", "cat/0.png,cat,test"], "listed twice, in lines 2 and 3"),
        (["path,label,split", "cat/0.png,cat,test"], "has test but no train"),
        (["path,label", *(f"cat/{n}.png,cat" for n in range(9))], "holds one class only, 'cat'"),
        (["path,label,split", "cat/0.png,cat,train", "dog/0.png,dog,train", "d.png,lynx,val"], "'lynx', which has no"),
        (["path,label", "cat/0.png,cat", *(f"dog/{n}.png,dog" for n in range(9))], "class 'cat' has 1 image"),
    ],
)  # fmt: skip
def test_a_fault_in_the_list_is_one_line_that_names_it(
    lines: list[str], message: str, write_csv: Callable[..., str]
) -> None:
    """A list of ten thousand rows is not searched by hand."""
    with pytest.raises(DataInvalid, match=message):
        open_dataset(write_csv(*lines), Path())


@pytest.mark.parametrize("spelling", ["./cat/0.png", "cat//0.png", "dog/../cat/0.png", "{folder}/cat/0.png"])
def test_an_image_under_two_spellings_is_listed_twice(
    spelling: str, write_csv: Callable[..., str], class_folders: Path
) -> None:
    """Lists put together from two sources differ in just that, and a test image would be learned from."""
    other = spelling.format(folder=class_folders)
    with pytest.raises(DataInvalid, match="is listed twice, in lines 2 and 3"):
        open_dataset(write_csv("path,label,split", "cat/0.png,cat,train", f"{other},cat,test"), Path())


def test_a_missing_list_and_a_picture_instead_of_it_are_told_apart(tmp_path: Path) -> None:
    """A typing error, or the wrong file."""
    with pytest.raises(DataInvalid, match=r"no\.csv cannot be read: No such file.*csv:FILE"):
        open_dataset(f"csv:{tmp_path / 'no.csv'}", Path())
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    with pytest.raises(DataInvalid, match=r"image\.csv is no CSV file"):
        open_dataset(f"csv:{tmp_path / 'image.csv'}", Path())
