"""The model store as a prefix of a bucket: the folder's layout, its index changed by compare-and-swap.

    s3://bucket/prefix/datasets/<name>/<name>.<version>.safetensors[.sig]     immutable
                       backbones/<digest>/model.safetensors, backbone.json    immutable; the spec comes last
                       index.json                                             the only object that changes

An object is in place before the index names it, and is deleted after the index has dropped it. See docs/s3.md.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgn.backbone_spec import SPEC_FILE
from pgn.bundle import Bundle, file_name
from pgn.errors import (
    BackboneInvalid,
    BundleInvalid,
    BundleMissing,
    IndexInvalid,
    PgnError,
    SetupError,
    StoreRefused,
    StoreUnavailable,
    VersionConflict,
)
from pgn.index import INDEX_FILE, Index, check_successor, parse_index
from pgn.settings import Settings
from pgn.store.incoming import Incoming, receive
from pgn.store.local import check_backbone
from pgn.store.s3 import Absent, Bucket, Changed
from pgn.store.signing import SIGNATURE_SUFFIX, Verifier, open_verifier

_MAX_INDEX_BYTES: Final = 64 * 2**20
_MAX_SIGNATURE_BYTES: Final = 2**20
_TRIES: Final = 50  # of a compare-and-swap; each lost one means that somebody else's change went through
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeenIndex:
    """The bucket's index as it was read, and the etag of exactly this state; both None where there is none yet."""

    index: Index | None
    etag: str | None


