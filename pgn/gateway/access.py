"""Who may come in: the layer that turns an API key into `request.state.principal`, or the request away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgn.errors import KeyMissing, PgnError, SetupError, TooManyRequests
from pgn.gateway.audit import Act, Audit, Outcome
from pgn.gateway.edge import error_response
from pgn.gateway.exposure import is_loopback
from pgn.gateway.keyring import KeyRing
from pgn.gateway.keys import ANONYMOUS, Principal
from pgn.gateway.metrics import Metrics
from pgn.gateway.rates import Bucket
from pgn.settings import Settings

_GUARDED: Final = "/v1/"  # all that asks or changes; health, metrics and the documents are open
_READING: Final = ("GET", "HEAD", "OPTIONS")
_NO_LIMIT: Final = nullcontext()
_NOBODY: Final = Principal(ANONYMOUS, datasets=())
_EVERYBODY: Final = Principal(ANONYMOUS)
_LOCAL_ADMIN: Final = Principal(ANONYMOUS, is_admin=True)


def open_ring(settings: Settings, metrics: Metrics, audit: Audit) -> KeyRing | None:
    """The keys that the settings name, if they do; changes of the file are counted and go to the audit log.

    Raises:
        SetupError: The file cannot be read.
    """
    if settings.keys is None:
        return None

    def note(found: int | SetupError) -> None:
        outcome: Outcome = "failed" if isinstance(found, SetupError) else "done"
        metrics.key_reloads.labels(outcome).inc()
        fields = {"reason": str(found)} if isinstance(found, SetupError) else {"keys": found}
        _record_soon(audit, "reload keys", outcome, who="the key file", **fields)

    return KeyRing(settings.keys, poll_s=settings.poll_s, num_workers=settings.workers, on_change=note)


class Access:
    """Sets the principal of every request; answers 401 and 429 itself.

    With keys, each path under `/v1/` needs one. Without, everybody may ask everything; only who is on this machine,
    and no foreign web page in its browser, is an administrator. Refused administrative requests go to the audit log.

    Args:
        app: The layer below.
        settings: Where the gateway listens, and whose pages may ask.
        metrics: Counts what is answered 429.
        audit: Takes refused administrative requests.
        ring: The keys; None asks for none.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, audit: Audit, ring: KeyRing | None) -> None:
        self._app = app
        self._is_on_loopback = is_loopback(settings.host)
        self._cors_origins = settings.cors_origins
        self._metrics = metrics
        self._audit = audit
        self._refusals = Bucket(rate=1, burst=100)  # whoever floods the door does not flood the audit log
        self._unrecorded = 0
        self._ring = ring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope["state"]
        state["principal"] = _NOBODY
        status = 0

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            state["principal"], allowance = self._identify(scope)
            with allowance:
                await self._app(scope, receive, send_noting_status)
        except PgnError as error:  # of this layer: those of the routes are answers by now
            if isinstance(error, TooManyRequests):
                self._metrics.throttled.labels(state["principal"].name).inc()
            state["error"] = error.code
            await error_response(error, state["request_id"])(scope, receive, send_noting_status)
        if status in (401, 403) and _is_administrative(scope):
            self._record_refusal(scope, status)

    def _identify(self, scope: Scope) -> tuple[Principal, AbstractContextManager[None]]:
        if self._ring is None:
            return self._everybody(scope), _NO_LIMIT
        if not scope["path"].startswith(_GUARDED):
            return _NOBODY, _NO_LIMIT
        headers = Headers(scope=scope)
        secret = headers.get("x-api-key") or _bearer(headers.get("authorization", ""))
        if not secret:
            raise KeyMissing("the request has no API key")
        key, allowance = self._ring.find(secret)
        return key.principal, allowance

    def _everybody(self, scope: Scope) -> Principal:
        is_admin = self._is_on_loopback and _is_administrative(scope) and _is_from_here(scope, self._cors_origins)
        return _LOCAL_ADMIN if is_admin else _EVERYBODY

    def _record_refusal(self, scope: Scope, status: int) -> None:
        if self._refusals.take():
            self._unrecorded += 1
            return
        client = scope.get("client")
        _record_soon(
            self._audit,
            "administer",
            "refused",
            who=scope["state"]["principal"].name,
            dataset=scope.get("path_params", {}).get("dataset"),
            request_id=scope["state"]["request_id"],
            address=client[0] if client else None,
            reason=f"{status} to {scope['method'][:20]} {scope['path'][:200]}",
            unrecorded=self._unrecorded or None,
        )
        self._unrecorded = 0


def _record_soon(audit: Audit, act: Act, outcome: Outcome, **fields: Any) -> None:
    # On a thread: it waits for the disk.
    asyncio.get_running_loop().run_in_executor(None, partial(audit.record, act, outcome, **fields))


def _bearer(authorization: str) -> str:
    scheme, _, credentials = authorization.partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


def _is_administrative(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] not in _READING and path.startswith(_GUARDED) and not path.endswith("/predict")


def _is_from_here(scope: Scope, cors_origins: Sequence[str]) -> bool:
    """Whether the request comes from a program on this machine or from our own pages.

    A browser sends what any web page asks of it, also to loopback. It then names the page's origin, and a page whose
    name was made to point at loopback gives itself away by the name in Host.
    """
    headers = Headers(scope=scope)
    host, origin = headers.get("host"), headers.get("origin")
    try:
        if host is not None and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return False
        return origin is None or origin in cors_origins or urlsplit(origin).netloc == host
    except ValueError:  # no host name at all
        return False
