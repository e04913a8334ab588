"""The index: which bundle each served data set name stands for. The only mutable file of a model store.

Served state is exactly what the index says. It is replaced whole, by rename, and its revision only grows. See
docs/index-format.md.
"""

from __future__ import annotations

import difflib
import fcntl
import re
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pgn.bundle import NAME_PATTERN, write_atomically
from pgn.errors import IndexInvalid, MalformedRequest, UnknownDataset, VersionConflict

INDEX_FILE: Final = "index.json"
KEPT_VERSIONS: Final = 5
"""How many versions that were served before are kept for going back; the files of older ones are deleted."""
MAX_SIDE_BY_SIDE: Final = 4
"""How many versions of a data set can share its traffic."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Version(_Record):
    """A served bundle and its share of the data set's traffic."""

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    share: float = Field(1.0, gt=0, le=1)


class Entry(_Record):
    """A data set name: its served versions, newest first, and those served before, the next to go back to first."""

    versions: tuple[Version, ...] = Field(min_length=1)
    previous: tuple[str, ...] = ()

    @field_validator("versions")
    @classmethod
    def _shares_sum_to_one(cls, versions: tuple[Version, ...]) -> tuple[Version, ...]:
        if abs(sum(version.share for version in versions) - 1.0) > 1e-6:
            raise ValueError("the versions' shares do not sum to 1")
        return versions

    def only(self, digests: Container[str]) -> Entry | None:
        """The entry with those of its versions that are among `digests`, their shares scaled; None if none is."""
        versions = tuple(version for version in self.versions if version.digest in digests)
        return Entry(versions=_divided(versions, 1.0), previous=self.previous) if versions else None


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

    def with_bundle(self, dataset: str, digest: str, share: float = 1.0) -> Index:
        """The index after publishing `digest` as `dataset`; unchanged if it says so already.

        Args:
            dataset: The name; new, or served already.
            digest: Of the bundle, which becomes the newest version.
            share: Of the traffic. With 1 it serves alone, and what served before becomes `previous`; below 1 the
                versions served now stay beside it and divide the rest as before. A first version takes all.

        Raises:
            MalformedRequest: The share is not over 0 and at most 1.
            VersionConflict: Too many versions would be side by side.
        """
        if not 0 < share <= 1:
            raise MalformedRequest(f"a share of {share} is not over 0 and at most 1", hint="name a part of the traffic")
        old = self.datasets.get(dataset)
        served, before = ((), ()) if old is None else (old.versions, old.previous)
        others = tuple(version for version in served if version.digest != digest)
        versions: tuple[Version, ...]
        if share == 1 or not others:
            versions = (Version(digest=digest, share=1.0),)
            by_share = sorted(others, key=lambda version: -version.share)  # a trial is not what one goes back to
            before = (*(version.digest for version in by_share), *before)
        elif len(others) >= MAX_SIDE_BY_SIDE:
            raise VersionConflict(
                f"{dataset!r} has {len(others)} versions side by side, which is the most",
                hint="publish one with all of the traffic, or roll the newest back",
            )
        else:
            versions = (Version(digest=digest, share=share), *_divided(others, 1 - share))
        previous = tuple(dict.fromkeys(name for name in before if name != digest))[:KEPT_VERSIONS]
        entry = Entry(versions=versions, previous=previous)
        return self if entry == old else self._next({**self.datasets, dataset: entry})

    def without(self, dataset: str) -> Index:
        """The index after removing `dataset` with all its versions; raises UnknownDataset."""
        self.entry(dataset)
        return self._next({name: entry for name, entry in self.datasets.items() if name != dataset})

    def rolled_back(self, dataset: str) -> Index:
        """The index after taking the newest version of `dataset` back, for good: it is not kept.

        Where several versions share the traffic, the others take its share; where it serves alone, the newest of
        `previous` serves again.

        Raises:
            UnknownDataset: No such data set.
            VersionConflict: It has no other version to go back to.
        """
        entry = self.entry(dataset)
        if len(entry.versions) > 1:
            back = Entry(versions=_divided(entry.versions[1:], 1.0), previous=entry.previous)
        elif entry.previous:
            back = Entry(versions=(Version(digest=entry.previous[0], share=1.0),), previous=entry.previous[1:])
        else:
            raise VersionConflict(f"{dataset!r} has no version to go back to", hint="publish another, or remove it")
        return self._next({**self.datasets, dataset: back})

    def renewed(self) -> Index:
        """The same under the next revision, so that everybody who follows looks at the files again."""
        return self._next(self.datasets)

    def _next(self, datasets: dict[str, Entry]) -> Index:
        return Index(revision=self.revision + 1, backbone=self.backbone, datasets=datasets)

    def kept(self) -> frozenset[tuple[str, str]]:
        """Data set and digest of every bundle whose file has to stay: what is served, and what can be gone back to."""
        return frozenset(
            (name, digest)
            for name, entry in self.datasets.items()
            for digest in (*(version.digest for version in entry.versions), *entry.previous)
        )

    def entry(self, dataset: str) -> Entry:
        """What is served as `dataset`; raises UnknownDataset with the near names."""
        try:
            return self.datasets[dataset]
        except KeyError:
            raise unknown_dataset(dataset, self.datasets) from None

    def main_version(self, dataset: str) -> str:
        """The digest with the largest share of `dataset`; raises UnknownDataset with the near names."""
        return max(self.entry(dataset).versions, key=lambda version: version.share).digest

    def to_json(self) -> bytes:
        """The bytes of `index.json`."""
        return (self.model_dump_json(by_alias=True, indent=2) + "\n").encode()


