"""A folder of class folders as a data set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pgn.errors import DataInvalid
from training.data.dataset import Dataset, Source
from training.data.reading import ImageFile
from training.data.tree import dataset_from_tree, is_passed_over


def folder(path: Path) -> Dataset:
    """The images below `path`, also those in folders that a symbolic link leads to; hidden files are passed over.

    Raises:
        DataInvalid: No such folder, one that may not be read, or what `dataset_from_tree` raises.
    """
    files: dict[str, Source] = {}
    folders: list[str] = []
    try:
        if not path.is_dir():
            raise DataInvalid(f"{path} is not a folder", hint="give a folder of class folders: folder:DIR")
        for entry in _walk(path, frozenset({path.resolve()})):
            relative = Path(entry.path).relative_to(path).as_posix()
            if entry.is_file():
                files[relative] = ImageFile(entry.path)
            else:  # a link into nowhere too: it may have been a class
                folders.append(relative)
    except OSError as error:
        raise DataInvalid(
            f"{error.filename or path} cannot be read: {error.strerror}", hint="look at it with ls -l"
        ) from error
    return dataset_from_tree(path.resolve().name, str(path), files, folders)


def _walk(path: Path | str, above: frozenset[Path]) -> Iterator[os.DirEntry[str]]:
    """Everything below `path`; a link that leads back to one of the folders `above` is not followed."""
    with os.scandir(path) as entries:
        for entry in entries:
            if is_passed_over(entry.name):
                continue
            if entry.is_dir():
                here = Path(entry.path).resolve()
                if here in above:
                    continue
                yield from _walk(entry.path, above | {here})
            yield entry
