"""What a reader of a public set gives: class names and the examples of each split, as they lie on disk.

Readers take the set's folder. A file that is not there is a FileNotFoundError; files that contradict each other are a
ValueError. `open_entry` makes one clear line of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar

import numpy as np

from training.data.alone import alone
from training.data.dataset import Example
from training.data.reading import ImageArray, ImageFile

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """A public set on disk.

    Attributes:
        classes: Class names; a label is an index into them.
        train: Published training images.
        val: Published validation images; None if they have to be drawn from train.
        test: Published test images.
    """

    classes: tuple[str, ...]
    train: Sequence[Example]
    val: Sequence[Example] | None
    test: Sequence[Example]


def class_text(name: str) -> str:
    """A published class name as the PGN paper writes it into its sentence: lower case, `_` as a space."""
    return name.replace("_", " ").lower()


def required(path: Path) -> Path:
    """The path of a file; raises FileNotFoundError if there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    return path


def first_folder(folder: Path, names: Iterable[str]) -> Path:
    """The first of the folders below `folder` that exists; raises FileNotFoundError, which names all of them."""
    names = tuple(names)
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise FileNotFoundError(f"no folder {' or '.join(str(folder / name) for name in names)}")


def file_examples(root: Path, rows: Iterable[tuple[str, int]]) -> list[Example]:
    """Examples of files below `root`: relative path and label each."""
    return [Example(path, label, ImageFile(f"{root}/{path}")) for path, label in rows]


def array_examples(name: str, pictures: np.ndarray, labels: Iterable[int]) -> list[Example]:
    """Examples of the rows of `pictures`, (M, H, W) or (M, H, W, 3) uint8, named `name`/0, `name`/1 and so on."""
    return [
        Example(f"{name}/{number}", int(label), ImageArray(picture))
        for number, (picture, label) in enumerate(zip(pictures, labels, strict=True))
    ]


@contextmanager
def _without_empty_folders(root: Path) -> Iterator[None]:
    """A download that fails leaves no empty folder, which would look like a set that is at hand."""
    try:
        yield
    finally:
        for folder in (*root.glob("*/"), root):
            with suppress(OSError):  # it holds something, or was never made
                folder.rmdir()


def or_download(dataset: Callable[..., T], root: Path, **options: object) -> T:
    """The set of torchvision at `root`, downloaded first if it is not there, by one process alone.

    Raises:
        FileNotFoundError: It is not there and cannot be downloaded.
    """
    try:
        with alone(root):
            with suppress(RuntimeError):  # torchvision: not found, or a digest is wrong
                return dataset(root, download=False, **options)
            with _without_empty_folders(root):
                return dataset(root, download=True, **options)
    except (RuntimeError, OSError, HTTPException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FileNotFoundError(f"the download into {root} failed: {reason}") from error
