"""What the routes share and what lives as long as they do: connections, threads, loops, and what is served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Final

from fastapi import Request

from pgn.errors import DeadlineExceeded
from pgn.gateway.answer import Answerer
from pgn.gateway.audit import Audit
from pgn.gateway.changes import Changes
from pgn.gateway.datasets import Catalog, Version
from pgn.gateway.deadline import Deadline
from pgn.gateway.draining import Draining
from pgn.gateway.follow import Follower
from pgn.gateway.keys import Principal
from pgn.gateway.limits import in_flight_door, read_body
from pgn.gateway.metrics import SEVERAL_DATASETS, Metrics
from pgn.gateway.reconcile import Reconciler
from pgn.gateway.sync_metrics import sync_exposition
from pgn.gateway.upstream import Stage, TorchServe
from pgn.message import Request as StageRequest
from pgn.message import Target
from pgn.settings import Settings, TorchServeConfig
from pgn.store.local import LocalStore

_FIRST_LOOK_S: Final = 5.0
_FIRST_LOOK_PAUSE_S: Final = 0.05


class Gateway:
    """What the routes share. Made at start; open while the application runs.

    Raises:
        SetupError: `max_in_flight` is not below TorchServe's queue, or the audit log cannot be written.
    """

    def __init__(self, settings: Settings, torchserve: TorchServeConfig, catalog: Catalog) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.audit = Audit(settings.audit_log, on_fault=self.metrics.audit_errors.inc)
        self.draining = Draining()
        self.in_flight = in_flight_door(settings, torchserve)
        self.metrics.runs(backbone=catalog.backbone_digest, max_in_flight=self.in_flight.limit)
        self._torchserve = TorchServe(
            torchserve,
            count_retry=self._count_retry,
            count_lost=lambda stage: self.metrics.lost_replies.labels(stage).inc(),
            on_missing=lambda: self.reconciler.look_now(),  # made below, before the first request
        )
        self.reconciler = Reconciler(
            self._torchserve,
            lambda target, deadline: self.answerer.canary(target, deadline),
            self._any_target,
            settings=settings,
            metrics=self.metrics,
        )
        self.follower = Follower(
            LocalStore(settings.store),
            catalog,
            self._torchserve,
            is_up=lambda: self.reconciler.readiness.is_registered,
            poll_s=settings.poll_s,
            metrics=self.metrics,
        )
        self.changes = Changes(settings, self.follower, self.audit, self.metrics)

    @property
    def catalog(self) -> Catalog:
        """What is served; replaced whole when the index or what the stages hold changes."""
        return self.follower.catalog

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold connections, decoding threads, the reconciling and the following loop."""
        num_threads = max(1, self.settings.decode_threads // self.settings.workers)
        with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as threads:
            self.answerer = Answerer(
                self._torchserve,
                self.catalog.backbone.preprocess,
                max_pixels=self.settings.max_pixels,
                max_images=self.settings.max_images,
                max_messages=self.in_flight.limit,
                threads=threads,
                metrics=self.metrics,
            )
            async with self._torchserve:
                loops = asyncio.gather(self.reconciler.run(), self.follower.run())
                try:
                    with self.draining.on_signals(self.settings.drain_delay_s):
                        if self.settings.workers > 1:
                            await self._get_ready()
                        yield
                finally:
                    loops.cancel()
                    with suppress(asyncio.CancelledError):
                        await loops

    async def _get_ready(self) -> None:
        """Give the first look a moment: the other workers accept meanwhile, and this one turns nobody away."""
        end = time.monotonic() + _FIRST_LOOK_S
        while not self.reconciler.readiness.is_ready and time.monotonic() < end:
            await asyncio.sleep(_FIRST_LOOK_PAUSE_S)

    async def exposition(self) -> bytes:
        """The metrics of the whole service in Prometheus' text format; a part that does not answer is left out."""
        parts = await asyncio.gather(
            asyncio.to_thread(self.metrics.exposition),
            asyncio.to_thread(sync_exposition, self.settings),
            self._torchserve.metrics(),
        )
        return b"".join(parts)

    def _count_retry(self, stage: Stage) -> None:
        self.metrics.retries.labels(stage).inc()
        self.reconciler.look_soon()

    async def _any_target(self) -> Target | None:
        if self.catalog.any_answering() is None:
            await self.follower.ask()
        version = self.catalog.any_answering()
        return None if version is None else version.target

    async def predict(
        self,
        request: Request,
        names: Sequence[str],
        *,
        top_k: int | None = None,
        embedding: bool = False,
        is_prompted: bool = False,
    ) -> bytes:
        """The answer's JSON for the images in the request's body.

        Args:
            request: Whose body holds the images, raw, multipart or JSON.
            names: Data sets to ask; none only of prompted images, whose features are the answer then.
            top_k: Classes in a result; None is the setting's.
            embedding: Whether results hold the features.
            is_prompted: The images carry their prompts, so no PGN is asked.

        Raises:
            PgnError: As the error table of the API says.
        """
        deadline = Deadline(self.settings.deadline_s)
        with self.in_flight, self.metrics.in_flight.track_inprogress():
            self.reconciler.check_registered()
            try:
                return await asyncio.wait_for(
                    self._predict(request, names, top_k or self.settings.top_k, embedding, is_prompted, deadline),
                    deadline.left_s(),
                )
            except asyncio.TimeoutError as error:
                raise DeadlineExceeded(f"there was no answer within {self.settings.deadline_s:g} s") from error

    async def _predict(
        self,
        request: Request,
        names: Sequence[str],
        top_k: int,
        embedding: bool,
        is_prompted: bool,
        deadline: Deadline,
    ) -> bytes:
        body = await read_body(request, self.settings.max_body_bytes)
        versions = self._pin(request, names)
        images = await self.answerer.decode(body, request.headers.get("content-type", ""), is_prompted=is_prompted)
        asked = StageRequest(
            id=request.state.request_id,
            targets=tuple(version.target for version in versions),
            top_k=top_k,
            reply="prompts",
            prompts_from="image" if is_prompted else "stage",
            embedding=embedding,
            traceparent=request.state.traceparent,
            expires_at=time.time() + deadline.left_s(),
        )
        facts = [version.facts for version in versions if version.facts is not None]  # whoever answers has some
        answer = await self.answerer.answer(asked, facts, images, deadline)
        for version in versions:
            self.metrics.usage_images.labels(request.state.principal.name, version.dataset).inc(len(images))
        return answer

    def _pin(self, request: Request, names: Sequence[str]) -> tuple[Version, ...]:
        """The versions to ask; from here on the request is about them, whatever becomes of the index."""
        principal: Principal = request.state.principal
        for name in names:
            principal.require(name)  # before it is looked up: who may not ask learns nothing of what there is
        if not names:
            return ()
        versions = self.catalog.pin(names, principal.may_ask)
        request.state.dataset = versions[0].dataset if len(versions) == 1 else SEVERAL_DATASETS
        request.state.datasets = [version.dataset for version in versions]
        return versions


def gateway_of(request: Request) -> Gateway:
    """The gateway that a request came to."""
    gateway = request.app.state.gateway
    assert isinstance(gateway, Gateway)
    return gateway
