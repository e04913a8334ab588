"""Images in class folders, on disk or in a tar: which file belongs to which class and split.

Two layouts are read: `<class>/<file>`, and `<split>/<class>/<file>` with the splits train, val and test, whose other
usual names are known too. What may be meant in two ways is refused: a split taken for a class, or passed over, would
show in no message, only in the result.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final, TypeAlias

from pgn.errors import DataInvalid
from training.data.dataset import SPLITS, Dataset, Source, SplitName
from training.data.labelled import Labelled, dataset_from_splits

Parts: TypeAlias = tuple[str, ...]

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
_SPLIT_WORDS: Final[Mapping[str, SplitName]] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_SPLIT_LIKE: Final = re.compile(r"(train|val|test|dev)(ing|id|idation)?(?![a-z])", re.IGNORECASE)  # train_images
_LAYOUT_HINT: Final = "expected <class>/<image> or train/<class>/<image>, with at least two classes"
_NAMES_HINT: Final = f"name split folders {', '.join(_SPLIT_WORDS)}, with class folders in them"
_SHOWN: Final = 3  # names in a message

_log = logging.getLogger(__name__)


def is_passed_over(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: hidden, or what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def dataset_from_tree(name: str, where: str, files: Mapping[str, Source], folders: Iterable[str]) -> Dataset:
    """The data set in a tree of image files; images beside plain class folders are left out with a warning.

    Args:
        name: Becomes the data set's name.
        where: What messages call the tree.
        files: The file at each relative path; what is no image by its suffix is passed over.
        folders: Relative paths of the folders that are known, so that one without any file is seen too.

    Raises:
        DataInvalid: No images in class folders; a class or split without images; folders that may be splits as well
            as classes; class folders one level deeper; with splits, images in no class folder; or what
            `dataset_from_splits` raises.
    """
    paths = {_parts(path): path for path in sorted(files)}
    images = [parts for parts in paths if _suffix(parts) in SUFFIXES]
    present = {
        start for folder in (*map(_parts, folders), *(parts[:-1] for parts in paths)) for start in _starts(folder)
    }
    splits = _splits(where, images, {folder[0] for folder in present})
    depth = 2 if splits else 1  # at which class folders lie
    in_classes = [parts for parts in images if len(parts) > depth]
    filled = {start for parts in in_classes for start in _starts(parts[:depth])}
    for folder in sorted(present - filled):
        if len(folder) <= depth and (not splits or folder[0] in splits):
            raise DataInvalid(
                f"{where}: {'/'.join(folder)!r} holds {_content(folder, paths)}",
                hint=f"put images into it ({' '.join(sorted(SUFFIXES))}), or take it out",
            )
    if not filled:
        raise DataInvalid(f"{where} holds no images in class folders", hint=_LAYOUT_HINT)
    _refuse_deeper_classes(where, in_classes, depth)
    if loose := [paths[parts] for parts in images if len(parts) <= depth]:
        _tell_of_loose(where, loose, refuse=bool(splits))
    found: dict[SplitName, list[Labelled]] = {}
    for parts in in_classes:
        image = Labelled(paths[parts], parts[depth - 1], files[paths[parts]])
        found.setdefault(splits.get(parts[0], "train"), []).append(image)
    return dataset_from_splits(name, where, found, expected=_LAYOUT_HINT)


def _splits(where: str, images: Iterable[Parts], tops: Collection[str]) -> dict[str, SplitName]:
    """The split of each folder that is one; none at all if the folders are classes."""
    words = {top: _SPLIT_WORDS[top.lower()] for top in sorted(tops) if top.lower() in _SPLIT_WORDS}
    with_images = {parts[0] for parts in images if len(parts) > 1}
    with_classes = {parts[0] for parts in images if len(parts) > 2} & words.keys()
    if "train" not in {words[top] for top in with_classes}:
        if with_classes or (with_images and with_images <= words.keys()):
            raise DataInvalid(
                f"{where} has splits ({', '.join(words)}), but no images in train/<class>/", hint=_LAYOUT_HINT
            )
        return {}
    if strays := sorted(with_images - words.keys()):
        raise DataInvalid(
            f"{where} has {', '.join(words)}, and beside them images in {', '.join(strays)}",
            hint="put these into train, val or test, or take them out",
        )
    for split in SPLITS:
        if len(same := [top for top in words if words[top] == split]) > 1:
            raise DataInvalid(f"{where}: {' and '.join(same)} are both {split}", hint="put them into one folder")
    return words


def _refuse_deeper_classes(where: str, in_classes: Sequence[Parts], depth: int) -> None:
    """No folder that holds the class folders, such as a year or a split of an unknown name, is taken for a class.

    It is known by its own folders: another one has some of the same names. A class may have folders of its own, which
    other classes do not have, or which are called the same in all of them (`cat/images`, `dog/images`).
    """
    below: dict[str, set[str]] = {}  # of each class, its folders that hold images; "" for itself
    for parts in in_classes:
        below.setdefault(parts[depth - 1], set()).add(parts[depth] if len(parts) > depth + 1 else "")
    if len(below) == 1 and any(names != {""} for names in below.values()):
        raise DataInvalid(
            f"{where} holds one class only, {in_classes[0][depth - 1]!r}",
            hint=f"the classes seem to lie in {'/'.join(in_classes[0][:depth])}/; {_LAYOUT_HINT}",
        )
    split_like = {top: match[1].lower() for top in below if depth == 1 and (match := _SPLIT_LIKE.match(top))}
    if len(split_like) == len(below) and len(set(split_like.values())) > 1:
        raise DataInvalid(f"{where}: {_some(below)} seem to be splits, not classes", hint=_NAMES_HINT)
    holders = Counter(name for names in below.values() if "" not in names for name in names)
    shared = sorted(name for name, count in holders.items() if count > 1)
    if shared and len(holders) > 1:
        tops = [top for top, names in below.items() if "" not in names and not names.isdisjoint(shared)]
        start = next("/".join(parts[:depth]) for parts in in_classes if parts[depth - 1] == tops[0])
        otherwise = f"{_LAYOUT_HINT}; if {_some(tops)} are classes, put the images right into them"
        raise DataInvalid(
            f"{where}: {_some(tops)} hold folders of the same names: {_some(shared)}",
            hint=f"the classes seem to lie in {start}/; {_NAMES_HINT if split_like else otherwise}",
        )


def _tell_of_loose(where: str, loose: Sequence[str], *, refuse: bool) -> None:
    """Images in no class folder: refused with splits, where each image was put on purpose; else one warning."""
    count = "one image lies" if len(loose) == 1 else f"{len(loose)} images lie"
    told = f"{where}: {count} in no class folder: {_some(loose)}"
    if refuse:
        raise DataInvalid(told, hint="put what belongs to a class into <split>/<class>/, and take out the rest")
    _log.warning("%s; left out", told)


def _some(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join([*names][:_SHOWN]) + more


def _content(folder: Parts, paths: Iterable[Parts]) -> str:
    """What a folder holds that should hold images of classes."""
    below = [parts for parts in paths if parts[: len(folder)] == folder]
    if not below:
        return "no files"
    suffixes = sorted({_suffix(parts) or "without a suffix" for parts in below})
    if SUFFIXES.isdisjoint(suffixes):
        return f"{len(below)} file(s), none of a known format: {', '.join(suffixes)}"
    return f"{len(below)} file(s), none in a class folder"


def _parts(path: str) -> Parts:
    return PurePosixPath(path).parts


def _starts(parts: Parts) -> list[Parts]:
    """The folder and those that it lies in."""
    return [parts[:count] for count in range(1, len(parts) + 1)]


def _suffix(parts: Parts) -> str:
    return PurePosixPath(parts[-1]).suffix.lower()
