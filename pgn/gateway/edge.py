"""The edge of every request: id, trace, error body, count, log line. Errors become HTTP here and nowhere else."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgn.errors import KeyMissing, NotReady, Overloaded, PgnError, RequestError, UnknownPath, WrongMethod
from pgn.gateway.draining import Draining
from pgn.gateway.metrics import NO_DATASET, Metrics
from pgn.gateway.trace import continue_trace
from pgn.logs import trace_id

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CHALLENGE: Final = 'Bearer realm="pgn"'
_NOT_VALID: Final = ', error="invalid_token"'
_CLIENT_GONE: Final = 499  # nobody reads this status but the metrics; nginx's number for it

_READ: Final = (b"x-request-id", b"traceparent")
_EVERY_ANSWER: Final = ((b"x-content-type-options", b"nosniff"),)
_LAST: Final = ((b"connection", b"close"),)

_log = logging.getLogger(__name__)
_access_log = logging.getLogger("pgn.access")


class ErrorFields(BaseModel):
    """What went wrong, and what to do about it."""

    code: str
    message: str
    hint: str
    request_id: str


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorFields


def error_response(error: PgnError, request_id: str) -> JSONResponse:
    """The HTTP answer that stands for an error."""
    headers = {}
    if error.retryable and error.status in (429, 503):
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = _CHALLENGE if isinstance(error, KeyMissing) else _CHALLENGE + _NOT_VALID
    body = {"error": {**error.to_wire(), "request_id": request_id}}
    return JSONResponse(body, status_code=error.status, headers=headers)


class Edge:
    """The outermost layer: what every request gets, whatever becomes of it.

    It gives the request an id and a trace (`request.state.request_id`, `.traceparent`), counts it, writes its log line,
    and turns what is left of errors into answers. While the gateway drains, it asks clients to connect anew next time.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, draining: Draining) -> None:
        self.app = app
        self.metrics = metrics
        self.draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = {name: value for name, value in scope["headers"] if name in _READ}
        request_id = _request_id(headers.get(b"x-request-id", b""))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["traceparent"] = continue_trace(headers.get(b"traceparent", b"").decode("latin-1"))
        status = num_bytes = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status, num_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                own = (*_EVERY_ANSWER, (b"x-request-id", request_id.encode()))
                message["headers"] = [*message.get("headers", ()), *own, *(_LAST if self.draining.has_begun else ())]
            else:
                num_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = _CLIENT_GONE
        except Exception:
            _log.exception(
                "internal_error", extra={"request_id": request_id, "trace_id": trace_id(state["traceparent"])}
            )
            if status:  # half an answer is out; only a broken connection can still say that it is wrong
                raise
            error = PgnError("the gateway met a fault of its own")
            state["error"] = error.code
            await error_response(error, request_id)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            self._count(scope, status, seconds)
            if _access_log.isEnabledFor(logging.INFO):
                _write_line(scope, status, seconds, num_bytes)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        endpoint = "unknown" if route is None else route.name
        dataset = scope["state"].get("dataset", NO_DATASET)
        self.metrics.answered(endpoint, dataset, status, seconds)
        if "error" in scope["state"]:
            self.metrics.errors.labels(scope["state"]["error"]).inc()


def _request_id(given: bytes) -> str:
    text = given.decode("latin-1")
    return text if _REQUEST_ID.fullmatch(text) else secrets.token_hex(8)


def _write_line(scope: Scope, status: int, seconds: float, num_bytes: int) -> None:
    state, route = scope["state"], scope.get("route")
    principal = state.get("principal")
    fields = {
        "method": scope["method"][:20],
        "route": getattr(route, "path", None) or scope["path"][:200],  # never the query: anything may be in it
        "status": status,
        "ms": round(seconds * 1000, 1),
        "key": principal and principal.name,
        "dataset": state.get("datasets") or state.get("dataset"),
        "bytes": num_bytes,
        "request_id": state["request_id"],
        "trace_id": trace_id(state["traceparent"]),
    }
    _access_log.info("request", extra=fields)


def answer_errors(app: FastAPI) -> None:
    """Make every error that a route raises, FastAPI's own included, answer with our body."""

    async def pgn_error(request: Request, error: Any) -> JSONResponse:
        request_id = request.state.request_id
        request.state.error = error.code  # the edge counts it
        if error.status >= 500 and not isinstance(error, (Overloaded, NotReady)):  # those come by the thousand
            fields = {"code": error.code, "fault": error.message}
            trace = trace_id(request.state.traceparent)
            _log.error("request_failed", extra={**fields, "request_id": request_id, "trace_id": trace})
        return error_response(error, request_id)

    async def wrong_parameters(request: Request, error: Any) -> JSONResponse:
        faults = "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors())
        return await pgn_error(request, RequestError(f"the request is wrong: {faults}"))

    async def http_error(request: Request, error: Any) -> JSONResponse:
        response = await pgn_error(request, _as_pgn_error(request, error))
        response.headers.update(error.headers or {})
        if error.status_code == 405:  # Starlette names the methods of one route; a path may have several
            response.headers["Allow"] = _methods_at(request)
        return response

    app.exception_handler(PgnError)(pgn_error)
    app.exception_handler(RequestValidationError)(wrong_parameters)
    app.exception_handler(HTTPException)(http_error)


def _methods_at(request: Request) -> str:
    there = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
    return ", ".join(sorted({method for route in there for method in getattr(route, "methods", None) or ()}))


def _as_pgn_error(request: Request, error: HTTPException) -> PgnError:
    if error.status_code == 404:
        return UnknownPath(f"there is nothing at {request.url.path[:200]!r}")
    if error.status_code == 405:
        return WrongMethod(f"{request.method[:20]} is not what {request.url.path[:200]!r} answers")
    return RequestError(f"the request is wrong: {error.detail}")
