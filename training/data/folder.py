"""A folder of class folders as a data set."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pgn.errors import DataInvalid
from training.data.dataset import Dataset
from training.data.labelled import Reader
from training.data.reading import read_file
from training.data.tree import dataset_from_tree


def folder(path: Path) -> Dataset:
    """The images below `path`; hidden files are passed over.

    Raises:
        DataInvalid: No such folder, or what `dataset_from_tree` raises.
    """
    if not path.is_dir():
        raise DataInvalid(f"{path} is not a folder", hint="give a folder of class folders: folder:DIR")
    files: dict[str, Reader] = {}
    for file in path.rglob("*"):
        relative = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in relative.parts):
            files[relative.as_posix()] = partial(read_file, file)
    return dataset_from_tree(path.resolve().name, str(path), files)
