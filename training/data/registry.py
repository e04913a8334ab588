"""From what a user writes after --dataset to a data set: `digits`, `fashion-mnist`, `folder:DIR`, `tar:FILE`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pgn.errors import UsageError
from training.data.dataset import Dataset
from training.data.digits import digits
from training.data.fashion_mnist import fashion_mnist
from training.data.folder import folder
from training.data.tar import tar
from training.data.union import union

_NAMED: dict[str, Callable[[Path], Dataset]] = {
    "digits": lambda _: digits(),
    "fashion-mnist": fashion_mnist,
}
_AT_PATH: dict[str, Callable[[Path], Dataset]] = {"folder": folder, "tar": tar}


def open_dataset(spec: str, data_dir: Path) -> Dataset:
    """The data set that `spec` names; nothing is decoded yet.

    Args:
        spec: A registered name, or `folder:DIR` or `tar:FILE`.
        data_dir: Where named sets lie, or are put when they have to be fetched.

    Raises:
        UsageError: No such name or kind; the message lists what there is.
        DataInvalid: The images cannot be trained on.
    """
    if spec in _NAMED:
        return _NAMED[spec](data_dir)
    kind, _, path = spec.partition(":")
    if kind in _AT_PATH and path:
        return _AT_PATH[kind](Path(path))
    choices = ", ".join([*_NAMED, *(f"{kind}:PATH" for kind in _AT_PATH)])
    raise UsageError(f"there is no data set {spec!r}", hint=f"choose from {choices}")


def open_datasets(
    specs: Sequence[str], data_dir: Path, *, limit: int | None = None, limit_val: int | None = None
) -> Dataset:
    """One set, or the union of several; each is limited to so many images of a class before they are joined."""
    if not specs:
        raise UsageError("no data set is named", hint="give at least one --dataset")
    datasets = [open_dataset(spec, data_dir).limited(limit, limit_val) for spec in specs]
    return datasets[0] if len(datasets) == 1 else union(datasets)
