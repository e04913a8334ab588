"""TorchServe as the gateway meets it: the one file that knows its manners.

    TorchServe 0.12.0 does this                              here
    ───────────────────────────────────────────────────────────────────────────────────────────────
    a worker killed while its batch forms never answers      an attempt may take half of what is left, then one more
    a killed worker's batch is answered 500 or 507           one more attempt; it waits in the queue for the new worker
    a full queue, or a stage that raised, is answered 503    one more attempt
    every start forgets the workflow; its models are 404     NotReady, and whoever registers is told at once
    a stage may set a status of its own                      its body is handed on; TorchServe's own errors are not
    `response_timeout` has to be passed by hand              `register` does

The stages are asked as plain models of the registered workflow (`/predictions/pgn__pgn`, `/predictions/pgn__vit`),
never through the workflow's own executor, which loses replies and leaks threads.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Literal

import aiohttp
from typing_extensions import Self
from yarl import URL

from pgn.errors import DeadlineExceeded, NotReady, ServiceError, StageFailed
from pgn.gateway.deadline import Deadline
from pgn.settings import TorchServeConfig

Stage = Literal["pgn", "vit"]

WORKFLOW: Final = "pgn"
_ARCHIVE: Final = "pgn.war"
_STARTUP_TIMEOUT_S: Final = 120
_LOOK_TIMEOUT_S: Final = 5.0
# Under this an attempt could not be told from a late one.
_SHORTEST_ATTEMPT_S: Final = 0.001

_log = logging.getLogger(__name__)


class TorchServe:
    """Keep-alive connections to one TorchServe; made and closed inside a running event loop.

    Args:
        config: Addresses of its inference and management ports.
        count_retry: Called with the stage's name before a second attempt.
        on_missing: Called when TorchServe, or the workflow, turns out to be gone.
    """

    def __init__(
        self,
        config: TorchServeConfig,
        *,
        count_retry: Callable[[Stage], None],
        on_missing: Callable[[], None],
    ) -> None:
        self._inference = config.inference
        self._workflows = URL(config.management) / "workflows"
        stages: tuple[Stage, ...] = ("pgn", "vit")
        self._stages = {stage: URL(f"{config.inference}/predictions/{WORKFLOW}__{stage}") for stage in stages}
        self._count_retry = count_retry
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
        """Whether TorchServe knows the workflow; raises NotReady while TorchServe does not answer."""
        status, text = await self._manage("GET", self._workflows / WORKFLOW, _LOOK_TIMEOUT_S)
        if status not in (200, 404):
            raise NotReady(f"TorchServe answers {status} when asked for the workflow: {_reason(text)}")
        return status == 200

    async def register(self, *, response_timeout_s: float) -> None:
        """Register the workflow and wait until its workers have loaded.

        Args:
            response_timeout_s: A worker that is silent for so long is killed; rounded up to whole seconds.

        Raises:
            NotReady: TorchServe does not answer, or refused; the message says why.
        """
        url = self._workflows.with_query(
            url=_ARCHIVE, response_timeout=math.ceil(response_timeout_s), startup_timeout=_STARTUP_TIMEOUT_S
        )
        status, text = await self._manage("POST", url, _STARTUP_TIMEOUT_S + _LOOK_TIMEOUT_S)
        if status not in (200, 409):  # 409: somebody else has registered it since we looked
            raise NotReady(
                f"TorchServe did not register {_ARCHIVE} ({status}): {_reason(text)}", hint="look at TorchServe's log"
            )

    async def _manage(self, method: str, url: URL, timeout_s: float) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(method, url, timeout=timeout) as response:
                return response.status, await response.read()
        except asyncio.TimeoutError as error:
            raise NotReady(f"TorchServe gave {url.path} no answer within {timeout_s:g} s") from error
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

    async def _predict(self, stage: Stage, message: bytes, deadline: Deadline) -> bytes:
        try:
            # Half of what is left: the other half is for the second attempt and the next stage.
            return await self._attempt(stage, message, deadline.left_s() / 2)
        except ServiceError as error:
            _log.warning("event=retry stage=%s cause=%r", stage, error.message)
        self._count_retry(stage)
        return await self._attempt(stage, message, deadline.left_s())

    async def _attempt(self, stage: Stage, message: bytes, timeout_s: float) -> bytes:
        timeout = aiohttp.ClientTimeout(total=max(timeout_s, _SHORTEST_ATTEMPT_S))
        try:
            async with self._session.post(self._stages[stage], data=message, timeout=timeout) as response:
                answer = await response.read()
        except asyncio.TimeoutError as error:
            raise DeadlineExceeded(f"stage {stage} gave no answer within {timeout_s:.1f} s") from error
        except aiohttp.ClientConnectorError as error:
            self._on_missing()
            raise NotReady(f"TorchServe does not answer at {self._inference}") from error
        except aiohttp.ClientError as error:
            raise StageFailed(f"stage {stage} broke off its answer: {error or type(error).__name__}") from error
        if response.status == 200 or _is_from_stage(answer):
            return answer
        if response.status == 404:
            self._on_missing()
            raise NotReady("TorchServe does not know the workflow; it is being registered again")
        raise StageFailed(f"TorchServe answers {response.status} for stage {stage}: {_reason(answer)}")


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
