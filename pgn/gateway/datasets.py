"""What is served, as one immutable object: it is read whole and swapped whole, never changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pgn.backbone_spec import BackboneSpec, read_spec
from pgn.errors import ArtefactError, DatasetUnavailable, RequestError
from pgn.index import Entry, read_index, unknown_dataset
from pgn.message import MAX_TARGETS, Target
from pgn.store.local import LocalStore


class DatasetSummary(BaseModel):
    """A data set of the index, and whether it can be asked."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    state: Literal["ready", "unavailable"]
    reason: str | None = None  # why it is unavailable
    num_classes: int


class DatasetDetail(DatasetSummary):
    """The same with the bundle's whole digest and the names of its classes."""

    digest: str
    classes: tuple[str, ...]


class DatasetList(BaseModel):
    """All data sets of the index, by name."""

    revision: int
    backbone: str
    datasets: tuple[DatasetSummary, ...]


@dataclass(frozen=True)
class Catalog:
    """What the index says, and what its bundles turned out to be."""

    revision: int
    backbone: BackboneSpec
    datasets: Mapping[str, DatasetDetail]

    def find(self, name: str) -> DatasetDetail:
        """The data set of this name; raises UnknownDataset with the near names."""
        try:
            return self.datasets[name]
        except KeyError:
            raise unknown_dataset(name, self.datasets) from None

    def pin(self, names: Iterable[str]) -> tuple[Target, ...]:
        """The data sets to ask, each pinned to the digest that is served now.

        Raises:
            RequestError: None, too many, or the same one twice.
            UnknownDataset: One is not in the index.
            DatasetUnavailable: One has a bundle that does not verify; the message says why.
        """
        wanted = tuple(names)
        if not 1 <= len(wanted) <= MAX_TARGETS:
            raise RequestError(f"{len(wanted)} data sets are named; 1 to {MAX_TARGETS} can be asked at once")
        if len(set(wanted)) != len(wanted):
            raise RequestError("a data set is named twice")
        return tuple(self._target(name) for name in wanted)

    def _target(self, name: str) -> Target:
        found = self.find(name)
        if found.state != "ready":
            raise DatasetUnavailable(f"data set {name!r} is not available: {found.reason}")
        return Target(dataset=name, digest=found.digest)

    def any_ready(self) -> str | None:
        """The name of a data set that can be asked, if there is one."""
        return next((found.name for found in self.datasets.values() if found.state == "ready"), None)

    def summary(self) -> DatasetList:
        """The list as clients see it."""
        fields = set(DatasetSummary.model_fields)
        summaries = (DatasetSummary(**found.model_dump(include=fields)) for found in self.datasets.values())
        return DatasetList(revision=self.revision, backbone=self.backbone.name, datasets=tuple(summaries))


def read_catalog(store: LocalStore) -> Catalog:
    """Read the index and verify every bundle it names; one that does not verify never blocks another.

    Raises:
        IndexInvalid: There is no index, or it is damaged.
        BackboneInvalid: The index's backbone is not in the store.
    """
    index = read_index(store.root)
    spec, _ = read_spec(store.backbone_folder(index.backbone))
    datasets = {name: _verify(store, name, entry, index.backbone) for name, entry in sorted(index.datasets.items())}
    return Catalog(index.revision, spec, datasets)


def _verify(store: LocalStore, name: str, entry: Entry, backbone: str) -> DatasetDetail:
    # Traffic is not split between versions yet: the one with the largest share answers.
    digest = max(entry.versions, key=lambda version: version.share).digest
    detail = DatasetDetail(name=name, version=digest[:16], state="ready", num_classes=0, digest=digest, classes=())
    try:
        classes = store.read(name, digest, backbone=backbone).manifest.classes
    except ArtefactError as error:
        return detail.model_copy(update={"state": "unavailable", "reason": error.message})
    return detail.model_copy(update={"num_classes": len(classes), "classes": classes})