class RemoteStore:
    """The `Publisher` of a bucket, and what `sync` reads from.

    Args:
        bucket: The prefix.
        max_bundle_bytes: Larger bundles are not read.
        verify: Checks the signature of what is published; None wants none.
    """

    def __init__(self, bucket: Bucket, *, max_bundle_bytes: int, verify: Verifier | None = None) -> None:
        self.bucket = bucket
        self._max_bundle_bytes = max_bundle_bytes
        self._verify = verify

    # What is served

    def index(self) -> Index:
        """What the bucket says now; see `Publisher`."""
        index = self.see_index().index
        if index is None:
            raise self.no_index()
        return index

    def no_index(self) -> IndexInvalid:
        return IndexInvalid(
            f"{self.bucket.url(INDEX_FILE)} does not exist",
            hint="are bucket and prefix right? `pgn publish` makes a store there",
        )

    def see_index(self, unless: str | None = None) -> SeenIndex:
        """The bucket's index with its etag.

        Raises:
            Unchanged: It still has the etag `unless`.
            IndexInvalid: It is damaged.
        """
        try:
            blob = self.bucket.read(INDEX_FILE, max_bytes=_MAX_INDEX_BYTES, unless=unless)
        except Absent:
            return SeenIndex(None, None)
        return SeenIndex(parse_index(blob.data, self.bucket.url(INDEX_FILE)), blob.etag)

    def publish(
        self, bundle: bytes | Path, *, dataset: str | None = None, share: float = 1.0, signature: bytes | None = None
    ) -> tuple[Bundle, Index]:
        """Verify a bundle, put it into the bucket and serve it from the next revision on; see `Publisher`."""
        incoming = receive(bundle, dataset=dataset, signature=signature, verify=self._verify)
        if len(incoming.data) > self._max_bundle_bytes:
            raise BundleInvalid(
                f"the bundle has {len(incoming.data)} bytes; servers take {self._max_bundle_bytes}",
                hint="raise PGN_MAX_BUNDLE_BYTES here and on the servers",
            )
        manifest, digest = incoming.bundle.manifest, incoming.bundle.digest
        seen = self.see_index()
        if seen.index is None and self.bucket.size(backbone_key(manifest.backbone.digest, SPEC_FILE)) is None:
            raise BackboneInvalid(
                f"{self.bucket.url()} holds no backbone {manifest.backbone.digest[:16]}…",
                hint=f"publish it first: pgn backbone publish {manifest.backbone.name}",
            )
        start = Index(revision=0, backbone=manifest.backbone.digest)

        def serve(index: Index) -> Index:
            check_backbone(incoming.bundle, index)
            return index.with_bundle(manifest.dataset, digest, share)

        serve(seen.index or start)  # what is refused leaves nothing behind
        mended = self._place(incoming)

        def serve_or_renew(index: Index) -> Index:
            after = serve(index)
            return index.renewed() if after is index and mended else after

        index = self._change(manifest.dataset, serve_or_renew, start=start, anew=True)
        if self.bucket.size(bundle_key(manifest.dataset, digest)) is None:  # `_delete_dropped` says how
            self._place(incoming)
        return incoming.bundle, index

    def remove(self, dataset: str) -> Index:
        """Serve the data set no more and delete its objects; see `Publisher`."""
        return self._change(dataset, lambda index: index.without(dataset))

    def rollback(self, dataset: str) -> Index:
        """Take the newest version back; see `Publisher`. VersionConflict also if it is changed at the same time."""
        return self._change(dataset, lambda index: index.rolled_back(dataset))

    def _change(
        self, dataset: str, change: Callable[[Index], Index], *, start: Index | None = None, anew: bool = False
    ) -> Index:
        """Replace the index by `change(index)`, by compare-and-swap until it succeeds.

        A lost answer looks like a lost race, only that the change is there: it is told by the data set's entry, which
        then is as it should become. If the entry is neither that nor the one that was seen, somebody else changed this
        data set at the same moment; `anew` says whether the change then still means the same.
        """
        tried: tuple[Index, Index] | None = None
        for attempt in range(_TRIES):
            seen = self.see_index()
            old = seen.index or start
            if old is None:
                raise self.no_index()
            entry = old.datasets.get(dataset)
            if tried is not None:
                before, wanted = (index.datasets.get(dataset) for index in tried)
                if entry == wanted != before:
                    self._delete_dropped(tried[0], old)
                    return old
                if entry != before and not anew:
                    raise VersionConflict(f"{dataset!r} was changed by somebody else just now", hint="look at it again")
            new = change(old)
            if new == old:
                return old
            check_successor(old, new)
            try:
                if seen.etag is None:
                    self.bucket.create(INDEX_FILE, new.to_json())
                    self._check_conditions(new)
                else:
                    self.bucket.replace(INDEX_FILE, new.to_json(), seen.etag)
            except Changed:
                tried = (old, new)
                time.sleep(random.uniform(0, 0.02 * min(attempt + 1, 10)))  # noqa: S311 - so that racers part
            else:
                self._delete_dropped(old, new)
                return new
        raise StoreUnavailable(f"{self.bucket.url(INDEX_FILE)} was changed by others {_TRIES} times in a row")

    def _check_conditions(self, index: Index) -> None:
        """Once, when the index is new: some stores take conditional writes and ignore the condition."""
        try:
            self.bucket.create(INDEX_FILE, index.to_json())
        except Changed:
            return
        raise StoreRefused(
            f"{self.bucket.url()} ignores conditions: two publishers at once would lose each other's changes",
            hint="docs/s3.md names stores that honour If-Match and If-None-Match",
        )

    def _place(self, incoming: Incoming) -> bool:
        """Put the objects where the index will name them; False if they are there already."""
        key = bundle_key(incoming.bundle.manifest.dataset, incoming.bundle.digest)
        placed = self._place_one(key, incoming.data)
        if incoming.signature is not None:
            placed |= self._place_one(key + SIGNATURE_SUFFIX, incoming.signature)
        return placed

    def _place_one(self, key: str, data: bytes) -> bool:
        try:
            self.bucket.create(key, data)
        except Changed:
            blob = self.bucket.read(key, max_bytes=self._max_bundle_bytes)
            if blob.data == data:
                return False
            _log.warning("%s was not what its name says and is replaced", self.bucket.url(key))
            self.bucket.overwrite(key, data)
        return True

    def _delete_dropped(self, old: Index, new: Index) -> None:
        """Delete what the change dropped. The change itself stands: what cannot be deleted is logged and stays.

        A version that is dropped here can be published anew by somebody else at the same moment. Whoever of the two
        comes last puts the object back: they, if it is gone once their index names it; we, if the index names it once
        it is gone.
        """
        for dataset, digest in old.kept() - new.kept():
            key = bundle_key(dataset, digest)
            try:
                objects = dict(zip((key, key + SIGNATURE_SUFFIX), self.fetch(dataset, digest), strict=True))
                for name in objects:
                    self.bucket.delete(name)
                if (dataset, digest) in self.index().kept():
                    for name, data in objects.items():
                        if data is not None:
                            self._place_one(name, data)
            except PgnError as error:
                _log.warning("%s is not served any more and could not be deleted: %s", self.bucket.url(key), error)

    # What lies there

    def fetch(self, dataset: str, digest: str) -> tuple[bytes, bytes | None]:
        """The bytes of a bundle and of its signature, not verified; raises BundleMissing."""
        key = bundle_key(dataset, digest)
        try:
            data = self.bucket.read(key, max_bytes=self._max_bundle_bytes).data
        except Absent as error:
            raise BundleMissing(f"{self.bucket.url(key)} does not exist") from error
        try:
            return data, self.bucket.read(key + SIGNATURE_SUFFIX, max_bytes=_MAX_SIGNATURE_BYTES).data
        except Absent:
            return data, None


def open_remote(settings: Settings) -> RemoteStore:
    """The store at `settings.remote`; its signatures are checked if `settings.public_key` is set.

    Raises:
        SetupError: No bucket is named, or the public key cannot be used.
        StoreRefused: boto3's own settings make no sense.
    """
    if settings.remote is None:
        raise SetupError("no bucket is named", hint="set PGN_REMOTE or --remote to s3://bucket/prefix")
    verify = open_verifier(settings.public_key)
    bucket = Bucket.open(settings.remote, part_bytes=settings.part_bytes)
    return RemoteStore(bucket, max_bundle_bytes=settings.max_bundle_bytes, verify=verify)


def bundle_key(dataset: str, digest: str) -> str:
    """Where a bundle lies below the prefix."""
    return f"datasets/{dataset}/{file_name(dataset, digest)}"


def backbone_key(digest: str, file: str) -> str:
    """Where a file of a backbone lies below the prefix."""
    return f"backbones/{digest}/{file}"
