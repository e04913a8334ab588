"""TorchServe as the gateway meets it: the one file that knows its manners.

    TorchServe 0.12.0 does this                              here
    ───────────────────────────────────────────────────────────────────────────────────────────────
    a worker killed while its batch forms never answers      who is overtaken, or has waited half of its time with
                                                             nobody answered, is sent once more; the first answer counts
    a killed worker's batch is answered 500 or 507           one more attempt; it waits in the queue for the new worker
    a full queue, or a stage that raised, is answered 503    one more attempt
    every start forgets the workflow; its models are 404     NotReady, and whoever registers is told at once
    two registrations at once undo each other's models       one at a time, by a lock on TorchServe's settings file
    while it registers, some of its connections are silent   `is_being_registered` tells that from a hung server
    a stage may set a status of its own                      its body is handed on; TorchServe's own errors are not
    `response_timeout` has to be passed by hand              `register` does

The stages are asked as plain models of the registered workflow (`/predictions/pgn__pgn`, `/predictions/pgn__vit`),
never through the workflow's own executor, which loses replies and leaks threads.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import math
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from typing_extensions import Self
from yarl import URL

from pgn.errors import DeadlineExceeded, MessageInvalid, NotReady, ServiceError, StageFailed, from_wire
from pgn.gateway.deadline import Deadline
from pgn.message import Message, Request, StageState, Target, decode, encode
from pgn.settings import TorchServeConfig

Stage = Literal["pgn", "vit"]
STAGES: Final[tuple[Stage, ...]] = ("pgn", "vit")
"""In the order in which a request meets them."""

WORKFLOW: Final = "pgn"
_ARCHIVE: Final = "pgn.war"
_STARTUP_TIMEOUT_S: Final = 120
_LOOK_TIMEOUT_S: Final = 5.0
_METRICS_TIMEOUT_S: Final = 1.0  # Prometheus waits for 10 s
# Under this an attempt could not be told from a late one.
_SHORTEST_ATTEMPT_S: Final = 0.001
# So far apart, requests do not change places between here and a stage's queue.
_JOSTLE_S: Final = 0.5
# Between two looks at an attempt that is not back: answers of one batch are all here by then.
_PATIENCE_S: Final = 0.25

_OWN_METRIC: Final = re.compile(r"(# (HELP|TYPE) )?ts_")

_log = logging.getLogger(__name__)


class TorchServeGone(NotReady):
    """Nobody listens, or the workflow is forgotten; not what a stage itself says when it is not ready."""


@dataclass(frozen=True)
class Worker:
    """A stage's process as TorchServe sees it; without a process, `pid` is not above 0."""

    pid: int
    is_ready: bool


class _Line:
    """Who was sent to a stage and who was answered, by the monotonic clock.

    A stage has one worker and serves first come, first served: whoever still waits when a later one has been answered
    will never be. Those who are sent at nearly the same time may change places on their way.

    Attributes:
        answered_at: When somebody was answered last; minus infinity before.
    """

    def __init__(self) -> None:
        self.answered_at = -math.inf
        self._latest_answered = -math.inf  # when the latest of those who were answered was sent

    def leave(self, sent: float) -> None:
        self.answered_at = time.monotonic()
        self._latest_answered = max(self._latest_answered, sent)

    def has_overtaken(self, sent: float) -> bool:
        return self._latest_answered > sent + _JOSTLE_S