def _divided(versions: tuple[Version, ...], total: float) -> tuple[Version, ...]:
    """The versions with their shares scaled to sum to `total`; rounded, so that doing it twice changes nothing."""
    whole = sum(version.share for version in versions)
    return tuple(Version(digest=version.digest, share=round(version.share / whole * total, 12)) for version in versions)


def read_index(store: Path) -> Index:
    """The index of the model store at `store`; raises IndexInvalid naming the fault."""
    path = store / INDEX_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IndexInvalid(
            f"{path} cannot be read: {error.strerror}", hint="is this a model store? `pgn add` makes one"
        ) from error
    return parse_index(data, str(path))


def parse_index(data: bytes, where: str) -> Index:
    """The index that the bytes of an `index.json` hold; raises IndexInvalid naming `where` and the fault."""
    try:
        return Index.model_validate_json(data)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'index'}: {f['msg']}" for f in error.errors())
        raise IndexInvalid(f"{where}: {faults}") from error


def change_index(
    store: Path,
    change: Callable[[Index], Index],
    *,
    new: Index | None = None,
    after: Callable[[Index, Index], None] | None = None,
) -> Index:
    """Replace the index by `change(index)` under a lock, so that two writers lose nothing.

    Args:
        store: Folder of the model store.
        change: Gives the next index; its revision has to be higher. The very same index means that nothing is to do.
        new: Where there is no index yet, what `change` starts from; None makes that an error.
        after: Called with the old and the new index once that is in place, still under the lock.

    Raises:
        IndexInvalid: No index, or a damaged one, or a revision that does not grow.
    """
    if new is None:
        read_index(store)  # a wrong path is told before a lock is made in it
    store.mkdir(parents=True, exist_ok=True)
    with (store / f".{INDEX_FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = new if new is not None and not (store / INDEX_FILE).exists() else read_index(store)
        index = change(old)
        check_successor(old, index)
        if index != old:
            write_atomically(store / INDEX_FILE, index.to_json())
            if after is not None:
                after(old, index)
    return index


def check_successor(old: Index, index: Index) -> None:
    """Raises IndexInvalid if `index` differs from `old` without having a higher revision."""
    if index != old and index.revision <= old.revision:
        raise IndexInvalid(f"revision {index.revision} does not follow {old.revision}")


def unknown_dataset(name: str, known: Iterable[str]) -> UnknownDataset:
    """The error for a data set that is not served, with the near names among those that are."""
    asked = name[:80]  # a hostile name costs neither a long search nor a long answer
    near = difflib.get_close_matches(asked, list(known), n=3, cutoff=0.5)
    advice = f"; near names: {', '.join(near)}" if near else ""
    return UnknownDataset(f"no data set {asked!r} is served{advice}")
