"""Changing what is served: one protocol, whether the model store is a folder or a bucket.

Every change is one step of the index, and returning means that it is in there: nothing acknowledged is lost. All calls
block; a server runs them in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from pgn.bundle import Bundle
from pgn.errors import IndexInvalid
from pgn.index import Index
from pgn.settings import Settings
from pgn.store.local import LocalStore
from pgn.store.signing import open_verifier


class Publisher(Protocol):
    """The model store that is the truth, as those see it who change it. Safe to share between threads.

    Whatever the kind of store, the calls can raise StoreUnavailable (try again), StoreRefused (credentials, rights,
    bucket), DiskFull and IndexInvalid besides what they name.
    """

    def publish(
        self, bundle: bytes | Path, *, dataset: str | None = None, share: float = 1.0, signature: bytes | None = None
    ) -> tuple[Bundle, Index]:
        """Verify a bundle, put it into the store and serve it from the next revision on.

        Publishing once more what is served already changes nothing, or mends a file that was damaged.

        Args:
            bundle: Its bytes, or its file, beside which `<file>.sig` is looked for.
            dataset: The name that its manifest has to say; None takes it as it is.
            share: Of the data set's traffic; below 1 what is served stays beside it and divides the rest.
            signature: The bytes of its signature.

        Raises:
            BundleMissing, BundleCorrupt, BundleInvalid: It does not verify, or is another data set's.
            BundleIncompatible: It fits another backbone than the index serves.
            SignatureInvalid: The store wants a signature, and this one is missing or wrong.
            BackboneInvalid: The store is empty, and does not even hold the bundle's backbone.
            MalformedRequest: The share is no share.
            VersionConflict: Too many versions would be side by side.
        """
        ...

    def remove(self, dataset: str) -> Index:
        """Serve the data set no more and delete its files; raises UnknownDataset."""
        ...

    def rollback(self, dataset: str) -> Index:
        """Take the newest version back (`Index.rolled_back`); raises UnknownDataset, VersionConflict."""
        ...

    def index(self) -> Index:
        """What the store says now; raises IndexInvalid where there is none."""
        ...


def open_publisher(settings: Settings) -> Publisher:
    """The store that is the truth: the bucket of `settings.remote`, or else the folder.

    Raises:
        SetupError: The public key cannot be read, or the library for signatures is not installed.
        StoreRefused: No region or no credentials for the bucket.
    """
    if settings.remote is None:
        return LocalStore(settings.store, open_verifier(settings.public_key))
    from pgn.store.remote import open_remote  # boto3 takes a while to load, and only this needs it

    return open_remote(settings)


def publish_all(store: Path, publisher: Publisher) -> Iterator[tuple[Bundle, Index]]:
    """Publish all that the folder `store` serves, with its shares; what is served so already is left alone.

    Raises what `Publisher.publish` raises; what was published before that stays.
    """
    source = LocalStore(store)
    for dataset, entry in sorted(source.index().datasets.items()):
        try:
            there = publisher.index().datasets.get(dataset)
        except IndexInvalid:
            there = None  # publishing tells an empty store from a damaged one
        if there is not None and there.versions == entry.versions:
            continue
        rest = 0.0
        for version in reversed(entry.versions):  # oldest first: each newer one takes its share of what is there
            rest += version.share
            path = source.bundle_path(dataset, version.digest)
            yield publisher.publish(path, dataset=dataset, share=min(1.0, version.share / rest))
