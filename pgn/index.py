"""The index: which bundle each served data set name stands for. The only mutable file of a model store.

Served state is exactly what the index says. It is replaced whole, by rename, and its revision only grows. See
docs/index-format.md.
"""

from __future__ import annotations

import difflib
import fcntl
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pgn.bundle import NAME_PATTERN, write_atomically
from pgn.errors import IndexInvalid, UnknownDataset

INDEX_FILE = "index.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Version(_Record):
    """A served bundle and its share of the data set's traffic."""

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    share: float = Field(1.0, gt=0, le=1)


class Entry(_Record):
    """A data set name: its served versions, and the digests served before, newest first."""

    versions: tuple[Version, ...] = Field(min_length=1)
    previous: tuple[str, ...] = ()

    @field_validator("versions")
    @classmethod
    def _shares_sum_to_one(cls, versions: tuple[Version, ...]) -> tuple[Version, ...]:
        if abs(sum(version.share for version in versions) - 1.0) > 1e-6:
            raise ValueError("the versions' shares do not sum to 1")
        return versions


class Index(_Record):
    """What is served: one backbone, and a bundle digest for each data set name."""

    schema_version: Literal[1] = Field(1, alias="schema")
    revision: int = Field(ge=0)
    backbone: str = Field(pattern=r"^[0-9a-f]{64}$")
    datasets: dict[str, Entry] = Field(default_factory=dict)

    @field_validator("datasets")
    @classmethod
    def _names_are_safe(cls, datasets: dict[str, Entry]) -> dict[str, Entry]:
        for name in datasets:
            if not re.fullmatch(NAME_PATTERN, name):
                raise ValueError(f"{name!r} is no data set name: a-z, 0-9, _ and -, at most 63")
        return datasets

    def with_bundle(self, dataset: str, digest: str) -> Index:
        """A copy that serves `digest` alone as `dataset`; what it served before becomes `previous`."""
        old = self.datasets.get(dataset)
        before = () if old is None else (*(version.digest for version in old.versions), *old.previous)
        previous = tuple(dict.fromkeys(name for name in before if name != digest))
        entry = Entry(versions=(Version(digest=digest, share=1.0),), previous=previous)
        datasets = {**self.datasets, dataset: entry}
        return Index(revision=self.revision + 1, backbone=self.backbone, datasets=datasets)

    def main_version(self, dataset: str) -> str:
        """The digest with the largest share of `dataset`; raises UnknownDataset with the near names."""
        entry = self.datasets.get(dataset)
        if entry is None:
            raise unknown_dataset(dataset, self.datasets)
        return max(entry.versions, key=lambda version: version.share).digest


def read_index(store: Path) -> Index:
    """The index of the model store at `store`; raises IndexInvalid naming the fault."""
    path = store / INDEX_FILE
    try:
        return Index.model_validate_json(path.read_bytes())
    except OSError as error:
        raise IndexInvalid(
            f"{path} cannot be read: {error.strerror}", hint="is this a model store? `pgn add` makes one"
        ) from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'index'}: {f['msg']}" for f in error.errors())
        raise IndexInvalid(f"{path}: {faults}") from error


def change_index(store: Path, change: Callable[[Index], Index], *, new: Index | None = None) -> Index:
    """Replace the index by `change(index)` under a lock, so that two writers lose nothing.

    Args:
        store: Folder of the model store.
        change: Gives the next index; its revision has to be higher.
        new: Where there is no index yet, what `change` starts from; None makes that an error.

    Raises:
        IndexInvalid: No index, or a damaged one, or a revision that does not grow.
    """
    store.mkdir(parents=True, exist_ok=True)
    with (store / f".{INDEX_FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = new if new is not None and not (store / INDEX_FILE).exists() else read_index(store)
        index = change(old)
        if index.revision <= old.revision:
            raise IndexInvalid(f"revision {index.revision} does not follow {old.revision}")
        write_atomically(store / INDEX_FILE, (index.model_dump_json(by_alias=True, indent=2) + "\n").encode())
    return index


def unknown_dataset(name: str, known: Iterable[str]) -> UnknownDataset:
    """The error for a data set that is not served, with the near names among those that are."""
    asked = name[:80]  # a hostile name costs neither a long search nor a long answer
    near = difflib.get_close_matches(asked, list(known), n=3, cutoff=0.5)
    advice = f"; near names: {', '.join(near)}" if near else ""
    return UnknownDataset(f"no data set {asked!r} is served{advice}")