class TorchServe:
    """Keep-alive connections to one TorchServe; made and closed inside a running event loop.

    Args:
        config: Addresses of its inference and management ports.
        count_retry: Called with the stage's name before a second attempt.
        count_lost: Called besides, if the reason is that no answer came.
        on_missing: Called when TorchServe, or the workflow, turns out to be gone.
    """

    def __init__(
        self,
        config: TorchServeConfig,
        *,
        count_retry: Callable[[Stage], None],
        count_lost: Callable[[Stage], None],
        on_missing: Callable[[], None],
    ) -> None:
        self._inference = config.inference
        self._lock_file = config.path  # all gateways of this TorchServe read it
        self._metrics = URL(config.metrics) / "metrics"
        self._workflows = URL(config.management) / "workflows"
        self._models = URL(config.management) / "models"
        self._stages = {stage: URL(f"{config.inference}/predictions/{WORKFLOW}__{stage}") for stage in STAGES}
        self._lines = {stage: _Line() for stage in STAGES}
        self._count_retry = count_retry
        self._count_lost = count_lost
        self._on_missing = on_missing

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # The gateway's own limit on requests in flight is the limit; no cookies, no proxy, no second queue.
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/octet-stream"},
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._session.close()

    async def is_registered(self) -> bool:
        """Whether TorchServe knows the workflow.

        Raises:
            NotReady: TorchServe does not listen, or answers otherwise.
            DeadlineExceeded: It listens and gives no answer.
        """
        status, text = await self._manage("GET", self._workflows / WORKFLOW, _LOOK_TIMEOUT_S)
        if status not in (200, 404):
            raise NotReady(f"TorchServe answers {status} when asked for the workflow: {_reason(text)}")
        return status == 200

    async def workers(self, stage: Stage) -> tuple[Worker, ...]:
        """The stage's processes; raises as `is_registered` does."""
        status, text = await self._manage("GET", self._models / f"{WORKFLOW}__{stage}", _LOOK_TIMEOUT_S)
        try:
            listed = json.loads(text)[0]["workers"]
            return tuple(Worker(pid=each["pid"], is_ready=each["status"] == "READY") for each in listed)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise NotReady(f"TorchServe answers {status} when asked for stage {stage}: {_reason(text)}") from error

    async def register(self, *, response_timeout_s: float) -> bool:
        """Register the workflow and wait until its workers have loaded.

        Args:
            response_timeout_s: A worker that is silent for so long is killed; rounded up to whole seconds.

        Returns:
            Whether this call did it; False if another gateway has done it or is doing it.

        Raises:
            ServiceError: TorchServe does not answer, or refused; the message says why.
        """
        with self._turn_to_register() as is_ours:
            return is_ours and await self._register(response_timeout_s)

    def is_being_registered(self) -> bool:
        """Whether a gateway registers the workflow now; TorchServe may be silent for so long."""
        with self._turn_to_register() as is_ours:
            return not is_ours

    @contextmanager
    def _turn_to_register(self) -> Iterator[bool]:
        with self._lock_file.open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    async def _register(self, response_timeout_s: float) -> bool:
        url = self._workflows.with_query(
            url=_ARCHIVE, response_timeout=math.ceil(response_timeout_s), startup_timeout=_STARTUP_TIMEOUT_S
        )
        status, text = await self._manage("POST", url, _STARTUP_TIMEOUT_S + _LOOK_TIMEOUT_S)
        if status not in (200, 409):  # 409: somebody else has registered it since we looked
            raise NotReady(
                f"TorchServe did not register {_ARCHIVE} ({status}): {_reason(text)}", hint="look at TorchServe's log"
            )
        return status == 200

    async def _manage(self, method: str, url: URL, timeout_s: float) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(method, url, timeout=timeout) as response:
                return response.status, await response.read()
        except asyncio.TimeoutError as error:
            raise DeadlineExceeded(f"TorchServe gave {url.path} no answer within {timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise NotReady(f"TorchServe does not answer at {url.origin()}: {error}") from error

    async def predict_prompts(self, message: bytes, deadline: Deadline) -> bytes:
        """Stage pgn's answer to a message; raises as `predict_answer` does."""
        return await self._predict("pgn", message, deadline)

    async def predict_answer(self, message: bytes, deadline: Deadline) -> bytes:
        """Stage vit's answer to a message, as it came: an answer or the stage's own error.

        Raises:
            DeadlineExceeded: No answer came in time.
            StageFailed: TorchServe failed twice.
            NotReady: TorchServe does not listen, or does not know the workflow.
        """
        return await self._predict("vit", message, deadline)

    async def state(self, stage: Stage, targets: Sequence[Target] = (), *, timeout_s: float) -> StageState:
        """What a stage holds of `targets` (of everything without any), and how TorchServe's process fares.

        One attempt: who follows a state asks again anyway.

        Raises:
            ServiceError: As `predict_answer` raises, or the answer is none.
            PgnError: The stage said so.
        """
        asked = Request(
            id=f"state-{secrets.token_hex(6)}",
            targets=tuple(targets),
            ask="state",
            expires_at=time.time() + timeout_s,
        )
        answer = await self._attempt(stage, encode(Message(asked)), timeout_s)
        try:
            state = StageState.model_validate_json(answer)
        except ValidationError as error:
            _raise_carried(stage, answer)
            raise StageFailed(f"stage {stage} gave {len(answer)} bytes that are no state") from error
        if (state.request_id, state.stage) != (asked.id, stage):
            raise StageFailed(f"stage {stage} answered another request")
        return state

    async def metrics(self) -> bytes:
        """TorchServe's own metrics, `ts_*`, in Prometheus' text format; nothing if it does not answer."""
        try:
            _, body = await self._manage("GET", self._metrics, _METRICS_TIMEOUT_S)
            own = "".join(line for line in body.decode().splitlines(keepends=True) if _OWN_METRIC.match(line))
            list(text_string_to_metric_families(own))  # what cannot be read would spoil the whole page
        except (ServiceError, ValueError):
            return b""
        return own.encode()

    def answered_at(self, stage: Stage) -> float:
        """When a stage last answered anybody, by the monotonic clock; minus infinity if it never has."""
        return self._lines[stage].answered_at

    async def _predict(self, stage: Stage, message: bytes, deadline: Deadline) -> bytes:
        sent = time.monotonic()
        attempts = [self._begin(stage, message, deadline)]
        try:
            cause = await _why_once_more(attempts[0], self._lines[stage], sent, deadline)
            if cause is None or not deadline.left_s():
                return attempts[0].result()
            _log.warning("retry", extra={"stage": stage, "cause": cause.message})
            self._count_retry(stage)
            if isinstance(cause, DeadlineExceeded):
                self._count_lost(stage)
            attempts.append(self._begin(stage, message, deadline))
            return await _first_answer(attempts)
        finally:
            for attempt in attempts:
                attempt.cancel()

    def _begin(self, stage: Stage, message: bytes, deadline: Deadline) -> asyncio.Task[bytes]:
        attempt = asyncio.create_task(self._attempt(stage, message, deadline.left_s()))
        # The error of the one whose answer is no longer awaited is nobody's.
        attempt.add_done_callback(lambda done: done.cancelled() or done.exception())
        return attempt

    async def _attempt(self, stage: Stage, message: bytes, timeout_s: float) -> bytes:
        sent = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=max(timeout_s, _SHORTEST_ATTEMPT_S))
        try:
            async with self._session.post(self._stages[stage], data=message, timeout=timeout) as response:
                answer = await response.read()
        except asyncio.TimeoutError as error:
            raise DeadlineExceeded(f"stage {stage} gave no answer within {timeout_s:.1f} s") from error
        except aiohttp.ClientConnectorError as error:
            self._on_missing()
            raise TorchServeGone(f"TorchServe does not answer at {self._inference}") from error
        except aiohttp.ClientError as error:
            raise StageFailed(f"stage {stage} broke off its answer: {error or type(error).__name__}") from error
        if response.status == 200 or _is_from_stage(answer):
            self._lines[stage].leave(sent)
            return answer
        if response.status == 404:
            self._on_missing()
            raise TorchServeGone("TorchServe does not know the workflow; it is being registered again")
        raise StageFailed(f"TorchServe answers {response.status} for stage {stage}: {_reason(answer)}")


