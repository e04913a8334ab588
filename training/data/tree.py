"""Images in class folders, on disk or in a tar: which file belongs to which class and split.

Two layouts are read: `<class>/<file>`, and `<split>/<class>/<file>` with the splits train, val and test.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from pgn.errors import DataInvalid
from training.data.dataset import SPLITS, Dataset, SplitName
from training.data.labelled import Labelled, Reader, dataset_from_splits

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
_LAYOUT_HINT = "expected <class>/<image> or train/<class>/<image>, with at least two classes"


def dataset_from_tree(name: str, where: str, files: Mapping[str, Reader]) -> Dataset:
    """The data set in a tree of image files.

    Args:
        name: Becomes the data set's name.
        where: What messages call the tree.
        files: A reader for each relative path; what is no image by its suffix is passed over.

    Raises:
        DataInvalid: No images in class folders, or what `dataset_from_splits` raises.
    """
    splits = _by_split({path: read for path, read in files.items() if PurePosixPath(path).suffix.lower() in SUFFIXES})
    if not splits:
        raise DataInvalid(f"{where} holds no images in class folders", hint=_LAYOUT_HINT)
    return dataset_from_splits(name, where, splits, expected=_LAYOUT_HINT)


def _by_split(files: Mapping[str, Reader]) -> dict[SplitName, list[Labelled]]:
    """Files by split, sorted by path; a tree without a split layout is all train."""
    paths = {path: PurePosixPath(path).parts for path in sorted(files)}
    has_splits = any(len(parts) > 2 and parts[0] == "train" for parts in paths.values())
    found: dict[SplitName, list[Labelled]] = {}
    for path, parts in paths.items():
        if has_splits and len(parts) > 2 and parts[0] in SPLITS:
            found.setdefault(parts[0], []).append(Labelled(path, parts[1], files[path]))
        elif not has_splits and len(parts) > 1:
            found.setdefault("train", []).append(Labelled(path, parts[0], files[path]))
    return found
