"""What the routes share and what lives as long as they do: connections, threads, the loop, the state that is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

from fastapi import Request

from pgn.errors import DeadlineExceeded, NotReady
from pgn.gateway.answer import Answerer
from pgn.gateway.datasets import Catalog
from pgn.gateway.deadline import Deadline
from pgn.gateway.limits import InFlight, check_in_flight_limit, read_body
from pgn.gateway.metrics import SEVERAL_DATASETS, Metrics
from pgn.gateway.reconcile import Reconciler
from pgn.gateway.upstream import Stage, TorchServe
from pgn.message import Request as StageRequest
from pgn.message import Target
from pgn.settings import Settings, TorchServeConfig


class Gateway:
    """What the routes share. Made at start; open while the application runs.

    Attributes:
        catalog: What is served; replaced whole when the index changes.
    """

    def __init__(self, settings: Settings, torchserve: TorchServeConfig, catalog: Catalog) -> None:
        check_in_flight_limit(settings.max_in_flight, torchserve.job_queue_size)
        self.settings = settings
        self.catalog = catalog
        self.metrics = Metrics()
        self.in_flight = InFlight(settings.max_in_flight)
        self.metrics.in_flight.set_function(lambda: self.in_flight.count)
        self.metrics.datasets.labels("ready").set_function(lambda: self._num_datasets("ready"))
        self.metrics.datasets.labels("unavailable").set_function(lambda: self._num_datasets("unavailable"))
        self._torchserve = torchserve

    def _num_datasets(self, state: str) -> int:
        return sum(dataset.state == state for dataset in self.catalog.datasets.values())

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold connections, decoding threads and the reconciling loop."""
        upstream = TorchServe(
            self._torchserve,
            count_retry=self._count_retry,
            on_missing=lambda: self.reconciler.look_now(),  # made below, before the first request
        )
        with ThreadPoolExecutor(self.settings.decode_threads, thread_name_prefix="decode") as threads:
            async with upstream:
                self.answerer = Answerer(
                    upstream, self.catalog.backbone.preprocess, self.settings.max_pixels, threads, self.metrics
                )
                self.reconciler = Reconciler(
                    upstream, self._canary, response_timeout_s=self.settings.deadline_s, metrics=self.metrics
                )
                loop = asyncio.create_task(self.reconciler.run())
                try:
                    yield
                finally:
                    loop.cancel()
                    with suppress(asyncio.CancelledError):
                        await loop

    def _count_retry(self, stage: Stage) -> None:
        self.metrics.retries.labels(stage).inc()

    async def _canary(self) -> None:
        name = self.catalog.any_ready()
        if name is None:
            raise NotReady("no data set can be served: the index has none, or none of its bundles verifies")
        await self.answerer.canary(self.catalog.pin([name])[0], Deadline(self.settings.deadline_s))

    async def predict(self, request: Request, names: Sequence[str], top_k: int | None) -> bytes:
        """The answer's JSON for the image in the request's body; raises as the error table of the API says."""
        return await self._in_time(lambda deadline: self._predict(request, names, top_k, deadline))

    async def predict_prompted(self, request: Request, dataset: str | None, top_k: int | None) -> bytes:
        """The answer's JSON for an image that carries its prompts: what the data set's head says, or the features."""
        return await self._in_time(lambda deadline: self._predict_prompted(request, dataset, top_k, deadline))

    async def _in_time(self, work: Callable[[Deadline], Awaitable[bytes]]) -> bytes:
        deadline = Deadline(self.settings.deadline_s)
        with self.in_flight:
            self.reconciler.check_registered()
            try:
                return await asyncio.wait_for(work(deadline), deadline.left_s())
            except asyncio.TimeoutError as error:
                raise DeadlineExceeded(f"there was no answer within {self.settings.deadline_s:g} s") from error

    async def _predict(self, request: Request, names: Sequence[str], top_k: int | None, deadline: Deadline) -> bytes:
        body = await read_body(request, self.settings.max_body_bytes)
        targets = self.catalog.pin(names)
        request.state.dataset = _label(targets)
        asked = StageRequest(
            id=request.state.request_id, targets=targets, top_k=top_k or self.settings.top_k, reply="prompts"
        )
        return await self.answerer.answer(asked, body, request.headers.get("content-type", ""), deadline)

    async def _predict_prompted(
        self, request: Request, dataset: str | None, top_k: int | None, deadline: Deadline
    ) -> bytes:
        body = await read_body(request, self.settings.max_body_bytes)
        targets = self.catalog.pin([dataset]) if dataset else ()
        if targets:
            request.state.dataset = _label(targets)
        asked = StageRequest(
            id=request.state.request_id, targets=targets, top_k=top_k or self.settings.top_k, prompts_from="image"
        )
        return await self.answerer.answer_prompted(asked, body, request.headers.get("content-type", ""), deadline)


def _label(targets: Sequence[Target]) -> str:
    return targets[0].dataset if len(targets) == 1 else SEVERAL_DATASETS
