"""Changing what is served: a bundle put, a data set removed or rolled back, and the answer once that is served."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request

from pgn.errors import DeadlineExceeded, PgnError
from pgn.gateway.audit import Act, Audit, Outcome
from pgn.gateway.bodies import read_upload
from pgn.gateway.datasets import Catalog
from pgn.gateway.follow import Follower
from pgn.gateway.limits import InFlight, read_body
from pgn.gateway.listing import ChangeBody, show_versions
from pgn.gateway.metrics import Metrics
from pgn.index import Index
from pgn.settings import Settings
from pgn.store.publish import Publisher, open_publisher

_AT_ONCE: Final = 2  # each holds a bundle in memory
_UPLOAD_S: Final = 60.0
_FORM_BYTES: Final = 2**20  # a form's own lines and the signature


@dataclass(frozen=True)
class Change:
    """A change that is in the index.

    Attributes:
        is_new: It named a version that was not served before.
        body: What it has led to so far.
    """

    is_new: bool
    body: ChangeBody

    @property
    def is_served(self) -> bool:
        """Whether this gateway serves it by now."""
        return self.body.state in ("ready", "removed")


@dataclass(frozen=True)
class _Made:
    digest: str | None  # of the bundle that was put
    before: Index
    after: Index

    def is_new(self, dataset: str) -> bool:
        entry = self.before.datasets.get(dataset)
        return entry is None or self.digest not in {version.digest for version in entry.versions}


class Changes:
    """Makes changes in the store that is the truth, and waits until this gateway serves them.

    A change that is acknowledged is in the index, so nothing loses it; who follows the index serves it by himself.

    Args:
        settings: Which store, and the limits.
        follower: Sees the change.
        audit: Takes what was done, and what failed.
        metrics: Counts it.

    Attributes:
        under_way: Uploads that are being worked on; more than a few are told to come again.
    """

    def __init__(self, settings: Settings, follower: Follower, audit: Audit, metrics: Metrics) -> None:
        self._settings = settings
        self._follower = follower
        self._audit = audit
        self._metrics = metrics
        self.under_way = InFlight(_AT_ONCE)
        self._opening = threading.Lock()
        self._publisher: Publisher | None = None

    async def put(self, request: Request, dataset: str, share: float) -> Change:
        """Serve the bundle in the request's body.

        Raises:
            Forbidden: The key may not.
            RequestError: The body holds no bundle, or is too large.
            ArtefactError: The bundle does not verify, or fits another data set or backbone.
            PgnError: As `Publisher.publish` raises.
        """
        request.state.principal.require_admin(dataset)
        with self.under_way:
            limit = self._settings.max_bundle_bytes + _FORM_BYTES
            try:
                body = await asyncio.wait_for(read_body(request, limit), _UPLOAD_S)
            except asyncio.TimeoutError as error:
                raise DeadlineExceeded(f"the body did not come within {_UPLOAD_S:g} s") from error
            content_type = request.headers.get("content-type", "")

            def publish(publisher: Publisher) -> tuple[str, Index]:
                upload = read_upload(body, content_type, self._settings.max_bundle_bytes)
                bundle, index = publisher.publish(
                    upload.bundle, dataset=dataset, share=share, signature=upload.signature
                )
                return bundle.digest, index

            made = await self._make("publish", request, dataset, publish, share=share)
        return await self._serve(dataset, made)

    async def remove(self, request: Request, dataset: str) -> Change:
        """Serve the data set no more; raises as `Publisher.remove` does, and Forbidden."""
        request.state.principal.require_admin(dataset)
        made = await self._make("remove", request, dataset, lambda publisher: (None, publisher.remove(dataset)))
        return await self._serve(dataset, made)

    async def roll_back(self, request: Request, dataset: str) -> Change:
        """Take the data set's newest version back; raises as `Publisher.rollback` does, and Forbidden."""
        request.state.principal.require_admin(dataset)
        made = await self._make("rollback", request, dataset, lambda publisher: (None, publisher.rollback(dataset)))
        return await self._serve(dataset, made)

    async def _make(
        self,
        act: Act,
        request: Request,
        dataset: str,
        change: Callable[[Publisher], tuple[str | None, Index]],
        **more: float,
    ) -> _Made:
        """Make a change in a thread, and write down what came of it, whatever that is."""
        fields: dict[str, Any] = {
            "who": request.state.principal.name,
            "dataset": dataset,
            "request_id": request.state.request_id,
            "address": request.client.host if request.client else None,
            **more,
        }

        def make() -> _Made:
            try:
                publisher = self._open()
                before = publisher.index()
                digest, after = change(publisher)
            except Exception as error:
                self._metrics.changes.labels(act, "failed").inc()
                reason = f"{error.code}: {error.message}" if isinstance(error, PgnError) else repr(error)
                self._audit.record(act, "failed", reason=reason, **fields)
                raise
            outcome: Outcome = "done" if after != before else "unchanged"
            self._metrics.changes.labels(act, outcome).inc()
            self._audit.record(
                act,
                outcome,
                digest=digest,
                revision_before=before.revision,
                revision_after=after.revision,
                **fields,
            )
            return _Made(digest, before, after)

        return await asyncio.to_thread(make)

    def _open(self) -> Publisher:
        with self._opening:  # not at start: a gateway answers also where the bucket cannot be reached
            if self._publisher is None:
                self._publisher = open_publisher(self._settings)
            return self._publisher

    async def _serve(self, dataset: str, made: _Made) -> Change:
        """Wait until this gateway serves the change, but not for ever: it is kept either way."""

        def is_settled(catalog: Catalog) -> bool:
            found = catalog.datasets.get(dataset)
            is_loading = found is not None and any(version.state == "loading" for version in found.versions)
            return _shows(catalog, dataset, made.after) and not is_loading

        await self._follower.wait_for(is_settled, self._settings.deadline_s)
        return Change(made.is_new(dataset), _body(dataset, made.after, self._follower.catalog))


def _shows(catalog: Catalog, dataset: str, index: Index) -> bool:
    """Whether the catalog has this data set as `index` has it.

    Revisions do not tell: a folder that follows a bucket counts its own when it could not take over everything.
    """
    entry, found = index.datasets.get(dataset), catalog.datasets.get(dataset)
    wanted = {version.digest: version.share for version in entry.versions} if entry else {}
    return wanted == ({version.digest: version.share for version in found.versions} if found else {})


def _body(dataset: str, index: Index, catalog: Catalog) -> ChangeBody:
    fields: dict[str, Any] = {"dataset": dataset, "revision": index.revision}
    if not _shows(catalog, dataset, index):
        reason = f"the gateway serves revision {catalog.revision} of its index"
        return ChangeBody(**fields, state="loading", reason=reason)
    found = catalog.datasets.get(dataset)
    if found is None:
        return ChangeBody(**fields, state="removed")
    newest = found.versions[0]
    return ChangeBody(
        **fields,
        state=newest.state,
        reason=newest.reason,
        versions=show_versions(found),
        previous=found.previous,
    )
