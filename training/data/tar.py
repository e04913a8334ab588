"""A tar of class folders as a data set; images are read from their place in the file, which is never unpacked."""

from __future__ import annotations

import tarfile
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

from pgn.errors import DataInvalid
from training.data.dataset import Dataset, Source
from training.data.reading import ImageFile
from training.data.tree import dataset_from_tree, is_passed_over

_PACKED: Final = {  # by the first bytes: what the file is, and what to do
    b"\x1f\x8b": ("compressed with gzip", "unpack it first: gunzip FILE"),
    b"BZh": ("compressed with bzip2", "unpack it first: bunzip2 FILE"),
    b"\xfd7zXZ\x00": ("compressed with xz", "unpack it first: unxz FILE"),
    b"PK\x03\x04": ("a zip file", "unzip it and give the folder as folder:DIR"),
}


def tar(path: Path) -> Dataset:
    """The images in the uncompressed tar at `path`; hidden files are passed over.

    Raises:
        DataInvalid: No such file, not a plain and whole tar, one with symbolic links, or what `dataset_from_tree`
            raises.
    """
    members = _members(path)
    files: dict[str, Source] = {}
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
            files[str(relative)] = ImageFile(str(path), file.offset_data, file.size)
        elif member.isdir():
            folders.append(str(relative))
    return dataset_from_tree(path.name.split(".")[0], str(path), files, folders)


def _members(path: Path) -> list[tarfile.TarInfo]:
    """All that the tar holds; one that was cut short would give fewer images, or none of the last classes."""
    try:
        # Opening it reads the first header: what goes wrong behind that is a tar's damage.
        with tarfile.open(path, "r:") as archive, path.open("rb") as file, suppress(tarfile.ReadError):
            members = archive.getmembers()
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE):
                return members
    except OSError as error:
        raise DataInvalid(f"{path} cannot be read: {error.strerror}", hint="give a tar file: tar:FILE") from error
    except tarfile.TarError as error:
        raise _no_tar(path, error) from error
    raise DataInvalid(f"{path} ends early or is damaged: the end mark of a tar is missing", hint="copy it again")


def _no_tar(path: Path, error: tarfile.TarError) -> DataInvalid:
    with path.open("rb") as file:
        start = file.read(8)
    for first, (what, hint) in _PACKED.items():
        if start.startswith(first):
            return DataInvalid(f"{path} is {what}, not a plain tar", hint=hint.replace("FILE", str(path)))
    return DataInvalid(f"{path} is no tar: {error}", hint="give an uncompressed tar of class folders: tar:FILE")
