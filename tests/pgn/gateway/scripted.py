"""A scripted TorchServe: real HTTP, honest answers by default, and on demand every manner that the real one has."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from pgn.errors import PgnError
from pgn.message import (
    Answer,
    Features,
    HeldVersion,
    Message,
    Prediction,
    Request,
    Result,
    StageState,
    decode,
    encode,
    encode_error,
)
from pgn.settings import TorchServeConfig

Action = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]
NUM_CLASSES = 3


async def answer_prompts(request: web.Request, body: bytes) -> web.StreamResponse:
    """What stage pgn says: prompts for every target."""
    message = decode(body)
    assert message.images is not None
    prompts = tuple(np.zeros((len(message.images), 2, 4), np.float32) for _ in message.request.targets)
    return web.Response(body=encode(message.with_prompts(prompts)))


async def answer_classes(request: web.Request, body: bytes) -> web.StreamResponse:
    """What stage vit says: made-up classes with the image's mean brightness as the best one's probability."""
    message = decode(body)
    assert message.images is not None
    assert bool(message.prompts) == (message.request.prompts_from == "stage")
    if not message.request.targets:
        features = tuple((float(image.mean()) / 255, float(len(image))) for image in message.images)
        return web.Response(body=Features(request_id=message.request.id, features=features).model_dump_json().encode())
    return web.Response(body=make_answer(message.request, message).model_dump_json().encode())


def make_answer(request: Request, message: Message) -> Answer:
    """The honest answer to a message."""
    assert message.images is not None
    results = tuple(
        Result(
            image=number,
            dataset=target.dataset,
            version=(target.digest or "")[:16],
            predictions=tuple(
                Prediction(label=f"class {i}", probability=float(image.mean()) / 255 if i == 0 else 0.0)
                for i in range(min(request.top_k, NUM_CLASSES))
            ),
            unknown=not image.any(),  # what is black is nothing it knows
            embedding=(float(image.mean()), 1.0) if request.embedding else None,
        )
        for number, image in enumerate(message.images)
        for target in request.targets
    )
    return Answer(request_id=request.id, results=results)


async def lose(request: web.Request, body: bytes) -> web.StreamResponse:
    """Never answer, as when a worker is killed while its batch forms."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def reset(request: web.Request, body: bytes) -> web.StreamResponse:
    """Cut the connection."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def fail(status: int, reason: str = "no worker") -> Action:
    """TorchServe's own error."""
    return say(json.dumps({"code": status, "type": "SomeException", "message": reason}).encode(), status)


def say(body: bytes, status: int = 200) -> Action:
    """These bytes."""

    async def act(request: web.Request, _: bytes) -> web.StreamResponse:
        return web.Response(body=body, status=status)

    return act


def carry(error: PgnError, *, as_json: bool) -> Action:
    """A stage's error: a message from stage pgn, JSON from stage vit."""
    fields = {"error": {**error.to_wire(), "request_id": "x"}}
    return say(json.dumps(fields).encode() if as_json else encode_error(error, "x"))


def hold(until: threading.Event, then: Action) -> Action:
    """Answer only once the test says so."""

    async def act(request: web.Request, body: bytes) -> web.StreamResponse:
        await asyncio.get_running_loop().run_in_executor(None, until.wait)
        return await then(request, body)

    return act


class ScriptedTorchServe:
    """Plays TorchServe on a port of its own.

    Attributes:
        script: For each stage, and for canaries and questions for the state at either, what to do with the next
            requests; then it answers.
        is_registered: Whether it knows the workflow.
        state: What its stages say of themselves, apart from the versions: they hold whatever they are asked about.
        lacks: Digests that they do not hold.
        workers: What its management says of each stage's processes.
        refusals: What registering is answered with, in turn; afterwards it succeeds.
        metrics_page: What its metrics port answers.
        calls: Method and path of all that came but canaries.
        connections: The connections they came by.
    """

    def __init__(self) -> None:
        self.reset()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]

    def reset(self) -> None:
        """Forget the script and what was called."""
        self.script: dict[str, deque[Action]] = {name: deque() for name in ("pgn", "vit", "canary", "state")}
        self.connections: set[object] = set()
        self.is_registered = True
        self.state: dict[str, Any] = {
            "revision": 10**6,
            "device": "cpu",
            "server_threads": 50,
            "server_rss_bytes": 2**28,
        }
        self.workers = {stage: [{"pid": 1000, "status": "READY"}] for stage in ("pgn", "vit")}
        self.lacks: set[str | None] = set()
        self.refusals: deque[int] = deque()
        self.metrics_page = b""
        self.calls: list[str] = []

    @property
    def config(self) -> TorchServeConfig:
        url = f"http://127.0.0.1:{self.port}"
        return TorchServeConfig(Path("config.properties"), url, url, url, (self.port,), (), 100)

    def start(self) -> None:
        """Listen; returns once connections are accepted."""
        up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(up)))
        self._thread.start()
        assert up.wait(10)

    def stop(self) -> None:
        """Be gone, as a killed server is."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def count(self, stage: str) -> int:
        """How often a stage was asked."""
        return sum(call.endswith(f"__{stage}") for call in self.calls)

    async def _serve(self, up: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.01, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True).start()
        up.set()
        await self._end.wait()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.path == "/metrics":
            return web.Response(body=self.metrics_page)
        # Canaries and questions for the state come when they like; no test's script or count may depend on them.
        is_canary = b"canary" in body
        asks_state = rb"\"ask\":\"state\"" in body
        if not is_canary and not asks_state and not request.path.startswith("/models"):
            self.calls.append(f"{request.method} {request.path_qs}")
            self.connections.add(request.transport)
        if request.path.startswith("/workflows"):
            return await self._manage(request)
        stage = request.path.rpartition("__")[2]
        if request.path.startswith("/models"):
            return web.json_response([{"modelName": f"pgn__{stage}", "workers": self.workers[stage]}])
        if not self.is_registered:
            return await fail(404, "Model not found")(request, body)
        script = self.script["canary" if is_canary else "state" if asks_state else stage]
        if script:
            return await script.popleft()(request, body)
        if asks_state:
            return self._say_state(stage, decode(body).request)
        honest: dict[str, Any] = {"pgn": answer_prompts, "vit": answer_classes}
        response: web.StreamResponse = await honest[stage](request, body)
        return response

    def _say_state(self, stage: str, asked: Request) -> web.Response:
        versions = tuple(
            HeldVersion(
                dataset=target.dataset, digest=target.digest or "", state="ready", tier="host", bytes=1, age_s=1.0
            )
            for target in asked.targets
            if target.digest not in self.lacks
        )
        fields = {"request_id": asked.id, "stage": stage, "versions": versions, **self.state}
        return web.Response(body=StageState(**fields).model_dump_json(by_alias=True).encode())

    async def _manage(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            status = self.refusals.popleft() if self.refusals else 200
            self.is_registered = self.is_registered or status in (200, 409)
            return await fail(status, "it is scripted so")(request, b"")
        return await fail(200 if self.is_registered else 404, "Workflow not found: pgn")(request, b"")
