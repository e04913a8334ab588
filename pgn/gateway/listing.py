"""What clients read of the catalog: the bodies of `GET /v1/datasets` and of every change."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pgn.gateway.datasets import Catalog, Dataset, State, Version


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True)


class VersionBody(_Body):
    """One bundle that the index names for a data set."""

    digest: str = Field(description="SHA-256 of the bundle's bytes")
    version: str = Field(description="its first 16 digits, as answers give it")
    share: float = Field(description="part of the data set's traffic, over 0 and at most 1")
    state: State = Field(
        description="ready: both stages hold it; loading: not yet; incompatible: trained for another backbone; "
        "unavailable: for the reason in last_error"
    )
    last_error: str | None = Field(description="why it is not ready")
    tier: Literal["device", "host"] | None = Field(description="memory that holds its weights; null if not ready")
    age_s: float | None = Field(description="seconds since both stages hold it; null if not ready")
    size_bytes: int | None = Field(description="of its file; these and the rest are null if it does not verify")
    num_classes: int | None
    created: str | None = Field(description="when it was trained, as it says")
    test_accuracy: float | None = Field(description="top-1 on images that training never saw, if it says so")


class DatasetSummary(_Body):
    """A data set of the index, and whether it can be asked."""

    name: str
    version: str = Field(description="the one with the largest share")
    state: State = Field(description="ready if requests are answered")
    reason: str | None = Field(description="why it cannot be asked")
    num_classes: int
    versions: tuple[VersionBody, ...]
    previous: tuple[str, ...] = Field(description="digests served before, newest first: what rollback goes back to")


class DatasetDetail(DatasetSummary):
    """The same with the names of its classes."""

    digest: str = Field(description="of the version with the largest share")
    classes: tuple[str, ...]


class DatasetList(_Body):
    """The data sets of the index that this key may ask, by name."""

    revision: int
    backbone: str
    datasets: tuple[DatasetSummary, ...]


class ChangeBody(_Body):
    """What a change has led to."""

    dataset: str
    revision: int = Field(description="of the index, with the change in it")
    state: Literal["ready", "loading", "unavailable", "incompatible", "removed"] = Field(
        description="loading: the change is kept and will be served; the stages have not said yet that they hold it"
    )
    reason: str | None = Field(None, description="why it is not served")
    versions: tuple[VersionBody, ...] = ()
    previous: tuple[str, ...] = ()


def list_datasets(catalog: Catalog, may_ask: Callable[[str], bool]) -> DatasetList:
    """All data sets that somebody may ask."""
    return DatasetList(
        revision=catalog.revision,
        backbone=catalog.backbone.name,
        datasets=tuple(_summary(found) for name, found in catalog.datasets.items() if may_ask(name)),
    )


def show_dataset(dataset: Dataset) -> DatasetDetail:
    """One data set with its classes."""
    facts = dataset.main.facts
    return DatasetDetail(
        **_summary(dataset).__dict__, digest=dataset.main.digest, classes=facts.classes if facts else ()
    )


def show_versions(dataset: Dataset) -> tuple[VersionBody, ...]:
    """Its versions, in the index's order: the newest first."""
    return tuple(_version(version) for version in dataset.versions)


def _summary(dataset: Dataset) -> DatasetSummary:
    main = dataset.main
    can_answer = bool(dataset.answering)
    return DatasetSummary(
        name=dataset.name,
        version=main.name,
        state="ready" if can_answer else main.state,
        reason=None if can_answer else main.reason,
        num_classes=len(main.facts.classes) if main.facts else 0,
        versions=show_versions(dataset),
        previous=dataset.previous,
    )


def _version(version: Version) -> VersionBody:
    facts = version.facts
    return VersionBody(
        digest=version.digest,
        version=version.name,
        share=version.share,
        state=version.state,
        last_error=version.reason,
        tier=version.tier,
        age_s=None if version.loaded_at is None else max(0.0, time.time() - version.loaded_at),
        size_bytes=facts.size_bytes if facts else None,
        num_classes=len(facts.classes) if facts else None,
        created=facts.created if facts else None,
        test_accuracy=facts.test_accuracy if facts else None,
    )
