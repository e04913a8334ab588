"""What a model store serves, version by version, as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pgn.bundle import Manifest
from pgn.errors import PgnError
from pgn.index import Index
from pgn.store.local import LocalStore
from pgn.store.publish import Publisher

_HEADINGS = ("data set", "version", "share", "size", "classes", "test top-1", "created", "before", "state")


@dataclass(frozen=True)
class Row:
    """One served version; what is not known is None.

    Attributes:
        state: "ready", or why it is refused.
        previous: How many versions can be gone back to.
    """

    dataset: str
    version: str
    share: float
    state: str
    previous: int
    bytes: int | None = None
    manifest: Manifest | None = None

    def cells(self) -> tuple[str, ...]:
        """The row as text, as `_HEADINGS` names it."""
        accuracy = None if self.manifest is None else _test_top1(self.manifest.metrics)
        return (
            self.dataset,
            self.version,
            f"{self.share:.0%}",
            "-" if self.bytes is None else f"{self.bytes / 1e6:.1f} MB",
            "-" if self.manifest is None else str(len(self.manifest.classes)),
            "-" if accuracy is None else f"{accuracy:.1%}",
            "-" if self.manifest is None else self.manifest.created[:16].replace("T", " "),
            str(self.previous),
            self.state,
        )


def list_versions(publisher: Publisher) -> tuple[Index, list[Row]]:
    """The index and a row for every version it serves.

    In a folder every bundle is opened and verified. In a bucket none is fetched: what is known is whether it is there.
    Raises what `Publisher.index` raises.
    """
    index = publisher.index()
    if isinstance(publisher, LocalStore):
        return index, list(_local_rows(publisher, index))
    return index, list(_remote_rows(publisher, index))


def table(rows: list[Row]) -> str:
    """The rows under their headings, columns aligned; the last one may be long."""
    lines = [_HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]) for line in lines
    )


def _local_rows(store: LocalStore, index: Index) -> Iterator[Row]:
    for dataset, entry in sorted(index.datasets.items()):
        for version in entry.versions:
            row = (dataset, version.digest[:16], version.share)
            try:
                manifest = store.read(dataset, version.digest, backbone=index.backbone).manifest
                size = store.bundle_path(dataset, version.digest).stat().st_size
                yield Row(*row, "ready", len(entry.previous), size, manifest)
            except PgnError as error:
                yield Row(*row, f"refused: {error}", len(entry.previous))


def _remote_rows(publisher: Publisher, index: Index) -> Iterator[Row]:
    from pgn.store.remote import RemoteStore, bundle_key  # boto3 takes a while to load

    sizes = publisher.bucket.sizes("datasets") if isinstance(publisher, RemoteStore) else {}
    for dataset, entry in sorted(index.datasets.items()):
        for version in entry.versions:
            size = sizes.get(bundle_key(dataset, version.digest))
            state = "missing" if size is None else "published"
            yield Row(dataset, version.digest[:16], version.share, state, len(entry.previous), size)


def _test_top1(metrics: Mapping[str, object]) -> float | None:
    test = metrics.get("test")
    top1 = test.get("top1") if isinstance(test, Mapping) else None
    return float(top1) if isinstance(top1, (int, float)) else None
