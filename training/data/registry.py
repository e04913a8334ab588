"""From what a user writes after --dataset to a data set: a name, `folder:DIR`, `tar:FILE` or `csv:FILE`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from pgn.errors import UsageError
from training.data.csv_file import csv_file
from training.data.dataset import Dataset
from training.data.digits import digits
from training.data.fashion_mnist import fashion_mnist
from training.data.folder import folder
from training.data.named.catalogue import CATALOGUE
from training.data.named.entry import open_entry
from training.data.tar import tar
from training.data.union import union, with_distinct_names

_AT_HAND: dict[str, Callable[[Path], Dataset]] = {
    "digits": lambda _: digits(),
    "fashion-mnist": fashion_mnist,
}
_AT_PATH: dict[str, Callable[[Path], Dataset]] = {"folder": folder, "tar": tar, "csv": csv_file}
_OF_SUFFIX = {".tar": "tar", ".csv": "csv"}

NAMES: tuple[str, ...] = (*_AT_HAND, *CATALOGUE)
"""Every data set that can be opened by name."""


def open_dataset(spec: str, data_dir: Path) -> Dataset:
    """The data set that `spec` names; nothing is decoded yet.

    Args:
        spec: One of `NAMES`, or `folder:DIR`, `tar:FILE` or `csv:FILE`.
        data_dir: Where named sets lie, or are put when they have to be fetched.

    Raises:
        UsageError: No such name or kind, no path, or a path to something of another kind; the hint says what is near.
        DataInvalid: The images are not there, or cannot be trained on.
    """
    if spec in _AT_HAND:
        return _AT_HAND[spec](data_dir)
    if spec in CATALOGUE:
        return open_entry(CATALOGUE[spec], data_dir)
    kind, _, path = spec.partition(":")
    if kind not in _AT_PATH:
        raise _unknown(spec)
    if not path:
        raise UsageError(f"{spec} has no path", hint=f"write {kind}:PATH")
    if (meant := _kind_at(path)) not in (None, kind):
        raise UsageError(f"{path} is a {'folder' if meant == 'folder' else 'file'}", hint=f"write {meant}:{path}")
    return _AT_PATH[kind](_at_home(Path(path)))


def _unknown(spec: str) -> UsageError:
    """What is near to a spec that names nothing: a path without its kind, a kind or a name with a slip."""
    if spec and (meant := _kind_at(spec)):
        return UsageError(f"{spec} is a {'folder' if meant == 'folder' else 'file'}", hint=f"write {meant}:{spec}")
    kind, _, path = spec.partition(":")
    near = get_close_matches(spec.lower(), NAMES, n=3)
    if path:
        near = [f"{guess}:{path}" for guess in get_close_matches(kind.lower(), _AT_PATH, n=1)]
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    kinds = ", ".join(f"{kind}:PATH" for kind in _AT_PATH)
    return UsageError(f"there is no data set {spec!r}", hint=f"{guess}`pgn data list` has all names; also {kinds}")


def _kind_at(path: str) -> str | None:
    """How to name what lies at a path: a folder, or a file of a known suffix."""
    place = _at_home(Path(path))
    with suppress(OSError):  # where nobody may look, or no file name can be so long
        if place.is_dir():
            return "folder"
        if place.is_file():
            return _OF_SUFFIX.get(place.suffix.lower())
    return None


def _at_home(path: Path) -> Path:
    """The path with a leading ~ written out, which no shell does behind `folder:`."""
    try:
        return path.expanduser()
    except RuntimeError:  # no such user; the message then shows what was written
        return path


def open_datasets(
    specs: Sequence[str],
    data_dir: Path,
    *,
    limit: int | None = None,
    limit_val: int | None = None,
    fraction: float | None = None,
) -> Dataset:
    """One set, or the union of several; each is limited, and a fraction of it drawn, before they are joined.

    Of different sets with one name the second gets a number behind it.

    Raises:
        UsageError: No spec, or the same one twice.
        PgnError: What `open_dataset` raises.
    """
    if not specs:
        raise UsageError("no data set is named", hint="give at least one --dataset")
    if twice := [spec for spec, count in Counter(map(_meaning, specs)).items() if count > 1]:
        raise UsageError(f"the same data set is given twice: {twice[0]}", hint="name each set once")
    datasets = [open_dataset(spec, data_dir).limited(limit, limit_val, fraction) for spec in specs]
    return datasets[0] if len(datasets) == 1 else union(with_distinct_names(datasets))


def _meaning(spec: str) -> str:
    """The spec with its path written out, so that two spellings of one path are one."""
    kind, _, path = spec.partition(":")
    return f"{kind}:{_at_home(Path(path)).resolve()}" if kind in _AT_PATH else spec