async def _why_once_more(
    attempt: asyncio.Future[bytes], line: _Line, sent: float, deadline: Deadline
) -> ServiceError | None:
    """None once the attempt has its answer; else why there has to be another, DeadlineExceeded if it seems lost."""
    half = deadline.left_s() / 2
    was_overtaken = False
    while not attempt.done():
        # One look later than the first time: answers of one batch come in any order.
        if was_overtaken:
            return DeadlineExceeded("others who came later have been answered")
        was_overtaken = line.has_overtaken(sent)
        waited = time.monotonic() - sent
        if waited >= half and line.answered_at < sent:
            return DeadlineExceeded(f"nobody was answered for {waited:.1f} s")
        await asyncio.wait((attempt,), timeout=min(_PATIENCE_S, half - waited) if waited < half else _PATIENCE_S)
    error = attempt.exception()
    return error if isinstance(error, ServiceError) else None


async def _first_answer(attempts: Sequence[asyncio.Future[bytes]]) -> bytes:
    """The first answer to come; raises the last attempt's error if none does."""
    waiting = set(attempts)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for attempt in done:
            if attempt.exception() is None:
                return attempt.result()
    return attempts[-1].result()


def _raise_carried(stage: Stage, answer: bytes) -> None:
    """Raise the error that an answer carries, if it does; stage vit writes JSON, stage pgn a message."""
    carried = _fields(answer).get("error")
    if isinstance(carried, dict):
        raise from_wire(carried)
    try:
        decode(answer)
    except MessageInvalid as error:
        raise StageFailed(f"stage {stage}: {error.message}") from error


def _fields(answer: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(answer)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _is_from_stage(answer: bytes) -> bool:
    # TorchServe's own errors are JSON with `code`, `type` and `message`, or nothing at all (413).
    return bool(answer) and not {"code", "type"} <= _fields(answer).keys()


def _reason(answer: bytes) -> str:
    return str(_fields(answer).get("message") or answer[:200].decode(errors="replace") or "no reason given")
