"""A tar of class folders as a data set; images are read from their place in the file, which is never unpacked."""

from __future__ import annotations

import tarfile
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image

from pgn.errors import DataInvalid, UnreadableImage
from pgn.images import decode_rgb
from training.data.dataset import Dataset
from training.data.labelled import Reader
from training.data.tree import dataset_from_tree, is_passed_over


def tar(path: Path) -> Dataset:
    """The images in the uncompressed tar at `path`; hidden files are passed over.

    Raises:
        DataInvalid: No such file, not a plain tar, one with symbolic links, or what `dataset_from_tree` raises.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            members = archive.getmembers()
    except OSError as error:
        raise DataInvalid(f"{path} cannot be read: {error.strerror}", hint="give a tar file: tar:FILE") from error
    except tarfile.TarError as error:
        raise DataInvalid(
            f"{path} is not a plain tar: {error}", hint="a compressed one has to be unpacked first, e.g. with gunzip"
        ) from error
    files: dict[str, Reader] = {}
    folders: list[str] = []
    stored = {member.name: member for member in members if member.isfile()}
    for member in members:
        relative = PurePosixPath(member.name)  # drops a leading ./
        if any(map(is_passed_over, relative.parts)):
            continue
        if member.issym():
            raise DataInvalid(
                f"{path}: {relative} is a symbolic link to {member.linkname}",
                hint="tar --dereference packs what links lead to",
            )
        # A hard link is how tar keeps another name of a file that it holds already.
        if file := stored.get(member.linkname if member.islnk() else member.name):
            files[str(relative)] = partial(_read, path, file.offset_data, file.size)
        elif member.isdir():
            folders.append(str(relative))
    return dataset_from_tree(path.name.split(".")[0], str(path), files, folders)


def _read(path: Path, offset: int, size: int) -> Image.Image:
    try:
        with path.open("rb") as file:  # opened for each image, so that threads share nothing
            file.seek(offset)
            return decode_rgb(file.read(size))
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read: {error.strerror}") from error
